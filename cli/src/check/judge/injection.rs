//! Pods against the injection decision: those without a sidecar that should have one, and the other way round.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        admissionregistration::v1::MutatingWebhookConfiguration,
        core::v1::{Namespace, Pod},
    },
    jiff::Timestamp,
};
use mesh_api::names::{INJECT, PROXY_CONTAINER};

use super::{known, webhook::CONFIGURATION};
use crate::check::{
    facts::Facts,
    foreign,
    judge::cluster::count,
    pods,
    verdict::{Lines, Verdict},
    wish::{self, Judge, Wish},
};

/// Label of a namespace that says how much its pods may ask of a node.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// Pods that live, outside the control plane, with their namespaces.
fn members<'a>(pods: &'a [Pod], namespaces: &'a [Namespace]) -> Vec<(&'a Pod, &'a Namespace)> {
    let by_name: BTreeMap<&str, &Namespace> =
        namespaces.iter().filter_map(|namespace| Some((namespace.metadata.name.as_deref()?, namespace))).collect();
    let living = pods.iter().filter(|pod| pods::is_alive(pod));
    living.filter_map(|pod| Some((pod, *by_name.get(pod.metadata.namespace.as_deref()?)?))).collect()
}

/// Have the pods that should have a sidecar one?
pub fn missing(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let namespaces = known!(&facts.namespaces);
    let hook = facts.mutating.as_ref().ok().and_then(|hooks| own(hooks));
    let judge = Judge::new(facts);
    let mut lines = Lines::new();
    let mut good = 0;
    for (pod, namespace) in members(pods, namespaces) {
        let has = pods::sidecar(pod).is_some();
        match judge.of(pod, namespace) {
            Wish::Sidecar(..) if has => good += 1,
            Wish::Sidecar(because, _) => {
                let (why, hint) = why_not(pod, namespace, hook);
                lines.error(format!("{}: {because}, and it has none: {why}", pods::name(pod)), hint);
            }
            Wish::Refused(why) => lines.error(
                format!("{}: it would be refused if it was made now: {why}", pods::name(pod)),
                "correct the pod's template: meshctl check-inject says which field",
            ),
            Wish::None(_) => {}
        }
    }
    lines.verdict(
        format!("{} a sidecar", count(good, "pod has", "pods have")),
        "pod has no sidecar",
        "pods have no sidecar",
    )
}

fn own(hooks: &[MutatingWebhookConfiguration]) -> Option<&MutatingWebhookConfiguration> {
    hooks.iter().find(|hook| hook.metadata.name.as_deref() == Some(CONFIGURATION))
}

/// Why a pod came into being without a sidecar, as far as that can still be seen, and what to do.
fn why_not(pod: &Pod, namespace: &Namespace, hook: Option<&MutatingWebhookConfiguration>) -> (String, String) {
    let restart =
        "restart it: kubectl rollout restart of the workload that owns it; a pod without an owner has to be made anew";
    let made = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let Some(hook) = hook else {
        return (
            "the webhook that injects is not registered".into(),
            "put it back: meshctl upgrade; then restart the pods".into(),
        );
    };
    let registered = hook.metadata.creation_timestamp.as_ref().map(|time| time.0);
    if let (Some(made), Some(registered)) = (made, registered)
        && made < registered
    {
        return ("it is older than the mesh here".into(), restart.into());
    }
    if let (Some(made), Some(labelled)) = (made, labelled(namespace))
        && made < labelled
    {
        return ("it is older than the label of its namespace".into(), restart.into());
    }
    if pods::label(pod, mesh_api::names::LABEL_INJECTED).is_some() {
        return ("it says that it is injected, and its sidecar was taken out".into(), restart.into());
    }
    if hook.webhooks.iter().flatten().any(|webhook| webhook.failure_policy.as_deref() == Some("Ignore")) {
        let why = "perhaps the webhook did not answer when it was made, and is set to be ignored then";
        return (why.into(), format!("see webhook-answers; then {restart}"));
    }
    if pod.metadata.owner_references.iter().flatten().any(|owner| owner.kind == "Node") {
        return (
            "a kubelet made it from a file, past the API server".into(),
            "such a pod cannot have a sidecar".into(),
        );
    }
    (
        "perhaps it was labelled after it was made, or made while the webhook's selectors left it out".into(),
        restart.into(),
    )
}

/// When a namespace got its label, as far as that was written down.
fn labelled(namespace: &Namespace) -> Option<Timestamp> {
    let key = format!("f:{INJECT}");
    let entries = namespace.metadata.managed_fields.iter().flatten();
    let with = entries.filter(|entry| {
        let fields = entry.fields_v1.as_ref().map(|fields| &fields.0);
        fields.and_then(|fields| fields.get("f:metadata")?.get("f:labels")?.get(&key)).is_some()
    });
    with.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max()
}

/// Should the pods with a sidecar have one?
pub fn excluded(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let namespaces = known!(&facts.namespaces);
    let judge = Judge::new(facts);
    let mut lines = Lines::new();
    for (pod, namespace) in members(pods, namespaces) {
        if pods::sidecar(pod).is_none() {
            continue;
        }
        if let Wish::None(why) = judge.of(pod, namespace) {
            lines.warning(
                format!("{}: it has a sidecar, and would get none if it was made now: {why}", pods::name(pod)),
                "label it again, or restart it, so that it is what it is said to be",
            );
        }
    }
    lines.verdict(
        "every sidecar is wanted",
        "pod has a sidecar that it should not have",
        "pods have sidecars that they should not have",
    )
}

/// Are the sidecars made from the settings in force?
pub fn current(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let namespaces = known!(&facts.namespaces);
    let inject = &known!(&facts.inject).config;
    let judge = Judge::new(facts);
    let mut lines = Lines::new();
    let mut good = 0;
    for (pod, namespace) in members(pods, namespaces) {
        // Another version is told by another check, and makes everything else differ.
        let Some(had) = wish::record(pod).filter(|had| had.version == facts.meshctl) else { continue };
        let Wish::Sidecar(_, wanted) = judge.of(pod, namespace) else { continue };
        if had.hash == wanted.hash {
            good += 1;
        } else {
            let what = match (had.cni, inject.cni) {
                (true, false) => ": it counts on the CNI plugin, others do not any more",
                (false, true) => ": an init container redirects its connections, not the CNI plugin",
                _ if had.image != wanted.image => ": its image is another one",
                _ => "",
            };
            lines.warning(
                format!("{}: it would be made from other settings now{what}", pods::name(pod)),
                "restart the workload that owns it, at a time that suits it",
            );
        }
    }
    let good = format!("{} made from the settings in force", count(good, "sidecar is", "sidecars are"));
    lines.verdict(good, "sidecar is made from older settings", "sidecars are made from older settings")
}

/// Do namespaces allow the pods that injection makes?
pub fn admitted(facts: &Facts) -> Verdict {
    let namespaces = known!(&facts.namespaces);
    let cni = match (&facts.inject, &facts.daemon_sets) {
        (Ok(settings), _) => settings.config.cni,
        (Err(_), Ok(sets)) => sets.iter().any(|set| set.metadata.name.as_deref() == Some(super::cni::AGENT)),
        (Err(missing), Err(_)) => return missing.verdict(),
    };
    let mut lines = Lines::new();
    let mut seen = 0;
    for namespace in namespaces {
        let Some(labels) = &namespace.metadata.labels else { continue };
        if labels.get(INJECT).map(String::as_str) != Some("enabled") {
            continue;
        }
        seen += 1;
        let name = namespace.metadata.name.as_deref().unwrap_or("?");
        if let Some(level @ ("baseline" | "restricted")) = labels.get(POD_SECURITY).map(String::as_str)
            && !cni
        {
            lines.error(
                format!("{name} enforces Pod Security {level}, which refuses the NET_ADMIN of the init container"),
                "redirect by the CNI plugin: meshctl upgrade --set cni.enabled=true; or enforce privileged there",
            );
        }
    }
    lines.verdict(
        format!("{} sidecars in", count(seen, "namespace lets", "namespaces let")),
        "namespace refuses injected pods",
        "namespaces refuse injected pods",
    )
}

/// Has a pod the sidecars of two meshes?
pub fn one_mesh(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let mut lines = Lines::new();
    for pod in pods.iter().filter(|pod| pods::is_alive(pod) && pods::sidecar(pod).is_some()) {
        if let Some(mesh) = foreign::sidecar_of(pod) {
            lines.error(
                format!("{}: it has {PROXY_CONTAINER} and the sidecar of {}", pods::name(pod), mesh.name),
                "disable one of the two for it, and restart it",
            );
        }
    }
    lines.verdict("none", "pod has two sidecars", "pods have two sidecars")
}
