//! What is measured: the kinds of load, and one run of one of them over one chain.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    arena::Arena,
    certs::Certs,
    chain::{Kind, Port},
    cost::{Cost, cost, resident},
};
use crate::{process::must_run, stage::Stage};

/// The base of ratios for what is looked into.
pub const HAPROXY_L7: &str = "haproxy-l7";
/// The base of ratios for what is not.
pub const HAPROXY_L4: &str = "haproxy-l4";
/// A run's load ends by itself; this is for one that does not.
const STUCK: Duration = Duration::from_secs(180);

/// A kind of load.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Its name in results.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// What the chain must carry.
    pub port: Port,
    /// The chain that others are compared with.
    pub base: &'static str,
    /// The load program's arguments, without `--to` and `--seconds`.
    load: &'static [&'static str],
    /// What it is about.
    pub about: About,
}

/// What a kind of load is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Requests in a closed loop.
    Requests,
    /// Bytes of one answer.
    Bytes,
    /// Times at a fixed rate.
    Latency,
    /// Handshakes with the inbound proxy alone.
    Handshakes,
}

impl Trial {
    const fn new(name: &'static str, title: &'static str, port: Port, load: &'static [&'static str]) -> Self {
        Self { name, title, port, base: HAPROXY_L7, load, about: About::Requests }
    }

    const fn about(self, about: About) -> Self {
        Self { about, ..self }
    }

    const fn bytes(self) -> Self {
        Self { base: HAPROXY_L4, ..self }
    }

    /// All of them, in the order in which they are run.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![
            Self::new("h1_100b", "HTTP/1.1, 100 B, 32 connections", Port::H1, &["h1", "--path", "/100"]),
            Self::new("h1_10k", "HTTP/1.1, 10 KB, 32 connections", Port::H1, &["h1", "--path", "/10240"]),
            Self::new("h2", "HTTP/2, 100 B, 8 x 4 streams", Port::H2, &["h2", "--connections", "8"]),
            Self::new("grpc", "gRPC unary, 8 x 4 calls", Port::Grpc, &["h2", "--connections", "8", "--kind", "unary"]),
            Self::new(
                "grpc_stream",
                "gRPC messages on 8 x 4 streams",
                Port::Grpc,
                &["h2", "--connections", "8", "--kind", "stream"],
            ),
            Self::new("h1_close", "HTTP/1.1, a connection for each request", Port::H1, &["h1", "--close"]),
            Self::new("open", "1,000 requests/s", Port::H1, &["open", "--rate", "1000"]).about(About::Latency),
            Self::new("h1_bulk", "1 GiB as HTTP", Port::H1, &["bulk"]).about(About::Bytes),
            Self::new("tcp_bulk", "1 GiB as bytes", Port::Tcp, &["bulk"]).about(About::Bytes).bytes(),
            Self::new("tcp_conn", "new TCP connections", Port::Tcp, &["h1", "--close"]).bytes(),
            Self::new("handshakes", "full handshakes, X25519", Port::H1, &["handshakes", "--connections", "8"])
                .about(About::Handshakes),
            Self::new(
                "handshakes_mlkem",
                "full handshakes, X25519 with ML-KEM-768",
                Port::H1,
                &["handshakes", "--connections", "8", "--agreement", "mlkem"],
            )
            .about(About::Handshakes),
        ]
    }

    /// True where it can be run over this chain.
    #[must_use]
    pub fn fits(&self, arena: &Arena) -> bool {
        let shakes = self.about == About::Handshakes;
        // OpenSSL of Debian 12 knows no ML-KEM.
        let known = self.name != "handshakes_mlkem" || matches!(arena.chain.kind, Kind::Mesh);
        arena.chain.carries.contains(&self.port) && known && !(shakes && arena.proxies.is_none())
    }

    /// Runs it once.
    ///
    /// # Errors
    /// Where a request fails: what was measured would be something else.
    pub fn run(&self, stage: &Stage, arena: &Arena, certs: &Certs, seconds: f64) -> Result<Sample> {
        let before = used(arena)?;
        let arguments = self.arguments(arena, certs, seconds);
        // Who shakes hands with the inbound proxy passes by the outbound one.
        let shakes = self.about == About::Handshakes;
        let load = if shakes { arena.load_as_proxy(&arguments) } else { arena.load(&arguments) }?;
        let output = must_run(&load, STUCK).with_context(|| {
            format!("{} over {}; logs are in {}", self.name, arena.chain.name, stage.dir().display())
        })?;
        let after = used(arena)?;
        let load: Load = serde_json::from_str(output.text().lines().last().unwrap_or_default())?;
        let good = load.errors == 0 && load.requests > 0;
        ensure!(good, "{} over {}: {} errors: {:?}", self.name, arena.chain.name, load.errors, load.error_texts);
        let memory = match &arena.proxies {
            Some(proxies) => [resident(proxies.outbound.pid())?, resident(proxies.inbound.pid())?],
            None => [0, 0],
        };
        Ok(Sample {
            trial: self.name.to_owned(),
            chain: arena.chain.name.clone(),
            repetition: 0,
            load,
            outbound: after[0] - before[0],
            inbound: after[1] - before[1],
            resident: memory,
        })
    }

    fn arguments(&self, arena: &Arena, certs: &Certs, seconds: f64) -> Vec<String> {
        let mut words: Vec<String> = self.load.iter().map(|word| (*word).to_owned()).collect();
        let mut add = |key: &str, value: String| words.extend([key.to_owned(), value]);
        let shakes = self.about == About::Handshakes;
        add("--to", if shakes { arena.inbound(self.port) } else { arena.target(self.port) }.to_string());
        if self.about != About::Bytes {
            add("--seconds", seconds.to_string());
        }
        if shakes {
            let member = matches!(arena.chain.kind, Kind::Mesh);
            let name = if member { "member" } else { "client" };
            add("--chain", certs.path(&format!("{name}.crt")).display().to_string());
            add("--key", certs.path(&format!("{name}.key")).display().to_string());
            if member {
                add("--alpn", "mesh-http/1".to_owned());
            }
        }
        words
    }
}

fn used(arena: &Arena) -> Result<[Cost; 2]> {
    match &arena.proxies {
        Some(proxies) => Ok([cost(proxies.outbound.pid())?, cost(proxies.inbound.pid())?]),
        None => Ok([Cost::default(); 2]),
    }
}

/// What one run gave.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    /// Kind of load.
    pub trial: String,
    /// Chain.
    pub chain: String,
    /// Repetition, from 0.
    pub repetition: usize,
    /// What the load says.
    pub load: Load,
    /// What the outbound proxy used.
    pub outbound: Cost,
    /// What the inbound proxy used.
    pub inbound: Cost,
    /// Memory of outbound and inbound proxy afterwards, in bytes.
    pub resident: [u64; 2],
}

/// What the load program prints.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Answered as they should be.
    pub requests: u64,
    /// Not.
    pub errors: u64,
    /// The first of these.
    pub error_texts: Vec<String>,
    /// Bytes of bodies.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Latencies.
    pub p50_us: u64,
    /// As above.
    pub p99_us: u64,
    /// As above.
    pub p999_us: u64,
    /// As above.
    pub max_us: u64,
}
