//! Nodes are emptied under load, as whoever maintains them does it. Floor 6: imports `suite`.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::change::{begin, end};
use crate::suite::{Scenario, Scene};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] =
    &[Scenario::new("mesh-drain", "every node is drained, one after another, at 200 requests/s", |scene| {
        Box::pin(drain(scene))
    })
    .within(300)
    .on_nodes(2)];

/// Instances of the echo server: more than one stays wherever they are.
const INSTANCES: u32 = 4;

/// Whatever is on the node goes, the mesh's control plane too. Not who calls: it would take its report with it. And not the
/// cluster's only name server: names that are not found are no matter of the mesh.
const WHO_GOES: &str = "app!=load,k8s-app!=kube-dns";

async fn drain(scene: Scene) -> Result<()> {
    begin(&scene, INSTANCES).await?;
    // What every guide asks of those whose nodes are drained: not all instances at once, nor on one node.
    let budget = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": { "name": "echo" },
        "spec": { "maxUnavailable": 1, "selector": { "matchLabels": { "app": "echo" } } },
    });
    scene.apply(&budget.to_string()).await?;
    let nodes = scene.kubectl(&["get", "nodes", "--output", "name"]).await?;
    let nodes: Vec<&str> = nodes.lines().filter_map(|line| line.strip_prefix("node/")).collect();
    ensure!(nodes.len() > 1, "a node alone cannot be drained");
    let mut moved = 0;
    for node in nodes {
        let before = instances_on(&scene, node).await?;
        let drained = scene
            .kubectl(&[
                "drain",
                node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                "--force",
                "--timeout=90s",
                "--pod-selector",
                WHO_GOES,
            ])
            .await;
        let left = instances_on(&scene, node).await;
        // Also where it failed: later scenarios need the node.
        scene.kubectl(&["uncordon", node]).await?;
        drained?;
        ensure!(left? == 0, "instances are still on {node}");
        moved += before;
        scene.rolled_out("echo").await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    ensure!(moved >= INSTANCES as usize, "only {moved} instances had to go");
    end(&scene, INSTANCES as usize + moved).await.map(drop)
}

/// How many instances run on a node, or end there.
async fn instances_on(scene: &Scene, node: &str) -> Result<usize> {
    let field = format!("spec.nodeName={node}");
    let pods = scene
        .kubectl(&["get", "pods", "--selector", "app=echo", "--field-selector", &field, "--output", "json"])
        .await?;
    let pods: Value = serde_json::from_str(&pods)?;
    Ok(pods["items"].as_array().map_or(0, Vec::len))
}
