//! The mesh's own kinds as CustomResourceDefinitions, made from the table of their fields.
//!
//! Fields that the schema does not know are kept, not dropped (`x-kubernetes-preserve-unknown-fields`): an API server
//! that drops a mistyped field would change who may call whom without a word. The webhook refuses them by name, and where
//! there is none the controller does, and closes what a policy points at.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reference::{Field, KINDS, Kind, REQUIRED};
use crate::names;

/// Most entries of a list of policies' targets, and of every other list that the controller bounds.
const MAX_TARGETS: u32 = 64;
const MAX_ENTRIES: u32 = 256;
/// Largest weight.
const MAX_WEIGHT: u32 = 1_000_000;

/// The definition of every kind of the mesh's own, by its plural name.
#[must_use]
pub fn definitions() -> BTreeMap<String, Value> {
    let own = KINDS.iter().filter(|kind| kind.api_version == names::API_VERSION);
    own.map(|kind| (plural(kind.name), definition(kind))).collect()
}

/// As in paths of an API server: `authorizationpolicies`.
#[must_use]
pub fn plural(kind: &str) -> String {
    let lower = kind.to_ascii_lowercase();
    match lower.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{lower}s"),
    }
}

fn definition(kind: &Kind) -> Value {
    let plural = plural(kind.name);
    let version = names::API_VERSION.rsplit('/').next().unwrap_or_default();
    let schema = json!({
        "description": kind.meaning,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": Tree::of(kind.fields).schema(),
            "status": status(),
        },
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{}", names::GROUP),
            "labels": {"app.kubernetes.io/part-of": "mesh"},
            // With the definition every object of the kind would go.
            "annotations": {"helm.sh/resource-policy": "keep"},
        },
        "spec": {
            "group": names::GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": format!("{}List", kind.name),
                "plural": plural,
                "singular": kind.name.to_ascii_lowercase(),
                "categories": ["mesh"],
            },
            "versions": [{
                "name": version,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(kind.name),
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    })
}

fn columns(kind: &str) -> Vec<Value> {
    let column = |name: &str, kind: &str, path: &str| json!({"name": name, "type": kind, "jsonPath": path});
    let own: &[(&str, &str)] = match kind {
        "AuthorizationPolicy" => &[("Action", ".spec.action")],
        "TransportPolicy" => &[("Mode", ".spec.mode")],
        "ExternalWorkload" => &[("Address", ".spec.address"), ("Account", ".spec.serviceAccount")],
        _ => &[],
    };
    let mut columns: Vec<Value> = own.iter().map(|(name, path)| column(name, "string", path)).collect();
    for condition in ["Accepted", "ResolvedRefs"] {
        let path = format!(".status.conditions[?(@.type==\"{condition}\")].status");
        columns.push(column(condition, "string", &path));
    }
    columns.push(column("Age", "date", ".metadata.creationTimestamp"));
    columns
}

/// `metav1.Condition`, as every kind has it.
fn status() -> Value {
    json!({
        "description": "What the controller says of the object.",
        "type": "object",
        "properties": {
            "conditions": {
                "description": "`Accepted`: whether it is obeyed. `ResolvedRefs`: whether all that it refers to is there.",
                "type": "array",
                "maxItems": 16,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["type"],
                "items": {
                    "type": "object",
                    "required": ["lastTransitionTime", "message", "reason", "status", "type"],
                    "properties": {
                        "type": {"type": "string", "maxLength": 316},
                        "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                        "reason": {"type": "string", "minLength": 1, "maxLength": 1024},
                        "message": {"type": "string", "maxLength": 32768},
                        "observedGeneration": {"type": "integer", "format": "int64", "minimum": 0},
                        "lastTransitionTime": {"type": "string", "format": "date-time"},
                    },
                },
            },
        },
    })
}

/// Fields by the names on their paths.
#[derive(Debug, Default)]
struct Tree {
    field: Option<&'static Field>,
    children: BTreeMap<&'static str, Tree>,
}

impl Tree {
    fn of(fields: &'static [Field]) -> Self {
        let mut root = Self::default();
        for field in fields {
            let mut at = &mut root;
            for name in field.path.split('.').skip(1) {
                at = at.children.entry(name.trim_end_matches("[]")).or_default();
            }
            at.field = Some(field);
        }
        // What is like another field has its children.
        let like: Vec<_> = fields.iter().filter_map(|field| Some((field, field.ty.strip_prefix("as ")?))).collect();
        for (field, path) in like {
            let path = path.split('`').nth(1).unwrap_or_default();
            if let Some(other) = fields.iter().find(|other| other.path == path)
                && let Some(at) = root.at(field.path)
            {
                at.field = Some(other);
            }
        }
        root
    }

    fn at(&mut self, path: &str) -> Option<&mut Self> {
        path.split('.').skip(1).try_fold(self, |at, name| at.children.get_mut(name.trim_end_matches("[]")))
    }

    /// An object with the children as properties.
    fn schema(&self) -> Value {
        let properties: Map<String, Value> =
            self.children.iter().map(|(name, child)| ((*name).to_owned(), child.property(name))).collect();
        let is_required = |child: &Self| child.field.is_some_and(|field| field.default == REQUIRED);
        let required: Vec<&str> =
            self.children.iter().filter(|(_, child)| is_required(child)).map(|(name, _)| *name).collect();
        let mut schema =
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": properties});
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        schema
    }

    fn property(&self, name: &str) -> Value {
        let Some(field) = self.field else { return self.schema() };
        let mut schema = self.of_type(field, name);
        schema["description"] = description(field).into();
        schema
    }

    fn of_type(&self, field: &Field, name: &str) -> Value {
        let list = |items: Value| {
            let mut list = json!({"type": "array", "items": items});
            // What no policy and no address depends on has no bound of its own.
            if !field.path.starts_with("spec.run") && !field.path.starts_with("spec.upstreams") {
                list["maxItems"] = (if name == "targetRefs" { MAX_TARGETS } else { MAX_ENTRIES }).into();
            }
            list
        };
        match field.ty {
            "object" => self.schema(),
            "list" => list(self.schema()),
            "list of text" => list(json!({"type": "string"})),
            "list of numbers" => list(port()),
            // A text or an object: no type says both.
            "list of text or objects" => list(json!({"x-kubernetes-preserve-unknown-fields": true})),
            "map of text" => json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "true or false" => json!({"type": "boolean"}),
            "number" if name == "weight" => {
                json!({"type": "integer", "format": "int32", "minimum": 0, "maximum": MAX_WEIGHT})
            }
            "number" => port(),
            ty if ty.starts_with("port or ") => json!({"x-kubernetes-int-or-string": true}),
            ty if ty.starts_with('`') => {
                let known: Vec<&str> = ty.split('`').skip(1).step_by(2).collect();
                json!({"type": "string", "enum": known})
            }
            _ => json!({"type": "string"}),
        }
    }
}

fn port() -> Value {
    json!({"type": "integer", "format": "int32", "minimum": 1, "maximum": 65535})
}

fn description(field: &Field) -> String {
    match field.default {
        REQUIRED | "none" | "empty" => field.meaning.to_owned(),
        default => format!("{} Where it is not given: {default}.", field.meaning),
    }
}
