//! What the runtime calls for every pod. Floor 3: imports `cluster`.
//!
//! In this order: is the pod any of the mesh's business, by its namespace alone? Then, and only then: what does the
//! cluster say of it? So the mesh's own pods, and the agent's, start without the agent and without the cluster.
//!
//! Where the cluster says nothing for a while, the pod's network is made all the same, without redirection: an agent that
//! is gone must not keep a whole node from starting pods. No member gets out by that: the first of its containers checks
//! that it is redirected and fails where it is not, and the agent starts such pods anew once it is back.

use std::{fs::File, io, path::Path, time::Duration};

use mesh_api::{backoff::Backoff, sys::Sys};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::{
    cluster::{Cluster, ClusterError},
    credentials::Credentials,
    pod::Pod,
    protocol::{Command, Configuration, Failure, Kind, PodName, Request, versions},
};
use crate::redirect::{self, CheckError, KernelError, Settings};

/// How long the cluster is asked about a pod: long enough for an agent to take over from another, and for a server of the
/// API to start anew; every pod of the node waits so long where both are gone for good.
const PATIENCE: Duration = Duration::from_secs(10);

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
        // Nothing is left behind: the rules go with the namespace. And whatever is missing, pods can start: a node whose
        // network is said not to work would start none at all.
        Command::Del | Command::Gc | Command::Status | Command::Version => Ok(Value::Null),
    }
}

fn add(request: &Request, configuration: Configuration) -> Result<Value, Failure> {
    let Some(result) = configuration.result.clone() else {
        let message = "there is no prevResult: the plugin has to stand behind another one in a list";
        return Err(Failure::new(Kind::Configuration, message));
    };
    match wanted(request, &configuration) {
        Ok(Some(settings)) => within(request, move || redirect::apply(&settings).map_err(|error| unapplied(&error)))?,
        Ok(None) => (),
        Err(Unknown::Silent(why)) => {
            // The protocol has no place for a warning; runtimes keep what comes here in their log.
            eprintln!(
                "mesh-cni: {why}; its network is made without redirection: if it has a sidecar it does not start, and is \
                 made anew once the agent (DaemonSet mesh-cni) is ready on this node"
            );
        }
        Err(Unknown::Failed(failure)) => return Err(failure),
    }
    Ok(result)
}

fn unapplied(error: &KernelError) -> Failure {
    Failure::new(Kind::Redirection, format!("the pod's connections cannot be redirected: {error}"))
}

fn check(request: &Request, configuration: &Configuration) -> Result<(), Failure> {
    let wanted = wanted(request, configuration).map_err(|unknown| match unknown {
        Unknown::Silent(why) => Failure::new(Kind::TryAgain, why),
        Unknown::Failed(failure) => failure,
    });
    let Some(settings) = wanted? else { return Ok(()) };
    within(request, move || match redirect::check(&settings) {
        Ok(_) => Ok(()),
        Err(error @ CheckError::Kernel(_)) => Err(Failure::new(Kind::Io, error.to_string())),
        Err(error) => Err(Failure::new(Kind::Redirection, error.to_string())),
    })
}

/// Why it is not known how a pod's connections are to be redirected.
enum Unknown {
    /// The cluster says nothing of it.
    Silent(String),
    /// What it says cannot be used, or is about another pod.
    Failed(Failure),
}

/// How the pod's connections are to be redirected; `None` where they are not.
fn wanted(request: &Request, configuration: &Configuration) -> Result<Option<Settings>, Unknown> {
    let Some(named) = &request.pod else { return Ok(None) };
    if configuration.exclude_namespaces.contains(&named.namespace) {
        return Ok(None);
    }
    let pod = ask(configuration, named)?;
    pod.redirection().map_err(|error| Unknown::Failed(Failure::new(Kind::Redirection, about(named, &error))))
}

fn about(named: &PodName, what: &dyn std::fmt::Display) -> String {
    format!("pod {}/{}: {what}", named.namespace, named.name)
}

/// What the cluster says of the pod. What may be over soon is waited for a little.
fn ask(configuration: &Configuration, named: &PodName) -> Result<Pod, Unknown> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Unknown::Silent(about(named, &error)))?;
    let sys = Sys::host();
    runtime.block_on(async {
        let deadline = Instant::now() + PATIENCE;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let silent = |why: &dyn std::fmt::Display| Unknown::Silent(about(named, why));
        let mut last = silent(&"the cluster's API did not answer in time");
        loop {
            match timeout_at(deadline, once(&sys, &configuration.kubeconfig, named)).await {
                Ok(Ok(Some(pod))) if pod.is(named) => return Ok(pod),
                // The runtime means a pod that is gone, or is ahead of the cluster: either is over soon.
                Ok(Ok(Some(_))) => {
                    let message = about(named, &"the cluster knows another pod of that name");
                    last = Unknown::Failed(Failure::new(Kind::TryAgain, message));
                }
                Ok(Ok(None)) => last = silent(&"the cluster does not know it"),
                Ok(Err(error)) => last = silent(&error),
                // What was wrong before says more, where something was.
                Err(_) => return Err(last),
            }
            let wait = backoff.next_wait(rand::random());
            if Instant::now() + wait >= deadline {
                return Err(last);
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
