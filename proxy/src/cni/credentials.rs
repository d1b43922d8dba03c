//! Where the cluster is, and how it is spoken to: a pod's own service account, or a kubeconfig on the node. Floor 0.
//!
//! The kubeconfig is written as JSON, which is YAML as well, and names its two other files by paths relative to itself: so
//! it means the same on the node and in the agent's container.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::{Value, json};

/// Where a service account is mounted into a pod.
pub const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Names of the files of a service account, and of those beside the kubeconfig.
pub const FILES: [&str; 2] = ["ca.crt", "token"];
/// Name of the kubeconfig.
pub const KUBECONFIG: &str = "kubeconfig";

/// Where the cluster is, and how it is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Name or address of the API server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// By which roots it is known: PEM.
    pub roots: Vec<u8>,
    /// Who asks.
    pub token: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

/// They cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The kubeconfig is not one.
    #[error("{} is no kubeconfig of the mesh's agent: {why}", path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// This is no pod.
    #[error("{0} is not set or cannot be read: this is meant to run in a pod")]
    NoPod(&'static str),
}

impl Credentials {
    /// Those of the pod that this runs in; `get` reads the environment, `account` is [`ACCOUNT`]. The cluster renews the
    /// token: whoever runs for long reads them again.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn of_pod(get: impl Fn(&str) -> Option<String>, account: &Path) -> Result<Self, CredentialsError> {
        const HOST: &str = "KUBERNETES_SERVICE_HOST";
        const PORT: &str = "KUBERNETES_SERVICE_PORT";
        let host = get(HOST).filter(|host| !host.is_empty()).ok_or(CredentialsError::NoPod(HOST))?;
        let port = get(PORT).and_then(|port| port.parse().ok()).ok_or(CredentialsError::NoPod(PORT))?;
        Self::read(host, port, [account.join(FILES[0]), account.join(FILES[1])])
    }

    fn read(host: String, port: u16, [roots, token]: [PathBuf; 2]) -> Result<Self, CredentialsError> {
        let read = |path: PathBuf| fs::read(&path).map_err(|error| CredentialsError::File { path, error });
        let roots = read(roots)?;
        let token = String::from_utf8_lossy(&read(token)?).trim().to_owned();
        Ok(Self { host, port, roots, token })
    }

    /// The kubeconfig, whose other files are [`FILES`] beside it.
    #[must_use]
    pub fn kubeconfig(&self) -> Value {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let name = "mesh-cni";
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": name,
                "cluster": { "server": format!("https://{host}:{}", self.port), "certificate-authority": FILES[0] },
            }],
            "users": [{ "name": name, "user": { "tokenFile": FILES[1] } }],
            "contexts": [{ "name": name, "context": { "cluster": name, "user": name } }],
            "current-context": name,
        })
    }

    /// Reads such a kubeconfig.
    ///
    /// # Errors
    /// [`CredentialsError`].
    pub fn from_kubeconfig(path: &Path) -> Result<Self, CredentialsError> {
        let text = fs::read(path).map_err(|error| CredentialsError::File { path: path.to_owned(), error })?;
        let wrong = |why: &str| CredentialsError::Kubeconfig { path: path.to_owned(), why: why.to_owned() };
        let file: File = serde_json::from_slice(&text).map_err(|error| wrong(&error.to_string()))?;
        let (Some(Named { cluster }), Some(NamedUser { user })) = (file.clusters.first(), file.users.first()) else {
            return Err(wrong("it has no cluster or no user"));
        };
        let server = cluster.server.strip_prefix("https://").ok_or_else(|| wrong("its server is not https"))?;
        let (host, port) = server.rsplit_once(':').ok_or_else(|| wrong("its server has no port"))?;
        let port = port.parse().map_err(|_| wrong("the port of its server is none"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let beside = |name: &Path| path.parent().unwrap_or(Path::new("/")).join(name);
        Self::read(host, port, [beside(&cluster.authority), beside(&user.token)])
    }
}

#[derive(Deserialize)]
struct File {
    clusters: Vec<Named>,
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct Named {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
    #[serde(rename = "certificate-authority")]
    authority: PathBuf,
}

#[derive(Deserialize)]
struct NamedUser {
    user: User,
}

#[derive(Deserialize)]
struct User {
    #[serde(rename = "tokenFile")]
    token: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), "roots").unwrap();
        fs::write(folder.path().join("token"), "secret\n").unwrap();
        for host in ["10.96.0.1", "fd00::1", "api.example.org"] {
            let get = |name: &str| Some(if name.ends_with("HOST") { host } else { "6443" }.to_owned());
            let own = Credentials::of_pod(get, folder.path()).unwrap();
            assert_eq!((own.port, own.token.as_str()), (6443, "secret"));
            let path = folder.path().join(KUBECONFIG);
            fs::write(&path, own.kubeconfig().to_string()).unwrap();
            assert_eq!(Credentials::from_kubeconfig(&path).unwrap(), own);
            assert!(!format!("{own:?}").contains("secret"));
        }
        fs::remove_file(folder.path().join("token")).unwrap();
        let error = Credentials::from_kubeconfig(&folder.path().join(KUBECONFIG)).unwrap_err();
        assert!(error.to_string().contains("token cannot be read"), "{error}");
        assert!(matches!(Credentials::of_pod(|_| None, folder.path()), Err(CredentialsError::NoPod(_))));
    }
}
