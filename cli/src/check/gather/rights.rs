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

/// Verbs that an installation needs for each of them.
const VERBS: [&str; 3] = ["get", "create", "patch"];

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::chart::{Chart, MESH, Release};

    /// `Kind` to `kinds`, as the API names them.
    fn plural(kind: &str) -> String {
        let lower = kind.to_lowercase();
        match lower.strip_suffix('y') {
            Some(stem) => format!("{stem}ies"),
            None => format!("{lower}s"),
        }
    }

    #[test]
    fn every_kind_of_the_chart_is_asked_for() {
        let chart = Chart::carried(MESH).unwrap();
        let given = json!({
            "cni": {"enabled": true},
            "controlPlane": {"podDisruptionBudget": {"enabled": true}, "networkPolicy": {"enabled": true}},
            "ca": {"replicas": 2}, "controller": {"replicas": 2},
        });
        for object in chart.render(&given, &Release::default()).unwrap() {
            let key = object.key;
            let needed = (key.gvk().group, plural(&key.kind));
            let found = NEEDED.iter().find(|(group, resource, _)| *group == needed.0 && *resource == needed.1);
            assert!(found.is_some(), "{needed:?} is not asked for");
            assert_eq!(found.unwrap().2, !key.namespace.is_empty(), "{needed:?}");
        }
    }
}
