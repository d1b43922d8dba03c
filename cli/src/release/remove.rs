//! Takes the mesh out of a cluster, in an order in which nothing that runs is harmed.

use std::{collections::BTreeMap, time::Duration};

use mesh_api::names;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Site, order, record, wait};
use crate::{
    chart::{MESH, MESH_CRDS, MESH_VIZ, Object, object::Key},
    cluster::objects::RequestError,
    io::{Out, Tone},
};

/// One step takes at most this long.
const STEP: Duration = Duration::from_secs(180);
/// The DaemonSet of the CNI plugin's agents.
const CNI: &str = "mesh-cni";
/// How often it is looked whether something is gone.
const LOOK: Duration = Duration::from_millis(500);

/// Everything that an uninstallation finds.
#[derive(Clone, Debug, Default)]
pub struct Remains {
    /// Objects of the mesh, each once, in the order in which they go.
    pub objects: Vec<Key>,
    /// What users wrote: it goes with the kinds of `mesh.dev`.
    pub users: Vec<Key>,
    /// How many pods have a sidecar, by namespace.
    pub injected: BTreeMap<String, usize>,
    /// Kinds that could not be searched.
    pub refused: Vec<String>,
}

impl Remains {
    /// True where there is nothing of a mesh.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.users.is_empty()
    }
}

fn key(api_version: &str, kind: &str, namespace: &str, name: &str) -> Key {
    Key {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

/// Searches a cluster for everything of the mesh: what is written down as installed, what a chart's label names, and
/// what the control plane made itself. Kinds and what users wrote stay out with `keep_kinds`.
///
/// # Errors
/// [`RequestError`].
pub async fn search(site: &Site, known: &[Key], keep_kinds: bool) -> Result<Remains, RequestError> {
    let mut remains = Remains::default();
    let charts = format!("{} in ({MESH},{MESH_VIZ},{MESH_CRDS})", names::LABEL_CHART);
    let (labelled, refused) = site.objects.labelled(&charts).await?;
    remains.refused = refused;
    let mut candidates: Vec<Key> = labelled.into_iter().filter(|found| !found.owned).map(|found| found.key).collect();
    for key in known.iter().cloned().chain(own(site).await?) {
        if site.objects.get(&key).await?.is_some() {
            candidates.push(key);
        }
    }
    for kind in kinds(site).await? {
        if !keep_kinds {
            remains.users.extend(listed(site, &kind.objects, "").await?);
            candidates.push(kind.definition);
        }
    }
    for candidate in candidates {
        let is_kept = keep_kinds && candidate.kind == "CustomResourceDefinition";
        if !is_kept && !remains.objects.iter().any(|other| other.is_same(&candidate)) {
            remains.objects.push(candidate);
        }
    }
    remains.objects.sort_by_key(|key| (order::step(key), std::cmp::Reverse(order::rank(key))));
    let selector = format!("{}={}", names::LABEL_INJECTED, names::INJECTED_VALUE);
    for pod in listed(site, &key("v1", "Pod", "", "-"), &selector).await? {
        *remains.injected.entry(pod.namespace).or_default() += 1;
    }
    Ok(remains)
}

/// What the control plane makes itself.
async fn own(site: &Site) -> Result<Vec<Key>, RequestError> {
    let system = names::SYSTEM_NAMESPACE;
    let mut own = vec![record::key(), key("v1", "Secret", system, names::CA_SECRET)];
    for lease in [names::CA_ACCOUNT, names::CONTROLLER_ACCOUNT] {
        own.push(key("coordination.k8s.io/v1", "Lease", system, lease));
    }
    let selector = format!("app.kubernetes.io/managed-by={}", names::CA_ACCOUNT);
    let bundles = listed(site, &key("v1", "ConfigMap", "", "-"), &selector).await?;
    own.extend(bundles.into_iter().filter(|bundle| bundle.name == names::TRUST_CONFIG_MAP));
    Ok(own)
}

struct Kind {
    definition: Key,
    objects: Key,
}

/// The kinds of `mesh.dev` that are there.
async fn kinds(site: &Site) -> Result<Vec<Kind>, RequestError> {
    let definition = key("apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "-");
    let mut kinds = Vec::new();
    for value in site.objects.list(&definition, "").await? {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        if text("/spec/group") != names::GROUP {
            continue;
        }
        let versions = value.pointer("/spec/versions").and_then(Value::as_array);
        let stored = versions.into_iter().flatten().find(|version| version["storage"] == true);
        let version = stored.and_then(|version| version["name"].as_str()).unwrap_or("v1alpha1");
        let objects = key(&format!("{}/{version}", names::GROUP), &text("/spec/names/kind"), "", "-");
        kinds.push(Kind { definition: Key { name: text("/metadata/name"), ..definition.clone() }, objects });
    }
    Ok(kinds)
}

async fn listed(site: &Site, kind: &Key, selector: &str) -> Result<Vec<Key>, RequestError> {
    let objects = site.objects.list(kind, selector).await?;
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = objects.iter().map(|object| Key {
        namespace: text(object, "/metadata/namespace"),
        name: text(object, "/metadata/name"),
        ..kind.clone()
    });
    Ok(named.collect())
}

/// Deletes objects step by step; each step is gone before the next begins.
///
/// # Errors
/// [`RequestError`], or what is not gone in time. Doing it again goes on where it ended.
pub async fn all(site: &Site, keys: &[Key], out: &mut Out) -> anyhow::Result<()> {
    let mut steps: BTreeMap<order::Step, Vec<&Key>> = BTreeMap::new();
    for key in keys {
        steps.entry(order::step(key)).or_default().push(key);
    }
    for (step, keys) in steps {
        for key in keys.iter().filter(|key| key.kind == "DaemonSet" && key.name == CNI) {
            if let Err(error) = retire(site, key).await {
                out.toned(Tone::Warn, &format!("the CNI plugin may stay on some nodes: {error:#}"))?;
            }
        }
        for key in &keys {
            site.objects.delete(key).await?;
        }
        gone(site, &keys).await?;
        let what = match step {
            order::Step::Webhooks => "webhooks: pods start without the mesh from now on",
            order::Step::Programs => "programs",
            order::Step::Rest => "what it used",
            order::Step::Kinds => "kinds of mesh.dev",
            order::Step::Namespaces => "namespaces",
        };
        out.toned(Tone::Plain, &format!("removed {what} ({})", keys.len()))?;
    }
    Ok(())
}

/// Has the agents of the CNI plugin take it from their nodes when they end: without a cluster that it may ask it lets no
/// pod start. It is not so all the time, because a new agent must not open a gap when it takes over from an old one.
async fn retire(site: &Site, key: &Key) -> anyhow::Result<()> {
    let env = json!([{ "name": "MESH_CNI_REMOVE_ON_EXIT", "value": "true" }]);
    let containers = json!([{ "name": "cni", "env": env }]);
    let object = json!({
        "apiVersion": key.api_version, "kind": key.kind, "metadata": { "name": key.name, "namespace": key.namespace },
        "spec": { "template": { "spec": { "containers": containers } } },
    });
    let object = Object::new(object).map_err(anyhow::Error::msg)?;
    site.objects.apply_as("meshctl-uninstall", &object, false).await?;
    wait::quietly(site, std::slice::from_ref(key), STEP).await
}

async fn gone(site: &Site, keys: &[&Key]) -> anyhow::Result<()> {
    let begun = Instant::now();
    for key in keys {
        while let Some(left) = site.objects.get(key).await? {
            if begun.elapsed() >= STEP {
                let waits = left.pointer("/metadata/finalizers").and_then(Value::as_array).cloned().unwrap_or_default();
                let waits: Vec<&str> = waits.iter().filter_map(Value::as_str).collect();
                let waits =
                    if waits.is_empty() { String::new() } else { format!(", it waits for {}", waits.join(", ")) };
                anyhow::bail!(
                    "{key} is still there after {}s{waits}; run the same command again to go on",
                    STEP.as_secs()
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    Ok(())
}
