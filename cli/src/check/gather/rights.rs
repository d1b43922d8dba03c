//! Asks the API server what the user may do of what an installation needs.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use kube::{Api, Client, api::PostParams};
use mesh_api::names::SYSTEM_NAMESPACE;

use super::api::{all, asked};
use crate::check::facts::{Fact, Right};

/// What an installation consists of: group, resource, and whether it stands in the control plane's namespace.
pub const NEEDED: [(&str, &str, bool); 15] = [
    ("", "namespaces", false),
    ("apiextensions.k8s.io", "customresourcedefinitions", false),
    ("rbac.authorization.k8s.io", "clusterroles", false),
    ("rbac.authorization.k8s.io", "clusterrolebindings", false),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", false),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", false),
    ("", "serviceaccounts", true),
    ("", "configmaps", true),
    ("", "services", true),
    ("apps", "deployments", true),
    ("apps", "daemonsets", true),
    ("rbac.authorization.k8s.io", "roles", true),
    ("rbac.authorization.k8s.io", "rolebindings", true),
    ("policy", "poddisruptionbudgets", true),
    ("networking.k8s.io", "networkpolicies", true),
];

/// Verbs of server-side apply.
const VERBS: [&str; 2] = ["create", "patch"];

/// What is needed, and whether the user may.
pub async fn rights(client: &Client) -> Fact<Vec<Right>> {
    // Who may do everything is asked once.
    let everything = Right { verb: "*", group: "*", resource: "*", namespace: "", allowed: false };
    let everything = ask(client.clone(), everything).await?.allowed;
    let needed = NEEDED.iter().flat_map(|(group, resource, own)| {
        let namespace = if *own { SYSTEM_NAMESPACE } else { "" };
        VERBS.map(|verb| Right { verb, group, resource, namespace, allowed: everything })
    });
    let needed: Vec<Right> = needed.collect();
    if everything {
        return Ok(needed);
    }
    let mut rights: Vec<Right> =
        all(needed, |right| ask(client.clone(), right)).await.into_iter().collect::<Fact<_>>()?;
    rights.sort_by_key(|right| (right.namespace, right.group, right.resource, right.verb));
    Ok(rights)
}

async fn ask(client: Client, right: Right) -> Fact<Right> {
    let api: Api<SelfSubjectAccessReview> = Api::all(client);
    let attributes = ResourceAttributes {
        verb: Some(right.verb.into()),
        group: Some(right.group.into()),
        resource: Some(right.resource.into()),
        namespace: Some(right.namespace.into()).filter(|namespace: &String| !namespace.is_empty()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
    let review = SelfSubjectAccessReview { spec, ..Default::default() };
    let answer = asked("what you may do", api.create(&PostParams::default(), &review)).await?;
    Ok(Right { allowed: answer.status.is_some_and(|status| status.allowed), ..right })
}
