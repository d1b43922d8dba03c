//! One object of a cluster, as a chart gives it.

use std::fmt;

use kube::core::GroupVersionKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Names an object in a cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Group and version, such as `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Namespace; empty for what has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// Group, version and kind.
    #[must_use]
    pub fn gvk(&self) -> GroupVersionKind {
        let (group, version) = self.api_version.split_once('/').unwrap_or(("", &self.api_version));
        GroupVersionKind::gvk(group, version, &self.kind)
    }

    /// True where both name the same object, in whatever version.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.gvk().group == other.gvk().group
            && (&self.kind, &self.namespace, &self.name) == (&other.kind, &other.namespace, &other.name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        write!(f, "{} {}{slash}{}", self.kind, self.namespace, self.name)
    }
}

/// An object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What names it.
    pub key: Key,
    /// All of it.
    pub value: Value,
}

impl Object {
    /// An object of a document.
    ///
    /// # Errors
    /// What is missing.
    pub fn new(value: Value) -> Result<Self, String> {
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = Key {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        };
        if key.api_version.is_empty() || key.kind.is_empty() || key.name.is_empty() {
            return Err("a document has no apiVersion, kind or name".to_owned());
        }
        Ok(Self { key, value })
    }

    /// A label.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.value.get("metadata")?.get("labels")?.get(name)?.as_str()
    }
}
