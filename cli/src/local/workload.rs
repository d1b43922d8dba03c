//! A workload on this machine: a sidecar and a program, started, changed, restarted and ended together.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use mesh_api::model::WorkloadId;
use tokio::sync::watch;

use super::{
    keep::{Kept, Wanted},
    plan::Plan,
    ports::is_listening,
    settings::Settings,
    state::{AppEntry, SidecarEntry, WorkloadEntry},
};
use crate::{io::Tone, query};

/// How often a process is asked whether it is ready.
const ASK: Duration = Duration::from_millis(50);
/// In a restart the program has this long to listen before its sidecar lets calls through again.
const APP_FIRST: Duration = Duration::from_secs(3);

/// How far a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Not everything that belongs to it is ready: what is missing.
    Starting(String),
    /// Sidecar and program are ready.
    Ready,
    /// It cannot be run: why.
    Failed(String),
}

/// A workload and its processes.
#[derive(Debug)]
pub struct Workload {
    id: WorkloadId,
    settings: Arc<Settings>,
    /// What it runs; held while something is done with it, so that one thing is done after the other.
    plan: tokio::sync::Mutex<Plan>,
    processes: Mutex<Processes>,
    stage: watch::Sender<Stage>,
}

#[derive(Clone, Debug, Default)]
struct Processes {
    sidecar: Option<Arc<Kept>>,
    /// Of the sidecar; it stays the same when the sidecar is started again.
    admin: Option<SocketAddr>,
    app: Option<Arc<Kept>>,
}

impl Workload {
    /// A workload of which nothing runs yet.
    #[must_use]
    pub fn new(settings: Arc<Settings>, plan: Plan) -> Self {
        let (stage, _) = watch::channel(Stage::Starting("it waits for its turn".into()));
        Self { id: plan.id.clone(), settings, plan: plan.into(), processes: Mutex::default(), stage }
    }

    /// How far it is.
    #[must_use]
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Its processes, for `mesh.json`.
    #[must_use]
    pub fn entry(&self) -> WorkloadEntry {
        let processes = self.processes();
        WorkloadEntry {
            namespace: self.id.namespace.to_string(),
            name: self.id.name.to_string(),
            sidecar: processes
                .admin
                .map(|admin| SidecarEntry { pid: processes.sidecar.and_then(|kept| kept.doing().pid()), admin }),
            app: processes.app.map(|kept| AppEntry { pid: kept.doing().pid() }),
        }
    }

    /// Starts everything: the sidecar first, so that the program finds its upstreams.
    pub async fn start(&self) {
        let plan = self.plan.lock().await;
        let Ok(_turn) = self.settings.starting.acquire().await else { return };
        let started = Instant::now();
        let result = async {
            self.start_sidecar(&plan)?;
            self.sidecar_ready().await?;
            self.start_app(&plan);
            self.app_ready(&plan, self.settings.wait).await
        };
        self.told(result.await, "started", started);
    }

    /// Makes it what `plan` says, touching only what differs.
    pub async fn change(&self, plan: Plan) {
        let mut old = self.plan.lock().await;
        if *old == plan {
            return;
        }
        let started = Instant::now();
        let (sidecar, app) = (old.sidecar != plan.sidecar, old.app != plan.app);
        *old = plan;
        let result = self.renew(&old, sidecar, app);
        self.told(result.await, "changed", started);
    }

    /// Ends it and starts it again, so that no call that it has begun to serve is lost: the sidecar ends first and lets
    /// what is in flight finish while the program still runs; it comes back when the program listens again.
    pub async fn restart(&self) -> Result<(), String> {
        let plan = self.plan.lock().await;
        let started = Instant::now();
        let result = self.renew(&plan, true, true).await;
        self.told(result.clone(), "restarted", started);
        result
    }

    /// Ends it: the sidecar first, as in a restart.
    pub async fn stop(&self) {
        let plan = self.plan.lock().await;
        self.stop_processes(true, true).await;
        self.give_back_admin();
        let mut tokens = self.settings.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.take_back(&plan.id.namespace, &plan.id.name);
    }

    /// Looks again at one that was not ready in time, and says so where it is now.
    pub async fn look_again(&self) {
        // While something else is done with it, that tells how it went.
        let Ok(plan) = self.plan.try_lock() else { return };
        let failed = matches!(&*self.stage.borrow(), Stage::Failed(_));
        if !failed || plan.sidecar.is_some() != self.processes().sidecar.is_some() {
            return;
        }
        let listens = plan.app.iter().flat_map(|app| &app.listens).all(|address| is_listening(*address));
        let sidecar = match self.processes().admin {
            Some(admin) => ready(admin, Duration::ZERO, |_| ()).await.is_ok(),
            None => true,
        };
        if listens && sidecar {
            self.settings.reporter.say(Tone::Good, format!("{}: ready by now", self.id));
            self.say(Stage::Ready);
        }
    }

    async fn renew(&self, plan: &Plan, sidecar: bool, app: bool) -> Result<(), String> {
        self.say(Stage::Starting("it is started again".into()));
        self.stop_processes(sidecar, app).await;
        if app {
            self.start_app(plan);
            // Its own readiness is waited for below; here it only gets a head start.
            let _ = self.app_ready(plan, APP_FIRST).await;
        }
        if sidecar {
            self.start_sidecar(plan)?;
        }
        self.sidecar_ready().await?;
        self.app_ready(plan, self.settings.wait).await
    }

    async fn stop_processes(&self, sidecar: bool, app: bool) {
        let processes = self.processes();
        if let Some(kept) = processes.sidecar.filter(|_| sidecar) {
            kept.stop().await;
            self.with(|processes| processes.sidecar = None);
        }
        if let Some(kept) = processes.app.filter(|_| app) {
            kept.stop().await;
            self.with(|processes| processes.app = None);
        }
    }

    fn start_sidecar(&self, plan: &Plan) -> Result<(), String> {
        let Some(sidecar) = &plan.sidecar else {
            self.give_back_admin();
            return Ok(());
        };
        let admin = match self.processes().admin {
            Some(admin) => admin,
            None => self.settings.port().map_err(|error| error.to_string())?,
        };
        let spec = self.settings.sidecar_process(plan, sidecar, admin).map_err(|error| format!("{error:#}"))?;
        let kept = self.keep(spec);
        self.with(|processes| (processes.sidecar, processes.admin) = (Some(kept), Some(admin)));
        Ok(())
    }

    fn give_back_admin(&self) {
        if let Some(admin) = self.processes().admin {
            self.settings.ports.lock().unwrap_or_else(PoisonError::into_inner).give_back(admin);
            self.with(|processes| processes.admin = None);
        }
    }

    fn start_app(&self, plan: &Plan) {
        if let Some(app) = &plan.app {
            let kept = self.keep(self.settings.app_process(plan, app));
            self.with(|processes| processes.app = Some(kept));
        }
    }

    fn keep(&self, spec: super::process::Spec) -> Arc<Kept> {
        let settings = &self.settings;
        let (reporter, changed) = (settings.reporter.clone(), settings.changed.clone());
        Arc::new(Kept::new(settings.launcher.clone(), spec, Wanted::Up, reporter, changed))
    }

    async fn sidecar_ready(&self) -> Result<(), String> {
        let Processes { sidecar: Some(kept), admin: Some(admin), .. } = self.processes() else { return Ok(()) };
        match ready(admin, self.settings.wait, |why| self.say(Stage::Starting(format!("its sidecar: {why}")))).await {
            Ok(()) => Ok(()),
            Err(why) => Err(format!("its sidecar is not ready: {why} (log: {})", kept.log().display())),
        }
    }

    async fn app_ready(&self, plan: &Plan, wait: Duration) -> Result<(), String> {
        let Some(app) = &plan.app else { return Ok(()) };
        let deadline = Instant::now() + wait;
        while let Some(missing) = app.listens.iter().find(|address| !is_listening(**address)) {
            self.say(Stage::Starting(format!("its program does not listen on {missing} yet")));
            if Instant::now() > deadline {
                let log = self.processes().app.map(|kept| kept.log().display().to_string()).unwrap_or_default();
                return Err(format!("its program does not listen on {missing} (log: {log})"));
            }
            tokio::time::sleep(ASK).await;
        }
        Ok(())
    }

    fn told(&self, result: Result<(), String>, what: &str, since: Instant) {
        let took = since.elapsed().as_secs_f64();
        let (tone, line) = match &result {
            Ok(()) => (Tone::Good, format!("{}: {what}, ready after {took:.1}s", self.id)),
            Err(why) => (Tone::Bad, format!("{}: not {what}: {why}", self.id)),
        };
        self.settings.reporter.say(tone, line);
        self.say(match result {
            Ok(()) => Stage::Ready,
            Err(why) => Stage::Failed(why),
        });
    }

    fn say(&self, stage: Stage) {
        self.stage.send_if_modified(|current| {
            let differs = *current != stage;
            *current = stage;
            differs
        });
    }

    fn processes(&self) -> Processes {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn with(&self, change: impl FnOnce(&mut Processes)) {
        change(&mut self.processes.lock().unwrap_or_else(PoisonError::into_inner));
        self.settings.changed.send_replace(());
    }
}

/// Waits until the process with this admin server is ready; meanwhile says what it waits for.
///
/// # Errors
/// What it still waited for when the time was over.
pub async fn ready(admin: SocketAddr, wait: Duration, say: impl Fn(&str)) -> Result<(), String> {
    let deadline = Instant::now() + wait;
    loop {
        let why = match query::get(admin, "/ready").await {
            Ok(answer) if answer.status.is_success() => return Ok(()),
            Ok(answer) => String::from_utf8_lossy(&answer.body).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        say(&why);
        if Instant::now() > deadline {
            return Err(why);
        }
        tokio::time::sleep(ASK).await;
    }
}
