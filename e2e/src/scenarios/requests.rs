//! What the mesh asks a cluster for is what it takes: requests are held against the kubelet's own figures. Floor 6: imports
//! `suite`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::Value;

use super::change::{begin, end};
use crate::suite::{Scenario, Scene, eventually};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-requests",
    "no part of the mesh holds more memory than it requests, with sidecars at 200 requests/s",
    |scene| Box::pin(requests(scene)),
)];

/// The kubelet looks at its containers every ten seconds or so.
const FIGURES: Duration = Duration::from_secs(60);
/// So the figures are of a time with load.
const LOADED: Duration = Duration::from_secs(15);
/// Parts of the control plane, and sidecars of the load and of what it calls.
const CONTAINERS: usize = 2 + 4;

/// A container of the mesh: what it asks for, in bytes, or what it holds.
type Memory = BTreeMap<(String, String), u64>;

async fn requests(scene: Scene) -> Result<()> {
    begin(&scene, 3).await?;
    let asked = asked(&scene).await?;
    ensure!(asked.len() >= CONTAINERS, "containers of the mesh are missing: {asked:?}");
    tokio::time::sleep(LOADED).await;
    let held = eventually(FIGURES, async || {
        let held = held(&scene).await?;
        let missing: Vec<_> = asked.keys().filter(|container| !held.contains_key(*container)).collect();
        ensure!(missing.is_empty(), "the kubelet has no figures of {missing:?}");
        Ok(held)
    })
    .await?;
    end(&scene, 3).await?;
    let mut most: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (container, asked) in &asked {
        let held = held.get(container).copied().unwrap_or_default();
        let (_, name) = container;
        let entry = most.entry(name).or_default();
        *entry = (held.max(entry.0), *asked);
    }
    for (name, (held, asked)) in most {
        println!("     {name}: {:.1} of {:.1} MiB requested", mebibytes(held), mebibytes(asked));
        ensure!(held > 0 && held <= asked, "{name} holds {held} bytes and requests {asked}");
    }
    Ok(())
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What containers of the mesh request: the control plane's, and sidecars in the scenario's namespace.
async fn asked(scene: &Scene) -> Result<Memory> {
    let mut asked = Memory::new();
    for namespace in [names::SYSTEM_NAMESPACE, &scene.namespace] {
        let pods = scene.kubectl(&["get", "pods", "--namespace", namespace, "--output", "json"]).await?;
        let pods: Value = serde_json::from_str(&pods)?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let lists = ["containers", "initContainers"].map(|list| pod["spec"][list].as_array());
            for container in lists.into_iter().flatten().flatten() {
                let (pod, name) = (&pod["metadata"]["name"], &container["name"]);
                let (pod, name) = (pod.as_str().unwrap_or_default(), name.as_str().unwrap_or_default());
                if namespace != names::SYSTEM_NAMESPACE && name != names::PROXY_CONTAINER {
                    continue;
                }
                let request = container["resources"]["requests"]["memory"].as_str().context("no request of memory")?;
                let request = request.strip_suffix("Mi").context("a request that is not in Mi")?;
                asked.insert((pod.to_owned(), name.to_owned()), request.parse::<u64>()? << 20);
            }
        }
    }
    Ok(asked)
}

/// What every container of the cluster holds: its working set, which is what evictions go by.
async fn held(scene: &Scene) -> Result<Memory> {
    let mut held = Memory::new();
    let nodes = scene.kubectl(&["get", "nodes", "--output", "name"]).await?;
    for node in nodes.lines().filter_map(|line| line.strip_prefix("node/")) {
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let summary: Value = serde_json::from_str(&scene.kubectl(&["get", "--raw", &path]).await?)?;
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let of = pod["podRef"]["name"].as_str().unwrap_or_default();
            for container in pod["containers"].as_array().into_iter().flatten() {
                let name = container["name"].as_str().unwrap_or_default();
                if let Some(bytes) = container["memory"]["workingSetBytes"].as_u64().filter(|bytes| *bytes > 0) {
                    held.insert((of.to_owned(), name.to_owned()), bytes);
                }
            }
        }
    }
    Ok(held)
}
