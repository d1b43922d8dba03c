//! `meshctl up`: the mesh that a folder of manifests describes, on this machine.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use mesh_api::supervise::terminated;

use crate::{
    io::{Out, Tone},
    local::{
        overrides::Override,
        process::Launcher,
        report::{Notices, Reporter, reporter},
        runner::{Running, Wish},
        state::StateDir,
    },
};

/// How long anything may take to become ready where `--wait` is not given.
const WAIT: Duration = Duration::from_secs(60);
/// How often it is looked whether everything is ready by now.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `meshctl up`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  meshctl up -f ./mesh\n  meshctl up -f ./mesh --traces --set proxy.telemetry.access_log=true\n  \
    meshctl up -f ./mesh --set ca.certificates.min_ttl=10s --set ca.certificates.default_ttl=20s\n\n\
    It stays in the foreground; Ctrl-C ends the mesh, and so does every other end of meshctl.\n\
    Changes of the manifests take effect while it runs. In another terminal: meshctl status"
)]
pub struct Args {
    /// Folder of manifests (YAML or JSON), or a single file.
    #[arg(short = 'f', long = "file", value_name = "DIR")]
    source: PathBuf,
    /// Folder for keys, logs and mesh.json [default: $XDG_RUNTIME_DIR/mesh, else /tmp/mesh-UID].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// A setting of a part: ca.KEY, controller.KEY, or proxy.KEY for every sidecar. Can be repeated.
    #[arg(long = "set", value_name = "PART.KEY=VALUE")]
    sets: Vec<Override>,
    /// Fail where not everything is ready after so many seconds. Without it, what is not ready is waited for.
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Collect traces, and show them on the mesh's admin server.
    #[arg(long)]
    traces: bool,
}

/// Runs the mesh until it is told to end.
///
/// # Errors
/// Where it cannot be started, is not ready in time, or a part of the runner failed.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let strict = args.wait.is_some();
    let wish = Wish {
        source: args.source,
        state: StateDir::choose(args.state.as_deref()),
        overrides: args.sets,
        traces: args.traces,
        wait: args.wait.map_or(WAIT, Duration::from_secs),
    };
    let launcher = Launcher::this().context("cannot tell where meshctl is")?;
    let (reporter, mut notices) = reporter();
    let session = session(wish, strict, launcher, reporter);
    let result = shown(session, &mut notices, &mut out).await?;
    result.map(|()| ExitCode::SUCCESS)
}

/// Runs `work` while its notices are printed as they come; then prints those that are left.
///
/// # Errors
/// Where they cannot be printed, which ends the work.
pub async fn shown<T>(work: impl Future<Output = T>, notices: &mut Notices, out: &mut Out) -> std::io::Result<T> {
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            Some(notice) = notices.next() => out.toned(notice.tone, &notice.text)?,
        }
    };
    while let Some(notice) = notices.ready() {
        out.toned(notice.tone, &notice.text)?;
    }
    Ok(result)
}

async fn session(wish: Wish, strict: bool, launcher: Launcher, reporter: Reporter) -> anyhow::Result<()> {
    let stop = terminated();
    tokio::pin!(stop);
    reporter.say(Tone::Faint, format!("state: {}", wish.state.display()));
    let mut running = tokio::select! {
        started = Running::start(wish, launcher, reporter.clone()) => started?,
        () = &mut stop => return Ok(()),
    };
    let result = serve(&mut running, strict, &reporter, &mut stop).await;
    reporter.say(Tone::Plain, "stopping");
    tokio::select! {
        () = running.stop() => reporter.say(Tone::Plain, "stopped"),
        () = again() => reporter.say(Tone::Warn, "stopped at once"),
    }
    result
}

/// A second signal; one that comes together with the first (a terminal and a supervisor both send it) is none.
async fn again() {
    tokio::time::sleep(LOOK).await;
    terminated().await;
}

async fn serve(
    running: &mut Running,
    strict: bool,
    reporter: &Reporter,
    mut stop: impl Future<Output = ()> + Unpin,
) -> anyhow::Result<()> {
    let ready = tokio::select! {
        ready = running.ready() => ready,
        () = &mut stop => return Ok(()),
    };
    let admin = running.mesh.file().admin;
    reporter.say(Tone::Faint, format!("admin: http://{admin}"));
    if running.traces.is_some() {
        reporter.say(Tone::Faint, format!("traces: http://{admin}/traces"));
    }
    match ready {
        Ok(()) => reporter.say(Tone::Good, "ready"),
        Err(error) if strict => return Err(error),
        Err(error) => {
            reporter.say(Tone::Warn, format!("{error:#}\ngoing on; it is started again, or mend the manifest"));
            let mesh = std::sync::Arc::clone(&running.mesh);
            let late = async {
                while !mesh.status().missing.is_empty() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            tokio::select! {
                done = running.until(late) => done?,
                () = &mut stop => return Ok(()),
            }
            reporter.say(Tone::Good, "ready");
        }
    }
    running.until(stop).await?;
    Ok(())
}
