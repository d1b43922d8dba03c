//! The runtime's requests, versions and errors: the Container Network Interface, 0.3.0 to 1.1.0. Pure. Floor 0.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Versions of the protocol that are spoken; in older ones plugins are not chained.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// An error as the protocol knows it: the runtime shows it, and takes the pod's network for not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// By what kind of thing it failed.
    pub kind: Kind,
    /// What failed and what to do about it.
    pub message: String,
}

/// Kinds of failures, with the protocol's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The version of the configuration is not known.
    Version = 1,
    /// The runtime called in a way that makes no sense.
    Environment = 4,
    /// A file or a namespace failed.
    Io = 5,
    /// Something cannot be read.
    Decode = 6,
    /// The configuration makes no sense.
    Configuration = 7,
    /// It may go better in a moment.
    TryAgain = 11,
    /// The pod is not redirected as it should be.
    Redirection = 100,
}

impl Failure {
    /// A failure.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// As it is written to standard output.
    #[must_use]
    pub fn to_json(&self, version: &str) -> Value {
        json!({ "cniVersion": version, "code": self.kind as u32, "msg": format!("mesh-cni: {}", self.message) })
    }
}

/// What the runtime asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// A pod's network is made.
    Add,
    /// It is taken away.
    Del,
    /// It should be as it was made.
    Check,
    /// Could a pod's network be made?
    Status,
    /// Leftovers are to go.
    Gc,
    /// Which versions are spoken?
    Version,
}

/// A request: what stands in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub command: Command,
    /// The pod's network namespace, where one is named.
    pub netns: Option<PathBuf>,
    /// The pod, where the runtime names one and it matters.
    pub pod: Option<PodName>,
}

/// Which pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id, or the mark of the file that a static pod was made from.
    pub uid: Option<String>,
}

impl Request {
    /// Reads the environment, given by `get`.
    ///
    /// # Errors
    /// [`Failure`] where it makes no sense.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let command = match get("CNI_COMMAND").unwrap_or_default().as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "STATUS" => Command::Status,
            "GC" => Command::Gc,
            "VERSION" => Command::Version,
            other => return Err(Failure::new(Kind::Environment, format!("CNI_COMMAND `{other}` is not known"))),
        };
        let netns = get("CNI_NETNS").filter(|path| !path.is_empty()).map(PathBuf::from);
        // Only what makes a network has to know whose: nothing keeps one from being taken away.
        let pod = match command {
            Command::Add | Command::Check => pod(&get("CNI_ARGS").unwrap_or_default())?,
            _ => None,
        };
        Ok(Self { command, netns, pod })
    }
}

/// The pod in `A=1;B=2`.
fn pod(arguments: &str) -> Result<Option<PodName>, Failure> {
    let pairs: BTreeMap<&str, &str> = arguments.split(';').filter_map(|pair| pair.split_once('=')).collect();
    let get = |key| pairs.get(key).copied().filter(|value| !value.is_empty()).map(str::to_owned);
    match (get("K8S_POD_NAMESPACE"), get("K8S_POD_NAME")) {
        (Some(namespace), Some(name)) => {
            let named = [&namespace, &name].into_iter().all(|text| is_name(text));
            let pod = PodName { namespace, name, uid: get("K8S_POD_UID") };
            if named { Ok(Some(pod)) } else { Err(Failure::new(Kind::Environment, "CNI_ARGS names no possible pod")) }
        }
        (None, None) => Ok(None),
        _ => Err(Failure::new(Kind::Environment, "CNI_ARGS names a pod by half")),
    }
}

/// True for what can be the name of an object, which becomes part of a path.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

/// The plugin's part of the node's configuration, with what the runtime adds to it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configuration {
    /// Version of the protocol.
    #[serde(rename = "cniVersion", default = "oldest")]
    pub version: String,
    /// What the plugins before have made.
    #[serde(rename = "prevResult", default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// How the cluster is spoken to: path of a kubeconfig on the node.
    pub kubeconfig: PathBuf,
    /// Namespaces whose pods are none of the mesh's business.
    #[serde(default)]
    pub exclude_namespaces: Vec<String>,
}

fn oldest() -> String {
    "0.1.0".into()
}

impl Configuration {
    /// Reads what came over standard input.
    ///
    /// # Errors
    /// [`Failure`] where it cannot be read, or is for another version.
    pub fn read(text: &str) -> Result<Self, Failure> {
        let read: Self = serde_json::from_str(text)
            .map_err(|error| Failure::new(Kind::Decode, format!("the configuration cannot be read: {error}")))?;
        if VERSIONS.contains(&read.version.as_str()) {
            return Ok(read);
        }
        let spoken = VERSIONS.join(", ");
        let message = format!("version {} of the configuration is not one of {spoken}", read.version);
        Err(Failure::new(Kind::Version, message))
    }
}

/// The answer to the question for versions.
#[must_use]
pub fn versions(asked: &str) -> Value {
    let version = if VERSIONS.contains(&asked) { asked } else { "1.1.0" };
    json!({ "cniVersion": version, "supportedVersions": VERSIONS })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(pairs: &[(&str, &str)]) -> Result<Request, Failure> {
        let pairs: BTreeMap<&str, &str> = pairs.iter().copied().collect();
        Request::read(|name| pairs.get(name).map(|value| (*value).to_owned()))
    }

    #[test]
    fn requests() {
        let arguments = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=a;\
                         K8S_POD_UID=11-22";
        let read = request(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/run/netns/x"), ("CNI_ARGS", arguments)]).unwrap();
        let pod = PodName { namespace: "shop".into(), name: "web-1".into(), uid: Some("11-22".into()) };
        assert_eq!(read, Request { command: Command::Add, netns: Some("/run/netns/x".into()), pod: Some(pod) });
        assert_eq!(request(&[("CNI_COMMAND", "DEL")]).unwrap().pod, None);
        for (arguments, why) in [
            ("K8S_POD_NAME=web", "by half"),
            ("K8S_POD_NAMESPACE=../x;K8S_POD_NAME=web", "no possible pod"),
            ("K8S_POD_NAMESPACE=x;K8S_POD_NAME=a?b", "no possible pod"),
        ] {
            let error = request(&[("CNI_COMMAND", "ADD"), ("CNI_ARGS", arguments)]).unwrap_err();
            assert!(error.kind == Kind::Environment && error.message.contains(why), "{error}");
        }
        assert!(request(&[("CNI_COMMAND", "DEL"), ("CNI_ARGS", "K8S_POD_NAME=web")]).is_ok());
        assert!(request(&[("CNI_COMMAND", "add")]).unwrap_err().message.contains("`add`"));
    }

    #[test]
    fn configurations() {
        let read = Configuration::read(r#"{"cniVersion":"1.0.0","name":"n","type":"mesh-cni","kubeconfig":"/k"}"#);
        assert_eq!(read.unwrap().kubeconfig, PathBuf::from("/k"));
        let error = Configuration::read(r#"{"cniVersion":"0.2.0","kubeconfig":"/k"}"#).unwrap_err();
        assert_eq!((error.kind as u32, error.to_json("1.0.0")["code"].as_u64()), (1, Some(1)));
        assert_eq!(Configuration::read(r#"{"kubeconfig":"/k"}"#).unwrap_err().kind, Kind::Version);
        assert_eq!(Configuration::read("{").unwrap_err().kind, Kind::Decode);
        assert_eq!(versions("0.4.0")["cniVersion"], "0.4.0");
        assert_eq!(versions("9.9.9")["cniVersion"], "1.1.0");
    }
}
