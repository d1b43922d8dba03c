//! What the API server holds: the plan, what became of single objects, and what happened, for watches.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    objects::State,
    plan::{Kind, Plan},
};

/// Version of everything that was there at the start.
const FIRST: u64 = 1000;

/// The objects of one cluster.
#[derive(Debug)]
pub struct Store {
    plan: Plan,
    inner: Mutex<Inner>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Inner {
    version: u64,
    changed: HashMap<(Kind, usize), State>,
    /// Version, kind and line of every change.
    log: Vec<(u64, Kind, String)>,
    leases: HashMap<String, Value>,
}

impl Store {
    /// As planned.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let inner = Inner { version: FIRST, changed: HashMap::new(), log: Vec::new(), leases: HashMap::new() };
        Self { plan, inner: Mutex::new(inner), version: watch::Sender::new(FIRST) }
    }

    /// An endpoint of a service goes, or comes back: its slice, or its last pod, changes.
    pub fn change(&self, kind: Kind, number: usize) {
        self.alter(kind, number, |state| state.changes += 1);
    }

    /// A page of a kind: from an offset on, at most so many.
    #[must_use]
    pub fn page(&self, kind: Option<Kind>, start: usize, limit: usize) -> String {
        let inner = self.lock();
        let count = kind.map_or(0, |kind| self.plan.count(kind));
        let end = start.saturating_add(limit).min(count);
        let items = kind.into_iter().flat_map(|kind| (start..end).map(move |number| (kind, number)));
        let unchanged = State { version: FIRST, ..State::default() };
        let items = items.map(|(kind, number)| {
            let state = inner.changed.get(&(kind, number)).unwrap_or(&unchanged);
            self.plan.object(kind, number, state)
        });
        let next = if end < count { end.to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": inner.version.to_string(), "continue": next});
        let items: Vec<Value> = items.collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string()
    }

    /// What happened to a kind after a version, as lines of a watch; and the version of now.
    #[must_use]
    pub fn since(&self, kind: Option<Kind>, version: u64) -> (String, u64) {
        let inner = self.lock();
        let later = inner.log.iter().rev().take_while(|(at, ..)| *at > version);
        let mut lines: Vec<&str> =
            later.filter(|(_, of, _)| Some(*of) == kind).map(|(.., line)| line.as_str()).collect();
        lines.reverse();
        (lines.concat(), inner.version)
    }

    /// Tells when anything changes.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Writes the status of an object, of which there is one in each namespace; `None`: it is none of those.
    pub fn write_status(&self, plural: &str, namespace: &str, patch: &Value) -> Option<Value> {
        let kind = Kind::of(plural)?;
        let number = namespace.strip_prefix("ns-")?.parse().ok()?;
        let status = patch.get("status")?.clone();
        self.alter(kind, number, |state| state.status = Some(status));
        let inner = self.lock();
        Some(self.plan.object(kind, number, inner.changed.get(&(kind, number))?))
    }

    /// A lease, where there is one.
    #[must_use]
    pub fn lease(&self, name: &str) -> Option<Value> {
        self.lock().leases.get(name).cloned()
    }

    /// Makes or changes a lease.
    pub fn write_lease(&self, name: &str, patch: &Value) -> Value {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let lease = inner.leases.entry(name.to_owned()).or_insert_with(
            || json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}}),
        );
        for (field, value) in patch.get("spec").and_then(Value::as_object).into_iter().flatten() {
            lease["spec"][field] = value.clone();
        }
        lease["metadata"]["resourceVersion"] = version.to_string().into();
        lease.clone()
    }

    fn alter(&self, kind: Kind, number: usize, change: impl FnOnce(&mut State)) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let state = inner.changed.entry((kind, number)).or_default();
        change(state);
        state.version = version;
        let object = self.plan.object(kind, number, state);
        inner.log.push((version, kind, format!("{}\n", json!({"type": "MODIFIED", "object": object}))));
        drop(inner);
        self.version.send_replace(version);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_pages_and_tells_what_changed_since() {
        let store = Store::new(Plan { services: 5, per_namespace: 100 });
        let page = |start| serde_json::from_str::<Value>(&store.page(Some(Kind::Service), start, 3)).unwrap();
        assert_eq!(page(0)["metadata"]["continue"], "3");
        assert_eq!(page(3)["metadata"]["continue"], "");
        assert_eq!(page(3)["items"].as_array().unwrap().len(), 2);
        store.change(Kind::EndpointSlice, 2);
        store.change(Kind::Pod, 29);
        let (lines, version) = store.since(Some(Kind::EndpointSlice), FIRST);
        assert_eq!((lines.lines().count(), version), (1, FIRST + 2));
        assert!(store.since(Some(Kind::EndpointSlice), FIRST + 1).0.is_empty());
        assert!(store.since(None, FIRST).0.is_empty());
        let written = store.write_status("transportpolicies", "ns-0", &json!({"status": {"a": 1}})).unwrap();
        assert_eq!((&written["status"]["a"], &written["metadata"]["generation"]), (&json!(1), &json!(1)));
    }
}
