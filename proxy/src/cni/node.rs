//! The agent's files on the node: the plugin's binary, its way to the cluster, its place in the configuration. Floor 2:
//! imports `conflist`, `credentials`.
//!
//! In this order, so that the runtime never finds a plugin that cannot work; taken away the other way round.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{
    PLUGIN,
    conflist::{self, Change, Files, Found},
    credentials::{Credentials, FILES, KUBECONFIG},
};

/// Folder beside the configuration, with the way to the cluster.
const FOLDER: &str = "mesh-cni.d";
/// Longest configuration, in bytes.
const LONGEST: u64 = 1024 * 1024;
/// Files of the configuration's folder that are looked at.
const MOST: usize = 1000;

/// Where things are on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The running program, which is also the plugin.
    pub program: PathBuf,
    /// The folder of plugins, as it is seen here.
    pub bin: PathBuf,
    /// The folder of configuration, as it is seen here.
    pub conf: PathBuf,
    /// The same folder, as the node sees it.
    pub conf_on_node: PathBuf,
    /// Namespaces whose pods are none of the mesh's business.
    pub exclude_namespaces: Vec<String>,
}

/// How things stand on the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The file that the plugin is in; `None` where the node has no network yet that it could stand behind.
    pub file: Option<String>,
    /// What had to be written.
    pub written: Vec<&'static str>,
}

/// A file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", path.display())]
pub struct NodeError {
    path: PathBuf,
    error: io::Error,
}

trait At<T> {
    fn at(self, path: &Path) -> Result<T, NodeError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, NodeError> {
        self.map_err(|error| NodeError { path: path.to_owned(), error })
    }
}

impl Node {
    /// Puts everything there that is not there as it should be.
    ///
    /// # Errors
    /// [`NodeError`]: what was done is done, and the next try goes on.
    pub fn put(&self, credentials: &Credentials) -> Result<Standing, NodeError> {
        let mut written = Vec::new();
        let plugin = self.bin.join(PLUGIN);
        if !same(&self.program, &plugin) {
            let mut program = File::open(&self.program).at(&self.program)?;
            replace(&plugin, 0o755, &mut program)?;
            written.push("plugin");
        }
        if self.put_credentials(credentials)? {
            written.push("credentials");
        }
        let file = match conflist::install(&self.files()?, &self.plugin()) {
            Found::Nothing => None,
            Found::There(file) => Some(file),
            Found::Missing(file, changes) => {
                self.change(changes)?;
                written.push("configuration");
                Some(file)
            }
        };
        Ok(Standing { file, written })
    }

    /// Takes everything away: pods start without redirection from then on.
    ///
    /// # Errors
    /// [`NodeError`]: what was done is done.
    pub fn remove(&self) -> Result<(), NodeError> {
        self.change(conflist::remove(&self.files()?))?;
        let folder = self.conf.join(FOLDER);
        for gone in [fs::remove_dir_all(&folder).at(&folder), fs::remove_file(self.bin.join(PLUGIN)).at(&self.bin)] {
            match gone {
                Err(failed) if failed.error.kind() != io::ErrorKind::NotFound => return Err(failed),
                _ => (),
            }
        }
        Ok(())
    }

    /// The plugin's part of the configuration.
    fn plugin(&self) -> Value {
        let kubeconfig = self.conf_on_node.join(FOLDER).join(KUBECONFIG);
        json!({ "type": PLUGIN, "kubeconfig": kubeconfig, "exclude_namespaces": self.exclude_namespaces })
    }

    fn put_credentials(&self, credentials: &Credentials) -> Result<bool, NodeError> {
        let folder = self.conf.join(FOLDER);
        fs::create_dir_all(&folder).at(&folder)?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).at(&folder)?;
        let kubeconfig = format!("{:#}\n", credentials.kubeconfig());
        let [roots, token] = FILES;
        let files = [
            (roots, credentials.roots.as_slice()),
            (token, credentials.token.as_bytes()),
            (KUBECONFIG, kubeconfig.as_bytes()),
        ];
        let mut written = false;
        for (name, mut content) in files {
            let path = folder.join(name);
            if fs::read(&path).ok().as_deref() != Some(content) {
                replace(&path, 0o600, &mut content)?;
                written = true;
            }
        }
        Ok(written)
    }

    /// The files that have to do with configuration.
    fn files(&self) -> Result<Files, NodeError> {
        let mut files = Files::new();
        for entry in fs::read_dir(&self.conf).at(&self.conf)?.take(MOST) {
            let entry = entry.at(&self.conf)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let matters = [".conf", ".conflist", ".json", conflist::PUT_ASIDE].iter().any(|end| name.ends_with(end));
            // One that goes, or cannot be read, is none for the runtime either.
            if matters && let Ok(text) = read(&entry.path()) {
                files.insert(name, text);
            }
        }
        Ok(files)
    }

    fn change(&self, changes: Vec<Change>) -> Result<(), NodeError> {
        for change in changes {
            match change {
                Change::Write(name, text) => {
                    let path = self.conf.join(&name);
                    let mode = fs::metadata(&path).map_or(0o600, |there| there.permissions().mode() & 0o777);
                    replace(&path, mode, &mut text.as_bytes())?;
                }
                Change::Rename(from, to) => {
                    let from = self.conf.join(from);
                    fs::rename(&from, self.conf.join(to)).at(&from)?;
                }
                Change::Delete(name) => {
                    let path = self.conf.join(name);
                    fs::remove_file(&path).at(&path)?;
                }
            }
        }
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// True where both files have the same content.
fn same(one: &Path, other: &Path) -> bool {
    let compare = || -> io::Result<bool> {
        let (mut one, mut other) = (File::open(one)?, File::open(other)?);
        if one.metadata()?.len() != other.metadata()?.len() {
            return Ok(false);
        }
        let (mut here, mut there) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let length = one.read(&mut here)?;
            let (Some(here), Some(there)) = (here.get(..length), there.get_mut(..length)) else { return Ok(false) };
            other.read_exact(there)?;
            if length == 0 || here != there {
                return Ok(length == 0);
            }
        }
    };
    compare().unwrap_or(false)
}

/// Writes a file: whoever reads it meanwhile finds the old one or the new one, whole.
fn replace(path: &Path, mode: u32, content: &mut dyn io::Read) -> Result<(), NodeError> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let new = path.with_file_name(format!(".{name}.mesh-new"));
    let mut written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        io::copy(content, &mut file)?;
        file.flush()?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().at(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;

    fn node(folder: &Path) -> Node {
        for name in ["bin", "conf"] {
            fs::create_dir(folder.join(name)).unwrap();
        }
        fs::write(folder.join("program"), vec![7; 200_000]).unwrap();
        Node {
            program: folder.join("program"),
            bin: folder.join("bin"),
            conf: folder.join("conf"),
            conf_on_node: "/etc/cni/net.d".into(),
            exclude_namespaces: vec!["mesh-system".into()],
        }
    }

    fn credentials(token: &str) -> Credentials {
        Credentials { host: "10.96.0.1".into(), port: 443, roots: b"roots".to_vec(), token: token.into() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn everything_is_put_there_once_and_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        let node = node(folder.path());
        let put = |token| node.put(&credentials(token)).unwrap();
        // No network yet: there is nothing to stand behind.
        assert_eq!(put("a"), Standing { file: None, written: vec!["plugin", "credentials"] });
        let list = node.conf.join("10-net.conflist");
        fs::write(&list, LIST).unwrap();
        fs::set_permissions(&list, fs::Permissions::from_mode(0o640)).unwrap();
        let file = Some("10-net.conflist".to_owned());
        assert_eq!(put("a"), Standing { file: file.clone(), written: vec!["configuration"] });
        assert_eq!(put("a"), Standing { file: file.clone(), written: vec![] });
        assert_eq!(put("b"), Standing { file: file.clone(), written: vec!["credentials"] });
        assert_eq!((mode(&list), mode(&node.bin.join(PLUGIN))), (0o640, 0o755));
        assert_eq!((mode(&node.conf.join(FOLDER)), mode(&node.conf.join(FOLDER).join("token"))), (0o700, 0o600));
        let text: Value = serde_json::from_str(&fs::read_to_string(&list).unwrap()).unwrap();
        assert_eq!(text["plugins"][1], node.plugin());
        let there = Credentials::from_kubeconfig(&node.conf.join(FOLDER).join(KUBECONFIG)).unwrap();
        assert_eq!(there, credentials("b"));
        // Somebody writes it anew, or the plugin is another.
        fs::write(&list, LIST).unwrap();
        fs::write(node.bin.join(PLUGIN), vec![7; 199_999]).unwrap();
        assert_eq!(put("b"), Standing { file, written: vec!["plugin", "configuration"] });
        node.remove().unwrap();
        node.remove().unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&fs::read_to_string(&list).unwrap()).unwrap()["plugins"],
            json!([{
                "type": "bridge"
            }])
        );
        assert_eq!(fs::read_dir(&node.bin).unwrap().count(), 0);
        assert_eq!(fs::read_dir(&node.conf).unwrap().count(), 1);
    }

    #[test]
    fn files_differ_by_their_last_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name| folder.path().join(name);
        let mut bytes = vec![1; 70_000];
        fs::write(path("a"), &bytes).unwrap();
        fs::write(path("b"), &bytes).unwrap();
        assert!(same(&path("a"), &path("b")));
        bytes[69_999] = 2;
        fs::write(path("b"), &bytes).unwrap();
        assert!(!same(&path("a"), &path("b")) && !same(&path("a"), &path("c")));
    }
}
