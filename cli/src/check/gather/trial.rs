//! Lets the API server try out a pod that wants a sidecar, without making it: the only way to see what the API server
//! itself gets from the webhook.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, Client, api::PostParams};
use mesh_api::names::{INJECT, SYSTEM_NAMESPACE};
use serde_json::json;

use super::api::missing;
use crate::check::{
    facts::{Fact, Fault, Missing, Trial},
    pods,
};

/// The webhook's own deadline, and some.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(35);
/// Name of the pod that is never made.
const NAME: &str = "meshctl-check-trial";

/// Tries.
pub async fn trial(client: &Client, namespaces: &[Namespace], scope: Option<&str>) -> Fact<Trial> {
    let Some(namespace) = choose(namespaces, scope) else {
        return Err(Missing::unasked("there is no namespace in which a trial pod would be let in"));
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod: Pod = match serde_json::from_value(json!({
        "metadata": {"name": NAME, "labels": {INJECT: "enabled"}},
        "spec": {
            "automountServiceAccountToken": false,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "trial",
                "image": "mesh.dev/trial",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })) {
        Ok(pod) => pod,
        Err(error) => return Err(Missing::unasked(&error.to_string())),
    };
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let what = format!("what becomes of a pod in {namespace}");
    match tokio::time::timeout(ANSWER, api.create(&params, &pod)).await {
        Err(_) => {
            let why = format!("the API server did not answer within {}s", ANSWER.as_secs());
            Err(Missing { what, fault: Fault::Server, why })
        }
        Ok(Ok(made)) => {
            let names: BTreeSet<String> = pods::containers(&made).map(|container| container.name.clone()).collect();
            Ok(Trial::Created(names))
        }
        // A webhook that does not answer is a 500; what is refused for its content a 4xx.
        Ok(Err(kube::Error::Api(status))) if !is_about_rights(&status.message) => Ok(Trial::Refused(status.message)),
        Ok(Err(error)) => Err(missing(&what, &error)),
    }
}

/// `... is forbidden: User "..." cannot create resource ...` is about rights; a quota or a policy says `is forbidden` too.
fn is_about_rights(message: &str) -> bool {
    message.contains("cannot create resource")
}

/// The namespace that was asked for, else one that wants sidecars and lets them in, else `default`.
fn choose(namespaces: &[Namespace], scope: Option<&str>) -> Option<String> {
    let fits = |namespace: &&Namespace| {
        let labels = namespace.metadata.labels.as_ref();
        let value = |key: &str| labels.and_then(|labels| labels.get(key)).map(String::as_str);
        let name = namespace.metadata.name.as_deref();
        namespace.metadata.deletion_timestamp.is_none()
            && !matches!(name, Some("kube-system" | SYSTEM_NAMESPACE))
            && !matches!(value("pod-security.kubernetes.io/enforce"), Some("baseline" | "restricted"))
            && scope.is_none_or(|scope| name == Some(scope))
    };
    let wants = |namespace: &&Namespace| {
        let labels = namespace.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(INJECT)).map(String::as_str) == Some("enabled")
    };
    let is_default = |namespace: &&Namespace| namespace.metadata.name.as_deref() == Some("default");
    let candidates: Vec<&Namespace> = namespaces.iter().filter(fits).collect();
    let chosen = candidates
        .iter()
        .copied()
        .find(|one| wants(one))
        .or_else(|| candidates.iter().copied().find(|one| is_default(one)));
    let chosen = chosen.or_else(|| scope.and(candidates.first().copied()));
    chosen.and_then(|namespace| namespace.metadata.name.clone())
}
