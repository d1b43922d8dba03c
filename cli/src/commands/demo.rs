//! `meshctl demo`: a mesh to look at, and its proof.

use std::{path::PathBuf, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use mesh_api::supervise::terminated;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::up::shown;
use crate::{
    demo::{
        check,
        manifests::Manifests,
        screen::{REDRAW, REPRINT, Screen, where_to_look},
    },
    io::{Format, Out, Tone},
    local::{
        process::Launcher,
        report::{Notices, reporter},
        runner::{Running, Wish},
        state::StateDir,
    },
    view::{Scrape, edges, status::Status},
};

/// How long anything may take to become ready.
const WAIT: Duration = Duration::from_secs(60);
/// How long the checks may take where `--seconds` is not given.
const CHECK: u64 = 60;

/// Arguments of `meshctl demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  meshctl demo\n  meshctl demo --seconds 30\n  meshctl demo --check\n\n\
    It needs nothing but this program: every part and every service is a process of it, on loopback.")]
pub struct Args {
    /// Prove it and end: print what was checked, and fail where something does not hold.
    #[arg(long)]
    check: bool,
    /// End after so many seconds; with --check, the time that the checks may take.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// With --check: how to show the outcome.
    #[arg(short, long, value_enum, default_value_t, requires = "check")]
    output: Format,
    /// Folder for keys, logs and mesh.json, kept afterwards [default: one that is removed at the end].
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Where everything of this demo lies.
struct Place {
    folder: tempfile::TempDir,
    manifests: Manifests,
    state: PathBuf,
}

impl Place {
    fn new(args: &Args) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("mesh-demo-").tempdir().context("no folder for the demo")?;
        let manifests = Manifests::on_a_free_network()?;
        let program = std::env::current_exe().context("cannot tell where meshctl is")?;
        let text = manifests.text(&program);
        std::fs::create_dir(folder.path().join("manifests")).context("no folder for the manifests")?;
        std::fs::write(folder.path().join("manifests/shop.yaml"), text).context("the manifests cannot be written")?;
        let state = match &args.state {
            Some(state) => StateDir::choose(Some(state)),
            None => folder.path().join("state"),
        };
        Ok(Self { folder, manifests, state })
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }
}

/// Runs the demo until it is told to end, or its checks are done.
///
/// # Errors
/// Where it cannot be started or shown.
pub async fn run(args: Args, mut out: Out) -> anyhow::Result<ExitCode> {
    let place = Place::new(&args)?;
    let stop = terminated();
    tokio::pin!(stop);
    let (reporter, mut notices) = reporter();
    let quiet = args.output == Format::Json;
    let mut progress = if quiet { Out::to(std::io::sink()) } else { Out::stdout() };
    reporter
        .say(Tone::Strong, "starting a certificate authority, a controller, and eight services with a sidecar each");
    let wish =
        Wish { source: place.source(), state: place.state.clone(), overrides: Vec::new(), traces: true, wait: WAIT };
    let starting = async {
        let mut running =
            Running::start(wish, Launcher::this().context("cannot tell where meshctl is")?, reporter).await?;
        match running.ready().await {
            Ok(()) => Ok(running),
            Err(error) => {
                running.stop().await;
                Err(error)
            }
        }
    };
    let mut running = tokio::select! {
        running = shown(starting, &mut notices, &mut progress) => running??,
        () = &mut stop => return Ok(ExitCode::FAILURE),
    };
    let result = match args.check {
        true => prove(&args, &place, &mut running, &mut out, stop).await,
        false => show(&args, &place, &mut running, &mut notices, &mut out, stop).await,
    };
    if !quiet {
        progress.line("stopping")?;
    }
    running.stop().await;
    result
}

async fn prove(
    args: &Args,
    place: &Place,
    running: &mut Running,
    out: &mut Out,
    stop: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<ExitCode> {
    let limit = Duration::from_secs(args.seconds.unwrap_or(CHECK));
    let (mesh, traces) = (Arc::clone(&running.mesh), running.traces.clone().context("traces are not collected")?);
    let checking = check::check(&mesh, &traces, &place.manifests, limit);
    let outcomes = tokio::select! {
        // Every single call has a deadline; this one is for all of them together.
        outcomes = running.until(timeout(limit * 2, checking)) => outcomes?.context("the checks took too long")?,
        () = stop => return Ok(ExitCode::FAILURE),
    };
    match args.output {
        Format::Table => out.table(&check::table(&outcomes))?,
        Format::Json => out.json(&outcomes)?,
    }
    Ok(if outcomes.iter().all(|outcome| outcome.good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn show(
    args: &Args,
    place: &Place,
    running: &mut Running,
    notices: &mut Notices,
    out: &mut Out,
    stop: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<ExitCode> {
    let mesh = Arc::clone(&running.mesh);
    let mut screen = Screen::new(where_to_look(&mesh.file(), &place.state, &place.source()));
    screen.take_over(true, out)?;
    let drawing = async {
        let mut tick = every(if out.terminal() { REDRAW } else { REPRINT });
        let mut before: Option<Scrape> = None;
        loop {
            tokio::select! {
                Some(notice) = notices.next() => screen.notice(notice, out)?,
                _ = tick.tick() => {
                    let (status, after) = Status::ask(&mesh.file(), before.as_ref()).await;
                    let totals = edges::edges(None, &after);
                    if before.replace(after).is_some() {
                        screen.show(&status, &totals, out)?;
                    }
                }
            }
        }
    };
    let limit = args.seconds.map(Duration::from_secs);
    let result: anyhow::Result<ExitCode> = tokio::select! {
        drawn = running.until(drawing) => match drawn {
            Ok(ended) => ended,
            Err(ended) => Err(ended.into()),
        },
        () = over(limit) => Ok(ExitCode::SUCCESS),
        () = stop => Ok(ExitCode::SUCCESS),
    };
    screen.take_over(false, out)?;
    result
}

async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}
