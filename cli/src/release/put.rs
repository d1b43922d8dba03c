//! Applies objects.

use serde_json::Value;

use super::{Site, order, wait};
use crate::{
    chart::{Object, object::Key},
    cluster::objects::RequestError,
    io::{Out, Tone},
};

/// How many objects met which fate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Came.
    pub created: usize,
    /// Became different.
    pub changed: usize,
    /// Stayed.
    pub unchanged: usize,
}

impl Count {
    fn add(&mut self, before: Option<&Value>, after: &Value) {
        let version = |value: &Value| value.pointer("/metadata/resourceVersion").cloned();
        match before {
            None => self.created += 1,
            Some(before) if version(before) == version(after) => self.unchanged += 1,
            Some(_) => self.changed += 1,
        }
    }

    /// For people.
    #[must_use]
    pub fn told(&self, what: &str) -> String {
        let Self { created, changed, unchanged } = self;
        format!("{what}: {created} created, {changed} changed, {unchanged} unchanged")
    }
}

/// Applies objects, in the order in which they need each other.
///
/// # Errors
/// [`RequestError`] of the first that fails; those before it are applied, and applying all of them again is safe.
pub async fn all(site: &Site, objects: &[Object]) -> Result<Count, RequestError> {
    let mut sorted: Vec<&Object> = objects.iter().collect();
    sorted.sort_by_key(|object| order::rank(&object.key));
    let mut count = Count::default();
    for object in sorted {
        let before = site.objects.get(&object.key).await?;
        let after = site.objects.apply(object, false).await?;
        count.add(before.as_ref(), &after);
    }
    Ok(count)
}

/// Applies kinds, and waits until the cluster serves them.
///
/// # Errors
/// Where one is not taken, or not served in time.
pub async fn kinds(site: &Site, kinds: &[Object], out: &mut Out) -> anyhow::Result<()> {
    if kinds.is_empty() {
        return Ok(());
    }
    let count = all(site, kinds).await?;
    out.toned(Tone::Plain, &count.told("kinds of mesh.dev"))?;
    let keys: Vec<Key> = kinds.iter().map(|object| object.key.clone()).collect();
    wait::quietly(site, &keys, wait::KINDS).await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_keeps_its_version_is_unchanged() {
        let at = |version: &str| json!({ "metadata": { "resourceVersion": version } });
        let mut count = Count::default();
        count.add(None, &at("1"));
        count.add(Some(&at("1")), &at("1"));
        count.add(Some(&at("1")), &at("2"));
        assert_eq!(count, Count { created: 1, changed: 1, unchanged: 1 });
    }
}
