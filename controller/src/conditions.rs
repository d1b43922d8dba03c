//! From problems to the conditions of a status, as an API server keeps them (Gateway API's `Accepted` and `ResolvedRefs`,
//! for the mesh's own kinds too). Pure: what is there is compared with what should be, and only a difference is written.
//! Floor 1: imports `problem`.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use mesh_api::{model::ObjectRef, names, resources::ParentRef};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    problem::{Condition as Of, Problem, Reason, Severity},
    status::cut,
};

/// Most problems that one message tells, and its longest length in bytes.
const MAX_TOLD: usize = 5;
const MAX_MESSAGE: usize = 4096;

/// What an API server holds of an object whose status the controller writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// Group and version in which it is read; empty where that was not said.
    pub api_version: String,
    /// Counts changes of the spec.
    pub generation: i64,
    /// Version of the object: a write to another one is refused.
    pub version: String,
    /// Of a route: where it is attached.
    parents: Vec<ParentRef>,
    /// The part of the status that conditions stand in: `status.conditions`, or a route's `status.parents`.
    status: Vec<Value>,
}

impl Observed {
    /// Reads what is needed; what cannot be read is as if it were not there.
    #[must_use]
    pub fn read(value: &Value) -> Self {
        let list = |at: &str| value.pointer(at).and_then(Value::as_array);
        let status = list("/status/parents").or_else(|| list("/status/conditions"));
        let parents = list("/spec/parentRefs").into_iter().flatten();
        Self {
            api_version: value.get("apiVersion").and_then(Value::as_str).unwrap_or_default().to_owned(),
            generation: value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or_default(),
            version: value.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default().to_owned(),
            parents: parents.filter_map(|parent| ParentRef::deserialize(parent).ok()).collect(),
            status: status.cloned().unwrap_or_default(),
        }
    }
}

/// What an API server holds, of all objects whose status the controller writes: the source writes it, who reports reads.
#[derive(Debug, Default)]
pub struct Board {
    objects: Mutex<BTreeMap<ObjectRef, Observed>>,
    revision: AtomicU64,
}

impl Board {
    /// The object is there, as this.
    pub fn put(&self, object: ObjectRef, observed: Observed) {
        self.objects.lock().insert(object, observed);
        self.revision.fetch_add(1, Ordering::Relaxed);
    }

    /// The object was written, and is this now; nothing where it has gone meanwhile.
    pub fn replace(&self, object: &ObjectRef, observed: Observed) {
        if let Some(there) = self.objects.lock().get_mut(object) {
            *there = observed;
        }
    }

    /// The object is gone.
    pub fn remove(&self, object: &ObjectRef) {
        if self.objects.lock().remove(object).is_some() {
            self.revision.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Changes whenever an object comes, changes or goes.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// All of it.
    #[must_use]
    pub fn all(&self) -> Vec<(ObjectRef, Observed)> {
        self.objects.lock().iter().map(|(object, observed)| (object.clone(), observed.clone())).collect()
    }
}

/// One condition; the standard's `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    observed_generation: i64,
    #[serde(default)]
    last_transition_time: String,
}

/// The status that an object should have, where that is not the one it has: the body of a merge patch of its `status`
/// subresource. `problems` are all that are known of it, `now` is RFC 3339.
#[must_use]
pub fn patch(object: &ObjectRef, observed: &Observed, problems: &[&Problem], now: &str) -> Option<Value> {
    let (field, status) = if &*object.kind == "HTTPRoute" {
        ("parents", parents(observed, problems, now))
    } else {
        ("conditions", own(observed, problems, now))
    };
    // The version makes the write fail where somebody else wrote meanwhile: what they wrote is not lost.
    let patch = |status| json!({"metadata": {"resourceVersion": observed.version}, "status": {field: status}});
    (status != observed.status).then(|| patch(status))
}

/// Of the mesh's own kinds: two conditions, beside those of others.
fn own(observed: &Observed, problems: &[&Problem], now: &str) -> Vec<Value> {
    merged(&observed.status, conditions(observed, problems, false), now)
}

/// Of a route: an entry for each parent that is a Service, beside the entries of other controllers.
fn parents(observed: &Observed, problems: &[&Problem], now: &str) -> Vec<Value> {
    let is_own = |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) == Some(names::CONTROLLER_NAME);
    let mut entries: Vec<Value> = observed.status.iter().filter(|entry| !is_own(entry)).cloned().collect();
    for (at, parent) in observed.parents.iter().enumerate() {
        if parent.kind.as_deref() != Some("Service") {
            continue;
        }
        let reference = serde_json::to_value(parent).unwrap_or_default();
        let there = observed.status.iter().filter(is_own).find(|entry| entry.get("parentRef") == Some(&reference));
        let before = there.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
        let mine = format!("spec.parentRefs[{at}]");
        let about = |problem: &&&Problem| {
            !problem.field.starts_with("spec.parentRefs[") || problem.field.starts_with(mine.as_str())
        };
        let about: Vec<&Problem> = problems.iter().filter(about).copied().collect();
        let conditions = conditions(observed, &about, true);
        let conditions = merged(before.map(Vec::as_slice).unwrap_or_default(), conditions, now);
        let name = names::CONTROLLER_NAME;
        entries.push(json!({"parentRef": reference, "controllerName": name, "conditions": conditions}));
    }
    // As they stood, so that nothing is written for the order's sake.
    let place = |entry: &Value| observed.status.iter().position(|there| there == entry).unwrap_or(usize::MAX);
    entries.sort_by_key(place);
    entries
}

fn conditions(observed: &Observed, problems: &[&Problem], of_route: bool) -> Vec<Condition> {
    let errors = |of: Of| -> Vec<&Problem> {
        let errors = problems.iter().filter(|problem| problem.severity == Severity::Error);
        errors.filter(|problem| problem.reason.condition() == of).copied().collect()
    };
    let (mut accepted, unresolved) = (errors(Of::Accepted), errors(Of::ResolvedRefs));
    let partly: Vec<&Problem> = if of_route {
        accepted.extract_if(.., |problem| problem.reason == Reason::PartiallyInvalid).collect()
    } else {
        Vec::new()
    };
    let warnings: Vec<&Problem> = problems.iter().filter(|p| p.severity == Severity::Warning).copied().collect();
    let one = |kind: &str, status: bool, reason: &str, about: &[&Problem]| Condition {
        kind: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: told(about),
        observed_generation: observed.generation,
        last_transition_time: String::new(),
    };
    let why = |problems: &[&Problem], good: &str| {
        problems.first().map_or_else(|| good.to_owned(), |problem| reason(problem.reason, of_route).to_owned())
    };
    let mut out = vec![
        one(
            "Accepted",
            accepted.is_empty(),
            &why(&accepted, "Accepted"),
            if accepted.is_empty() { &warnings } else { &accepted },
        ),
        one("ResolvedRefs", unresolved.is_empty(), &why(&unresolved, "ResolvedRefs"), &unresolved),
    ];
    if !partly.is_empty() && accepted.is_empty() {
        out.push(one("PartiallyInvalid", true, "UnsupportedValue", &partly));
    }
    out
}

/// Reasons that Gateway API knows, of routes: others would surprise those who read it.
fn reason(reason: Reason, of_route: bool) -> &'static str {
    match reason {
        Reason::Invalid | Reason::TooLarge if of_route => Reason::UnsupportedValue.as_str(),
        other => other.as_str(),
    }
}

fn told(problems: &[&Problem]) -> String {
    let one = |problem: &&Problem| match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    };
    let mut text = problems.iter().take(MAX_TOLD).map(one).collect::<Vec<_>>().join("; ");
    if problems.len() > MAX_TOLD {
        text.push_str(&format!("; and {} more", problems.len() - MAX_TOLD));
    }
    cut(&text, MAX_MESSAGE).to_owned()
}

/// Conditions of the mesh in the place of those it wrote before, those of others as they are. The time of a condition is
/// when its status changed.
fn merged(before: &[Value], wanted: Vec<Condition>, now: &str) -> Vec<Value> {
    let kind_of = |value: &Value| value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut out: Vec<Value> = Vec::new();
    let mut wanted: BTreeMap<String, Condition> = wanted.into_iter().map(|one| (one.kind.clone(), one)).collect();
    for there in before {
        let kind = kind_of(there);
        let Some(mut new) = wanted.remove(&kind) else {
            if kind != "PartiallyInvalid" {
                out.push(there.clone());
            }
            continue;
        };
        let old = Condition::deserialize(there).ok().filter(|old| old.status == new.status);
        new.last_transition_time = match old {
            Some(old) if !old.last_transition_time.is_empty() => old.last_transition_time,
            _ => now.to_owned(),
        };
        out.extend(serde_json::to_value(new));
    }
    for (_, mut new) in wanted {
        now.clone_into(&mut new.last_transition_time);
        out.extend(serde_json::to_value(new));
    }
    out
}

#[cfg(test)]
mod tests;
