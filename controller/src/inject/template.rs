//! Where the pods are in objects that have templates of them.

use serde_json::Value;

/// The workload that a pod belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Its name, as metrics and traces show it.
    pub name: String,
    /// True where its pods end by themselves.
    pub job: bool,
}

/// A pod, or a template of pods, within an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Where (RFC 6901): empty for a Pod itself.
    pub pointer: String,
    /// Kind of the object that it is part of.
    pub kind: String,
    /// Name of that object; empty where it has none.
    pub name: String,
    /// Namespace of that object, where it says one.
    pub namespace: Option<String>,
    /// The workload, for templates.
    pub owner: Option<Owner>,
}

/// Every pod and template of pods in `object`; lists are looked into. Empty for kinds that have none.
#[must_use]
pub fn templates(object: &Value) -> Vec<Template> {
    let mut found = Vec::new();
    gather(object, "", &mut found);
    found
}

fn gather(object: &Value, pointer: &str, found: &mut Vec<Template>) {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text(object.get("kind"));
    let group = text(object.get("apiVersion"));
    let group = group.split_once('/').map_or("", |(group, _)| group);
    let inside = match (group, kind.as_str()) {
        // A list has no lists in it.
        (_, kind) if kind.ends_with("List") && pointer.is_empty() => {
            let items = object.get("items").and_then(Value::as_array).into_iter().flatten();
            for (at, item) in items.enumerate() {
                gather(item, &format!("/items/{at}"), found);
            }
            return;
        }
        ("", "Pod") => "",
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet")
        | ("batch", "Job")
        | ("", "ReplicationController")
        | ("argoproj.io", "Rollout") => "/spec/template",
        ("batch", "CronJob") => "/spec/jobTemplate/spec/template",
        _ => return,
    };
    // A workload may refer to another one's template.
    if object.pointer(inside).is_none() {
        return;
    }
    let metadata = |key: &str| text(object.get("metadata").and_then(|metadata| metadata.get(key)));
    let name = metadata("name");
    let job = matches!(kind.as_str(), "Job" | "CronJob");
    let owner = (!inside.is_empty()).then(|| Owner { name: name.clone(), job });
    let namespace = Some(metadata("namespace")).filter(|namespace| !namespace.is_empty());
    found.push(Template { pointer: format!("{pointer}{inside}"), kind, name, namespace, owner });
}
