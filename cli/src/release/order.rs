//! In which order objects come, and go.

use crate::chart::object::Key;

/// Kinds in the order in which they are applied: what others need comes first. The webhooks are last, because from then
/// on pods of opted-in namespaces need the controller.
const KINDS: [&str; 16] = [
    "Namespace",
    "CustomResourceDefinition",
    "PriorityClass",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
    "ConfigMap",
    "ClusterRole",
    "ClusterRoleBinding",
    "Role",
    "RoleBinding",
    "Service",
    "DaemonSet",
    "Deployment",
    "ValidatingWebhookConfiguration",
    "MutatingWebhookConfiguration",
];

/// Smaller comes earlier. Kinds that are not known come before what runs.
#[must_use]
pub fn rank(key: &Key) -> (usize, String) {
    let known = KINDS.iter().position(|kind| *kind == key.kind);
    let place = known.map_or(11 * 2 + 1, |place| place * 2);
    (place, format!("{}/{}", key.namespace, key.name))
}

/// Steps of an uninstallation. Each is finished before the next begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// So that pods can start without the mesh.
    Webhooks,
    /// So that nothing makes anew what is deleted then.
    Programs,
    /// Everything that they used.
    Rest,
    /// What users wrote goes with the kinds.
    Kinds,
    /// And whatever is still in them.
    Namespaces,
}

/// When an object goes.
#[must_use]
pub fn step(key: &Key) -> Step {
    match key.kind.as_str() {
        "ValidatingWebhookConfiguration" | "MutatingWebhookConfiguration" => Step::Webhooks,
        "Deployment" | "DaemonSet" | "StatefulSet" | "Job" => Step::Programs,
        "CustomResourceDefinition" => Step::Kinds,
        "Namespace" => Step::Namespaces,
        _ => Step::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &str) -> Key {
        Key { api_version: String::new(), kind: kind.to_owned(), namespace: String::new(), name: "x".to_owned() }
    }

    #[test]
    fn webhooks_come_last_and_go_first() {
        let mut kinds = ["MutatingWebhookConfiguration", "Deployment", "Something", "Namespace", "ConfigMap"];
        kinds.sort_by_key(|kind| rank(&key(kind)));
        assert_eq!(kinds, ["Namespace", "ConfigMap", "Something", "Deployment", "MutatingWebhookConfiguration"]);
        kinds.sort_by_key(|kind| step(&key(kind)));
        assert_eq!(kinds, ["MutatingWebhookConfiguration", "Deployment", "ConfigMap", "Something", "Namespace"]);
    }
}
