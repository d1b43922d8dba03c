//! What is installed, as the cluster keeps it: the ConfigMap `mesh-release` in the namespace of the control plane.

use anyhow::Context;
use mesh_api::names::{RELEASE_CONFIG_MAP, SYSTEM_NAMESPACE};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{VERSION, Wanted};
use crate::{
    chart::{Object, object::Key, yaml},
    cluster::objects::Objects,
};

/// Whether a release was brought to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was begun; whether everything stands is not known.
    Begun,
    /// Everything stood.
    Done,
}

/// One release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Version of the mesh.
    pub version: String,
    /// Counts up with every change.
    pub revision: u64,
    /// Whether it was brought to its end.
    pub state: State,
    /// Values on top of the chart's own.
    pub values: Value,
    /// The objects that it consists of; kinds are not among them.
    pub inventory: Vec<Key>,
    /// Objects of others that were begun before it, which it does not have, and which nobody has removed so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<Key>,
}

/// What is installed, and what was before it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// In force.
    pub current: Release,
    /// Its objects, as YAML.
    pub current_objects: String,
    /// The one before, to go back to.
    pub previous: Option<(Release, String)>,
}

/// Where the record is.
#[must_use]
pub fn key() -> Key {
    Key {
        api_version: "v1".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: SYSTEM_NAMESPACE.to_owned(),
        name: RELEASE_CONFIG_MAP.to_owned(),
    }
}

impl Record {
    /// What is installed; none where nothing is.
    ///
    /// # Errors
    /// Where the cluster does not say, or the record is not readable.
    pub async fn load(objects: &Objects) -> anyhow::Result<Option<Self>> {
        let Some(value) = objects.get(&key()).await? else { return Ok(None) };
        Self::read(&value).map(Some).with_context(|| format!("{} is not what meshctl wrote", key()))
    }

    fn read(value: &Value) -> anyhow::Result<Self> {
        let data = |name: &str| value.pointer("/data").and_then(|data| data.get(name)).and_then(Value::as_str);
        let current = data("current.json").context("current.json is missing")?;
        let previous = match data("previous.json") {
            None => None,
            Some(text) => {
                let release = serde_json::from_str(text).context("previous.json")?;
                Some((release, data("previous.yaml").unwrap_or_default().to_owned()))
            }
        };
        Ok(Self {
            current: serde_json::from_str(current).context("current.json")?,
            current_objects: data("current.yaml").unwrap_or_default().to_owned(),
            previous,
        })
    }

    /// A record of a release that begins, after `before`. A release that was never brought to its end is not one to go
    /// back to.
    #[must_use]
    pub fn begun(wanted: &Wanted, version: &str, values: Value, before: Option<Self>) -> Self {
        let inventory = inventory(wanted);
        let left = before.as_ref().map(|before| match before.current.state {
            // Its own objects are kept with it, as those of the release before.
            State::Done => before.current.leftovers.clone(),
            State::Begun => before.known(),
        });
        let leftovers = without(left.unwrap_or_default(), &inventory);
        let revision = before.as_ref().map_or(0, |before| before.current.revision) + 1;
        let previous = before.and_then(|before| match before.current.state {
            State::Done => Some((before.current, before.current_objects)),
            State::Begun => before.previous,
        });
        let current =
            Release { version: version.to_owned(), revision, state: State::Begun, values, inventory, leftovers };
        Self { current, current_objects: written(&wanted.objects), previous }
    }

    /// The same release once more: it is applied again.
    #[must_use]
    pub fn again(mut self, wanted: &Wanted) -> Self {
        let inventory = inventory(wanted);
        let left = [std::mem::take(&mut self.current.inventory), std::mem::take(&mut self.current.leftovers)].concat();
        self.current.state = State::Begun;
        self.current.leftovers = without(left, &inventory);
        self.current.inventory = inventory;
        self.current_objects = written(&wanted.objects);
        self
    }

    /// Every object that the release in force, or the one before it, has or had, or one that was begun between them.
    #[must_use]
    pub fn known(&self) -> Vec<Key> {
        let mut known = self.current.inventory.clone();
        let before = self.previous.iter().flat_map(|(previous, _)| &previous.inventory);
        for key in self.current.leftovers.iter().chain(before) {
            if !known.iter().any(|other| other.is_same(key)) {
                known.push(key.clone());
            }
        }
        known
    }

    /// The objects of the release before.
    ///
    /// # Errors
    /// Where there is none, or it is not readable.
    pub fn previous_objects(&self) -> anyhow::Result<(Release, Vec<Object>)> {
        let (release, text) = self.previous.as_ref().context("there is no release before this one to go back to")?;
        let documents = yaml::many(text).map_err(anyhow::Error::msg).context("the objects of the release before")?;
        let objects = documents.into_iter().filter(|document| !document.is_null()).map(Object::new);
        Ok((release.clone(), objects.collect::<Result<_, _>>().map_err(anyhow::Error::msg)?))
    }

    /// True where this program's version is the one that is installed.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.current.version == VERSION
    }

    /// Writes it down.
    ///
    /// # Errors
    /// Where the cluster does not take it.
    pub async fn save(&self, objects: &Objects) -> anyhow::Result<()> {
        let object = self.object().context("writing the release down")?;
        objects.apply(&object, false).await.context("cannot write down what is installed")?;
        Ok(())
    }

    fn object(&self) -> anyhow::Result<Object> {
        let mut data = serde_json::Map::new();
        data.insert("current.json".to_owned(), Value::from(serde_json::to_string_pretty(&self.current)?));
        data.insert("current.yaml".to_owned(), Value::from(self.current_objects.clone()));
        if let Some((release, text)) = &self.previous {
            data.insert("previous.json".to_owned(), Value::from(serde_json::to_string_pretty(release)?));
            data.insert("previous.yaml".to_owned(), Value::from(text.clone()));
        }
        let labels = json!({ "app.kubernetes.io/part-of": "mesh", "app.kubernetes.io/managed-by": "meshctl" });
        let metadata = json!({ "name": RELEASE_CONFIG_MAP, "namespace": SYSTEM_NAMESPACE, "labels": labels });
        Object::new(json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data }))
            .map_err(anyhow::Error::msg)
    }
}

fn inventory(wanted: &Wanted) -> Vec<Key> {
    wanted.objects.iter().map(|object| object.key.clone()).collect()
}

/// Those of `keys` that are not in `inventory`.
fn without(keys: Vec<Key>, inventory: &[Key]) -> Vec<Key> {
    keys.into_iter().filter(|key| !inventory.iter().any(|other| other.is_same(key))).collect()
}

/// Objects as one YAML text.
#[must_use]
pub fn written(objects: &[Object]) -> String {
    objects.iter().map(|object| format!("---\n{}", yaml::write(&object.value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(replicas: u64) -> Wanted {
        Wanted::rendered(&json!({ "ca": { "replicas": replicas } }), false, false).unwrap()
    }

    #[test]
    fn a_record_reads_back_with_its_objects() {
        let mut record = Record::begun(&wanted(1), "0.1.0", json!({}), None);
        record.current.state = State::Done;
        let second = Record::begun(&wanted(2), "0.1.1", json!({ "ca": { "replicas": 2 } }), Some(record));
        let object = second.object().unwrap();
        let size = object.value.to_string().len();
        assert!(size < 500_000, "{size} bytes; a ConfigMap holds a mebibyte");
        let again = Record::read(&object.value).unwrap();
        assert_eq!(again, second);
        assert_eq!(again.current.revision, 2);
        let (release, objects) = again.previous_objects().unwrap();
        assert_eq!(release.version, "0.1.0");
        assert_eq!(objects, wanted(1).objects);
        assert_eq!(second.known().len(), wanted(1).objects.len());
    }

    #[test]
    fn what_was_never_done_is_nothing_to_go_back_to() {
        let mut good = Record::begun(&wanted(1), "0.1.0", json!({}), None);
        good.current.state = State::Done;
        let broken = Record::begun(&wanted(2), "0.1.1", json!({}), Some(good));
        let third = Record::begun(&wanted(3), "0.1.2", json!({}), Some(broken));
        assert_eq!(third.previous.unwrap().0.version, "0.1.0");
        assert_eq!(third.current.revision, 3);
        let first = Record::begun(&wanted(1), "0.1.0", json!({}), None);
        assert!(first.previous_objects().is_err());
    }

    #[test]
    fn objects_of_a_failed_change_are_known_until_one_is_done() {
        let cni = json!({ "cni": { "enabled": true } });
        let more = Wanted::rendered(&cni, false, false).unwrap();
        let has = |record: &Record| record.known().iter().filter(|key| key.name == "mesh-cni").count();
        let mut a = Record::begun(&wanted(1), "0.1.0", json!({}), None);
        a.current.state = State::Done;
        let b = Record::begun(&more, "0.1.0", cni, Some(a));
        let kinds = has(&b);
        assert!(kinds > 1, "the plugin's agents are several objects");
        // Fails too, and does not have them; and once more, and is read back.
        let c = Record::begun(&wanted(2), "0.1.0", json!({}), Some(b));
        let d = Record::begun(&wanted(3), "0.1.0", json!({}), Some(c.clone()));
        let d = Record::read(&d.object().unwrap().value).unwrap();
        assert_eq!((has(&c), has(&d)), (kinds, kinds));
        assert_eq!(has(&d.clone().again(&wanted(3))), kinds);
        assert!(d.current.inventory.iter().all(|key| key.name != "mesh-cni"));
        // One that has them again has them once.
        assert_eq!(has(&Record::begun(&more, "0.1.0", json!({}), Some(d.clone()))), kinds);
        // Done, by an upgrade that removed them.
        let mut done = d;
        done.current.leftovers.clear();
        done.current.state = State::Done;
        assert_eq!(has(&Record::begun(&wanted(1), "0.1.0", json!({}), Some(done))), 0);
    }

    #[test]
    fn a_record_of_somebody_else_is_refused() {
        assert!(Record::read(&json!({ "data": { "current.json": "{}" } })).is_err());
        assert!(Record::read(&json!({})).is_err());
    }
}
