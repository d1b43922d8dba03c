//! The suite on a cluster: scenarios one after another, each in a namespace of its own, with a deadline. Floor 5: imports
//! `provider`, `api`.

use std::{
    fmt::Write as _,
    path::PathBuf,
    pin::Pin,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::json;
use tokio::task::LocalSet;

use crate::{
    api::{Ran, Server},
    cluster::parts,
    process::{Output, run},
    provider::{Choice, Provider},
};

/// How long a pod of a test may take to be ready, and a Deployment to be rolled out.
pub const READY: Duration = Duration::from_secs(60);
/// How long a command in a pod may take.
pub const EXEC: Duration = Duration::from_secs(60);
/// How long the diagnosis of a failure may take, each part of it.
const LOOK: Duration = Duration::from_secs(20);
/// Pods whose logs a diagnosis shows, at most.
const PODS: usize = 12;

/// Need not be `Send`: all of the suite runs on one thread.
type Run = Pin<Box<dyn Future<Output = Result<()>>>>;

/// Something that must hold on a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name: what `make e2e ARGS=NAME` selects.
    pub name: &'static str,
    /// What must hold, in a line.
    pub about: &'static str,
    /// How long it may take.
    pub deadline: Duration,
    /// How many nodes it needs.
    pub nodes: u8,
    /// The only provider that it can run on; `None` for any.
    pub only: Option<Choice>,
    /// What it does. The boxed future of an `async fn`.
    pub run: fn(Scene) -> Run,
}

impl Scenario {
    /// A scenario for any cluster, of two minutes at most.
    #[must_use]
    pub const fn new(name: &'static str, about: &'static str, run: fn(Scene) -> Run) -> Self {
        Self { name, about, deadline: Duration::from_secs(120), nodes: 1, only: None, run }
    }

    /// The same with another deadline, in seconds.
    #[must_use]
    pub const fn within(mut self, seconds: u64) -> Self {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// The same for clusters of so many nodes.
    #[must_use]
    pub const fn on_nodes(mut self, nodes: u8) -> Self {
        self.nodes = nodes;
        self
    }

    /// The same for one provider only.
    #[must_use]
    pub const fn only_on(mut self, choice: Choice) -> Self {
        self.only = Some(choice);
        self
    }
}

/// Where a scenario plays.
#[derive(Clone, Debug)]
pub struct Scene {
    /// The cluster.
    pub provider: Arc<Provider>,
    /// Its API server.
    pub server: Server,
    /// The scenario's own namespace.
    pub namespace: String,
}

impl Scene {
    /// Applies manifests; objects without a namespace go to the scenario's.
    ///
    /// # Errors
    /// As [`Server::apply`].
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.server.apply(manifests, &self.namespace).await
    }

    /// Waits until a Deployment is rolled out.
    ///
    /// # Errors
    /// As [`Server::rolled_out`].
    pub async fn rolled_out(&self, name: &str) -> Result<()> {
        self.server.rolled_out(&self.namespace, name, READY).await.map(drop)
    }

    /// A pod that does nothing, for [`Scene::exec`] and [`Scene::programs`]; ready.
    ///
    /// # Errors
    /// Where it does not come up.
    pub async fn client(&self, name: &str) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": name } },
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{ "name": name, "image": parts::PROGRAMS, "command": ["/bin/sleep", "infinity"] }],
            },
        });
        self.apply(&pod.to_string()).await?;
        self.server.pod_ready(&self.namespace, name, READY).await.map(drop)
    }

    /// Runs a command in a pod of the scenario, whatever its status.
    ///
    /// # Errors
    /// As [`Server::exec`].
    pub async fn exec(&self, pod: &str, command: &[&str]) -> Result<Ran> {
        self.server.exec(&self.namespace, pod, None, command, EXEC).await
    }

    /// Runs one of the suite's programs in a pod: `["get", "-url", ...]`. Gives what it printed.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn programs(&self, pod: &str, args: &[&str]) -> Result<String> {
        let command: Vec<&str> = ["/programs"].iter().chain(args).copied().collect();
        let ran = self.exec(pod, &command).await?;
        ensure!(ran.code == 0, "{command:?} in {pod} failed with {}:\n{}{}", ran.code, ran.stdout, ran.stderr);
        Ok(ran.stdout)
    }

    /// Runs kubectl with an administrator's rights, in the scenario's namespace unless the arguments name another.
    ///
    /// # Errors
    /// Where it fails.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let output = kubectl(&self.provider, &self.namespace, args, EXEC).await?;
        ensure!(output.status.success(), "kubectl {args:?} failed:\n{}{}", output.text(), output.error_text());
        Ok(output.text())
    }
}

/// Tries again until it succeeds.
///
/// # Errors
/// The last error, once the deadline has passed.
pub async fn eventually<T>(deadline: Duration, mut what: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match what().await {
            Err(error) if begun.elapsed() >= deadline => {
                return Err(error.context(format!("tried for {deadline:?} in vain")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            Ok(good) => return Ok(good),
        }
    }
}

/// How a run of the suite is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Only scenarios whose names contain one of these; all where there are none.
    pub filters: Vec<String>,
    /// Keep namespaces of failed scenarios.
    pub keep: bool,
}

/// How a run went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Scenarios that passed.
    pub passed: usize,
    /// Names of those that failed.
    pub failed: Vec<String>,
}

/// The scenarios that a run consists of.
#[must_use]
pub fn select(all: &[Scenario], choice: Choice, filters: &[String]) -> Vec<Scenario> {
    all.iter()
        .filter(|scenario| scenario.only.is_none_or(|only| only == choice))
        .filter(|scenario| filters.is_empty() || filters.iter().any(|filter| scenario.name.contains(filter.as_str())))
        .copied()
        .collect()
}

/// Runs scenarios one after another.
///
/// # Errors
/// Where the cluster cannot be reached at all.
pub async fn play(scenarios: &[Scenario], provider: Arc<Provider>, options: &Options) -> Result<Summary> {
    let server = Server::open(&provider.kubeconfig()).await?;
    server.get("/readyz").await.context("the cluster's API server does not answer")?;
    let mut summary = Summary::default();
    for scenario in scenarios {
        let begun = Instant::now();
        println!("     {}: {}", scenario.name, scenario.about);
        let namespace = format!("e2e-{}", scenario.name);
        let scene = Scene { provider: Arc::clone(&provider), server: server.clone(), namespace };
        let result = play_one(scenario, &scene).await;
        let took = begun.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("ok   {} ({took:.1} s)", scenario.name);
                summary.passed += 1;
            }
            Err(error) => {
                println!("FAIL {} ({took:.1} s): {error:#}\n{}", scenario.name, diagnose(&scene).await);
                summary.failed.push(scenario.name.to_owned());
            }
        }
        let keep = options.keep && summary.failed.last().is_some_and(|failed| failed == scenario.name);
        if !keep {
            // Not waited for: the next has a namespace of its own.
            let namespace = namespace_object(&scene.namespace);
            let _ = scene.server.delete(&namespace, "").await;
        }
    }
    Ok(summary)
}

async fn play_one(scenario: &Scenario, scene: &Scene) -> Result<()> {
    fresh_namespace(scene).await?;
    // A task of its own, so that a panic ends no more than the scenario.
    let local = LocalSet::new();
    let task = local.spawn_local((scenario.run)(scene.clone()));
    let abort = task.abort_handle();
    match local.run_until(tokio::time::timeout(scenario.deadline, task)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(anyhow!("it panicked: {error}")),
        Err(_) => {
            abort.abort();
            Err(anyhow!("it did not end within {:?}", scenario.deadline))
        }
    }
}

fn namespace_object(name: &str) -> String {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": { "name": name, "labels": { "mesh.dev/e2e": "scenario" } },
    })
    .to_string()
}

/// Makes the scenario's namespace; one that an earlier run left is removed first.
async fn fresh_namespace(scene: &Scene) -> Result<()> {
    let object = namespace_object(&scene.namespace);
    scene.server.delete(&object, "").await?;
    let api = scene.server.kind("v1", "Namespace", "").await?;
    let begun = Instant::now();
    while api.get_opt(&scene.namespace).await?.is_some() {
        ensure!(begun.elapsed() < READY, "the namespace {} of an earlier run does not go", scene.namespace);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    scene.server.apply(&object, "").await?;
    // Pods are refused before it is there.
    let account = ("v1", "ServiceAccount");
    scene.server.wait_for(account, &scene.namespace, "default", "is there", READY, |_| true).await?;
    Ok(())
}

async fn kubectl(provider: &Arc<Provider>, namespace: &str, args: &[&str], deadline: Duration) -> Result<Output> {
    let mut command = Command::new(kubectl_path()?);
    command.args(["--namespace", namespace]).args(args).env("KUBECONFIG", provider.kubeconfig());
    // It dies with the thread that starts it: that one waits for it.
    tokio::task::spawn_blocking(move || run(&command, deadline)).await.context("kubectl")?
}

fn kubectl_path() -> Result<PathBuf> {
    Ok(parts::kubernetes()?.join("kubectl"))
}

/// What a failed scenario leaves to look at: pods, events, logs; of the mesh too, where it is installed.
async fn diagnose(scene: &Scene) -> String {
    let mut text = String::new();
    for namespace in [scene.namespace.as_str(), mesh_api::names::SYSTEM_NAMESPACE] {
        let show = async |args: &[&str]| match kubectl(&scene.provider, namespace, args, LOOK).await {
            Ok(output) => format!("{}{}", output.text(), output.error_text()),
            Err(error) => format!("{error:#}\n"),
        };
        let names = show(&["get", "pods", "--output", "name"]).await;
        if names.trim().is_empty() {
            continue;
        }
        let _ = writeln!(text, "--- pods in {namespace}:\n{}", show(&["get", "pods", "--output", "wide"]).await);
        let events = show(&["get", "events", "--sort-by", ".lastTimestamp", "--field-selector", "type!=Normal"]).await;
        let _ = writeln!(text, "--- events in {namespace}:\n{events}");
        for pod in names.lines().filter(|line| line.starts_with("pod/")).take(PODS) {
            let logs = show(&["logs", pod, "--all-containers", "--prefix", "--tail=40"]).await;
            let _ = writeln!(text, "--- logs of {namespace}/{pod}:\n{logs}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: Scene) -> Run {
        Box::pin(async { Ok(()) })
    }

    #[test]
    fn filters_and_providers_select() {
        let all = [
            Scenario::new("cluster-a", "", nothing),
            Scenario::new("cluster-b", "", nothing).only_on(Choice::Processes),
            Scenario::new("mesh-a", "", nothing),
        ];
        let names = |choice, filters: &[&str]| {
            let filters: Vec<String> = filters.iter().map(|one| (*one).to_owned()).collect();
            select(&all, choice, &filters).iter().map(|one| one.name).collect::<Vec<_>>()
        };
        assert_eq!(names(Choice::Processes, &[]), ["cluster-a", "cluster-b", "mesh-a"]);
        assert_eq!(names(Choice::Kind, &["cluster"]), ["cluster-a"]);
        assert_eq!(names(Choice::Kind, &["-a"]), ["cluster-a", "mesh-a"]);
    }
}
