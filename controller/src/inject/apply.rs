//! Puts the parts into a pod.

use mesh_api::names;
use serde_json::{Map, Value};

use super::{
    Record, probes,
    sidecar::{DEFAULT_CONTAINER, Parts},
};

/// Fields of a container that the mesh sets or has set; anything else in its containers belongs to whoever wrote it.
const OWN_FIELDS: [&str; 19] = [
    "image",
    "imagePullPolicy",
    "command",
    "args",
    "workingDir",
    "ports",
    "envFrom",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
    "securityContext",
    "stdin",
    "stdinOnce",
    "tty",
    "volumeDevices",
];

/// The pod with the parts in it, in their places.
pub(super) fn apply(pod: &Value, parts: &Parts) -> Value {
    let mut changed = pod.clone();
    let before = Record::of(pod);
    // What is what would be put in now stays as it is: others may have added to it since.
    let fresh = before.as_ref().is_some_and(|before| before.hash == parts.record.hash);
    probes::put(&mut changed, &parts.record);
    let Some(pod) = changed.as_object_mut() else { return changed };
    edit_map(pod, "metadata", |metadata| mark(metadata, before.as_ref(), parts));
    edit_map(pod, "spec", |spec| {
        let mut mine = Mine { fresh, found: Vec::new() };
        mine.take(spec, "initContainers");
        mine.take(spec, "containers");
        let (init, proxy) = (mine.make(&parts.init), mine.make(&parts.proxy));
        if parts.record.native {
            edit_list(spec, "initContainers", |containers| drop(containers.splice(0..0, [init, proxy])));
        } else {
            // Whatever comes before the proxy needs a network without it.
            edit_list(spec, "initContainers", |containers| containers.push(init));
            edit_list(spec, "containers", |containers| containers.insert(0, proxy));
        }
        edit_list(spec, "volumes", |volumes| {
            match volumes.iter_mut().find(|volume| is_named(volume, names::IDENTITY_VOLUME)) {
                Some(_) if fresh => {}
                Some(volume) => parts.volume.clone_into(volume),
                None => volumes.insert(0, parts.volume.clone()),
            }
        });
    });
    changed
}

fn mark(metadata: &mut Map<String, Value>, before: Option<&Record>, parts: &Parts) {
    edit_map(metadata, "labels", |labels| {
        labels.insert(names::LABEL_INJECTED.into(), names::INJECTED_VALUE.into());
    });
    edit_map(metadata, "annotations", |annotations| {
        if before.is_some_and(|before| before.annotations.iter().any(|name| name == DEFAULT_CONTAINER)) {
            annotations.remove(DEFAULT_CONTAINER);
        }
        for (name, value) in &parts.annotations {
            annotations.insert((*name).into(), value.as_str().into());
        }
        let record = serde_json::to_string(&parts.record).unwrap_or_default();
        annotations.insert(names::ANNOTATION_INJECTION.into(), record.into());
    });
}

/// The mesh's containers of an earlier injection.
struct Mine {
    fresh: bool,
    found: Vec<Value>,
}

impl Mine {
    fn take(&mut self, spec: &mut Map<String, Value>, key: &str) {
        let Some(Value::Array(containers)) = spec.get_mut(key) else { return };
        let (mine, others): (Vec<_>, Vec<_>) = std::mem::take(containers)
            .into_iter()
            .partition(|one| is_named(one, names::INIT_CONTAINER) || is_named(one, names::PROXY_CONTAINER));
        *containers = others;
        self.found.extend(mine);
    }

    /// `wanted`, with what others added to the one that was there.
    fn make(&self, wanted: &Value) -> Value {
        let name = wanted.get("name").and_then(Value::as_str).unwrap_or_default();
        match self.found.iter().find(|one| is_named(one, name)) {
            None => wanted.clone(),
            Some(old) if self.fresh => old.clone(),
            Some(old) => renewed(old, wanted),
        }
    }
}

fn renewed(old: &Value, wanted: &Value) -> Value {
    let (Some(old), Some(wanted)) = (old.as_object(), wanted.as_object()) else { return wanted.clone() };
    let mut new: Map<String, Value> = old.clone();
    new.retain(|key, _| !OWN_FIELDS.contains(&key.as_str()));
    new.extend(wanted.clone());
    let variable = |entry: &Value| name_of(entry).starts_with(names::ENV_PREFIX);
    add_others(&mut new, old, "env", variable);
    let paths: Vec<&Value> = wanted
        .get("volumeMounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|one| one.get("mountPath"))
        .collect();
    let mounted = |mount: &Value| mount.get("mountPath").is_some_and(|path| paths.contains(&path));
    add_others(&mut new, old, "volumeMounts", |mount| is_named(mount, names::IDENTITY_VOLUME) || mounted(mount));
    new.into()
}

/// Entries of the old list that are not the mesh's.
fn add_others(new: &mut Map<String, Value>, old: &Map<String, Value>, key: &str, is_own: impl Fn(&Value) -> bool) {
    let others: Vec<Value> =
        old.get(key).and_then(Value::as_array).into_iter().flatten().filter(|one| !is_own(one)).cloned().collect();
    let wanted = new.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    // A container that the mesh gives no such list only has what others put there.
    let wanted: Vec<Value> = wanted.into_iter().filter(|one| is_own(one)).chain(others).collect();
    if wanted.is_empty() {
        new.remove(key);
    } else {
        new.insert(key.to_owned(), wanted.into());
    }
}

fn name_of(value: &Value) -> &str {
    value.get("name").and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn is_named(value: &Value, name: &str) -> bool {
    name_of(value) == name
}

/// Changes the map under `key`, made where there is none.
pub(super) fn edit_map(parent: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let mut map = match parent.remove(key) {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    change(&mut map);
    parent.insert(key.to_owned(), map.into());
}

/// Changes the list under `key`, made where there is none.
pub(super) fn edit_list(parent: &mut Map<String, Value>, key: &str, change: impl FnOnce(&mut Vec<Value>)) {
    let mut list = match parent.remove(key) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    change(&mut list);
    parent.insert(key.to_owned(), list.into());
}
