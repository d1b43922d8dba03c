//! `meshctl demo-app` (hidden): a program of the demo.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use crate::demo::app::{self, Role};

/// Arguments of `meshctl demo-app`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  meshctl demo-app --role payments --version v2 --listen 127.0.0.1:18080")]
pub struct Args {
    /// What it is.
    #[arg(long, value_enum)]
    role: Role,
    /// Where it listens, where it does.
    #[arg(long, value_name = "IP:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))]
    listen: SocketAddr,
    /// Its version.
    #[arg(long, default_value = "v1")]
    version: String,
    /// Calls a second of the load generator.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// Runs it until it is told to end.
///
/// # Errors
/// Where it cannot listen, or an upstream is not in its environment.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    app::run(args.role, args.listen, args.version, args.rate).await?;
    Ok(ExitCode::SUCCESS)
}
