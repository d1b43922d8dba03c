//! Nobody is there to answer webhooks: what the page about failures promises, and what `meshctl check` says of it. Floor 6:
//! imports `suite`.

use std::{collections::BTreeMap, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::{Value, json};

use super::{
    change::{begin, end},
    install::meshctl,
};
use crate::{
    bin,
    cluster::parts,
    process::run,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-absence",
    "without a controller traffic flows, pods outside of the mesh start, members wait; check names what is broken",
    |scene| Box::pin(absence(scene)),
)
.within(240)];

const CONTROLLER: [&str; 3] = ["--namespace", names::SYSTEM_NAMESPACE, "deployment/mesh-controller"];
/// How long `meshctl check` may take where much is broken.
const CHECK: Duration = Duration::from_secs(60);

async fn absence(scene: Scene) -> Result<()> {
    begin(&scene, 2).await?;
    eventually(READY, async || in_sync(&scene, 3).await).await?;
    scene.apply(&policy("old").to_string()).await?;
    controllers(&scene, 0).await?;
    let seen = alone(&scene).await;
    // Also where it failed: later scenarios need them.
    controllers(&scene, 1).await?;
    scene.kubectl(&[&["rollout", "status", "--timeout=60s"], &CONTROLLER[..]].concat()).await?;
    seen?;
    // The pod that was refused comes by itself, and so does the trust in the webhooks.
    scene.rolled_out("echo").await?;
    meshctl(&scene, &["check", "--wait", "60s"]).await?;
    eventually(READY, async || in_sync(&scene, 4).await).await?;
    end(&scene, 3).await.map(drop)
}

/// What holds while no controller is there.
async fn alone(scene: &Scene) -> Result<()> {
    scene.kubectl(&["scale", "deployment/echo", "--replicas", "3"]).await?;
    let refused = scene.apply(&pod("refused").to_string()).await;
    let why = refused.err().map(|error| format!("{error:#}")).context("a member's pod came without its sidecar")?;
    ensure!(why.contains("inject.mesh.dev"), "it is refused by something else: {why}");
    for namespace in ["default", "kube-system"] {
        let name = "e2e-absence";
        scene.server.apply(&pod(name).to_string(), namespace).await?;
        let started = scene.server.pod_ready(namespace, name, READY).await;
        scene.server.delete(&pod(name).to_string(), namespace).await?;
        started.with_context(|| format!("a pod of {namespace} does not start"))?;
    }
    ensure!(scene.apply(&policy("new").to_string()).await.is_err(), "a policy is stored that nobody looked at");
    scene.server.delete(&policy("old").to_string(), &scene.namespace).await?;

    trust_another(scene).await?;
    let outcomes = outcomes(scene).await?;
    for broken in ["control-plane-deployments", "webhook-ca-bundle", "webhook-answers"] {
        let outcome = outcomes.get(broken).map(String::as_str);
        ensure!(outcome == Some("error"), "check does not find {broken}: {outcomes:#?}");
    }
    Ok(())
}

async fn controllers(scene: &Scene, count: u8) -> Result<()> {
    let replicas = count.to_string();
    scene.kubectl(&[&["scale", "--replicas", &replicas], &CONTROLLER[..]].concat()).await?;
    if count == 0 {
        let selector = "app.kubernetes.io/component=controller";
        let wait = ["wait", "--for=delete", "pods", "--selector", selector, "--timeout=60s"];
        scene.kubectl(&[&["--namespace", names::SYSTEM_NAMESPACE], &wait[..]].concat()).await?;
    }
    Ok(())
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "sleep", "image": parts::PROGRAMS, "command": ["/bin/sleep", "infinity"] }],
        },
    })
}

/// Lets everybody in who is let in already.
fn policy(name: &str) -> Value {
    json!({
        "apiVersion": names::API_VERSION,
        "kind": "AuthorizationPolicy",
        "metadata": { "name": name },
        "spec": {
            "targetRefs": [{ "kind": "Service", "name": "nobody" }],
            "action": "Allow",
            "rules": [{ "from": [{ "serviceAccounts": ["nobody/nobody"] }] }],
        },
    })
}

/// Has the API server trust the cluster's own roots where it should trust the mesh's.
async fn trust_another(scene: &Scene) -> Result<()> {
    let roots = "jsonpath={.clusters[0].cluster.certificate-authority-data}";
    let roots = scene.kubectl(&["config", "view", "--raw", "--output", roots]).await?;
    ensure!(!roots.is_empty(), "the kubeconfig names no roots");
    let kind = "mutatingwebhookconfiguration";
    let webhooks = scene.kubectl(&["get", kind, names::WEBHOOK_CONFIGURATION, "--output", "json"]).await?;
    let webhooks: Value = serde_json::from_str(&webhooks)?;
    let count = webhooks["webhooks"].as_array().map_or(0, Vec::len);
    let replace =
        |at| json!({ "op": "replace", "path": format!("/webhooks/{at}/clientConfig/caBundle"), "value": roots });
    let patch = Value::from_iter((0..count).map(replace)).to_string();
    let patch = ["patch", kind, names::WEBHOOK_CONFIGURATION, "--type=json", "--patch", &patch];
    scene.kubectl(&patch).await.map(drop)
}

/// How each check of `meshctl check` ends.
async fn outcomes(scene: &Scene) -> Result<BTreeMap<String, String>> {
    let mut command = Command::new(bin::meshctl()?);
    command.args(["check", "-o", "json"]).env("KUBECONFIG", scene.provider.kubeconfig());
    let output = tokio::task::spawn_blocking(move || run(&command, CHECK)).await.context("meshctl")??;
    ensure!(output.status.code() == Some(1), "check ends with {}: {}", output.status, output.error_text());
    let report: Value = serde_json::from_str(&output.text())?;
    let checks = report["checks"].as_array().context("no checks")?;
    let word = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    Ok(checks.iter().map(|check| (word(check, "name"), word(check, "outcome"))).collect())
}

/// Every sidecar of the scenario runs what it was sent, and says so.
async fn in_sync(scene: &Scene, count: usize) -> Result<()> {
    let status = meshctl(scene, &["status", "--namespace", &scene.namespace, "--output", "json"]).await?;
    let status: Value = serde_json::from_str(&status)?;
    let proxies = status["proxies"].as_array().context("no proxies")?;
    ensure!(proxies.len() == count, "{} proxies, not {count}: {proxies:#?}", proxies.len());
    for proxy in proxies {
        let keys = proxy["keys"].as_array().context("no keys")?;
        let told = |key: &Value| key["in_sync"] == true && key["acknowledged"] == key["current"];
        ensure!(!keys.is_empty() && keys.iter().all(told) && proxy["in_sync"] == true, "not in sync: {proxy:#}");
    }
    Ok(())
}
