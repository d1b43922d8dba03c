//! What a pod needs to be a member of the mesh, and whether it becomes one. Floor 1: imports `mesh_api` only.
//!
//! [`decide`] is pure: a pod, its namespace, the settings and the cluster's version go in, a [`Decision`] comes out. The
//! webhook, `meshctl inject` and `meshctl check-inject` call it alike, so what is explained is what is done.
//!
//! Pods are looked at as JSON, so that what the mesh does not know of stays as it is. What is already injected is
//! recognised: where it is what would be put in now, only its place is put right; else it is made anew, and what others
//! added to the mesh's containers stays.

mod apply;
mod overrides;
mod patch;
mod pod;
mod ports;
mod probes;
mod quantity;
mod reason;
mod remove;
mod settings;
mod sidecar;
mod template;

pub use self::{
    patch::{Op, diff},
    pod::{ContainerRef, all_containers},
    ports::PortList,
    probes::Taken,
    reason::{Fault, Reason},
    remove::remove,
    settings::{Addresses, InjectConfig, LogFormat, Native, PullPolicy, Settings, Version},
    template::{Owner, Template, templates},
};

use std::collections::BTreeMap;

use mesh_api::{names, probe::Token};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::{overrides::Overrides, pod::Pod};

/// Namespaces whose pods are never touched: the cluster must be able to start without the mesh, and the mesh without
/// itself.
pub const SYSTEM_NAMESPACES: [&str; 4] = ["kube-system", "kube-node-lease", "kube-public", names::SYSTEM_NAMESPACE];

/// What is known of a pod's namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets a sidecar, or has it already.
    Inject(Box<Injection>),
    /// It stays as it is.
    Leave(Fault),
    /// It must not start like this: it asks for something that cannot be given.
    Refuse(Vec<Fault>),
}

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// The changed pod.
    pub pod: Value,
    /// The same as a JSON patch (RFC 6902); empty where nothing is to be done.
    pub patch: Vec<Op>,
    /// Whose word it was.
    pub because: Fault,
    /// What hardly is what was meant, for people.
    pub warnings: Vec<String>,
    /// What the pod's annotation says.
    pub record: Record,
}

/// The annotation [`names::ANNOTATION_INJECTION`]: what was decided. The CNI plugin reads `redirect`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Version of the mesh that decided.
    pub version: String,
    /// Image of the sidecar.
    pub image: String,
    /// Mark of everything that was put in: another one would be put in otherwise.
    pub hash: String,
    /// Whether the sidecar is an init container that stays.
    pub native: bool,
    /// Whether connections are redirected by the CNI plugin.
    pub cni: bool,
    /// Arguments of `mesh-proxy redirect apply`.
    pub redirect: Vec<String>,
    /// Annotations that were put in for others, to be taken out again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub annotations: Vec<String>,
    /// Probes and hooks that the kubelet asks the sidecar for, to be put back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Taken>,
    /// What it asks for them with; only where there are any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub token: String,
}

impl Record {
    /// What a pod says of itself; `None` where it says nothing that can be read.
    #[must_use]
    pub fn of(pod: &Value) -> Option<Self> {
        let annotation = pod.get("metadata")?.get("annotations")?.get(names::ANNOTATION_INJECTION)?;
        serde_json::from_str(annotation.as_str()?).ok()
    }
}

/// Decides about one pod, or a template of pods. `owner` is the workload that it belongs to, where that is known otherwise
/// than from the pod itself; `version` the cluster's, where it is known; `token` a new one, for a pod that has none yet.
#[must_use]
pub fn decide(
    pod: &Value,
    owner: Option<&Owner>,
    namespace: &Namespace,
    settings: &Settings,
    version: Option<Version>,
    token: &Token,
) -> Decision {
    let given = pod;
    let before = probes::restored(given);
    let pod: &Value = &before;
    let view = match Pod::new(pod) {
        Ok(view) => view,
        Err(fault) => return Decision::Refuse(vec![fault]),
    };
    let because = match wanted(&view, namespace) {
        Wanted::Yes(because) => because,
        Wanted::No(fault) => return Decision::Leave(fault),
        Wanted::Unclear(fault) => return Decision::Refuse(vec![fault]),
    };
    if let Some(fault) = impossible(&view) {
        return Decision::Leave(fault);
    }
    let mut faults = Vec::new();
    let overrides = Overrides::read(&view, settings, version, &mut faults);
    let owner = owner.cloned().unwrap_or_else(|| view.owner());
    view.check(overrides.native, owner.job, &mut faults);
    if !faults.is_empty() {
        return Decision::Refuse(faults);
    }
    let parts = sidecar::parts(&view, &owner.name, settings, &overrides, token);
    let changed = apply::apply(pod, &parts);
    let warnings = warnings(&view, namespace, &overrides, version);
    let patch = diff(given, &changed);
    Decision::Inject(Box::new(Injection { pod: changed, patch, because, warnings, record: parts.record }))
}

enum Wanted {
    Yes(Fault),
    No(Fault),
    Unclear(Fault),
}

/// The pod's word beats its namespace's; of the pod's own, label and annotation must not contradict each other.
fn wanted(pod: &Pod<'_>, namespace: &Namespace) -> Wanted {
    if SYSTEM_NAMESPACES.contains(&namespace.name.as_str()) {
        let sentence = format!("pods of namespace {} never get a sidecar", namespace.name);
        return Wanted::No(Fault::new(Reason::SystemNamespace, "metadata.namespace", sentence));
    }
    let own = [("labels", pod.label(names::INJECT)), ("annotations", pod.annotation(names::INJECT))];
    let mut word: Option<(String, bool)> = None;
    for (place, value) in own {
        let Some(value) = value else { continue };
        let field = format!("metadata.{place}[{}]", names::INJECT);
        let Some(enabled) = switch(value) else {
            let sentence = format!("`{}` is not `enabled` or `disabled`", reason::shown(value));
            return Wanted::Unclear(Fault::new(Reason::InvalidValue, field, sentence));
        };
        if word.as_ref().is_some_and(|(_, other)| *other != enabled) {
            let sentence = "label and annotation contradict each other; keep the label".to_owned();
            return Wanted::Unclear(Fault::new(Reason::InvalidValue, field, sentence));
        }
        word.get_or_insert((field, enabled));
    }
    if let Some((field, enabled)) = word {
        return if enabled {
            Wanted::Yes(Fault::new(Reason::Enabled, field, "the pod asks for a sidecar".into()))
        } else {
            Wanted::No(Fault::new(Reason::Disabled, field, "the pod asks to have no sidecar".into()))
        };
    }
    let field = format!("namespace.metadata.labels[{}]", names::INJECT);
    let name = &namespace.name;
    match namespace.labels.get(names::INJECT).map(|value| (value, switch(value))) {
        Some((_, Some(true))) => {
            Wanted::Yes(Fault::new(Reason::Enabled, field, format!("namespace {name} asks for sidecars")))
        }
        Some((_, Some(false))) => {
            Wanted::No(Fault::new(Reason::Disabled, field, format!("namespace {name} asks to have no sidecars")))
        }
        Some((value, None)) => {
            let value = reason::shown(value);
            let sentence =
                format!("`{value}` on namespace {name} is not `enabled` or `disabled`, and counts as nothing");
            Wanted::No(Fault::new(Reason::NotEnabled, field, sentence))
        }
        None => {
            let ask = format!("kubectl label namespace {name} {}=enabled", names::INJECT);
            let sentence = format!("neither the pod nor namespace {name} asks for a sidecar; to ask: {ask}");
            Wanted::No(Fault::new(Reason::NotEnabled, field, sentence))
        }
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "enabled" => Some(true),
        "disabled" => Some(false),
        _ => None,
    }
}

/// Pods that no sidecar can serve.
fn impossible(pod: &Pod<'_>) -> Option<Fault> {
    if pod.host_network() {
        let sentence = "the pod uses the node's network: redirection would concern the whole node".into();
        return Some(Fault::new(Reason::HostNetwork, "spec.hostNetwork", sentence));
    }
    if let Some(field) = pod.windows() {
        return Some(Fault::new(Reason::Windows, field, "the pod runs on Windows, the sidecar on Linux only".into()));
    }
    pod.annotation("kubernetes.io/config.mirror").map(|_| {
        let sentence = "the pod is the image of a static pod of a kubelet and cannot be changed".into();
        Fault::new(Reason::StaticPod, "metadata.annotations[kubernetes.io/config.mirror]", sentence)
    })
}

/// What works, but perhaps not as it is meant.
fn warnings(pod: &Pod<'_>, namespace: &Namespace, plan: &Overrides, version: Option<Version>) -> Vec<String> {
    let mut warnings = pod.unknown_annotations();
    let level = namespace.labels.get("pod-security.kubernetes.io/enforce").map(String::as_str);
    if let Some(level @ ("baseline" | "restricted")) = level
        && !plan.cni
    {
        warnings.push(format!(
            "namespace {} enforces Pod Security `{level}`, which refuses {}'s NET_ADMIN; install the mesh with its CNI plugin",
            namespace.name,
            names::INIT_CONTAINER
        ));
    }
    if let Some(policy) = pod.other_dns()
        && !plan.is_numeric()
    {
        warnings.push(format!(
            "dnsPolicy {policy}: the sidecar resolves names as the pod does, and {} must be among them",
            plan.ca
        ));
    }
    if plan.native && version.is_some_and(|version| !version.has_native_sidecars()) {
        warnings.push("the cluster may not know native sidecars, but they are asked for explicitly".to_owned());
    }
    if !plan.native && pod.has_init_containers() {
        warnings.push(if plan.cni {
            "init containers have no network: the sidecar is a plain container and starts after them".to_owned()
        } else {
            "init containers are not part of the mesh: the sidecar is a plain container and starts after them"
                .to_owned()
        });
    }
    warnings
}

#[cfg(test)]
mod tests;
