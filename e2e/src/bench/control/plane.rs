//! The control plane as it is shipped, as processes of their own on a processor of their own.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_api::names;
use mesh_ca::authn::JoinTokens;
use serde_json::{Value, json};

use crate::{
    bench::{
        arena::Processors,
        certs::{Certs, DOMAIN},
        cost::{cost, resident},
    },
    bin,
    http::get,
    process::{Process, until},
    stage::Stage,
};

/// How long a process of the control plane may take until it is ready: the largest cluster has to be listed.
const START: Duration = Duration::from_secs(180);
/// Life of join tokens.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// What all processes share.
#[derive(Debug)]
pub struct Ground<'a> {
    /// Ports.
    pub stage: &'a Stage,
    /// Folder of configurations and logs.
    pub dir: PathBuf,
    /// Root and issuer.
    pub certs: Certs,
    /// Which processor is whose.
    pub processors: Processors,
    /// Makes join tokens.
    pub keys: JoinTokens,
}

/// The certificate authority.
#[derive(Debug)]
pub struct Ca {
    /// It.
    pub process: Process,
    /// Where members ask.
    pub address: SocketAddr,
}

/// The controller.
#[derive(Debug)]
pub struct Controller {
    /// It.
    pub process: Process,
    /// Where proxies ask.
    pub address: SocketAddr,
    /// From its start until it had taken over all objects and said that it is ready, in seconds.
    pub ready_seconds: f64,
    /// Processor time of that, in seconds.
    pub ready_cpu_seconds: f64,
    /// Resident memory then, in bytes.
    pub resident: u64,
}

impl<'a> Ground<'a> {
    /// Makes certificates and the key of join tokens.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn new(stage: &'a Stage, processors: Processors) -> Result<Self> {
        let dir = stage.subdir("control")?;
        let certs = Certs::make(&stage.subdir("certs")?)?;
        let keys = JoinTokens::open_or_create(&dir.join("join.key")).context("the key of join tokens")?;
        Ok(Self { stage, dir, certs, processors, keys })
    }

    /// A join token.
    ///
    /// # Errors
    /// Where the crypto library fails.
    pub fn token(&self, namespace: &str, account: &str, workload: &str) -> Result<String> {
        Ok(self.keys.mint_for(namespace, account, Some(workload), LIFE, SystemTime::now().into())?)
    }

    /// What a member's configuration says of its identity; the token goes into a file.
    ///
    /// # Errors
    /// Where that cannot be written.
    pub fn identity(&self, ca: SocketAddr, namespace: &str, account: &str, workload: &str) -> Result<Value> {
        let file = self.dir.join(format!("{workload}.token"));
        fs::write(&file, self.token(namespace, account, workload)?)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        let roots = self.certs.path("roots.pem");
        Ok(json!({"trust_domain": DOMAIN, "ca": ca, "token_file": file, "roots_file": roots}))
    }

    /// Starts a certificate authority.
    ///
    /// # Errors
    /// Where it does not start.
    pub fn ca(&self) -> Result<Ca> {
        let [address, admin] = [self.stage.lease().local()?, self.stage.lease().local()?];
        let config = json!({
            "trust_domain": DOMAIN, "listen": address, "admin": admin,
            "state_folder": self.dir.join("ca"), "join_key_file": self.dir.join("join.key"),
            "supplied": {
                "roots_file": self.certs.path("roots.pem"), "chain_file": self.certs.path("issuer.crt"),
                "key_file": self.certs.path("issuer.key"),
            },
            // Pods have addresses of their own; here all come from one.
            "limits": {"connections_per_address": 4096},
        });
        let mut process = self.launch("mesh-ca", &config)?;
        ready(&mut process, admin)?;
        Ok(Ca { process, address })
    }

    /// Starts a controller that reads an API server, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not become ready.
    pub fn controller(&self, ca: SocketAddr, kubeconfig: &str) -> Result<Controller> {
        let [address, admin] = [self.stage.lease().local()?, self.stage.lease().local()?];
        let file = self.dir.join("kubeconfig");
        fs::write(&file, kubeconfig)?;
        let config = json!({
            "listen": address, "admin": {"listen": admin},
            "identity": self.identity(ca, names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT, "controller")?,
            "source": {"kind": "kubernetes", "kubeconfig": file},
        });
        let began = Instant::now();
        let mut process = self.launch("mesh-controller", &config)?;
        ready(&mut process, admin)?;
        let ready_seconds = began.elapsed().as_secs_f64();
        let ready_cpu_seconds = seconds(cost(process.pid())?.total_ns);
        let resident = resident(process.pid())?;
        Ok(Controller { process, address, ready_seconds, ready_cpu_seconds, resident })
    }

    /// Writes a configuration and gives its path.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, name: &str, config: &Value) -> Result<PathBuf> {
        let file = self.dir.join(format!("{name}.json"));
        fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn launch(&self, program: &str, config: &Value) -> Result<Process> {
        let processor = self.processors.proxies.to_string();
        let command = command(&processor, program, &self.write(program, config)?)?;
        Process::start(program, &command, &self.dir)
    }
}

/// A program of the mesh with a configuration, on some processors (a list, as `taskset` takes it).
///
/// # Errors
/// Where there is no build of it.
pub fn command(processors: &str, program: &str, config: &Path) -> Result<Command> {
    let mut command = Command::new("taskset");
    command.args(["-c", processors]).arg(bin::shipped(program)?).arg("--config").arg(config);
    Ok(command)
}

fn ready(process: &mut Process, admin: SocketAddr) -> Result<()> {
    until("the control plane is ready", START, || {
        let gone = process.status()?.is_some();
        ensure!(!gone, process.explain(anyhow!("it ended")));
        let answer = get(admin, "/ready", Duration::from_secs(5));
        Ok(answer.is_ok_and(|answer| answer.status.is_success()).then_some(()))
    })
    .map_err(|error| process.explain(error))
}

/// Seconds of nanoseconds.
#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
#[must_use]
pub fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}
