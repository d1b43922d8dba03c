//! Load for the benchmark, and the applications that answer it: one thread, little work of its own, so that what is
//! measured is the proxies between. Each run prints one line of JSON.
//!
//! ```text
//! 1  main  (arguments)
//! 0  h1  open  h2load  tls  serve  (one kind of load each)  report  (what a run prints)
//! ```

mod h1;
mod h2load;
mod open;
mod report;
mod serve;
mod tls;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Load for the benchmark of the mesh, and the applications that answer it.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What all closed loops have.
#[derive(Debug, Args)]
struct Loop {
    /// Where to.
    #[arg(long)]
    to: SocketAddr,
    /// Connections at once.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// How long, in seconds.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// HTTP/1.1: on each connection one request after the other.
    H1 {
        #[command(flatten)]
        how: Loop,
        /// What is asked for.
        #[arg(long, default_value = "/100")]
        path: String,
        /// A new connection for each request.
        #[arg(long)]
        close: bool,
    },
    /// HTTP/2 with prior knowledge: so many requests at once on each connection.
    H2 {
        #[command(flatten)]
        how: Loop,
        /// Streams at once on each connection.
        #[arg(long, default_value_t = 4)]
        streams: usize,
        /// What is asked.
        #[arg(long, value_enum, default_value_t = Kind::Get)]
        kind: Kind,
        /// What is asked for, with `get`.
        #[arg(long, default_value = "/100")]
        path: String,
    },
    /// HTTP/1.1 at a fixed rate, whether answers come or not: a request's time begins when it was due.
    Open {
        /// Where to.
        #[arg(long)]
        to: SocketAddr,
        /// Connections, used in turn.
        #[arg(long, default_value_t = 16)]
        connections: usize,
        /// Requests each second.
        #[arg(long, default_value_t = 1000)]
        rate: u32,
        /// How long, in seconds.
        #[arg(long, default_value_t = 4.0)]
        seconds: f64,
        /// What is asked for.
        #[arg(long, default_value = "/100")]
        path: String,
    },
    /// One large answer over one connection.
    Bulk {
        /// Where to.
        #[arg(long)]
        to: SocketAddr,
        /// What is asked for.
        #[arg(long, default_value = "/bulk")]
        path: String,
    },
    /// Full handshakes of mutual TLS 1.3, each on a new connection.
    Handshakes {
        #[command(flatten)]
        how: Loop,
        /// PEM file of the client's chain.
        #[arg(long)]
        chain: PathBuf,
        /// PEM file of the client's key.
        #[arg(long)]
        key: PathBuf,
        /// Protocol that is offered (ALPN).
        #[arg(long)]
        alpn: Option<String>,
        /// How the key is agreed on.
        #[arg(long, value_enum, default_value_t = tls::Agreement::X25519)]
        agreement: tls::Agreement,
    },
    /// Connections that have asked once and are kept until this is ended; says `ready` when all are there.
    Idle {
        /// Where to.
        #[arg(long)]
        to: SocketAddr,
        /// Connections.
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
    /// The application: gRPC (unary and streams), with HTTP/2 as it should be.
    Serve {
        /// Where it listens.
        #[arg(long)]
        listen: SocketAddr,
    },
}

/// What a request over HTTP/2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A GET.
    Get,
    /// A unary call of gRPC, 100 bytes there and back, with trailers.
    Unary,
    /// Messages of 100 bytes on a stream that stays, each answered before the next; a message counts as a request.
    Stream,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let local = tokio::task::LocalSet::new();
    let report = local.block_on(&runtime, run(Arguments::parse().command))?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<report::Report> {
    let time = Duration::from_secs_f64;
    match command {
        Command::H1 { how, path, close } => h1::run(how.to, &path, how.connections, time(how.seconds), close).await,
        Command::H2 { how, streams, kind, path } => {
            h2load::run(how.to, kind, &path, how.connections, streams, time(how.seconds)).await
        }
        Command::Open { to, connections, rate, seconds, path } => {
            open::run(to, &path, connections, rate, time(seconds)).await
        }
        Command::Bulk { to, path } => h1::bulk(to, &path).await,
        Command::Handshakes { how, chain, key, alpn, agreement } => {
            let config = tls::config(&chain, &key, alpn.as_deref(), agreement)?;
            tls::run(how.to, config, how.connections, time(how.seconds)).await
        }
        Command::Idle { to, connections } => h1::idle(to, connections).await,
        Command::Serve { listen } => serve::run(listen).await,
    }
}
