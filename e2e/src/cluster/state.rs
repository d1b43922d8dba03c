//! What is written down of a cluster, before anything of it is made: enough to remove it after any crash. Part of `cluster`.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    cgroup::Groups,
    plan::{Plan, SLOTS},
};

/// Settings of the whole machine that a cluster must leave as they are.
const SETTINGS: [&str; 6] = [
    "vm/overcommit_memory",
    "kernel/panic",
    "kernel/panic_on_oops",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
];

/// A cluster as it was begun.
#[derive(Clone, Debug)]
pub struct State {
    /// Its plan.
    pub plan: Plan,
    /// Its control groups.
    pub groups: Groups,
    /// Version of control groups, 1 or 2.
    pub version: u8,
    /// The machine's settings before.
    pub settings: BTreeMap<String, String>,
}

impl State {
    /// Writes it down.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn save(&self) -> Result<()> {
        let path = file(&self.plan.dir);
        let state = json!({
            "name": self.plan.name,
            "slot": self.plan.slot,
            "nodes": self.plan.nodes.len(),
            "cgroups": self.groups.dirs(),
            "cgroupVersion": self.version,
            "settings": self.settings,
        });
        fs::write(&path, format!("{state:#}\n")).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Reads what is written down of a cluster; nothing where nothing is.
    ///
    /// # Errors
    /// Where the file is damaged.
    pub fn load(base: &Path, name: &str) -> Result<Option<Self>> {
        let path = file(&base.join(name));
        if !path.is_file() {
            return Ok(None);
        }
        let read = || -> Result<Self> {
            let state: Value = serde_json::from_slice(&fs::read(&path)?)?;
            let number = |key: &str| -> Result<u8> {
                let number = state.get(key).and_then(Value::as_u64).with_context(|| format!("no {key}"))?;
                Ok(u8::try_from(number)?)
            };
            let list = state.get("cgroups").and_then(Value::as_array).context("no cgroups")?;
            let settings = state.get("settings").and_then(Value::as_object).into_iter().flatten();
            Ok(Self {
                plan: Plan::new(name, number("slot")?, number("nodes")?, base)?,
                groups: Groups::from_dirs(list.iter().filter_map(Value::as_str).map(PathBuf::from).collect()),
                version: number("cgroupVersion")?,
                settings: settings.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect(),
            })
        };
        read().map(Some).with_context(|| format!("{} is damaged; look for what is left, and remove it", path.display()))
    }

    /// Settings of the machine that are not what they were: name, before, now.
    #[must_use]
    pub fn changed_settings(&self) -> Vec<String> {
        let now = settings();
        self.settings
            .iter()
            .filter_map(|(name, before)| {
                let now = now.get(name)?;
                (now != before).then(|| format!("the setting {name} was {before} and is {now}"))
            })
            .collect()
    }
}

/// The machine's settings as they are.
#[must_use]
pub fn settings() -> BTreeMap<String, String> {
    let read = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    SETTINGS.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?.trim().to_owned()))).collect()
}

/// The lowest slot that no cluster has.
///
/// # Errors
/// Where all are taken.
pub fn free_slot(base: &Path) -> Result<u8> {
    let mut taken = Vec::new();
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        // A damaged one is its own cluster's trouble.
        if let Ok(Some(state)) = State::load(base, &entry.file_name().to_string_lossy()) {
            taken.push(state.plan.slot);
        }
    }
    match (0..SLOTS).find(|slot| !taken.contains(slot) && !Path::new(&format!("/sys/class/net/mesh-c{slot}")).exists())
    {
        Some(slot) => Ok(slot),
        None => bail!("there are {SLOTS} clusters on this machine already"),
    }
}

/// Keeps others from changing a cluster meanwhile; let go of when dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Removes its file as well. Those who wait for it notice.
    pub fn remove(self) {
        // What stays is an empty file.
        let _ = fs::remove_file(&self.path);
    }
}

/// Waits for the lock of a cluster.
///
/// # Errors
/// Where it cannot be had.
pub fn lock(base: &Path, name: &str) -> Result<Lock> {
    let path = base.join(format!(".{name}.lock"));
    let what = || format!("cannot lock {}", path.display());
    loop {
        fs::create_dir_all(base).with_context(what)?;
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).with_context(what)?;
        file.lock().with_context(what)?;
        // Whoever had it before may have removed the file: then this is a lock of nothing.
        let there = fs::metadata(&path).is_ok_and(|now| file.metadata().is_ok_and(|had| had.ino() == now.ino()));
        if there {
            return Ok(Lock { path, _file: file });
        }
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_lock_is_no_lock() {
        let base = tempfile::tempdir().unwrap();
        let first = lock(base.path(), "a").unwrap();
        let path = base.path().to_owned();
        let second = std::thread::spawn(move || lock(&path, "a").unwrap());
        first.remove();
        let second = second.join().unwrap();
        assert!(second.path.is_file());
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let base = tempfile::tempdir().unwrap();
        assert!(State::load(base.path(), "a").unwrap().is_none());
        let plan = Plan::new("a", 15, 2, base.path()).unwrap();
        fs::create_dir_all(&plan.dir).unwrap();
        let groups = Groups::from_dirs(vec!["/x/y".into()]);
        let state = State { plan: plan.clone(), groups, version: 1, settings: settings() };
        state.save().unwrap();
        let loaded = State::load(base.path(), "a").unwrap().unwrap();
        assert_eq!(loaded.plan, plan);
        assert_eq!(loaded.groups.dirs(), [Path::new("/x/y")]);
        assert!(loaded.changed_settings().is_empty());
        fs::write(plan.dir.join("cluster.json"), "{").unwrap();
        assert!(format!("{:#}", State::load(base.path(), "a").unwrap_err()).contains("damaged"));
    }
}
