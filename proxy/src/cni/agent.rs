//! The agent: a process on every node that keeps the plugin there, and starts pods anew that came before it. Floor 3:
//! imports `node`, `repair`.
//!
//! It looks at the node's folders whenever something changes in them, and every few seconds all the same. Somebody else's
//! program may write the configuration anew at any time: the agent comes back after it, and the pods that were started
//! between find by their check that they are not redirected, and are repaired.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use mesh_api::{
    admin::{self, Admin, AdminRequest, Answer, Mount},
    log::LogLevel,
    supervise::{Supervisor, TaskEnded},
    sys::{Listener, Sys},
};
use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder as _, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use notify::Watcher as _;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use super::{
    cluster::ClusterError,
    credentials::{Credentials, CredentialsError},
    node::{Node, NodeError, Standing},
    protocol::is_name,
    repair::{Budget, Counters, Mode, Repair},
};

/// How often it is looked where nothing seems to change: tokens are renewed, and changes can be missed.
const LOOK: Duration = Duration::from_secs(10);
/// The same where changes cannot be heard of: nodes run out of inotify instances.
const LOOK_BLIND: Duration = Duration::from_secs(2);
/// Between two looks at least: somebody else may write the same file again and again.
const REST: Duration = Duration::from_millis(100);
/// What is in the way of the first look is tried again after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What the agent is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where things are on the node.
    pub node: Node,
    /// The agent's service account, as it is mounted.
    pub account: PathBuf,
    /// Name of the node; without it no pod is repaired.
    pub name: Option<String>,
    /// Where its admin server listens.
    pub listen: SocketAddr,
    /// Whether everything is taken away when it stops.
    pub remove_on_exit: bool,
    /// What is done with pods that have to be started anew.
    pub repair: Mode,
    /// With how many of them in a minute, at most.
    pub repairs_each_minute: u32,
}

/// The agent cannot run, or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its address is taken, or not there.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// The name of the node is none.
    #[error("`{0}` is not the name of a node")]
    Name(String),
    /// A task that should have run for ever did not.
    #[error(transparent)]
    Task(#[from] TaskEnded),
    /// What was to be taken away is still there.
    #[error("not everything could be taken away: {0}")]
    Remove(#[source] NodeError),
}

/// Why the plugin is not in its place.
#[derive(Debug, thiserror::Error)]
enum PutError {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error("a file on the node cannot be written: {0}")]
    Node(#[from] NodeError),
    #[error("looking after the node's files broke: {0}")]
    Broke(#[from] tokio::task::JoinError),
}

/// Runs until `stop`.
///
/// # Errors
/// [`AgentError`].
pub async fn run(
    settings: Settings,
    sys: Sys,
    log: LogLevel,
    stop: impl Future<Output = ()>,
) -> Result<(), AgentError> {
    if let Some(name) = settings.name.as_ref().filter(|name| !is_name(name)) {
        return Err(AgentError::Name(name.clone()));
    }
    let metrics = Metrics::new();
    let (state, seen) = watch::channel(Some("the plugin is not installed yet".to_owned()));
    let (trouble, troubled) = watch::channel(None);
    let (installed, is_installed) = watch::channel(false);
    let listener = listen(&sys, settings.listen).await?;
    let mut tasks = Supervisor::new();
    let page = Admin { mount: Arc::new(Page([seen, troubled])), log, metrics: Some(metrics.recorder.handle()) };
    tasks.spawn("admin", admin::serve(listener, page));
    match &settings.name {
        None => tracing::warn!("pods are not repaired: the name of the node is not known (MESH_NODE)"),
        Some(node) => {
            let account = settings.account.clone();
            let repair = Repair {
                sys,
                credentials: move || own(&account).map_err(ClusterError::from),
                node: node.clone(),
                mode: settings.repair,
                budget: Budget::new(settings.repairs_each_minute, Instant::now()),
                installed: is_installed,
                counters: metrics.repairs(),
                trouble,
            };
            tasks.spawn("repair", repair.run());
        }
    }
    let node = Arc::new(Mutex::new(Some(settings.node.clone())));
    let keeper = Keeper {
        node: Arc::clone(&node),
        folders: [settings.node.conf, settings.node.bin],
        account: settings.account,
        state,
        installed,
        metrics,
    };
    tasks.spawn("keeper", keeper.run());
    tokio::select! {
        ended = tasks.first_end() => return Err(ended.into()),
        () = stop => {}
    }
    drop(tasks);
    // What is being written is waited for, and nothing is written from here on.
    let Some(node) = node.lock().take() else { return Ok(()) };
    if !settings.remove_on_exit {
        tracing::info!(
            "the plugin stays for the next agent: without one, pods that have a sidecar do not start on this node"
        );
        return Ok(());
    }
    tracing::info!("the plugin is taken away");
    node.remove().map_err(AgentError::Remove)
}

async fn listen(sys: &Sys, address: SocketAddr) -> Result<Listener, AgentError> {
    match admin::bind(sys, address).await {
        // A node without IPv6: everywhere is everywhere.
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
            let address = (Ipv4Addr::UNSPECIFIED, address.port()).into();
            admin::bind(sys, address).await.map_err(|error| AgentError::Listen { address, error })
        }
        bound => bound.map_err(|error| AgentError::Listen { address, error }),
    }
}

fn own(account: &Path) -> Result<Credentials, CredentialsError> {
    Credentials::of_pod(|name| std::env::var(name).ok(), account)
}

/// Keeps the plugin in its place.
struct Keeper {
    /// None once the agent stops: a look that has begun goes on without the task that began it.
    node: Arc<Mutex<Option<Node>>>,
    folders: [PathBuf; 2],
    account: PathBuf,
    state: watch::Sender<Option<String>>,
    installed: watch::Sender<bool>,
    metrics: Metrics,
}

impl Keeper {
    async fn run(self) {
        let (changed, mut changes) = mpsc::channel(1);
        let mut watcher = None;
        let mut told = false;
        loop {
            if watcher.is_none() {
                watcher = match self.watch(changed.clone()) {
                    Ok(watcher) => Some(watcher),
                    Err(error) => {
                        if !std::mem::replace(&mut told, true) {
                            tracing::warn!(%error, "changes of the node's folders cannot be heard of; they are looked at");
                        }
                        None
                    }
                };
            }
            let wait = match self.look().await {
                Ok(standing) => {
                    self.tell(&standing);
                    if watcher.is_some() { LOOK } else { LOOK_BLIND }
                }
                Err(error) => {
                    self.metrics.failures.increment(1);
                    let why = Some(error.to_string());
                    if *self.state.borrow() != why {
                        // A plugin that was there before is as it was; its token may grow old.
                        tracing::warn!(%error, "the plugin cannot be kept in its place");
                    }
                    self.set(why);
                    AGAIN
                }
            };
            tokio::time::sleep(REST).await;
            // Either says that it is time to look.
            let _ = timeout(wait, changes.recv()).await;
        }
    }

    /// Says when something changes in the folders, as long as the watcher is there.
    fn watch(&self, changed: mpsc::Sender<()>) -> notify::Result<notify::RecommendedWatcher> {
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading a file is no change, but it is an event; a full queue says it already.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                let _ = changed.try_send(());
            }
        })?;
        for folder in &self.folders {
            watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
        }
        Ok(watcher)
    }

    async fn look(&self) -> Result<Standing, PutError> {
        let (node, account) = (Arc::clone(&self.node), self.account.clone());
        let put = tokio::task::spawn_blocking(move || match node.lock().as_ref() {
            Some(node) => Ok(node.put(&own(&account)?)?),
            None => Ok(Standing { file: None, written: Vec::new() }),
        });
        put.await?
    }

    fn tell(&self, standing: &Standing) {
        for what in &standing.written {
            self.metrics.written(what).increment(1);
            tracing::info!(what, file = standing.file, "written to the node");
        }
        self.set(match standing.file {
            Some(_) => None,
            None => Some("the node has no CNI configuration yet that the plugin could stand behind".to_owned()),
        });
    }

    fn set(&self, why_not: Option<String>) {
        let ready = why_not.is_none();
        self.metrics.installed.set(if ready { 1.0 } else { 0.0 });
        self.installed.send_if_modified(|now| std::mem::replace(now, ready) != ready);
        self.state.send_replace(why_not);
    }
}

/// The agent's part of the admin server: what keeps the plugin from its work, if anything.
struct Page([watch::Receiver<Option<String>>; 2]);

impl Mount for Page {
    fn answer<'a>(&'a self, _: &'a AdminRequest) -> Answer<'a> {
        Box::pin(async { None })
    }

    fn index(&self) -> Vec<(&'static str, &'static str)> {
        Vec::new()
    }

    fn not_ready(&self) -> Option<String> {
        self.0.iter().find_map(|why_not| why_not.borrow().clone())
    }
}

/// What the agent tells about its work.
struct Metrics {
    recorder: PrometheusRecorder,
    installed: Gauge,
    failures: Counter,
}

static META: Metadata<'static> = Metadata::new("mesh_cni", Level::INFO, None);
const INSTALLED: &str = "mesh_cni_installed";
const WRITES: &str = "mesh_cni_writes_total";
const FAILURES: &str = "mesh_cni_failures_total";
const REPAIRS: &str = "mesh_cni_repairs_total";

impl Metrics {
    fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let describe = |name: &'static str, help: &'static str| {
            recorder.describe_counter(name.into(), Some(Unit::Count), SharedString::const_str(help));
        };
        describe(WRITES, "Files that had to be put on the node: plugin, credentials, configuration.");
        describe(FAILURES, "Looks at the node's files that failed.");
        describe(REPAIRS, "Pods that were not redirected, by what was done: repaired, alone, later, failed.");
        let help = SharedString::const_str("1 while the plugin is in the node's configuration.");
        recorder.describe_gauge(INSTALLED.into(), None, help);
        let version = vec![Label::new("version", env!("CARGO_PKG_VERSION"))];
        recorder.register_gauge(&Key::from_parts("mesh_build_info", version), &META).set(1.0);
        Self {
            installed: recorder.register_gauge(&Key::from_name(INSTALLED), &META),
            failures: recorder.register_counter(&Key::from_name(FAILURES), &META),
            recorder,
        }
    }

    fn counter(&self, name: &'static str, label: &'static str, value: &'static str) -> Counter {
        self.recorder.register_counter(&Key::from_parts(name, vec![Label::new(label, value)]), &META)
    }

    fn written(&self, what: &'static str) -> Counter {
        self.counter(WRITES, "what", what)
    }

    fn repairs(&self) -> Counters {
        let done = |what| self.counter(REPAIRS, "result", what);
        Counters { repaired: done("repaired"), alone: done("alone"), later: done("later"), failed: done("failed") }
    }
}
