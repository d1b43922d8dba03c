//! Whether a pod is to have a sidecar, and which: the decision of the webhook itself, about a pod as it is now. Floor 0 of
//! `check`.

use k8s_openapi::api::core::v1::{Namespace, Pod};
use mesh_api::probe::Token;
use mesh_controller::inject::{self, Decision, Record, Settings};

use super::facts::Facts;

/// What becomes of a pod when it is made now.
#[derive(Clone, Debug, PartialEq)]
pub enum Wish {
    /// It gets a sidecar; whose word that is, and from what it is made.
    Sidecar(String, Box<Record>),
    /// It gets none; why.
    None(String),
    /// It is refused; why.
    Refused(String),
}

/// Decides about pods with the settings and the version of one cluster.
#[derive(Clone, Debug)]
pub struct Judge {
    settings: Settings,
    version: Option<inject::Version>,
}

impl Judge {
    /// With what is known of the cluster; where its settings are not, with the mesh's own.
    #[must_use]
    pub fn new(facts: &Facts) -> Self {
        let settings = facts.inject.as_ref().map_or_else(|_| Settings::default(), |settings| (**settings).clone());
        let version = facts.server.as_ref().ok().map(|server| server.version);
        Self {
            settings,
            version: version.map(|version| inject::Version { major: version.major, minor: version.minor }),
        }
    }

    /// Decides.
    #[must_use]
    pub fn of(&self, pod: &Pod, namespace: &Namespace) -> Wish {
        let namespace = inject::Namespace {
            name: namespace.metadata.name.clone().unwrap_or_default(),
            labels: namespace.metadata.labels.clone().unwrap_or_default(),
        };
        let pod = match serde_json::to_value(pod) {
            Ok(pod) => pod,
            Err(error) => return Wish::Refused(error.to_string()),
        };
        match inject::decide(&pod, None, &namespace, &self.settings, self.version, &Token::random()) {
            Decision::Inject(injection) => Wish::Sidecar(injection.because.message, Box::new(injection.record)),
            Decision::Leave(fault) => Wish::None(fault.message),
            Decision::Refuse(faults) => {
                Wish::Refused(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// What a pod says of its sidecar; none where it says nothing that can be read.
#[must_use]
pub fn record(pod: &Pod) -> Option<Record> {
    let annotation = pod.metadata.annotations.as_ref()?.get(mesh_api::names::ANNOTATION_INJECTION)?;
    serde_json::from_str(annotation).ok()
}
