//! `meshctl dashboard`: Jaeger, Prometheus or the controller's page, through a port-forward that outlives the pod.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{ExitCode, Stdio},
    sync::Arc,
};

use anyhow::Context;

use crate::{
    cluster::{Cluster, ClusterArgs},
    io::{Out, note},
    query::relay::{Relay, Which},
};

/// Arguments of `meshctl dashboard`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl dashboard jaeger --open\n  meshctl dashboard prometheus --port 9999\n  \
    meshctl dashboard controller\n\nIt stays in the foreground; Ctrl-C ends it. A pod that is replaced meanwhile is found \
    again.\nJaeger and Prometheus come with `meshctl viz install`. Nothing in the cluster is exposed for it.")]
pub struct Args {
    /// What to open.
    #[arg(value_enum)]
    which: Which,
    /// Local port [default: the one of the service, else any that is free].
    #[arg(short, long, value_name = "PORT")]
    port: Option<u16>,
    /// Local address; on another one than loopback everybody who reaches this machine gets in.
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
    /// Open it in a browser.
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Forwards until it is ended.
///
/// # Errors
/// Where there is no such dashboard, or no local port for it.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let cluster = Cluster::connect(&args.cluster).await?;
    let relay = Arc::new(Relay::find(cluster.client(), args.which).await?);
    relay.probe().await?;
    let listener = relay.listen(args.address, args.port).await.with_context(|| {
        format!("cannot listen on {}; choose another address or port with --address and --port", args.address)
    })?;
    let url = url(listener.local_addr()?);
    out.line(&url)?;
    if out.terminal() {
        note("it is there until Ctrl-C");
    }
    if !args.address.is_loopback() {
        note("everybody who reaches this machine gets in, as you: there is no password");
    }
    if args.open {
        open(&url);
    }
    tokio::select! {
        () = relay.serve(listener, note) => Ok(ExitCode::FAILURE),
        ended = tokio::signal::ctrl_c() => {
            ended?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a browser on this machine asks for: everywhere is here as well.
fn url(address: SocketAddr) -> String {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    format!("http://{address}")
}

/// A browser that does not open is no reason to end: the address stands there.
fn open(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = tokio::process::Command::new(program);
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // It is waited for in passing, so that it leaves nothing behind.
        Ok(mut child) => drop(tokio::spawn(async move { child.wait().await })),
        Err(error) => note(&format!("no browser opens: {program}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everywhere_is_here_as_well() {
        assert_eq!(url("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(url("[::1]:8080".parse().unwrap()), "http://[::1]:8080");
    }
}
