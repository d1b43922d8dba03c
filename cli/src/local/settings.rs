//! What all processes of one mesh share, and the configuration that each of them gets.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context;
use mesh_api::{
    config::{self, Sources, Validate},
    names,
    spiffe::TrustDomain,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};

use super::{
    overrides::{self, Override, Part},
    plan::{self, Plan, Sidecar},
    ports::Ports,
    process::{Launcher, Program, Spec},
    report::Reporter,
    state::StateDir,
    tokens::Tokens,
    toml::to_toml,
};

/// How long a sidecar lets calls in flight end before it goes, where no override says otherwise.
const DRAIN: &str = "10s";
/// What a process gets on top of the time that it takes by itself.
const GRACE: Duration = Duration::from_secs(5);
/// How long a program may take to end after SIGTERM.
const APP_GRACE: Duration = Duration::from_secs(10);
/// Workloads started at once.
const STARTING: usize = 4;

/// What all processes of one mesh share.
#[derive(Debug)]
pub struct Settings {
    /// Where everything lies.
    pub state: StateDir,
    /// Starts processes.
    pub launcher: Launcher,
    /// Settings of the user over ours.
    pub overrides: Vec<Override>,
    /// Trust domain.
    pub trust_domain: TrustDomain,
    /// gRPC of the authority.
    pub ca: SocketAddr,
    /// gRPC of the controller.
    pub discovery: SocketAddr,
    /// Where spans go.
    pub otlp: Option<SocketAddr>,
    /// How long anything may take to become ready.
    pub wait: Duration,
    /// Hears what happens.
    pub reporter: Reporter,
    /// Marked at every change of what runs.
    pub changed: watch::Sender<()>,
    /// Ports that are handed out.
    pub ports: Mutex<Ports>,
    /// Makes join tokens.
    pub tokens: Mutex<Tokens>,
    /// Bounds how many workloads start at once.
    pub starting: Semaphore,
}

/// The permits of [`Settings::starting`].
#[must_use]
pub fn starting() -> Semaphore {
    Semaphore::new(STARTING)
}

impl Settings {
    /// A free port of 127.0.0.1.
    ///
    /// # Errors
    /// Where there is none.
    pub fn port(&self) -> std::io::Result<SocketAddr> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A join token for a member, and where it lies.
    ///
    /// # Errors
    /// As [`Tokens::give`].
    pub fn token(&self, namespace: &str, account: &str, workload: &str) -> anyhow::Result<PathBuf> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).give(namespace, account, workload)
    }

    /// Where the authority keeps the roots to trust.
    #[must_use]
    pub fn roots_file(&self) -> PathBuf {
        self.state.ca().join("trust.pem")
    }

    /// The authority, ready to be started.
    ///
    /// # Errors
    /// Where its configuration is wrong, which an override makes, or cannot be written.
    pub fn ca_process(&self, admin: SocketAddr) -> anyhow::Result<Spec> {
        let config = json!({
            "listen": self.ca.to_string(),
            "trust_domain": self.trust_domain.as_str(),
            "admin": admin.to_string(),
            "state_folder": self.state.ca(),
        });
        self.part(Part::Ca, "ca", "certificate authority", config, GRACE)
    }

    /// The controller, ready to be started.
    ///
    /// # Errors
    /// Where its configuration is wrong, which an override makes, or cannot be written.
    pub fn controller_process(&self, admin: SocketAddr, folders: &[PathBuf]) -> anyhow::Result<Spec> {
        let token = self.token(names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT, "controller")?;
        let config = json!({
            "listen": self.discovery.to_string(),
            "identity": self.identity(&token),
            "admin": { "listen": admin.to_string() },
            "source": { "folders": folders },
        });
        self.part(Part::Controller, "controller", "controller", config, GRACE)
    }

    /// The sidecar of a workload, ready to be started.
    ///
    /// # Errors
    /// Where its configuration is wrong, which an override makes, or cannot be written; or there is no token for it.
    pub fn sidecar_process(&self, plan: &Plan, sidecar: &Sidecar, admin: SocketAddr) -> anyhow::Result<Spec> {
        let (namespace, name) = (&*plan.id.namespace, &*plan.id.name);
        let token = self.token(namespace, &sidecar.account, name)?;
        let inbound = sidecar.inbound.iter();
        let inbound: Vec<_> = inbound.map(|(listen, app)| json!({ "listen": listen, "app": app })).collect();
        let outbound = sidecar.outbound.iter();
        let outbound: Vec<_> = outbound.map(|(listen, to)| json!({ "listen": listen, "to": to.to_string() })).collect();
        let otlp = self.otlp.map(|address| format!("http://{address}")).unwrap_or_default();
        let config = json!({
            "workload": name,
            "namespace": namespace,
            "zone": sidecar.zone,
            "drain": DRAIN,
            "identity": self.identity(&token),
            "discovery": { "address": self.discovery },
            "inbound": { "listeners": inbound },
            "outbound": { "listeners": outbound },
            "admin": { "listen": admin },
            "telemetry": { "otlp_endpoint": otlp, "trace_ratio": 1.0 },
        });
        let file = format!("{namespace}.{name}.sidecar");
        self.part(Part::Proxy, &file, &format!("sidecar of {}", plan.id), config, GRACE)
    }

    /// The program of a workload, ready to be started.
    #[must_use]
    pub fn app_process(&self, plan: &Plan, app: &plan::App) -> Spec {
        Spec {
            name: format!("program of {}", plan.id),
            program: Program::Other(app.command.iter().map(OsString::from).collect()),
            env: app.env.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            dir: Some(app.dir.clone()),
            log: self.state.logs().join(format!("{}.{}.log", plan.id.namespace, plan.id.name)),
            grace: APP_GRACE,
        }
    }

    fn identity(&self, token: &std::path::Path) -> Value {
        json!({
            "trust_domain": self.trust_domain.as_str(),
            "ca": self.ca,
            "token_file": token,
            "roots_file": self.roots_file(),
        })
    }

    /// Writes a part's configuration, and has the part's own reader look at it: a mistake in an override is told before
    /// anything is started.
    fn part(&self, part: Part, file: &str, name: &str, config: Value, grace: Duration) -> anyhow::Result<Spec> {
        let Value::Object(mut config) = config else { anyhow::bail!("the configuration of the {name} is no table") };
        overrides::apply(part, &self.overrides, &mut config);
        let path = self.state.config().join(format!("{file}.toml"));
        self.state.write(&path, to_toml(&Map::from_iter(config)).as_bytes())?;
        let took = self.read_back(part, &path).with_context(|| format!("the {name} cannot be started; see --set"))?;
        Ok(Spec {
            name: name.to_owned(),
            program: Program::Part(vec![part.as_str().into(), "--config".into(), path.into()]),
            env: Vec::new(),
            dir: None,
            log: self.state.logs().join(format!("{file}.log")),
            grace: took + grace,
        })
    }

    /// How long the part takes to end by itself.
    #[expect(clippy::unused_self, reason = "reads what this wrote")]
    fn read_back(&self, part: Part, path: &std::path::Path) -> anyhow::Result<Duration> {
        fn load<T: Default + Serialize + DeserializeOwned + Validate>(path: &std::path::Path) -> anyhow::Result<T> {
            Ok(config::load::<T>(&Sources { file: Some(path), ..Sources::default() })?)
        }
        match part {
            Part::Proxy => Ok(load::<mesh_proxy::config::Config>(path)?.drain),
            Part::Ca => load::<mesh_ca::config::Config>(path).map(|_| Duration::ZERO),
            Part::Controller => load::<mesh_controller::config::Config>(path).map(|_| Duration::ZERO),
        }
    }
}
