//! `meshctl status`: who runs what, and who calls whom, on this machine or on a cluster.

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    check::gather::{gather_proxies, gather_status},
    cluster::{Cluster, ClusterArgs, ClusterError},
    io::{Format, Out},
    local::state::{StateDir, StateError},
    view::{
        self, Scrape,
        cluster::{ClusterStatus, scrape},
        status::Status,
    },
};

/// Arguments of `meshctl status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl status\n  meshctl status --watch\n  meshctl status -n shop\n  meshctl status -o json --interval 5\n\n\
    Without --state, --kubeconfig, --context and --namespace it shows the mesh that runs on this machine, else the one\n\
    of the current context. On a cluster everything is read through port-forwards, of at most 200 sidecars.\n\
    The exit code is 1 where a part is not ready, or a sidecar is not connected or not in sync."
)]
pub struct Args {
    /// Folder of the running mesh [default: $XDG_RUNTIME_DIR/mesh, else /tmp/mesh-UID].
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kubeconfig", "context", "namespace"])]
    state: Option<PathBuf>,
    /// On a cluster: pods of this namespace only.
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Show it again and again, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// Rates are measured over so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Where the mesh is that is meant.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Local,
    Cluster,
    /// On this machine where it runs there, else on a cluster.
    Either,
}

impl Args {
    fn place(&self) -> Place {
        let cluster = self.cluster.kubeconfig.is_some() || self.cluster.context.is_some() || self.namespace.is_some();
        match (self.state.is_some(), cluster) {
            (true, _) => Place::Local,
            (_, true) => Place::Cluster,
            _ => Place::Either,
        }
    }
}

/// Shows the status.
///
/// # Errors
/// Where no mesh runs, or it cannot be printed.
pub async fn run(args: Args, out: Out) -> anyhow::Result<ExitCode> {
    let root = StateDir::choose(args.state.as_deref());
    match args.place() {
        Place::Local => local(&args, root, out).await,
        Place::Cluster => {
            let cluster = Cluster::connect(&args.cluster).await?;
            on_cluster(&args, &cluster, out).await
        }
        Place::Either => match StateDir::of_running(root.clone()) {
            Ok(_) => local(&args, root, out).await,
            Err(none @ StateError::NoMesh(_)) => match Cluster::connect(&args.cluster).await {
                Ok(cluster) => on_cluster(&args, &cluster, out).await,
                Err(ClusterError::None) => Err(none.into()),
                Err(error) => Err(anyhow::Error::from(error).context("no mesh runs on this machine")),
            },
            Err(error) => Err(error.into()),
        },
    }
}

async fn local(args: &Args, root: PathBuf, mut out: Out) -> anyhow::Result<ExitCode> {
    let (_, mesh) = StateDir::of_running(root.clone())?;
    let interval = Duration::from_secs(args.interval);
    let mut before = view::scrape(&mesh).await;
    loop {
        tokio::time::sleep(interval).await;
        // What runs may have changed meanwhile.
        let (_, mesh) = StateDir::of_running(root.clone())?;
        let (status, after) = Status::ask(&mesh, Some(&before)).await;
        before = after;
        show(args, &mut out, &status, |out| status.show(out))?;
        if !args.watch {
            return Ok(code(status.is_good()));
        }
    }
}

async fn on_cluster(args: &Args, cluster: &Cluster, mut out: Out) -> anyhow::Result<ExitCode> {
    let interval = Duration::from_secs(args.interval);
    let at = Instant::now();
    let mut before: Scrape = scrape(at, &gather_proxies(cluster, args.namespace.as_deref()).await);
    loop {
        tokio::time::sleep(interval).await;
        let at = Instant::now();
        let facts = gather_status(cluster, args.namespace.as_deref()).await;
        let after = scrape(at, &facts.proxies);
        let status = ClusterStatus::of(&facts, &after, Some(&before));
        before = after;
        show(args, &mut out, &status, |out| status.show(out))?;
        if !args.watch {
            return Ok(code(status.is_good()));
        }
    }
}

fn show(
    args: &Args,
    out: &mut Out,
    status: &impl Serialize,
    tables: impl FnOnce(&mut Out) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    if args.watch && out.terminal() && args.output == Format::Table {
        out.raw("\x1b[H\x1b[2J")?;
    }
    match args.output {
        Format::Table => tables(out)?,
        Format::Json => out.json(status)?,
    }
    Ok(())
}

fn code(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn place(arguments: &[&str]) -> Option<Place> {
        let arguments = std::iter::once(&"status").chain(arguments);
        Cli::try_parse_from(arguments).ok().map(|cli| cli.args.place())
    }

    #[test]
    fn what_is_meant_is_told_by_the_arguments() {
        assert_eq!(place(&[]), Some(Place::Either));
        assert_eq!(place(&["--state", "/x"]), Some(Place::Local));
        for cluster in [&["--context", "x"][..], &["--kubeconfig", "/x"], &["-n", "shop"]] {
            assert_eq!(place(cluster), Some(Place::Cluster));
        }
        assert_eq!(place(&["--state", "/x", "--context", "y"]), None);
    }
}
