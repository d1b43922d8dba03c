//! Redirection by the node: the plugin comes, members need no capability, pods that came before it are made anew, and
//! nothing of it is left on a node when it goes. Floor 6: imports `suite`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::Value;
use tokio::time::timeout;

use super::{
    install::{admit, load, meshctl},
    workloads::{STRICT, call},
};
use crate::{
    api::text,
    cluster::parts,
    process::run,
    suite::{EXEC, READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "mesh-cni",
        "the CNI plugin comes, redirects pods that may do nothing, repairs those that came before it, and goes without a trace",
        |scene| Box::pin(cni(scene)),
    )
    .within(240),
];

/// How long everything but the way back may take.
const WITH_PLUGIN: Duration = Duration::from_secs(150);
/// Where a node keeps its configuration meanwhile.
const KEPT: &str = "/run/mesh-e2e-cni";
/// The DaemonSet of the plugin's agents.
const AGENT: &str = "daemonset/mesh-cni";

/// A Deployment as Pod Security `restricted` wants it, with an account of its name.
fn restricted(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: {name} }}
---
apiVersion: v1
kind: Service
metadata: {{ name: {name} }}
spec: {{ selector: {{ app: {name} }}, ports: [{{ name: http, port: 8080 }}] }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: {name} }}
spec:
  selector: {{ matchLabels: {{ app: {name} }} }}
  template:
    metadata: {{ labels: {{ app: {name} }} }}
    spec:
      serviceAccountName: {name}
      terminationGracePeriodSeconds: 0
      securityContext: {{ runAsNonRoot: true, runAsUser: 1000, seccompProfile: {{ type: RuntimeDefault }} }}
      containers:
        - name: {name}
          image: {image}
          args: [http-echo, -listen, ":8080", -name, {name}]
          readinessProbe: {{ httpGet: {{ path: /ready, port: 8080 }}, periodSeconds: 1 }}
          livenessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1 }}
          securityContext: {{ allowPrivilegeEscalation: false, capabilities: {{ drop: [ALL] }} }}
---
"#,
        image = parts::PROGRAMS,
    )
}

async fn cni(scene: Scene) -> Result<()> {
    load(&scene, "cni")?;
    let nodes = nodes(&scene).await?;
    for node in &nodes {
        let left = traces(&scene, node).await?;
        ensure!(left.trim().is_empty(), "{node} has of a plugin from before: {left}");
        on_node(&scene, node, &format!("rm -rf {KEPT}; mkdir {KEPT}; cp /etc/cni/net.d/*.conflist {KEPT}")).await?;
    }
    let with = match timeout(WITH_PLUGIN, with_plugin(&scene, &nodes)).await {
        Ok(done) => done,
        Err(_) => Err(anyhow::anyhow!("it did not end within {WITH_PLUGIN:?}")),
    };
    // The others want the mesh as it was, whatever became of this.
    let without = without_plugin(&scene, &nodes).await;
    with.and(without)
}

async fn with_plugin(scene: &Scene, nodes: &[String]) -> Result<()> {
    meshctl(scene, &["upgrade", "--yes", "--set", "cni.enabled=true"]).await?;
    checked(scene, &["in force on"]).await?;
    for node in nodes {
        ensure!(traces(scene, node).await?.contains("listed"), "{node} does not list the plugin");
    }

    admit(scene).await?;
    let label = "pod-security.kubernetes.io/enforce=restricted";
    scene.kubectl(&["label", "namespace", &scene.namespace, "--overwrite", label]).await?;
    scene.apply(&[STRICT, &restricted("web"), &restricted("caller")].concat()).await?;
    scene.rolled_out("web").await?;
    scene.rolled_out("caller").await?;
    let caller = only_pod(scene, "caller").await?;
    ensure!(!caller.to_string().contains("NET_ADMIN"), "a member asks for a capability: {:#}", caller["spec"]);
    let answer = call(scene, text(&caller, "/metadata/name"), "http://web:8080/?mesh", "caller").await?;
    ensure!(answer.starts_with("200 web\n"), "somebody else answered:\n{answer}");
    repaired(scene, nodes).await
}

/// Somebody else's program writes the node's configuration while the agent is away, and a pod comes.
async fn repaired(scene: &Scene, nodes: &[String]) -> Result<()> {
    agents(scene, Some("nowhere")).await?;
    let selector = ["--selector", "app.kubernetes.io/component=cni", "--output", "name"];
    let list = [&["--namespace", names::SYSTEM_NAMESPACE, "get", "pods"][..], &selector].concat();
    eventually(READY, async || {
        let left = scene.kubectl(&list).await?;
        ensure!(left.trim().is_empty(), "agents are still there: {left}");
        Ok(())
    })
    .await?;
    for node in nodes {
        ensure!(traces(scene, node).await?.contains("listed"), "{node} lost the plugin with its agent");
        on_node(scene, node, &format!("cp {KEPT}/*.conflist /etc/cni/net.d/")).await?;
    }
    // The runtime hears of it by itself, and tells nobody.
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.apply(&restricted("early")).await?;
    let stuck = eventually(READY, async || {
        let pod = only_pod(scene, "early").await?;
        let inits = pod.pointer("/status/initContainerStatuses").and_then(Value::as_array).into_iter().flatten();
        let failed = inits.flat_map(|one| [one.pointer("/state/terminated"), one.pointer("/lastState/terminated")]);
        ensure!(failed.flatten().any(|ended| ended["exitCode"] == 1), "its check did not fail: {:#}", pod["status"]);
        Ok(text(&pod, "/metadata/uid").to_owned())
    })
    .await?;

    agents(scene, None).await?;
    scene.rolled_out("early").await?;
    let early = only_pod(scene, "early").await?;
    ensure!(text(&early, "/metadata/uid") != stuck, "it is the same pod");
    call(scene, text(&early, "/metadata/name"), "http://web:8080/?mesh", "early").await.map(drop)
}

/// Keeps the agents away from every node, or lets them back.
async fn agents(scene: &Scene, selector: Option<&str>) -> Result<()> {
    let selector =
        serde_json::json!({ "spec": { "template": { "spec": { "nodeSelector": { "mesh.dev/e2e": selector } } } } });
    let patch = ["--namespace", names::SYSTEM_NAMESPACE, "patch", AGENT, "--type", "merge", "--patch"];
    scene.kubectl(&[&patch[..], &[&selector.to_string()]].concat()).await.map(drop)
}

/// The mesh as it was before, and every node too.
async fn without_plugin(scene: &Scene, nodes: &[String]) -> Result<()> {
    scene.kubectl(&["delete", "deployments", "--all", "--timeout=30s"]).await?;
    scene.kubectl(&["wait", "pods", "--all", "--for=delete", "--timeout=30s"]).await?;
    meshctl(scene, &["upgrade", "--yes", "--set", "cni.enabled=false"]).await?;
    for node in nodes {
        let left = traces(scene, node).await?;
        ensure!(left.trim().is_empty(), "{node} still has of the plugin: {left}");
        on_node(scene, node, &format!("rm -rf {KEPT}")).await?;
    }
    checked(scene, &["not used"]).await
}

/// What of the plugin is on a node.
async fn traces(scene: &Scene, node: &str) -> Result<String> {
    let look =
        "cd /etc/cni/net.d; grep -lq mesh-cni *.conflist && echo listed; ls -d mesh-cni.d /opt/cni/bin/mesh-cni; :";
    on_node(scene, node, look).await
}

/// `meshctl check` is content, and says so much.
async fn checked(scene: &Scene, words: &[&str]) -> Result<()> {
    let said = meshctl(scene, &["check", "--wait", "60s"]).await?;
    for word in words {
        ensure!(said.contains(word), "`meshctl check` does not say {word:?}:\n{said}");
    }
    Ok(())
}

async fn nodes(scene: &Scene) -> Result<Vec<String>> {
    let nodes = scene.kubectl(&["get", "nodes", "--output", "name"]).await?;
    Ok(nodes.lines().filter_map(|line| line.strip_prefix("node/")).map(str::to_owned).collect())
}

async fn on_node(scene: &Scene, node: &str, script: &str) -> Result<String> {
    let mut command = scene.provider.on_node(node, "sh")?;
    command.args(["-c", script]);
    // It dies with the thread that starts it: that one waits for it.
    let output = tokio::task::spawn_blocking(move || run(&command, EXEC)).await.context("a command on a node")??;
    ensure!(output.status.success(), "`{script}` on {node}: {}{}", output.text(), output.error_text());
    Ok(output.text())
}

/// The one pod of a Deployment.
async fn only_pod(scene: &Scene, app: &str) -> Result<Value> {
    let mut pods = scene.server.pods(&scene.namespace, &format!("app={app}")).await?;
    ensure!(pods.len() == 1, "{} pods of {app}", pods.len());
    Ok(serde_json::to_value(pods.remove(0))?)
}
