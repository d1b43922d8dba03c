//! What the runtime calls for every pod. Floor 3: imports `cluster`.
//!
//! In this order: is the pod any of the mesh's business, by its namespace alone? Then, and only then: what does the
//! cluster say of it? So the mesh's own pods, and the agent's, start without the agent and without the cluster.

use std::{fs::File, io, path::Path, time::Duration};

use mesh_api::{backoff::Backoff, sys::Sys};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    cluster::{Cluster, ClusterError},
    credentials::Credentials,
    pod::Pod,
    protocol::{Command, Configuration, Failure, Kind, PodName, Request, versions},
};
use crate::redirect::{self, CheckError, KernelError, Settings};

/// How long the cluster is asked about a pod. The runtime waits for minutes, and tries again after that.
const PATIENCE: Duration = Duration::from_secs(20);

/// Does what the runtime asks for; answers what is written to standard output.
///
/// # Errors
/// [`Failure`]: the runtime takes the pod's network for not there.
pub fn run(request: &Request, input: &str) -> Result<Value, Failure> {
    if request.command == Command::Version {
        let asked: Value = serde_json::from_str(input).unwrap_or_default();
        return Ok(versions(asked.get("cniVersion").and_then(Value::as_str).unwrap_or_default()));
    }
    let configuration = Configuration::read(input)?;
    match request.command {
        Command::Add => add(request, configuration),
        Command::Check => check(request, &configuration).map(|()| Value::Null),
        // Nothing is left behind: the rules go with the namespace.
        Command::Del | Command::Gc | Command::Version => Ok(Value::Null),
        Command::Status => match Credentials::from_kubeconfig(&configuration.kubeconfig) {
            Ok(_) => Ok(Value::Null),
            Err(error) => Err(Failure::new(Kind::NotAvailable, format!("{error}; the agent on this node writes it"))),
        },
    }
}

fn add(request: &Request, configuration: Configuration) -> Result<Value, Failure> {
    let Some(result) = configuration.result.clone() else {
        let message = "there is no prevResult: the plugin has to stand behind another one in a list";
        return Err(Failure::new(Kind::Configuration, message));
    };
    if let Some(settings) = wanted(request, &configuration)? {
        within(request, move || redirect::apply(&settings).map_err(|error| unapplied(&error)))?;
    }
    Ok(result)
}

fn unapplied(error: &KernelError) -> Failure {
    Failure::new(Kind::Redirection, format!("the pod's connections cannot be redirected: {error}"))
}

fn check(request: &Request, configuration: &Configuration) -> Result<(), Failure> {
    let Some(settings) = wanted(request, configuration)? else { return Ok(()) };
    within(request, move || match redirect::check(&settings) {
        Ok(_) => Ok(()),
        Err(error @ CheckError::Kernel(_)) => Err(Failure::new(Kind::Io, error.to_string())),
        Err(error) => Err(Failure::new(Kind::Redirection, error.to_string())),
    })
}

/// How the pod's connections are to be redirected; `None` where they are not.
fn wanted(request: &Request, configuration: &Configuration) -> Result<Option<Settings>, Failure> {
    let Some(named) = &request.pod else { return Ok(None) };
    if configuration.exclude_namespaces.contains(&named.namespace) {
        return Ok(None);
    }
    let pod = ask(configuration, named)?;
    pod.redirection().map_err(|error| Failure::new(Kind::Redirection, about(named, &error)))
}

fn about(named: &PodName, what: &dyn std::fmt::Display) -> String {
    format!("pod {}/{}: {what}", named.namespace, named.name)
}

/// What the cluster says of the pod. What may be over soon is waited for a little.
fn ask(configuration: &Configuration, named: &PodName) -> Result<Pod, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Kind::Io, error.to_string()))?;
    let sys = Sys::host();
    runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let failed = match once(&sys, &configuration.kubeconfig, named).await {
                Ok(Some(pod)) if pod.is(named) => return Ok(pod),
                Ok(Some(_)) => "the cluster knows another pod of that name".to_owned(),
                Ok(None) => "the cluster does not know it".to_owned(),
                Err(error) => error.to_string(),
            };
            let wait = backoff.next_wait(rand::random());
            if Instant::now() + wait >= deadline {
                let message = format!("{failed}; as it may have a sidecar, it does not start without being redirected");
                return Err(Failure::new(Kind::TryAgain, about(named, &message)));
            }
            tokio::time::sleep(wait).await;
        }
    })
}

async fn once(sys: &Sys, kubeconfig: &Path, named: &PodName) -> Result<Option<Pod>, ClusterError> {
    let cluster = Cluster::new(sys.clone(), Credentials::from_kubeconfig(kubeconfig)?)?;
    cluster.pod(&named.namespace, &named.name).await
}

/// Does something in the pod's network namespace, on a thread that ends there.
fn within(request: &Request, act: impl FnOnce() -> Result<(), Failure> + Send + 'static) -> Result<(), Failure> {
    let Some(path) = request.netns.clone() else {
        return Err(Failure::new(Kind::Environment, "CNI_NETNS is not set"));
    };
    let failed = move |error: io::Error| {
        Failure::new(Kind::Io, format!("the network namespace {} cannot be entered: {error}", path.display()))
    };
    let path = request.netns.clone().unwrap_or_default();
    let entered = std::thread::spawn(move || {
        let namespace = File::open(path).map_err(&failed)?;
        setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|error| failed(error.into()))?;
        act()
    });
    entered.join().unwrap_or_else(|_| Err(Failure::new(Kind::Io, "the plugin broke; this is a defect of it")))
}
