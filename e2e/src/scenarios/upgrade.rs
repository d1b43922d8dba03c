//! An installed mesh becomes another one, of many replicas, and itself again, under load. Floor 6: imports `suite`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::Value;

use super::{change, install::meshctl};
use crate::{
    api::text,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file; the mesh is installed before.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-upgrade",
    "an upgrade to three replicas, a failed one and the ways back, at 200 requests/s; keys, roots and values stay",
    |scene| Box::pin(upgrade(scene)),
)
.on_nodes(2)
.within(300)];

/// The parts of the control plane, and the metric by which each replica says whether it leads.
const PARTS: [(&str, &str, u16); 2] =
    [(names::CA_ACCOUNT, "mesh_ca_leader", 15_411), (names::CONTROLLER_ACCOUNT, "mesh_controller_leader", 15_421)];
/// The tag of images that are the same under another name.
const NEXT: &str = "next";
/// Whoever is told to end gives its lease back: another has it long before it would run out.
const SUCCESSION: Duration = Duration::from_secs(10);

async fn upgrade(scene: Scene) -> Result<()> {
    tag_images(&scene).await?;
    change::begin(&scene, 2).await?;
    let before = kept(&scene).await?;
    ensure!(changes(&scene, &[]).await?.is_empty(), "an upgrade to the same would change something");
    meshctl(&scene, &["install"]).await.context("installing the same again")?;

    let tag = format!("image.tag={NEXT}");
    let other = ["--ha", "--set", &tag, "--set", "defaults.transport=strict"];
    let shown = changes(&scene, &other).await?;
    for wanted in [
        "added PodDisruptionBudget mesh-ca",
        "added PodDisruptionBudget mesh-controller",
        "changed ConfigMap mesh-controller",
        "changed Deployment mesh-ca",
        "changed Deployment mesh-controller",
    ] {
        ensure!(shown.iter().any(|line| line == wanted), "{wanted:?} is not shown: {shown:?}");
    }
    let refused = meshctl(&scene, &[&["install"], &other[..]].concat()).await;
    ensure!(refused.is_err(), "installing changes what is installed");
    meshctl(&scene, &[&["upgrade", "--yes"], &other[..]].concat()).await?;
    ensure!(changes(&scene, &[]).await?.is_empty(), "values of before are forgotten");
    ensure!(kept(&scene).await? == before, "keys or roots are not the same after an upgrade");
    meshctl(&scene, &["check", "--wait", "60s"]).await?;
    for part in PARTS {
        succession(&scene, part).await?;
    }

    failed_upgrade(&scene).await?;
    ensure!(kept(&scene).await? == before, "keys or roots are not the same after a failed upgrade");
    meshctl(&scene, &["upgrade", "--rollback", "--yes"]).await?;
    ensure!(changes(&scene, &other).await?.is_empty(), "going back is not to the release before");

    meshctl(&scene, &["upgrade", "--yes", "--reset-values"]).await?;
    let budgets = ["--namespace", names::SYSTEM_NAMESPACE, "get", "poddisruptionbudgets", "-o", "name"];
    ensure!(scene.kubectl(&budgets).await?.trim().is_empty(), "what only the release before had is still there");
    ensure!(kept(&scene).await? == before, "keys or roots are not the same after going back");
    meshctl(&scene, &["check", "--wait", "60s"]).await?;
    // What comes now gets its sidecar, its certificate, and traffic.
    scene.kubectl(&["scale", "deployment/echo", "--replicas", "3"]).await?;
    scene.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    change::end(&scene, 3).await.map(drop)
}

/// Gives the images of the mesh another tag: those of the next version.
async fn tag_images(scene: &Scene) -> Result<()> {
    let nodes = scene.kubectl(&["get", "nodes", "--output", "name"]).await?;
    for node in nodes.lines().filter_map(|line| line.strip_prefix("node/")) {
        for image in ["ca", "controller", "proxy"] {
            let (old, new) = (format!("mesh.dev/{image}:0.1.0"), format!("mesh.dev/{image}:{NEXT}"));
            let mut command = scene.provider.on_node(node, "ctr")?;
            let output = command.args(["--namespace", "k8s.io", "images", "tag", "--force", &old, &new]).output()?;
            ensure!(output.status.success(), "{new} on {node}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// What an upgrade must not touch: the authority's keys, and the roots that members and the API server trust.
async fn kept(scene: &Scene) -> Result<[String; 3]> {
    let system = ["--namespace", names::SYSTEM_NAMESPACE, "get"];
    let get = async |what: &[&str]| scene.kubectl(&[&system[..], what].concat()).await;
    let bundle = "jsonpath={.webhooks[*].clientConfig.caBundle}";
    let kept = [
        get(&["secret", names::CA_SECRET, "-o", "jsonpath={.data}"]).await?,
        get(&["configmap", names::TRUST_CONFIG_MAP, "-o", "jsonpath={.data}"]).await?,
        get(&["mutatingwebhookconfiguration", names::WEBHOOK_CONFIGURATION, "-o", bundle]).await?,
    ];
    ensure!(kept.iter().all(|one| !one.is_empty()), "there are no keys, or no roots");
    Ok(kept)
}

/// What an upgrade says that it would change.
async fn changes(scene: &Scene, args: &[&str]) -> Result<Vec<String>> {
    let said = meshctl(scene, &[&["upgrade", "--dry-run", "-o", "json"], args].concat()).await?;
    let changes: Vec<Value> = serde_json::from_str(&said).with_context(|| said.clone())?;
    let line = |change: &Value| ["/action", "/kind", "/name"].map(|path| text(change, path)).join(" ");
    Ok(changes.iter().map(line).collect())
}

/// Who leads, by what the replicas themselves say: exactly one.
async fn leader(scene: &Scene, (part, metric, port): (&str, &str, u16)) -> Result<String> {
    let selector = format!("app.kubernetes.io/name={part}");
    let pods = scene.server.pods(names::SYSTEM_NAMESPACE, &selector).await?;
    ensure!(pods.len() == 3, "{part} has {} replicas", pods.len());
    let mut leaders = Vec::new();
    for name in pods.iter().filter_map(|pod| pod.metadata.name.as_deref()) {
        let path = format!("/api/v1/namespaces/{}/pods/{name}:{port}/proxy/metrics", names::SYSTEM_NAMESPACE);
        let metrics = scene.server.get(&path).await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        match line.with_context(|| format!("{name} does not say whether it leads ({metric})"))?.trim() {
            "1" => leaders.push(name.to_owned()),
            "0" => {}
            other => anyhow::bail!("{name} leads by {other}"),
        }
    }
    ensure!(leaders.len() == 1, "{part} is led by {leaders:?}");
    leaders.pop().context("nobody leads")
}

/// Where the leader dies, another replica leads soon.
async fn succession(scene: &Scene, part: (&str, &str, u16)) -> Result<()> {
    let first = eventually(SUCCESSION, async || leader(scene, part).await).await?;
    let begun = Instant::now();
    let delete = ["--namespace", names::SYSTEM_NAMESPACE, "delete", "pod", &first, "--grace-period=0", "--force"];
    scene.kubectl(&delete).await?;
    let second = eventually(SUCCESSION, async || {
        let now = leader(scene, part).await?;
        ensure!(now != first, "the deleted {first} leads");
        Ok(now)
    });
    let second = second.await?;
    println!("     {second} leads {:.1} s after {first} was killed", begun.elapsed().as_secs_f64());
    scene.server.rolled_out(names::SYSTEM_NAMESPACE, part.0, READY).await.map(drop)
}

/// An upgrade to what is not there says so, and what was there goes on.
async fn failed_upgrade(scene: &Scene) -> Result<()> {
    let image = "mesh.dev/controller:nowhere";
    let set = format!("controller.image={image}");
    let failed = meshctl(scene, &["upgrade", "--yes", "--timeout", "12", "--set", &set]).await;
    let said = format!("{:#}", failed.err().context("an upgrade to an image that is not there succeeds")?);
    for part in ["mesh-controller", image, "not everything stands after 12s", "--rollback"] {
        ensure!(said.contains(part), "the failed upgrade does not say {part:?}:\n{said}");
    }
    let part = ("apps/v1", "Deployment");
    let serves = |one: &Value| one.pointer("/status/availableReplicas").and_then(Value::as_u64) >= Some(2);
    let (namespace, name) = (names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT);
    scene.server.wait_for(part, namespace, name, "serves all the same", READY, serves).await.map(drop)
}
