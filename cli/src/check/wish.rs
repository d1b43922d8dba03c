//! Whether a pod is to have a sidecar: the decision of the webhook itself. Floor 0 of `check`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use mesh_api::names::{INJECT, SYSTEM_NAMESPACE};

use super::pods;

/// What becomes of a pod when it is made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// It gets a sidecar; whose word that is.
    Sidecar(String),
    /// It gets none; why.
    None(String),
    /// It is refused; why.
    Refused(String),
}

/// Decides about a pod as it is now, in its namespace as it is now.
#[must_use]
pub fn of(pod: &Pod, namespace: &Namespace) -> Wish {
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    if name == "kube-system" || name == SYSTEM_NAMESPACE {
        return Wish::None(format!("pods of {name} never get a sidecar"));
    }
    if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
        return Wish::None("it uses the node's network".into());
    }
    let empty = BTreeMap::new();
    let annotation = pod.metadata.annotations.as_ref().unwrap_or(&empty).get(INJECT).map(String::as_str);
    let own = pods::label(pod, INJECT).or(annotation);
    let theirs = namespace.metadata.labels.as_ref().unwrap_or(&empty).get(INJECT).map(String::as_str);
    match (own, theirs) {
        (Some("enabled"), _) => Wish::Sidecar("the pod asks for a sidecar".into()),
        (Some("disabled"), _) => Wish::None("the pod asks to have no sidecar".into()),
        (Some(other), _) => Wish::Refused(format!("`{other}` is not `enabled` or `disabled`")),
        (None, Some("enabled")) => Wish::Sidecar(format!("namespace {name} asks for sidecars")),
        (None, Some("disabled")) => Wish::None(format!("namespace {name} asks to have no sidecars")),
        (None, _) => Wish::None(format!("neither the pod nor namespace {name} asks for a sidecar")),
    }
}
