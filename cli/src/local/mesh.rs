//! The whole mesh: its control plane, its workloads, and what is asked of it while it runs.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use mesh_api::{model::WorkloadId, names, spiffe::TrustDomain};
use serde::Serialize;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    keep::{Kept, Wanted},
    overrides::{Override, Part},
    ports::Ports,
    process::Launcher,
    report::Reporter,
    settings::{self, Settings},
    state::{Lock, MeshFile, PartEntry, StateDir, TracesEntry, WorkloadEntry},
    tokens::Tokens,
    workload::{Stage, Workload, ready},
};
use crate::io::Tone;

/// What a mesh is started with.
#[derive(Debug)]
pub struct Options {
    /// Folder of manifests.
    pub source: PathBuf,
    /// Folder for its state.
    pub state: PathBuf,
    /// Settings of single parts.
    pub overrides: Vec<Override>,
    /// Starts processes.
    pub launcher: Launcher,
    /// How long anything may take to become ready.
    pub wait: Duration,
    /// Trace collector: where it receives, and the admin server that shows what it has.
    pub otlp: Option<SocketAddr>,
    /// Own admin server.
    pub admin: SocketAddr,
    /// Hears what happens.
    pub reporter: Reporter,
}

/// A running mesh. Dropping it kills its processes; [`Mesh::stop`] ends them.
#[derive(Debug)]
pub struct Mesh {
    pub(super) settings: Arc<Settings>,
    source: PathBuf,
    admin: SocketAddr,
    ca: (Kept, SocketAddr),
    controller: (Kept, SocketAddr),
    workloads: Mutex<BTreeMap<WorkloadId, Arc<Workload>>>,
    joined: Mutex<Vec<WorkloadEntry>>,
    /// Where each object of the manifests stands, once they were read.
    places: Mutex<Option<HashMap<String, String>>>,
    _lock: Lock,
}

/// What `/status` answers: `mesh.json`, and how far each workload is.
#[derive(Debug, Serialize)]
pub struct Status {
    /// What runs.
    #[serde(flatten)]
    pub mesh: MeshFile,
    /// What is missing, by workload; empty where everything is ready.
    pub missing: BTreeMap<String, String>,
}

impl Mesh {
    /// Starts the control plane, and comes back when it is ready. Workloads are started by what follows the manifests.
    ///
    /// # Errors
    /// Where the folder is in use, an override is wrong, or a part of the control plane does not become ready.
    pub async fn start(options: Options) -> anyhow::Result<Self> {
        let state = StateDir::create(options.state.clone())?;
        let lock = state.lock()?;
        if options.source.starts_with(state.root()) || state.root().starts_with(&options.source) {
            bail!("the folder of manifests and the state folder must not lie in each other; choose one with --state");
        }
        let mut ports = Ports::new();
        let (ca, discovery) = (ports.take()?, ports.take()?);
        let (ca_admin, controller_admin) = (ports.take()?, ports.take()?);
        let trust_domain: TrustDomain = names::DEFAULT_TRUST_DOMAIN.parse().context("the default trust domain")?;
        let (changed, _) = watch::channel(());
        let settings = Arc::new(Settings {
            tokens: Mutex::new(Tokens::open(&state)?),
            state,
            launcher: options.launcher,
            overrides: options.overrides,
            trust_domain,
            ca,
            discovery,
            otlp: options.otlp,
            wait: options.wait,
            reporter: options.reporter,
            changed,
            ports: Mutex::new(ports),
            starting: settings::starting(),
        });
        let folders = [options.source.clone(), settings.state.workloads()];
        let ca_spec = settings.ca_process(ca_admin)?;
        let controller_spec = settings.controller_process(controller_admin, &folders)?;
        let keep = |spec, first| {
            let (reporter, changed) = (settings.reporter.clone(), settings.changed.clone());
            Kept::new(settings.launcher.clone(), spec, first, reporter, changed)
        };
        let mesh = Self {
            ca: (keep(ca_spec, Wanted::Up), ca_admin),
            controller: (keep(controller_spec, Wanted::Down), controller_admin),
            settings: Arc::clone(&settings),
            source: options.source,
            admin: options.admin,
            workloads: Mutex::default(),
            joined: Mutex::default(),
            places: Mutex::default(),
            _lock: lock,
        };
        mesh.part_ready(Part::Ca, "certificate authority").await?;
        mesh.controller.0.want(Wanted::Up);
        mesh.part_ready(Part::Controller, "controller").await?;
        Ok(mesh)
    }

    async fn part_ready(&self, part: Part, name: &str) -> anyhow::Result<()> {
        let Some((kept, admin)) = self.part(part) else { return Ok(()) };
        let started = Instant::now();
        match ready(*admin, self.settings.wait, |_| ()).await {
            Ok(()) => {
                let took = started.elapsed().as_secs_f64();
                self.settings.reporter.say(Tone::Good, format!("{name}: ready after {took:.1}s (http://{admin})"));
                Ok(())
            }
            Err(why) => bail!("the {name} is not ready: {why}\n  its log: {}", kept.log().display()),
        }
    }

    fn part(&self, part: Part) -> Option<&(Kept, SocketAddr)> {
        match part {
            Part::Ca => Some(&self.ca),
            Part::Controller => Some(&self.controller),
            Part::Proxy => None,
        }
    }

    /// Waits until every workload that is known now is ready.
    ///
    /// # Errors
    /// Which are not, and why.
    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        for (id, workload) in self.workloads() {
            let mut stage = workload.stage();
            // Its own waits are bounded; this bounds what stands in front of it.
            let done =
                timeout(self.settings.wait * 4, stage.wait_for(|stage| !matches!(stage, Stage::Starting(_)))).await;
            match done.ok().and_then(Result::ok).map(|stage| stage.clone()) {
                Some(Stage::Ready) => {}
                Some(Stage::Failed(why) | Stage::Starting(why)) => wrong.push(format!("\n  {id}: {why}")),
                None => wrong.push(format!("\n  {id}: it takes too long")),
            }
        }
        if wrong.is_empty() { Ok(()) } else { bail!("not everything is ready:{}", wrong.concat()) }
    }

    /// What runs.
    #[must_use]
    pub fn file(&self) -> MeshFile {
        let part =
            |(kept, admin): &(Kept, SocketAddr), address| PartEntry { pid: kept.doing().pid(), admin: *admin, address };
        let mut workloads: Vec<_> = self.workloads().into_iter().map(|(_, workload)| workload.entry()).collect();
        workloads.extend(self.joined.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        MeshFile {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            admin: self.admin,
            source: self.source.clone(),
            trust_domain: self.settings.trust_domain.to_string(),
            ca: part(&self.ca, self.settings.ca),
            controller: part(&self.controller, self.settings.discovery),
            traces: self.settings.otlp.map(|otlp| TracesEntry { otlp, page: self.admin }),
            workloads,
        }
    }

    /// What runs, and what is missing.
    #[must_use]
    pub fn status(&self) -> Status {
        let missing = |(id, workload): (WorkloadId, Arc<Workload>)| match &*workload.stage().borrow() {
            Stage::Ready => None,
            Stage::Starting(why) | Stage::Failed(why) => Some((id.to_string(), why.clone())),
        };
        Status { mesh: self.file(), missing: self.workloads().into_iter().filter_map(missing).collect() }
    }

    /// The folder of manifests.
    #[must_use]
    pub fn source(&self) -> &std::path::Path {
        &self.source
    }

    /// Admin server of the controller.
    #[must_use]
    pub fn controller_admin(&self) -> SocketAddr {
        self.controller.1
    }

    /// Every workload of the manifests.
    #[must_use]
    pub fn workloads(&self) -> Vec<(WorkloadId, Arc<Workload>)> {
        let workloads = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        workloads.iter().map(|(id, workload)| (id.clone(), Arc::clone(workload))).collect()
    }

    /// One of them.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<Arc<Workload>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn add(&self, id: WorkloadId, workload: Arc<Workload>) {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner).insert(id, workload);
    }

    pub(super) fn remove(&self, id: &WorkloadId) -> Option<Arc<Workload>> {
        self.workloads.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    pub(super) fn set_places(&self, places: HashMap<String, String>) {
        *self.places.lock().unwrap_or_else(PoisonError::into_inner) = Some(places);
    }

    /// Where objects stand; `None` before the manifests were read.
    pub(super) fn places(&self) -> Option<HashMap<String, String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_joined(&self, mut joined: Vec<WorkloadEntry>) {
        joined.sort();
        let mut known = self.joined.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != joined {
            *known = joined;
            self.settings.changed.send_replace(());
        }
    }

    /// Ends a part of the control plane and starts it again, or starts one again that was paused.
    ///
    /// # Errors
    /// Where it does not become ready.
    pub async fn restart_part(&self, part: Part) -> Result<(), String> {
        let Some((kept, admin)) = self.part(part) else {
            return Err("sidecars are restarted with their workload".into());
        };
        kept.stop().await;
        kept.want(Wanted::Up);
        ready(*admin, self.settings.wait, |_| ()).await
    }

    /// Leaves a part of the control plane alone: when it ends, it is not started again.
    ///
    /// # Errors
    /// Where there is no such part.
    pub fn pause_part(&self, part: Part) -> Result<(), String> {
        let Some((kept, _)) = self.part(part) else { return Err("only ca and controller can be paused".into()) };
        kept.want(Wanted::Left);
        Ok(())
    }

    /// Starts a part of the control plane that was paused, where it ended meanwhile, and keeps it again.
    ///
    /// # Errors
    /// Where it does not become ready.
    pub async fn resume_part(&self, part: Part) -> Result<(), String> {
        let Some((kept, admin)) = self.part(part) else { return Err("only ca and controller can be paused".into()) };
        kept.want(Wanted::Up);
        ready(*admin, self.settings.wait, |_| ()).await
    }

    /// Ends everything: sidecars and programs, then the controller, then the authority. Each wait is bounded.
    pub async fn stop(&self) {
        let mut stopping = JoinSet::new();
        for (_, workload) in self.workloads() {
            stopping.spawn(async move { workload.stop().await });
        }
        while stopping.join_next().await.is_some() {}
        self.controller.0.stop().await;
        self.ca.0.stop().await;
        let _ = std::fs::remove_file(self.settings.state.mesh_file());
    }
}
