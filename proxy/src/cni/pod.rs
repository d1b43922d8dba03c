//! A pod, as much of it as is needed. Pure. Floor 0.

use std::collections::BTreeMap;

use mesh_api::names;
use serde::Deserialize;

use super::protocol::PodName;
use crate::redirect::Settings;

/// A pod, as the cluster tells of it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pod {
    /// Who it is.
    pub metadata: Metadata,
    /// How it is.
    pub status: Status,
}

/// Who a pod is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its unique id.
    pub uid: String,
    /// State of the list that it was in.
    pub resource_version: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// When it is to go, where it is.
    pub deletion_timestamp: Option<String>,
    /// To whom it belongs.
    pub owner_references: Vec<Owner>,
}

/// To whom a pod belongs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// True for the one that makes another where it is gone.
    pub controller: bool,
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// How far it is.
    pub phase: String,
    /// Its init containers.
    pub init_container_statuses: Vec<Container>,
}

/// How a container is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Container {
    /// Its name.
    pub name: String,
    /// How it is now.
    pub state: State,
    /// How it was before.
    pub last_state: State,
}

/// The state of a container.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct State {
    /// That it ended, where it did.
    pub terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Terminated {
    /// With which status.
    pub exit_code: i32,
}

/// What the injector left in [`names::ANNOTATION_INJECTION`], as far as it is needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Injection {
    /// Flags of `mesh-proxy redirect apply`.
    redirect: Vec<String>,
    /// True where no init container redirects.
    cni: bool,
}

/// What a pod says of its redirection cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pod is labelled `{label}`, but {0}: delete it, so that it is made and injected anew", label = names::LABEL_INJECTED)]
pub struct Unusable(String);

impl Pod {
    /// True where it is the pod that the runtime means. A static pod has another id in the cluster than on the node.
    #[must_use]
    pub fn is(&self, named: &PodName) -> bool {
        let file = self.metadata.annotations.get("kubernetes.io/config.hash");
        named.uid.as_ref().is_none_or(|uid| *uid == self.metadata.uid || Some(uid) == file)
    }

    /// True where it has a sidecar.
    #[must_use]
    pub fn is_injected(&self) -> bool {
        self.metadata.labels.get(names::LABEL_INJECTED).is_some_and(|value| value == names::INJECTED_VALUE)
    }

    /// How its connections are to be redirected; `None` where it has no sidecar.
    ///
    /// # Errors
    /// Where it has one, but does not say how.
    pub fn redirection(&self) -> Result<Option<Settings>, Unusable> {
        if !self.is_injected() {
            return Ok(None);
        }
        let injection = self.injection()?;
        match Settings::from_flags(&injection.redirect) {
            Ok(settings) => Ok(Some(settings)),
            Err(error) => Err(Unusable(format!("what its annotation says of redirection cannot be used: {error}"))),
        }
    }

    /// True where it has a sidecar, and leaves redirection to the plugin.
    #[must_use]
    pub fn relies_on_plugin(&self) -> bool {
        self.is_injected() && self.injection().is_ok_and(|injection| injection.cni)
    }

    fn injection(&self) -> Result<Injection, Unusable> {
        let Some(annotation) = self.metadata.annotations.get(names::ANNOTATION_INJECTION) else {
            return Err(Unusable(format!("has no annotation `{}`", names::ANNOTATION_INJECTION)));
        };
        serde_json::from_str(annotation).map_err(|error| Unusable(format!("its annotation cannot be read: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::redirect::Owner;

    fn pod(labels: serde_json::Value, annotations: serde_json::Value) -> Pod {
        let metadata = json!({ "name": "web", "uid": "u1", "labels": labels, "annotations": annotations });
        serde_json::from_value(json!({ "metadata": metadata, "spec": { "nodeName": "n" } })).unwrap()
    }

    #[test]
    fn a_pod_is_redirected_as_it_was_injected() {
        let injected = json!({ "mesh.dev/injected": "true" });
        let flags = r#"{"version":"1","cni":true,"redirect":["--proxy-uid=15400","--skip-inbound-ports=22,80-90"]}"#;
        let settings = pod(injected.clone(), json!({ "mesh.dev/injection": flags })).redirection().unwrap().unwrap();
        assert_eq!(settings.proxy, Owner::User(15400));
        assert_eq!(settings.skip_inbound_ports.len(), 2);
        assert_eq!(pod(json!({}), json!({ "mesh.dev/injection": flags })).redirection(), Ok(None));
        assert_eq!(pod(json!({ "mesh.dev/injected": "no" }), json!({})).redirection(), Ok(None));
        for annotations in [
            json!({}),
            json!({ "mesh.dev/injection": "" }),
            json!({ "mesh.dev/injection": "{}" }),
            json!({ "mesh.dev/injection": r#"{"redirect":["--proxy-uid","0"]}"# }),
            json!({ "mesh.dev/injection": r#"{"redirect":"--proxy-uid=1"}"# }),
        ] {
            let error = pod(injected.clone(), annotations.clone()).redirection().unwrap_err();
            assert!(error.to_string().contains("delete it"), "{annotations}: {error}");
        }
    }

    #[test]
    fn a_pod_is_the_one_that_is_meant() {
        let named =
            |uid: Option<&str>| PodName { namespace: "shop".into(), name: "web".into(), uid: uid.map(str::to_owned) };
        let plain = pod(json!({}), json!({}));
        assert!(plain.is(&named(None)) && plain.is(&named(Some("u1"))) && !plain.is(&named(Some("u2"))));
        assert!(pod(json!({}), json!({ "kubernetes.io/config.hash": "u2" })).is(&named(Some("u2"))));
    }
}
