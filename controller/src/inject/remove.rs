//! The way back: what injection put in is taken out.

use mesh_api::names;
use serde_json::{Map, Value};

use super::{Record, apply::is_named, pod::Pod, probes, sidecar::DEFAULT_CONTAINER};

/// The pod without what injection put in. `None` where nothing of it is there.
#[must_use]
pub fn remove(pod: &Value) -> Option<Value> {
    if !Pod::new(pod).ok()?.is_injected() {
        return None;
    }
    let record = Record::of(pod).unwrap_or_default();
    let mut changed = probes::restored(pod).into_owned();
    if let Some(metadata) = changed.get_mut("metadata").and_then(Value::as_object_mut) {
        without_keys(metadata, "labels", &[names::LABEL_INJECTED]);
        let mut annotations = vec![names::ANNOTATION_INJECTION];
        if record.annotations.iter().any(|name| name == DEFAULT_CONTAINER) {
            annotations.push(DEFAULT_CONTAINER);
        }
        without_keys(metadata, "annotations", &annotations);
        let empty = metadata.is_empty();
        if empty && let Some(pod) = changed.as_object_mut() {
            pod.remove("metadata");
        }
    }
    if let Some(spec) = changed.get_mut("spec").and_then(Value::as_object_mut) {
        let containers = [names::INIT_CONTAINER, names::PROXY_CONTAINER];
        without_entries(spec, "initContainers", &containers);
        without_entries(spec, "containers", &containers);
        without_entries(spec, "volumes", &[names::IDENTITY_VOLUME]);
    }
    Some(changed)
}

fn without_keys(parent: &mut Map<String, Value>, key: &str, unwanted: &[&str]) {
    let Some(map) = parent.get_mut(key).and_then(Value::as_object_mut) else { return };
    map.retain(|name, _| !unwanted.contains(&name.as_str()));
    if map.is_empty() {
        parent.remove(key);
    }
}

fn without_entries(parent: &mut Map<String, Value>, key: &str, unwanted: &[&str]) {
    let Some(list) = parent.get_mut(key).and_then(Value::as_array_mut) else { return };
    list.retain(|entry| !unwanted.iter().any(|name| is_named(entry, name)));
    if list.is_empty() {
        parent.remove(key);
    }
}
