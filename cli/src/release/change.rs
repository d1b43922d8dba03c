//! What a change would change: each object as it is, and as it would be.

use serde::Serialize;
use serde_json::Value;

use super::{Site, diff};
use crate::{
    chart::{Object, object::Key, yaml},
    cluster::objects::RequestError,
    io::{Out, Tone, printable},
};

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It comes.
    Added,
    /// It becomes different.
    Changed,
    /// It goes.
    Removed,
}

/// What happens to one object.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// What.
    pub action: Action,
    /// To which.
    #[serde(flatten)]
    pub key: Key,
    /// How, as `diff -u` would show it; empty for what holds secrets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub diff: String,
}

/// What changes where `wanted` is applied and those of `known` that it does not have are removed.
///
/// # Errors
/// [`RequestError`].
pub async fn changes(site: &Site, wanted: &[Object], known: &[Key]) -> Result<Vec<Change>, RequestError> {
    let mut changes = Vec::new();
    for object in wanted {
        let key = object.key.clone();
        let (action, before, after) = match site.objects.get(&key).await? {
            None => (Action::Added, String::new(), plain(&object.value)),
            Some(live) => (Action::Changed, plain(&live), plain(&site.objects.apply(object, true).await?)),
        };
        if before != after {
            changes.push(Change { action, diff: shown(&key, &before, &after), key });
        }
    }
    for key in leftovers(wanted, known) {
        if let Some(live) = site.objects.get(&key).await? {
            changes.push(Change { action: Action::Removed, diff: shown(&key, &plain(&live), ""), key });
        }
    }
    Ok(changes)
}

/// Those of `known` that `wanted` does not have.
#[must_use]
pub fn leftovers(wanted: &[Object], known: &[Key]) -> Vec<Key> {
    let is_wanted = |key: &Key| wanted.iter().any(|object| object.key.is_same(key));
    known.iter().filter(|key| !is_wanted(key)).cloned().collect()
}

fn shown(key: &Key, before: &str, after: &str) -> String {
    if key.kind == "Secret" { String::new() } else { diff::unified(before, after) }
}

/// An object as text, without what the cluster keeps for itself.
fn plain(value: &Value) -> String {
    let mut value = value.clone();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        for own in ["managedFields", "resourceVersion", "uid", "generation", "creationTimestamp", "selfLink"] {
            metadata.remove(own);
        }
    }
    yaml::write(&value)
}

/// Shows changes to people.
///
/// # Errors
/// Where they cannot be printed.
pub fn show(changes: &[Change], out: &mut Out) -> std::io::Result<()> {
    for change in changes {
        let (tone, sign) = match change.action {
            Action::Added => (Tone::Good, "added"),
            Action::Changed => (Tone::Warn, "changed"),
            Action::Removed => (Tone::Bad, "removed"),
        };
        out.toned(tone, &format!("{sign:8} {}", change.key))?;
        // What comes or goes as a whole is known by its name.
        if change.action != Action::Changed {
            continue;
        }
        if change.diff.is_empty() {
            out.toned(Tone::Faint, "    its content is not shown")?;
        }
        for line in change.diff.lines() {
            let tone = match line.chars().next() {
                Some('+') => Tone::Good,
                Some('-') => Tone::Bad,
                Some('@') => Tone::Faint,
                _ => Tone::Plain,
            };
            out.toned(tone, &printable(&format!("    {line}")))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(kind: &str, name: &str) -> Object {
        Object::new(json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": name } })).unwrap()
    }

    #[test]
    fn what_the_cluster_keeps_for_itself_is_no_difference() {
        let one = json!({ "kind": "A", "metadata": { "name": "x", "uid": "1", "managedFields": [] }, "status": { "ready": 1 } });
        let two = json!({ "kind": "A", "metadata": { "name": "x", "uid": "2", "resourceVersion": "9" } });
        assert_eq!(plain(&one), plain(&two));
    }

    #[test]
    fn secrets_are_never_shown() {
        assert_eq!(shown(&object("Secret", "s").key, "a: 1\n", "a: 2\n"), "");
        assert!(shown(&object("ConfigMap", "s").key, "a: 1\n", "a: 2\n").contains("+a: 2"));
    }

    #[test]
    fn another_version_of_a_kind_is_the_same_object() {
        let mut old = object("ConfigMap", "kept").key;
        old.api_version = "v2".to_owned();
        let known = [old, object("ConfigMap", "gone").key];
        let left = leftovers(&[object("ConfigMap", "kept")], &known);
        assert_eq!(left, [object("ConfigMap", "gone").key]);
    }
}
