//! A map whose key cannot be without a namespace.

use std::collections::{BTreeMap, HashMap};

use mesh_api::model::Name;

/// By namespace, then by name.
#[derive(Clone, Debug)]
pub(super) struct Namespaced<T>(HashMap<Name, BTreeMap<Name, T>>);

impl<T> Default for Namespaced<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Namespaced<T> {
    pub(super) fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.0.get(namespace)?.get(name)
    }

    /// Replaces or, with `None`, removes; gives what was there.
    pub(super) fn set(&mut self, namespace: &Name, name: &Name, value: Option<T>) -> Option<T> {
        if let Some(value) = value {
            return self.0.entry(namespace.clone()).or_default().insert(name.clone(), value);
        }
        let inside = self.0.get_mut(namespace)?;
        let old = inside.remove(name);
        if inside.is_empty() {
            self.0.remove(namespace);
        }
        old
    }

    /// All of one namespace, by name.
    pub(super) fn within(&self, namespace: &str) -> impl Iterator<Item = (&Name, &T)> {
        self.0.get(namespace).into_iter().flatten()
    }

    /// All, in no order between namespaces.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Name, &T)> {
        self.0.iter().flat_map(|(namespace, inside)| inside.iter().map(move |(name, value)| (namespace, name, value)))
    }
}

/// A map from a key to many values, without empty entries.
#[derive(Clone, Debug)]
pub(super) struct Many<K, V>(HashMap<K, std::collections::BTreeSet<V>>);

impl<K, V> Default for Many<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

#[cfg(test)]
impl<T> Namespaced<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
impl<K, V> Many<K, V> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<K: std::hash::Hash + Eq + Clone, V: Ord> Many<K, V> {
    pub(super) fn add(&mut self, key: &K, value: V) {
        self.0.entry(key.clone()).or_default().insert(value);
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn of<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a V> + use<'a, K, V> {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &std::collections::BTreeSet<V>)> {
        self.0.iter()
    }
}
