//! Builds every part, starts it, waits, drains. Floor 7: imports everything.
//!
//! The calling thread is the control thread: discovery, certificates, admin server, export of spans and lines. Traffic
//! is carried by worker threads, each with a runtime, listeners and connections of its own.

mod work;

use std::{future::Future, path::Path, sync::Arc, time::Duration};

use mesh_api::{
    admin,
    config::{ConfigErrors, Sources},
    grpc,
    identity::Member,
    log::{self, LogLevel},
    names,
    spiffe::SpiffeId,
    supervise::{Supervisor, terminated},
    sys::Sys,
    tls::Keeper,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, interval, timeout_at},
};

use crate::{
    admin::ProxyAdmin,
    config::Config,
    discovery::{Client, Discovery},
    phase::Phase,
    probe::Probes,
    telemetry::{Drains, Telemetry, spans},
};

/// How often histograms are condensed and the expiry of the certificate is told.
const UPKEEP: Duration = Duration::from_secs(5);
/// What goes out last has this long, where the drain time is used up.
const LAST_CALLS: Duration = Duration::from_secs(1);
/// Spans and lines that wait are given this long at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Reads the configuration: defaults, `file`, environment, `flags`.
///
/// # Errors
/// [`ConfigErrors`], every mistake at once.
pub fn configure(file: Option<&Path>, flags: Vec<(String, String)>) -> Result<Config, ConfigErrors> {
    mesh_api::config::load(&Sources { file, environment: Sources::process_environment(), flags })
}

/// Runs a proxy on threads of its own until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Where it cannot start, or a part that should run for ever ended.
pub fn main(config: Config) -> anyhow::Result<()> {
    let level = log::init(&config.log)?;
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(config, Sys::host(), level, terminated()))
}

/// Each connection takes a file descriptor: as many as the system allows.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// What every worker needs to be built.
#[derive(Clone)]
pub struct Ground {
    sys: Sys,
    config: Arc<Config>,
    keeper: Arc<Keeper>,
    discovery: Discovery,
    telemetry: Arc<Telemetry>,
    phase: watch::Receiver<Phase>,
    /// Each worker says when it listens, when its inbound side is empty, and when it is done.
    progress: mpsc::Sender<Progress>,
}

/// What a worker says of itself.
#[derive(Debug)]
pub enum Progress {
    /// It accepts connections.
    Listening,
    /// Its inbound side is drained.
    InboundEmpty,
    /// It ended, as planned or with this error.
    Ended(Result<(), String>),
}

/// Runs a proxy until `stop` completes, then drains.
///
/// # Errors
/// As [`main`].
pub async fn run(config: Config, sys: Sys, level: LogLevel, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let workers = config.workers;
    start(config, sys, level, stop, workers, |ground| {
        std::thread::Builder::new().name("worker".into()).spawn(move || work::thread(ground))?;
        Ok(())
    })
    .await
}

/// The same with its only worker beside it, in the [`tokio::task::LocalSet`] that this is called in: for a mesh within one
/// process, such as a simulation.
///
/// # Errors
/// As [`main`].
pub async fn run_here(config: Config, sys: Sys, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    start(config, sys, LogLevel::default(), stop, 1, |ground| {
        tokio::task::spawn_local(work::here(ground));
        Ok(())
    })
    .await
}

async fn start(
    config: Config,
    sys: Sys,
    level: LogLevel,
    stop: impl Future<Output = ()>,
    workers: u16,
    spawn: impl Fn(Ground) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let (telemetry, drains) = Telemetry::new(&config)?;
    let mut tasks = Supervisor::new();
    let member = Member::new(sys.clone(), config.identity.clone())?;
    let (keeper, mut certified) = (member.keeper(), member.ready());
    tasks.spawn("identity", member.run());
    let controller =
        SpiffeId::workload(&config.identity.trust_domain.parse()?, names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT)?;
    let channel = grpc::channel(&sys, &keeper, config.discovery.address.clone(), controller);
    let (client, discovery) = Client::new(&config, channel, &sys, &telemetry);
    let connection = client.connection();
    let (phase_sender, phase) = watch::channel(Phase::Serving);
    let (listening_sender, listening) = watch::channel(false);

    let admin_listener = admin::bind(&sys, config.admin.listen).await?;
    let mount = ProxyAdmin {
        config: Arc::clone(&config),
        keeper: Arc::clone(&keeper),
        discovery: discovery.clone(),
        connection,
        listening,
        probes: Probes::new(&config.admin.probes, &sys)?,
        phase: phase.clone(),
    };
    let page = admin::Admin { mount: Arc::new(mount), log: level, metrics: Some(telemetry.handle()) };
    tasks.spawn("admin", admin::serve(admin_listener, page));
    tasks.spawn("upkeep", upkeep(Arc::clone(&telemetry), Arc::clone(&keeper)));
    let exports = export(drains, &config, &telemetry, &sys);

    tokio::pin!(stop);
    // Without a certificate nobody could be asked: the first questions wait for it.
    tokio::select! {
        _ = certified.wait_for(|ready| *ready) => {}
        ended = tasks.first_end() => anyhow::bail!(ended),
        () = &mut stop => return Ok(()),
    }
    tasks.spawn("discovery", client.run());
    let (progress, mut reports) = mpsc::channel(usize::from(workers) * 3 + 1);
    let ground = Ground { sys, config: Arc::clone(&config), keeper, discovery, telemetry, phase, progress };
    for _ in 0..workers {
        spawn(ground.clone())?;
    }
    drop(ground);
    wait(&mut reports, &mut tasks, workers, Progress::is_listening).await?;
    listening_sender.send_replace(true);
    tracing::info!(workload = config.workload, namespace = config.namespace, admin = %config.admin.listen, "the proxy serves");
    tokio::select! {
        () = &mut stop => {}
        ended = tasks.first_end() => anyhow::bail!(ended),
        Some(report) = reports.recv() => anyhow::bail!("a worker ended: {report:?}"),
    }
    drain(&config, &phase_sender, &mut reports, &mut tasks, workers).await?;
    drop(tasks);
    // What is left to be told.
    for export in exports {
        let _ = tokio::time::timeout(FLUSH, export).await;
    }
    Ok(())
}

impl Progress {
    fn is_listening(&self) -> bool {
        matches!(self, Self::Listening)
    }

    fn is_inbound_empty(&self) -> bool {
        matches!(self, Self::InboundEmpty)
    }

    fn is_ended(&self) -> bool {
        matches!(self, Self::Ended(Ok(())))
    }
}

/// Until each worker has said what is waited for.
async fn wait(
    reports: &mut mpsc::Receiver<Progress>,
    tasks: &mut Supervisor,
    workers: u16,
    awaited: impl Fn(&Progress) -> bool,
) -> anyhow::Result<()> {
    let mut missing = workers;
    while missing > 0 {
        tokio::select! {
            report = reports.recv() => match report {
                Some(report) if awaited(&report) => missing -= 1,
                // Told late, where the drain time was over before.
                Some(Progress::InboundEmpty) => {}
                Some(Progress::Ended(Err(error))) => anyhow::bail!(error),
                other => anyhow::bail!("a worker ended unexpectedly: {other:?}"),
            },
            ended = tasks.first_end() => anyhow::bail!(ended),
        }
    }
    Ok(())
}

/// First nothing new comes in, while the application can still call others; then nothing new goes out.
async fn drain(
    config: &Config,
    phase: &watch::Sender<Phase>,
    reports: &mut mpsc::Receiver<Progress>,
    tasks: &mut Supervisor,
    workers: u16,
) -> anyhow::Result<()> {
    tracing::info!(limit = ?config.drain, "draining");
    let deadline = Instant::now() + config.drain;
    phase.send_replace(Phase::DrainingInbound);
    if let Ok(drained) = timeout_at(deadline, wait(reports, tasks, workers, Progress::is_inbound_empty)).await {
        drained?;
    } else {
        tracing::warn!("the drain time is over; what is still coming in is broken off");
    }
    phase.send_replace(Phase::DrainingAll);
    let last = deadline.max(Instant::now() + LAST_CALLS);
    match timeout_at(last, wait(reports, tasks, workers, Progress::is_ended)).await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}

async fn upkeep(telemetry: Arc<Telemetry>, keeper: Arc<Keeper>) {
    let expiry = telemetry.gauge("mesh_certificate_expiry_timestamp_seconds", Vec::new());
    let handle = telemetry.handle();
    let mut ticks = interval(UPKEEP);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
        if let Some(identity) = &keeper.current().identity {
            let until = identity.not_after().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
            expiry.set(until.as_secs_f64());
        }
    }
}

fn export(drains: Drains, config: &Config, telemetry: &Arc<Telemetry>, sys: &Sys) -> Vec<tokio::task::JoinHandle<()>> {
    let mut running = Vec::new();
    if let Some(queue) = drains.spans {
        let (endpoint, sys) = (config.telemetry.otlp_endpoint.clone(), sys.clone());
        let dropped = telemetry.spans_dropped();
        let resource = spans::Resource::of(telemetry);
        running.push(tokio::spawn(async move { spans::export(queue, endpoint, resource, dropped, &sys).await }));
    }
    if let Some(mut queue) = drains.access {
        running.push(tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let mut out = tokio::io::stdout();
            while let Some(mut line) = queue.recv().await {
                line.push('\n');
                // Nobody reads the lines any more: what comes is still taken, so that nothing piles up.
                let _ = out.write_all(line.as_bytes()).await;
                let _ = out.flush().await;
            }
        }));
    }
    running
}
