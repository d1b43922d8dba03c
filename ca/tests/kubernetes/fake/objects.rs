//! The objects of the API server, and what calls do with them.

use std::collections::{BTreeMap, HashMap};

use http::Method;
use serde_json::{Value, json};

use super::Mood;

/// Why a call is refused: code, reason, message.
pub(super) type Refusal = (u16, &'static str, String);

/// One object's place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<Place, Value>,
    pub(super) version: u64,
    pub(super) events: Vec<(u64, &'static str, Place, Value)>,
    pub(super) calls: Vec<(Method, String)>,
    pub(super) reviews: HashMap<String, Value>,
    /// By part of the path, perhaps after a method: `POST tokenreviews`.
    pub(super) moods: Vec<(String, Mood)>,
}

impl Place {
    pub(super) fn of(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    /// From a path; the name is empty for a whole kind.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/api/v1/").or_else(|| {
            let (_, rest) = path.strip_prefix("/apis/")?.split_once("/v1/")?;
            Some(rest)
        })?;
        match rest.split('/').collect::<Vec<_>>().as_slice() {
            ["namespaces", namespace, resource] => Some(Self::of(resource, namespace, "")),
            ["namespaces", namespace, resource, name] => Some(Self::of(resource, namespace, name)),
            [resource] => Some(Self::of(resource, "", "")),
            [resource, name] => Some(Self::of(resource, "", name)),
            _ => None,
        }
    }
}

impl State {
    pub(super) fn set(&mut self, place: &Place, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let kind = if self.objects.contains_key(place) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(place.clone(), object.clone());
        self.events.push((self.version, kind, place.clone(), object.clone()));
        object
    }

    pub(super) fn remove(&mut self, place: &Place) -> Option<Value> {
        let mut object = self.objects.remove(place)?;
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.events.push((self.version, "DELETED", place.clone(), object.clone()));
        Some(object)
    }

    fn is_terminating(&self, namespace: &str) -> Option<bool> {
        let found = self.objects.get(&Place::of("namespaces", "", namespace))?;
        Some(found["metadata"].get("deletionTimestamp").is_some())
    }

    /// What may be made there.
    fn admit(&self, place: &Place) -> Result<(), Refusal> {
        match self.is_terminating(&place.namespace) {
            None => Err((404, "NotFound", format!("namespaces \"{}\" not found", place.namespace))),
            Some(true) => {
                let why = format!(
                    "unable to create new content in namespace {} because it is being terminated",
                    place.namespace
                );
                Err((403, "Forbidden", why))
            }
            Some(false) => Ok(()),
        }
    }

    pub(super) fn act(&mut self, method: &Method, place: &Place, call: &Call) -> Result<(u16, Value), Refusal> {
        if place.resource == "tokenreviews" {
            return Ok((201, self.judge(&call.body)));
        }
        let missing = || (404, "NotFound", format!("{} \"{}\" not found", place.resource, place.name));
        let there = self.objects.get(place).cloned();
        match *method {
            Method::GET => there.map(|object| (200, object)).ok_or_else(missing),
            Method::POST => {
                self.admit(place)?;
                let named = Place { name: call.body["metadata"]["name"].as_str().unwrap().into(), ..place.clone() };
                if self.objects.contains_key(&named) {
                    return Err((409, "AlreadyExists", "it is there already".into()));
                }
                let mut object = call.body.clone();
                object["metadata"]["namespace"] = place.namespace.as_str().into();
                Ok((201, self.set(&named, object)))
            }
            Method::PUT => {
                let there = there.ok_or_else(missing)?;
                let (old, new) = (&there["metadata"]["resourceVersion"], &call.body["metadata"]["resourceVersion"]);
                if !new.is_null() && old != new {
                    return Err((409, "Conflict", "the object has been modified".into()));
                }
                Ok((200, self.set(place, call.body.clone())))
            }
            Method::DELETE => self.remove(place).map(|object| (200, object)).ok_or_else(missing),
            Method::PATCH => self.patch(place, there, call),
            _ => Err((405, "MethodNotAllowed", String::new())),
        }
    }

    fn patch(&mut self, place: &Place, there: Option<Value>, call: &Call) -> Result<(u16, Value), Refusal> {
        let apply = call.kind.contains("apply-patch");
        let Some(there) = there else {
            if !apply {
                return Err((404, "NotFound", "nothing to patch".into()));
            }
            self.admit(place)?;
            let mut object = call.body.clone();
            object["metadata"]["namespace"] = place.namespace.as_str().into();
            return Ok((201, self.set(place, object)));
        };
        let mut next = there.clone();
        if apply && !call.query.contains("force=true") && clashes(&there, &call.body) {
            return Err((409, "Conflict", "another manager has this field".into()));
        }
        merge(&mut next, &call.body);
        if next == there {
            return Ok((200, there));
        }
        if there["immutable"] == true && there["data"] != next["data"] {
            return Err((422, "Invalid", "field is immutable when `immutable` is set".into()));
        }
        Ok((200, self.set(place, next)))
    }

    fn judge(&self, review: &Value) -> Value {
        let unknown = json!({ "error": "[invalid bearer token, unknown]" });
        let token = review["spec"]["token"].as_str().unwrap_or_default();
        let ours = review["spec"]["audiences"] == json!(["mesh-ca"]);
        let known = if ours { self.reviews.get(token) } else { None };
        json!({
            "kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": {},
            "spec": review["spec"], "status": known.unwrap_or(&unknown),
        })
    }

    pub(super) fn selected(&self, kind: &Place, selector: Option<&str>) -> Vec<Value> {
        let all = self.objects.iter().filter(|(place, _)| fits(place, kind, selector));
        all.map(|(_, object)| object.clone()).collect()
    }
}

pub(super) fn fits(place: &Place, kind: &Place, selector: Option<&str>) -> bool {
    place.resource == kind.resource
        && (kind.namespace.is_empty() || place.namespace == kind.namespace)
        && selector.is_none_or(|name| place.name == name)
}

/// Somebody else's value stands where this one would.
fn clashes(there: &Value, patch: &Value) -> bool {
    match (there, patch) {
        (Value::Object(there), Value::Object(patch)) => {
            patch.iter().any(|(key, new)| there.get(key).is_some_and(|old| clashes(old, new)))
        }
        (Value::Null, _) => false,
        (old, new) => old != new,
    }
}

fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, new) in patch {
        if new.is_null() {
            object.as_object_mut().unwrap().remove(key);
        } else {
            merge(&mut object[key], new);
        }
    }
}

/// What came with a request.
pub(super) struct Call {
    pub(super) query: String,
    pub(super) kind: String,
    pub(super) body: Value,
}

impl Call {
    pub(super) fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.replace("%3D", "="))
    }

    pub(super) fn selector(&self) -> Option<String> {
        self.parameter("fieldSelector")?.strip_prefix("metadata.name=").map(ToOwned::to_owned)
    }
}
