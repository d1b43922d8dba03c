//! The folder in which one local mesh lives: who may use it, what lies where, and the file that says what runs.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::unistd::Uid;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Largest file that is read back, in bytes.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The system refuses.
    #[error("cannot use {path}: {error}; choose another folder with --state")]
    System {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Somebody else could read keys from it or put files into it.
    #[error("{0} belongs to another user or is open to others; remove it, or choose another folder with --state")]
    NotPrivate(PathBuf),
    /// Another process runs a mesh there.
    #[error("another mesh runs in {path} (process {pid}); stop it, or choose another folder with --state")]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The process that uses it.
        pid: String,
    },
    /// No mesh runs there.
    #[error("no mesh runs in {0}; start one with `meshctl up -f DIR`, or name its folder with --state")]
    NoMesh(PathBuf),
    /// A file is not what it should be.
    #[error("{path} cannot be understood: {reason}; stop the mesh and start it again")]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The folder of one local mesh.
#[derive(Clone, Debug)]
pub struct StateDir {
    root: PathBuf,
}

/// Held for as long as a mesh runs in a folder.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl StateDir {
    /// The folder that `flag` names, or the user's own: `$XDG_RUNTIME_DIR/mesh`, else `/tmp/mesh-UID`.
    #[must_use]
    pub fn choose(flag: Option<&Path>) -> PathBuf {
        let runtime = || std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        match flag {
            Some(path) => std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            None => match runtime() {
                Some(dir) => dir.join("mesh"),
                None => std::env::temp_dir().join(format!("mesh-{}", Uid::effective())),
            },
        }
    }

    /// Makes the folder and what belongs into it, for this user alone.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create(root: PathBuf) -> Result<Self, StateError> {
        make_private(&root)?;
        let state = Self { root };
        for folder in [state.ca(), state.tokens(), state.config(), state.logs(), state.workloads(), state.members()] {
            make_private(&folder)?;
        }
        Ok(state)
    }

    /// The folder of a mesh that was started already.
    ///
    /// # Errors
    /// [`StateError`], where no mesh runs there above all.
    pub fn of_running(root: PathBuf) -> Result<(Self, MeshFile), StateError> {
        let state = Self { root };
        let free = match OpenOptions::new().write(true).open(state.lock_file()) {
            Ok(file) => file.try_lock().is_ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(state.failed(&state.lock_file(), error)),
        };
        if free {
            return Err(StateError::NoMesh(state.root));
        }
        match state.read::<MeshFile>(&state.mesh_file())? {
            Some(mesh) => Ok((state, mesh)),
            None => Err(StateError::NoMesh(state.root)),
        }
    }

    /// Takes the folder for this process.
    ///
    /// # Errors
    /// [`StateError::InUse`] where another process has it.
    pub fn lock(&self) -> Result<Lock, StateError> {
        let path = self.lock_file();
        let failed = |error| self.failed(&path, error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = (&mut file).take(20).read_to_string(&mut pid);
                return Err(StateError::InUse { path: self.root.clone(), pid: pid.trim().to_owned() });
            }
            Err(fs::TryLockError::Error(error)) => return Err(failed(error)),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Lock { _file: file })
    }

    /// The folder itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keys and certificates of the authority.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// Join tokens.
    #[must_use]
    pub fn tokens(&self) -> PathBuf {
        self.root.join("tokens")
    }

    /// A configuration for each process.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// What each process printed.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Manifests of workloads that joined with `meshctl run`.
    #[must_use]
    pub fn workloads(&self) -> PathBuf {
        self.root.join("workloads")
    }

    /// Processes of workloads that joined with `meshctl run`.
    #[must_use]
    pub fn members(&self) -> PathBuf {
        self.root.join("members")
    }

    /// What runs.
    #[must_use]
    pub fn mesh_file(&self) -> PathBuf {
        self.root.join("mesh.json")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Writes a file so that a reader finds the old or the new one, never a part of it; for this user alone.
    ///
    /// # Errors
    /// [`StateError::System`].
    pub fn write(&self, path: &Path, content: &[u8]) -> Result<(), StateError> {
        let failed = |error| self.failed(path, error);
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.root).map_err(failed)?;
        file.write_all(content).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(())
    }

    /// Writes a value as JSON, as [`StateDir::write`] does.
    ///
    /// # Errors
    /// [`StateError::System`].
    pub fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(value).map_err(|error| self.failed(path, error.into()))?;
        text.push(b'\n');
        self.write(path, &text)
    }

    /// Reads a JSON file; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, StateError> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed(path, error)),
        };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| self.failed(path, error))?;
        let malformed =
            |error: serde_json::Error| StateError::Malformed { path: path.into(), reason: error.to_string() };
        serde_json::from_str(&text).map(Some).map_err(malformed)
    }

    #[expect(clippy::unused_self, reason = "an error of this folder")]
    fn failed(&self, path: &Path, error: io::Error) -> StateError {
        StateError::System { path: path.to_owned(), error }
    }
}

fn make_private(path: &Path) -> Result<(), StateError> {
    let failed = |error| StateError::System { path: path.to_owned(), error };
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(error) => return Err(failed(error)),
    }
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_dir() || found.uid() != Uid::effective().as_raw() {
        return Err(StateError::NotPrivate(path.to_owned()));
    }
    if found.mode() & 0o077 != 0 {
        // Ours, but open (made by hand, or by a test): closed before anything secret gets in.
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

/// `mesh.json`: what runs, for scripts and for the other commands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshFile {
    /// Process that runs the mesh.
    pub pid: u32,
    /// Version of the software.
    #[serde(default)]
    pub version: String,
    /// Its admin server.
    pub admin: SocketAddr,
    /// Folder of manifests.
    pub source: PathBuf,
    /// Trust domain.
    pub trust_domain: String,
    /// The certificate authority.
    pub ca: PartEntry,
    /// The controller.
    pub controller: PartEntry,
    /// Where traces are to be sent, and looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesEntry>,
    /// Every workload of the manifests.
    pub workloads: Vec<WorkloadEntry>,
}

/// A part of the control plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartEntry {
    /// Process; none while it is down.
    pub pid: Option<u32>,
    /// Admin server.
    pub admin: SocketAddr,
    /// gRPC service.
    pub address: SocketAddr,
}

/// The trace collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TracesEntry {
    /// OTLP over gRPC.
    pub otlp: SocketAddr,
    /// Page and JSON.
    pub page: SocketAddr,
}

/// A workload and its processes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkloadEntry {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Its sidecar, where it has one.
    pub sidecar: Option<SidecarEntry>,
    /// Its program, where the mesh runs it.
    pub app: Option<AppEntry>,
}

/// A sidecar.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SidecarEntry {
    /// Process; none while it is down.
    pub pid: Option<u32>,
    /// Admin server.
    pub admin: SocketAddr,
}

/// A program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AppEntry {
    /// Process; none while it is down.
    pub pid: Option<u32>,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_mesh_in_the_same_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::create(dir.path().join("mesh")).unwrap();
        let held = state.lock().unwrap();
        let error = StateDir::create(state.root().into()).unwrap().lock().unwrap_err();
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        state.lock().unwrap();
    }

    #[test]
    fn the_folder_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/mesh");
        fs::create_dir_all(&root).unwrap();
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
        let state = StateDir::create(root.clone()).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(state.tokens()).unwrap().mode() & 0o777, 0o700);
        state.write(&state.mesh_file(), b"x").unwrap();
        assert_eq!(fs::metadata(state.mesh_file()).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("mesh");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(StateDir::create(link), Err(StateError::NotPrivate(_))));
    }

    #[test]
    fn a_mesh_that_does_not_run_is_told_apart_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("mesh");
        assert!(matches!(StateDir::of_running(root.clone()), Err(StateError::NoMesh(_))));
        let state = StateDir::create(root.clone()).unwrap();
        let _held = state.lock().unwrap();
        assert!(matches!(StateDir::of_running(root.clone()), Err(StateError::NoMesh(_))));
        state.write(&state.mesh_file(), b"{").unwrap();
        assert!(matches!(StateDir::of_running(root), Err(StateError::Malformed { .. })));
    }
}
