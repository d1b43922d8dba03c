//! `meshctl status`: who runs what, and who calls whom.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    io::{Format, Out},
    local::state::StateDir,
    view::{self, status::Status},
};

/// Arguments of `meshctl status`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl status\n  meshctl status --watch\n  meshctl status -o json --interval 5\n\n\
    The exit code is 1 where a part is not ready, or a sidecar is not connected or not in sync."
)]
pub struct Args {
    /// Folder of the running mesh [default: $XDG_RUNTIME_DIR/mesh, else /tmp/mesh-UID].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// How to show it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Show it again and again, until Ctrl-C.
    #[arg(short, long)]
    watch: bool,
    /// Rates are measured over so many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Shows the status.
///
/// # Errors
/// Where no mesh runs, or it cannot be printed.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let root = StateDir::choose(args.state.as_deref());
    let (_, mesh) = StateDir::of_running(root.clone())?;
    let interval = Duration::from_secs(args.interval);
    let mut before = view::scrape(&mesh).await;
    loop {
        tokio::time::sleep(interval).await;
        // What runs may have changed meanwhile.
        let (_, mesh) = StateDir::of_running(root.clone())?;
        let (status, after) = Status::ask(&mesh, Some(&before)).await;
        before = after;
        if args.watch && out.terminal() && args.output == Format::Table {
            out.raw("\x1b[H\x1b[2J")?;
        }
        match args.output {
            Format::Table => status.show(&mut out)?,
            Format::Json => out.json(&status)?,
        }
        if !args.watch {
            return Ok(if status.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}
