//! Removing from a fake cluster.

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::objects::Objects,
    query::fake::{self, Fake},
};

const AGENTS: &str = "/apis/apps/v1/namespaces/mesh-system/daemonsets/mesh-cni";
const ACCOUNT: &str = "/api/v1/namespaces/mesh-system/serviceaccounts/mesh-cni";
const WEBHOOK: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mesh";

/// A mesh whose agents are ready, or are not, to take the plugin away.
async fn mesh(ready: bool) -> (Fake, Site) {
    let fake = Fake::start().await;
    fake.serve(&[
        ("v1", "ServiceAccount", "serviceaccounts", true),
        ("v1", "Pod", "pods", true),
        ("apps/v1", "DaemonSet", "daemonsets", true),
        ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations", false),
    ]);
    let agents = json!({
        "metadata": { "name": "mesh-cni", "namespace": "mesh-system", "generation": 2 },
        "status": {
            "observedGeneration": 2, "desiredNumberScheduled": 2, "updatedNumberScheduled": 2,
            "numberAvailable": if ready { 2 } else { 1 },
        },
    });
    fake.object(AGENTS, &agents);
    fake.reply(Method::PATCH, AGENTS, 200, agents);
    for (path, name) in [(ACCOUNT, "mesh-cni"), (WEBHOOK, "mesh")] {
        fake.object(path, &json!({ "metadata": { "name": name } }));
    }
    fake.list("/api/v1/namespaces/mesh-system/pods", &[agent("near", true), agent("far", false)]);
    fake.forbid(&[]);
    let site = site(&fake);
    (fake, site)
}

fn site(fake: &Fake) -> Site {
    let cluster = fake.cluster();
    let objects = Objects::new(&cluster);
    Site { cluster, objects }
}

fn agent(node: &str, ready: bool) -> Value {
    json!({
        "metadata": { "name": format!("mesh-cni-{node}"), "namespace": "mesh-system" },
        "spec": {
            "nodeName": node,
            "containers": [{ "name": "cni", "env": [{ "name": "MESH_CNI_REMOVE_ON_EXIT", "value": "true" }] }],
        },
        "status": { "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    })
}

fn keys() -> [Key; 3] {
    [
        key("v1", "ServiceAccount", "mesh-system", "mesh-cni"),
        key("apps/v1", "DaemonSet", "mesh-system", "mesh-cni"),
        key("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", "mesh"),
    ]
}

#[tokio::test]
async fn agents_take_the_plugin_away_before_anything_goes() {
    let (fake, site) = mesh(true).await;
    all(&site, &keys(), false, &mut Out::to(std::io::sink())).await.unwrap();
    assert_eq!(fake.deleted(), [WEBHOOK, AGENTS, ACCOUNT]);
    let asked = fake.asked();
    let position = |method: Method| asked.iter().position(|one| one.method == method).unwrap();
    assert!(position(Method::PATCH) < position(Method::DELETE));
    let patch = &asked[position(Method::PATCH)].body;
    assert_eq!(patch["spec"]["template"]["spec"]["containers"][0]["env"][0]["name"], ON_EXIT);
}

#[tokio::test]
async fn a_node_that_would_keep_the_plugin_is_named_and_nothing_goes() {
    let (fake, site) = mesh(false).await;
    let short = Duration::from_millis(50);
    let error = within(&site, &keys(), false, short, &mut Out::to(std::io::sink())).await.unwrap_err();
    let said = format!("{error:#}");
    for part in ["nothing was removed", "nodes far, because", "1/2 ready", "kubectl delete node", "--force"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(fake.deleted(), [""; 0]);
    // By force it goes on.
    within(&site, &keys(), true, short, &mut Out::to(std::io::sink())).await.unwrap();
    assert_eq!(fake.deleted(), [WEBHOOK, AGENTS, ACCOUNT]);
}

#[tokio::test]
async fn the_right_to_prepare_the_agents_is_asked_for_before() {
    let (fake, site) = mesh(true).await;
    fake.forbid(&[("patch", "daemonsets")]);
    let error = permitted(&site, &keys(), false).await.unwrap_err().to_string();
    assert!(error.contains("nothing was changed") && error.contains("patch daemonsets.apps"), "{error}");
    permitted(&site, &keys(), true).await.unwrap();
    permitted(&site, &keys()[..1], false).await.unwrap();
    fake.forbid(&[("delete", "serviceaccounts")]);
    assert!(permitted(&site, &keys(), true).await.unwrap_err().to_string().contains("delete serviceaccounts"));
    // And where the cluster refuses all the same, that is said.
    fake.reply(Method::PATCH, AGENTS, 403, fake::status(403, "Forbidden", "you may not patch"));
    let error = all(&site, &keys(), false, &mut Out::to(std::io::sink())).await.unwrap_err();
    assert!(format!("{error:#}").contains("you may not patch"), "{error:#}");
    assert_eq!(fake.deleted(), [""; 0]);
}

#[test]
fn an_agent_keeps_the_plugin_unless_it_is_told_ready_and_stays() {
    let change = |change: &dyn Fn(&mut Value)| {
        let mut pod = agent("n", true);
        change(&mut pod);
        keeping(&[pod])
    };
    assert_eq!(change(&|_| ()), [""; 0]);
    assert_eq!(change(&|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")), ["n"]);
    assert_eq!(change(&|pod| pod["spec"]["containers"][0]["env"] = json!([])), ["n"]);
    // The one before it goes, the next is there.
    assert_eq!(keeping(&[agent("n", false), agent("n", true)]), [""; 0]);
}
