//! Workloads that joined with `meshctl run`: each has a manifest, a token, and a file that its `meshctl run` holds
//! locked for as long as it lives.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::PathBuf,
};

use super::state::{StateDir, StateError, WorkloadEntry};

/// A registration. Dropping it removes it.
#[derive(Debug)]
pub struct Registration {
    paths: Paths,
    state: StateDir,
    _lock: File,
}

#[derive(Debug)]
struct Paths {
    lock: PathBuf,
    entry: PathBuf,
    manifest: PathBuf,
    token: PathBuf,
}

impl Paths {
    fn of(state: &StateDir, name: &str) -> Self {
        Self {
            lock: state.members().join(format!("{name}.lock")),
            entry: state.members().join(format!("{name}.json")),
            manifest: state.workloads().join(format!("{name}.yaml")),
            token: state.tokens().join(name),
        }
    }

    fn remove(&self) {
        for path in [&self.manifest, &self.entry, &self.token, &self.lock] {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Registration {
    /// Takes the name `NAMESPACE.NAME` for as long as this lives; nothing is registered yet.
    ///
    /// # Errors
    /// [`StateError::InUse`] where another process has that name.
    pub fn take(state: &StateDir, name: &str) -> Result<Self, StateError> {
        let paths = Paths::of(state, name);
        let failed = |error| StateError::System { path: paths.lock.clone(), error };
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&paths.lock)
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { paths, state: state.clone(), _lock: lock }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(StateError::InUse { path: paths.lock, pid: "of another `meshctl run`".into() })
            }
            Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Registers the objects of a manifest with the controller.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn register(&self, manifest: &str) -> Result<(), StateError> {
        self.state.write(&self.paths.manifest, manifest.as_bytes())
    }

    /// Takes the registration back, so that nobody new comes; the processes go on.
    pub fn unregister(&self) {
        let _ = std::fs::remove_file(&self.paths.manifest);
    }

    /// Says which processes run.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn running(&self, entry: &WorkloadEntry) -> Result<(), StateError> {
        self.state.write_json(&self.paths.entry, entry)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.paths.remove();
    }
}

/// Members that joined and live, and the names of those that died without saying so: what they left is removed.
#[must_use]
pub fn members(state: &StateDir) -> (Vec<WorkloadEntry>, Vec<String>) {
    let (mut joined, mut left) = (Vec::new(), Vec::new());
    for entry in std::fs::read_dir(state.members()).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".lock"))
        else {
            continue;
        };
        let paths = Paths::of(state, name);
        let dead = OpenOptions::new().write(true).open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if dead {
            left.push(name.to_owned());
            paths.remove();
        } else if let Ok(Some(entry)) = state.read(&paths.entry) {
            joined.push(entry);
        }
    }
    (joined, left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> WorkloadEntry {
        WorkloadEntry { namespace: "shop".into(), name: "web-1".into(), sidecar: None, app: None }
    }

    #[test]
    fn a_registration_lives_with_its_process() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path().join("mesh")).unwrap();
        let registration = Registration::take(&state, "shop.web-1").unwrap();
        assert!(matches!(Registration::take(&state, "shop.web-1"), Err(StateError::InUse { .. })));
        registration.register("manifest").unwrap();
        registration.running(&entry()).unwrap();
        assert_eq!(members(&state), (vec![entry()], vec![]));
        registration.unregister();
        assert!(!state.workloads().join("shop.web-1.yaml").exists());
        drop(registration);
        assert_eq!(members(&state), (vec![], vec![]));
    }

    #[test]
    fn what_a_killed_process_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path().join("mesh")).unwrap();
        for path in [state.members().join("shop.web-1.lock"), state.workloads().join("shop.web-1.yaml")] {
            std::fs::write(path, "").unwrap();
        }
        assert_eq!(members(&state), (vec![], vec!["shop.web-1".to_owned()]));
        assert!(!state.workloads().join("shop.web-1.yaml").exists());
    }
}
