//! Takes the mesh out of a cluster, in an order in which nothing that runs is harmed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_api::names;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Site, order, record, rights, wait};
use crate::{
    chart::{MESH, MESH_CRDS, MESH_VIZ, Object, object::Key},
    cluster::objects::RequestError,
    io::{Out, Tone},
};

/// One step takes at most this long.
const STEP: Duration = Duration::from_secs(180);
/// The DaemonSet of the CNI plugin's agents.
const CNI: &str = "mesh-cni";
/// By this the agents take the plugin away when they end.
const ON_EXIT: &str = "MESH_CNI_REMOVE_ON_EXIT";
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

/// True for the agents of the CNI plugin.
fn is_cni(key: &Key) -> bool {
    key.kind == "DaemonSet" && key.name == CNI
}

/// Fails where something of it may not be deleted, or, unless it is done by force, be prepared for that.
///
/// # Errors
/// All of it at once, or [`RequestError`].
pub async fn permitted(site: &Site, keys: &[Key], force: bool) -> anyhow::Result<()> {
    rights::require(site, keys.iter(), &["get", "delete"]).await?;
    if force {
        return Ok(());
    }
    rights::require(site, keys.iter().filter(|key| is_cni(key)), &["patch"]).await
}

/// Deletes objects step by step; each step is gone before the next begins. Agents of the CNI plugin take it from their
/// nodes before anything goes; with `force` it goes on without those that do not.
///
/// # Errors
/// [`RequestError`], nodes that would keep the plugin, or what is not gone in time. Doing it again goes on where it ended.
pub async fn all(site: &Site, keys: &[Key], force: bool, out: &mut Out) -> anyhow::Result<()> {
    within(site, keys, force, STEP, out).await
}

/// As [`all`]; the agents have so long to get ready.
async fn within(site: &Site, keys: &[Key], force: bool, limit: Duration, out: &mut Out) -> anyhow::Result<()> {
    for key in keys.iter().filter(|key| is_cni(key)) {
        let Err(error) = retire(site, key, limit).await else { continue };
        if !force {
            return Err(error.context("nothing was removed"));
        }
        out.toned(Tone::Warn, &format!("{error:#}"))?;
    }
    let mut steps: BTreeMap<order::Step, Vec<&Key>> = BTreeMap::new();
    for key in keys {
        steps.entry(order::step(key)).or_default().push(key);
    }
    for (step, keys) in steps {
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

/// Has the agents of the CNI plugin take it from their nodes when they end: left behind, it asks a cluster that takes its
/// token no more, and every pod waits for that. It is not so all the time, because a new agent must not open a gap when it
/// takes over from an old one. They are changed all at once: a node that is away must not keep the others from it.
async fn retire(site: &Site, key: &Key, limit: Duration) -> anyhow::Result<()> {
    let env = json!([{ "name": ON_EXIT, "value": "true" }]);
    let containers = json!([{ "name": "cni", "env": env }]);
    let object = json!({
        "apiVersion": key.api_version, "kind": key.kind, "metadata": { "name": key.name, "namespace": key.namespace },
        "spec": {
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": "100%" } },
            "template": { "spec": { "containers": containers } },
        },
    });
    let object = Object::new(object).map_err(anyhow::Error::msg)?;
    let prepared = match site.objects.apply_as("meshctl-uninstall", &object, false).await {
        Ok(_) => wait::quietly(site, std::slice::from_ref(key), limit).await,
        Err(error) => Err(error.into()),
    };
    let Err(why) = prepared else { return Ok(()) };
    // That they cannot be named is no reason to say nothing.
    let pods = listed_values(site, &key.namespace).await.unwrap_or_default();
    let nodes = keeping(&pods);
    let nodes = if nodes.is_empty() { "some nodes".to_owned() } else { format!("nodes {}", nodes.join(", ")) };
    anyhow::bail!(
        "the CNI plugin would stay on {nodes}, because the agents there are not ready to take it away: {why:#}\n\
         bring these nodes back or delete them (kubectl delete node NAME), and run the same command again; or go on with \
         --force: where the plugin stays, each new pod starts 10s later, until mesh-cni is taken out of the list in \
         /etc/cni/net.d on that node"
    )
}

/// The pods of the agents.
async fn listed_values(site: &Site, namespace: &str) -> Result<Vec<Value>, RequestError> {
    site.objects.list(&key("v1", "Pod", namespace, "-"), "app.kubernetes.io/component=cni").await
}

/// Nodes of agents that would not take the plugin away.
fn keeping(pods: &[Value]) -> Vec<String> {
    let list = |pod: &Value, path: &str| pod.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let takes = |pod: &Value| {
        let told = list(pod, "/spec/containers").iter().any(|container| {
            list(container, "/env").iter().any(|one| one["name"] == ON_EXIT && one["value"] == "true")
        });
        let is_ready = |one: &Value| one["type"] == "Ready" && one["status"] == "True";
        told && list(pod, "/status/conditions").iter().any(is_ready)
            && pod.pointer("/metadata/deletionTimestamp").is_none()
    };
    let node = |pod: &Value| pod.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned);
    let good: BTreeSet<String> = pods.iter().filter(|pod| takes(pod)).filter_map(node).collect();
    let all: BTreeSet<String> = pods.iter().filter_map(node).collect();
    all.difference(&good).cloned().collect()
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

#[cfg(test)]
mod tests;
