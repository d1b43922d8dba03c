//! A mesh on a cluster: its control plane, its sidecars, who calls whom. Imports `check`'s facts, beside `view`'s own.
//!
//! Everything is read through port-forwards. A sidecar is connected to one controller; what the replicas say of their
//! sidecars is put together here.

mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use mesh_api::names::{CA_ACCOUNT, CONTROLLER_ACCOUNT};
use mesh_controller::status::{KeyStatus, ProxyStatus};
use serde::Serialize;

use super::{
    Scrape,
    edges::{self, Edge, Refusal, names},
};
use crate::{
    check::{
        facts::{Fact, Facts},
        judge::{cni::AGENT, control},
        pods,
    },
    query::prometheus::Sample,
};

/// A pod of the control plane.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PartView {
    /// `mesh-ca`, `mesh-controller` or `mesh-cni`.
    pub part: String,
    /// Pod.
    pub pod: String,
    /// Node.
    pub node: String,
    /// True where it can do its work.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version, as it says itself, else of its image.
    pub version: String,
    /// How often its containers began anew.
    pub restarts: i32,
    /// Sidecars that are connected to it; controllers only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxies: Option<usize>,
}

/// What a sidecar runs of one key.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyView {
    /// `inbound`, or a destination.
    pub key: String,
    /// Version of the configuration that was sent last; empty where there is none to run.
    pub current: String,
    /// Version that the sidecar said it runs.
    pub acknowledged: Option<String>,
    /// Why it refused the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// True where it runs the current one.
    pub in_sync: bool,
}

/// A pod with a sidecar.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ProxyView {
    /// `NAMESPACE/POD`.
    pub name: String,
    /// True where its container is ready.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Version of its software.
    pub version: String,
    /// Pod of the controller that it is connected to; none: to none, or that is not known.
    pub controller: Option<String>,
    /// Its identity, as the controller saw it.
    pub identity: String,
    /// What it runs.
    pub keys: Vec<KeyView>,
    /// True where it is connected and runs all that it was sent.
    pub in_sync: bool,
    /// When its certificate runs out, in seconds since 1970; none where it has none, or was not asked.
    pub certificate_expires: Option<i64>,
}

/// Everything that is shown.
#[derive(Clone, Debug, Serialize)]
pub struct ClusterStatus {
    /// Context of the kubeconfig.
    pub context: String,
    /// The API server's time, to which all others are compared.
    #[serde(skip)]
    pub now: Timestamp,
    /// Pods of the control plane.
    pub control_plane: Vec<PartView>,
    /// Pods with sidecars.
    pub proxies: Vec<ProxyView>,
    /// Who calls whom, as far as sidecars were asked.
    pub edges: Vec<Edge>,
    /// What was refused.
    pub refusals: Vec<Refusal>,
    /// What could not be looked at, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
}

impl ClusterStatus {
    /// Puts the facts together; rates are from `before` on.
    #[must_use]
    pub fn of(facts: &Facts, scrape: &Scrape, before: Option<&Scrape>) -> Self {
        let connected = connected(facts);
        let pods = facts.pods.as_deref().unwrap_or_default();
        let meshed = pods.iter().filter(|pod| pods::is_alive(pod) && pods::sidecar(pod).is_some());
        Self {
            context: facts.server.as_ref().map(|server| server.context.clone()).unwrap_or_default(),
            now: facts.cluster_now(),
            control_plane: parts(facts),
            proxies: meshed.map(|pod| proxy(pod, &connected, scrape)).collect(),
            edges: edges::edges(before, scrape),
            refusals: edges::refusals(before, scrape),
            unknown: unknown(facts),
        }
    }

    /// True where each part is ready and every ready sidecar runs what it was sent, and all of that is known.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let parts = |part: &str| self.control_plane.iter().any(|pod| pod.part == part && pod.ready);
        self.unknown.is_empty()
            && parts(CA_ACCOUNT)
            && parts(CONTROLLER_ACCOUNT)
            && self.control_plane.iter().all(|pod| pod.ready)
            && self.proxies.iter().all(|proxy| proxy.ready && proxy.in_sync)
    }
}

/// One look at the metrics of the sidecars, as they are in the facts.
#[must_use]
pub fn scrape(at: Instant, proxies: &BTreeMap<String, Fact<Vec<Sample>>>) -> Scrape {
    let sidecars = proxies.iter().map(|(name, samples)| (name.clone(), samples.as_ref().ok().cloned())).collect();
    Scrape { at, sidecars }
}

fn parts(facts: &Facts) -> Vec<PartView> {
    let pods = facts.system_pods.as_deref().unwrap_or_default();
    let parts = [CA_ACCOUNT, CONTROLLER_ACCOUNT, AGENT];
    let mut views: Vec<PartView> = pods
        .iter()
        .filter(|pod| pods::is_alive(pod))
        .filter_map(|pod| Some(part(facts, pod, control::part_of(pod, &parts)?)))
        .collect();
    views.sort_by(|one, other| (&one.part, &one.pod).cmp(&(&other.part, &other.pod)));
    views
}

fn part(facts: &Facts, pod: &Pod, part: &str) -> PartView {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let replica = facts.replicas.iter().find(|replica| replica.pod == name);
    let said = replica.and_then(|replica| match &replica.not_ready {
        Ok(why) => why.clone(),
        Err(missing) => Some(missing.why.clone()),
    });
    let reason = pods::not_running(pod).or(said);
    let pages = replica.and_then(|replica| replica.controller.as_ref());
    PartView {
        part: part.to_owned(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
        ready: reason.is_none(),
        reason,
        version: control::version_of(facts, pod, part, &name),
        restarts: pods::statuses(pod).map(|status| status.restart_count).sum(),
        proxies: pages.and_then(|pages| pages.proxies.as_ref().ok()).map(Vec::len),
        pod: name,
    }
}

/// Each connected sidecar with the controller that it is connected to; where it moved, the newer connection holds.
fn connected(facts: &Facts) -> BTreeMap<String, (String, &ProxyStatus)> {
    let mut all: BTreeMap<String, (String, &ProxyStatus)> = BTreeMap::new();
    for replica in facts.replicas_of(CONTROLLER_ACCOUNT) {
        let Some(Ok(proxies)) = replica.controller.as_ref().map(|pages| &pages.proxies) else { continue };
        for proxy in proxies {
            let name = format!("{}/{}", proxy.namespace, proxy.workload);
            if all.get(&name).is_none_or(|(_, other)| other.since_ms < proxy.since_ms) {
                all.insert(name, (replica.pod.clone(), proxy));
            }
        }
    }
    all
}

fn proxy(pod: &Pod, connected: &BTreeMap<String, (String, &ProxyStatus)>, scrape: &Scrape) -> ProxyView {
    let name = pods::name(pod);
    let found = connected.get(&name);
    let reason = match pods::sidecar_status(pod) {
        Some(status) => pods::trouble(status),
        None => pods::not_running(pod),
    };
    let image = pods::sidecar(pod).and_then(|container| container.image.as_deref()).map(pods::tag);
    let told = found.map(|(_, proxy)| proxy.version.clone()).filter(|version| !version.is_empty());
    let keys: Vec<KeyView> =
        found.iter().flat_map(|(_, proxy)| &proxy.keys).map(|(key, status)| key_view(key, status)).collect();
    let expiry = scrape.of(&name, names::EXPIRY).next().map(|sample| sample.value).filter(|at| *at > 0.0);
    ProxyView {
        ready: reason.is_none(),
        reason,
        version: told.or_else(|| image.map(str::to_owned)).unwrap_or_default(),
        controller: found.map(|(controller, _)| controller.clone()),
        identity: found.map(|(_, proxy)| proxy.identity.clone()).unwrap_or_default(),
        in_sync: found.is_some() && keys.iter().all(|key| key.in_sync),
        keys,
        certificate_expires: expiry.map(|at| at as i64),
        name,
    }
}

fn key_view(key: &str, status: &KeyStatus) -> KeyView {
    KeyView {
        key: key.to_owned(),
        current: status.sent.clone(),
        acknowledged: status.acked.clone(),
        refused: status.refused.as_ref().map(|refusal| refusal.reason.clone()),
        in_sync: status.is_current(),
    }
}

/// What is missing from the picture, each thing once.
fn unknown(facts: &Facts) -> Vec<String> {
    let mut unknown = BTreeSet::new();
    unknown.extend(facts.system_pods.as_ref().err().map(ToString::to_string));
    unknown.extend(facts.pods.as_ref().err().map(ToString::to_string));
    for replica in facts.replicas_of(CONTROLLER_ACCOUNT) {
        let proxies = replica.controller.as_ref().map(|pages| &pages.proxies);
        unknown.extend(proxies.and_then(|proxies| proxies.as_ref().err()).map(ToString::to_string));
    }
    unknown.into_iter().collect()
}

#[cfg(test)]
mod tests;
