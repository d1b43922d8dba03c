//! Each judge against a cluster on which one thing is broken. A table a floor: what is broken, which check says so, how it
//! ends, and words that its reader needs.

use std::collections::BTreeSet;

use k8s_openapi::jiff::Timestamp;
use mesh_api::names::{API_VERSION, GATEWAY_API_VERSION};
use mesh_controller::{
    problem::{Condition as Of, Severity},
    status::{KeyStatus, ProblemView, Refusal},
};
use serde_json::json;

use super::fixtures::*;
use crate::check::{
    catalog::{CHECKS, Stage},
    facts::{Clock, Condition, Facts, Fault, Missing, Right, Trial},
    report::Report,
    verdict::{Outcome, Verdict},
};

type Case = (&'static str, fn(&mut Facts), &'static str, Outcome, &'static [&'static str]);

fn verdict_of(facts: &Facts, name: &str) -> Verdict {
    let check = CHECKS.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no check {name}"));
    (check.judge)(facts)
}

fn hold(cases: &[Case]) {
    for (what, change, check, outcome, words) in cases {
        let mut facts = healthy();
        change(&mut facts);
        let verdict = verdict_of(&facts, check);
        assert_eq!(verdict.outcome, *outcome, "{what}: {verdict:?}");
        let text = format!("{} | {} | {}", verdict.summary, verdict.details.join(" | "), verdict.hint);
        for word in *words {
            assert!(text.contains(word), "{what}: no `{word}` in: {text}");
        }
        let judged = *outcome >= Outcome::Warning;
        assert_eq!(judged, !verdict.hint.is_empty(), "{what}: what is wrong has a hint, else there is none: {verdict:?}");
    }
}

const OK: Outcome = Outcome::Ok;
const SKIP: Outcome = Outcome::Skipped;
const WARN: Outcome = Outcome::Warning;
const ERR: Outcome = Outcome::Error;

#[test]
fn where_all_is_well_every_check_says_so() {
    let facts = healthy();
    for stage in [Stage::Installed, Stage::Proxies] {
        let report = Report::judge(&facts, stage);
        let other: Vec<_> = report.checks.iter().filter(|line| line.verdict.outcome != OK).map(|line| line.name).collect();
        // The plugin is not used there.
        assert_eq!(other, ["cni-nodes"], "{report:#?}");
        assert!(report.is_good());
    }
}

#[test]
fn a_cluster_without_the_mesh_is_blamed_once() {
    let mut facts = healthy();
    facts.deployments = Ok(Vec::new());
    facts.system_pods = Ok(Vec::new());
    facts.replicas.clear();
    facts.groups.as_mut().unwrap().remove("mesh.dev");
    let report = Report::judge(&facts, Stage::Installed);
    let bad: Vec<_> = report.checks.iter().filter(|line| line.verdict.outcome >= WARN).map(|line| line.name).collect();
    assert_eq!(bad, ["control-plane-deployments", "control-plane-crds"]);
}

#[test]
fn what_could_not_be_looked_at_is_never_well() {
    let with = |fault| Missing { what: "the pods".into(), fault, why: "no".into() };
    let outcomes = [Fault::Unasked, Fault::Rights, Fault::Server, Fault::Mesh].map(|fault| with(fault).verdict().outcome);
    assert_eq!(outcomes, [SKIP, WARN, ERR, ERR]);
    let mut facts = healthy();
    facts.pods = Err(with(Fault::Rights));
    facts.namespaces = Err(with(Fault::Server));
    for name in ["pods-injected", "pods-excluded", "pods-admitted", "proxies-running", "proxies-connected", "trust-bundles"] {
        assert!(verdict_of(&facts, name).outcome >= WARN, "{name}");
    }
}

#[test]
fn the_cluster() {
    fn version(facts: &mut Facts, minor: u32) {
        facts.server.as_mut().unwrap().version.minor = minor;
    }
    fn node(facts: &mut Facts, change: fn(&mut k8s_openapi::api::core::v1::NodeSystemInfo)) {
        let status = facts.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
        change(status.node_info.as_mut().unwrap());
    }
    fn foreign(facts: &mut Facts, policy: &str, there: bool) {
        let mut hook = hooks("");
        hook["metadata"]["name"] = "istio-sidecar-injector".into();
        hook["webhooks"][0]["failurePolicy"] = policy.into();
        hook["webhooks"][0]["clientConfig"]["service"] = json!({"name": "istiod", "namespace": "istio-system"});
        facts.mutating.as_mut().unwrap().push(of(hook));
        facts.webhook_services.insert("istio-system/istiod".into(), Ok(there));
    }
    hold(&[
        ("too old", |f| version(f, 20), "api-version", ERR, &["1.20", "upgrade"]),
        ("no native sidecars", |f| version(f, 28), "api-version", WARN, &["native sidecars", "Jobs"]),
        (
            "this clock is off",
            |f| f.server.as_mut().unwrap().clock = Some(Clock { ahead_ms: 90_000, slack_ms: 500 }),
            "api-clock",
            WARN,
            &["90s ahead of"],
        ),
        ("no clock", |f| f.server.as_mut().unwrap().clock = None, "api-clock", SKIP, &[]),
        (
            "a slow answer proves nothing",
            |f| f.server.as_mut().unwrap().clock = Some(Clock { ahead_ms: 6_000, slack_ms: 4_000 }),
            "api-clock",
            OK,
            &[],
        ),
        ("no nodes", |f| f.nodes = Ok(Vec::new()), "nodes", ERR, &["no nodes"]),
        (
            "a node is down",
            |f| {
                let status = f.nodes.as_mut().unwrap()[0].status.as_mut().unwrap();
                let condition = &mut status.conditions.as_mut().unwrap()[0];
                condition.status = "Unknown".into();
                condition.message = Some("Kubelet stopped posting".into());
            },
            "nodes",
            WARN,
            &["node-1 is not ready", "Kubelet stopped posting"],
        ),
        ("Windows", |f| node(f, |info| info.operating_system = "windows".into()), "nodes", WARN, &["windows"]),
        ("processor", |f| node(f, |info| info.architecture = "s390x".into()), "nodes", ERR, &["s390x"]),
        ("kernel", |f| node(f, |info| info.kernel_version = "4.18.0-553.el8".into()), "nodes", ERR, &["4.18", "5.2"]),
        ("odd kernel", |f| node(f, |info| info.kernel_version = "custom".into()), "nodes", OK, &[]),
        (
            "a node's clock is late",
            |f| {
                let renewed: Timestamp = "2026-06-01T11:58:00Z".parse().unwrap();
                let spec = f.node_leases.as_mut().unwrap()[0].spec.as_mut().unwrap();
                spec.renew_time.as_mut().unwrap().0 = renewed;
            },
            "node-clocks",
            ERR,
            &["node-1", "115s behind", "NTP"],
        ),
        ("no leases", |f| f.node_leases = Ok(Vec::new()), "node-clocks", SKIP, &[]),
        (
            "no Gateway API",
            |f| drop(f.groups.as_mut().unwrap().remove("gateway.networking.k8s.io")),
            "gateway-api",
            OK,
            &["not installed", "fine"],
        ),
        (
            "an old Gateway API",
            |f| {
                let groups = f.groups.as_mut().unwrap();
                groups.insert("gateway.networking.k8s.io".into(), vec!["v1beta1".into()]);
            },
            "gateway-api",
            WARN,
            &["v1beta1", "reads v1"],
        ),
        (
            "a Gateway API without routes",
            |f| drop(f.kinds.insert(GATEWAY_API_VERSION, Ok(vec!["Gateway".into()]))),
            "gateway-api",
            WARN,
            &["without HTTPRoute"],
        ),
        (
            "leftover kinds",
            |f| drop(f.groups.as_mut().unwrap().insert("networking.istio.io".into(), vec!["v1".into()])),
            "other-meshes",
            WARN,
            &["Istio", "networking.istio.io", "CRDs"],
        ),
        ("another mesh", |f| foreign(f, "Fail", true), "other-meshes", WARN, &["istio-sidecar-injector changes pods"]),
        ("its remains block", |f| foreign(f, "Fail", false), "other-meshes", ERR, &["is gone", "kubectl delete"]),
        ("its remains do not", |f| foreign(f, "Ignore", false), "other-meshes", WARN, &["is gone"]),
        (
            "a group that only looks alike",
            |f| drop(f.groups.as_mut().unwrap().insert("notistio.io".into(), vec!["v1".into()])),
            "other-meshes",
            OK,
            &[],
        ),
    ]);
}

#[test]
fn before_an_installation() {
    hold(&[
        (
            "rights are missing",
            |f| {
                f.rights = Ok(vec![Right {
                    verb: "create",
                    group: "rbac.authorization.k8s.io",
                    resource: "clusterroles",
                    namespace: "",
                    allowed: false,
                }]);
            },
            "install-rights",
            ERR,
            &["create clusterroles.rbac.authorization.k8s.io in the cluster", "cluster-admin"],
        ),
        ("installed already", |_| {}, "install-leftovers", OK, &["meshctl upgrade"]),
        ("webhooks are left over", |f| f.deployments = Ok(Vec::new()), "install-leftovers", ERR, &["kubectl delete"]),
        (
            "nothing is left",
            |f| {
                f.deployments = Ok(Vec::new());
                f.mutating = Ok(Vec::new());
                f.validating = Ok(Vec::new());
            },
            "install-leftovers",
            OK,
            &["nothing is left"],
        ),
        (
            "the namespace is going",
            |f| {
                let own = f.namespaces.as_mut().unwrap().iter_mut();
                let mut own = own.filter(|one| one.metadata.name.as_deref() == Some("mesh-system"));
                own.next().unwrap().metadata.deletion_timestamp = Some(of(json!(NOW)));
            },
            "install-leftovers",
            ERR,
            &["being deleted"],
        ),
    ]);
}

#[test]
fn the_control_plane() {
    fn status(facts: &mut Facts, change: fn(&mut k8s_openapi::api::apps::v1::DeploymentStatus)) {
        change(facts.deployments.as_mut().unwrap()[1].status.as_mut().unwrap());
    }
    fn pod(facts: &mut Facts, path: &str, value: serde_json::Value) {
        let mut pod = system_pod("mesh-ca-1", "mesh-ca", "node-1");
        *pod.pointer_mut(path).unwrap() = value;
        facts.system_pods.as_mut().unwrap()[0] = of(pod);
    }
    hold(&[
        ("one is not there", |f| drop(f.deployments.as_mut().unwrap().remove(0)), "control-plane-deployments", ERR, &["mesh-ca is not there"]),
        (
            "none is available",
            |f| {
                status(f, |status| {
                    status.available_replicas = None;
                    status.conditions = of(json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]));
                });
            },
            "control-plane-deployments",
            ERR,
            &["mesh-controller: 0 of 1 replica available: exceeded quota"],
        ),
        (
            "some are available",
            |f| f.deployments.as_mut().unwrap()[1].spec.as_mut().unwrap().replicas = Some(3),
            "control-plane-deployments",
            WARN,
            &["1 of 3 replicas available"],
        ),
        (
            "scaled to nothing",
            |f| f.deployments.as_mut().unwrap()[1].spec.as_mut().unwrap().replicas = Some(0),
            "control-plane-deployments",
            ERR,
            &["scaled to nothing", "kubectl scale"],
        ),
        ("a rollout", |f| status(f, |status| status.updated_replicas = None), "control-plane-deployments", WARN, &["rollout", "--wait"]),
        (
            "an image is not there",
            |f| {
                let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
                pod(f, "/status/containerStatuses/0/state", waiting);
            },
            "control-plane-pods",
            ERR,
            &["mesh-ca-1", "ImagePullBackOff: no such image"],
        ),
        (
            "not ready, in its own words",
            |f| f.replicas[1].not_ready = Ok(Some("there is no certificate yet\n".into())),
            "control-plane-pods",
            ERR,
            &["mesh-controller-1 is not ready: there is no certificate yet"],
        ),
        ("restarts", |f| pod(f, "/status/containerStatuses/0/restartCount", json!(6)), "control-plane-pods", WARN, &["6 times", "--previous"]),
        ("no pods", |f| f.system_pods = Ok(Vec::new()), "control-plane-pods", ERR, &["no pods"]),
        (
            "another version, by the image",
            |f| pod(f, "/spec/containers/0/image", json!("registry/mesh/ca:0.0.9")),
            "control-plane-versions",
            WARN,
            &["mesh-ca-1 is of version 0.0.9", "meshctl upgrade"],
        ),
        (
            "another version, in its own words",
            |f| f.replicas[1].controller.as_mut().unwrap().overview.as_mut().unwrap().version = "9.9.9".into(),
            "control-plane-versions",
            WARN,
            &["mesh-controller-1 is of version 9.9.9"],
        ),
        ("no CRDs", |f| drop(f.groups.as_mut().unwrap().remove("mesh.dev")), "control-plane-crds", ERR, &["not installed"]),
        (
            "a CRD is missing",
            |f| drop(f.kinds.insert(API_VERSION, Ok(vec!["AuthorizationPolicy".into(), "ExternalWorkload".into()]))),
            "control-plane-crds",
            ERR,
            &["without TransportPolicy"],
        ),
        (
            "a service leads nowhere",
            |f| {
                let endpoint = &mut f.endpoints.as_mut().unwrap()[2].endpoints[0];
                endpoint.conditions.as_mut().unwrap().ready = Some(false);
            },
            "control-plane-services",
            ERR,
            &["mesh-webhook leads to no ready pod"],
        ),
        (
            "a dead leader",
            |f| {
                let spec = f.leases.as_mut().unwrap()[0].spec.as_mut().unwrap();
                spec.renew_time.as_mut().unwrap().0 = "2026-06-01T11:55:00Z".parse().unwrap();
            },
            "control-plane-leases",
            ERR,
            &["mesh-ca: mesh-ca-1 led it until 5min ago"],
        ),
        ("no leader", |f| drop(f.leases.as_mut().unwrap().remove(1)), "control-plane-leases", ERR, &["mesh-controller has no leader"]),
        (
            "the authority's clock",
            |f| f.replicas[0].clock = Some(Clock { ahead_ms: -70_000, slack_ms: 900 }),
            "control-plane-clocks",
            ERR,
            &["mesh-ca-1: its clock is 70s behind"],
        ),
    ]);
}

#[test]
fn the_webhook() {
    fn refused(facts: &mut Facts, why: &str) {
        facts.trial = Ok(Trial::Refused(format!("Internal error: failed calling webhook \"inject\": {why}")));
    }
    hold(&[
        ("no injection", |f| f.mutating = Ok(Vec::new()), "webhook-configuration", ERR, &["new pods get no sidecar"]),
        ("no validation", |f| f.validating = Ok(Vec::new()), "webhook-configuration", ERR, &["ValidatingWebhookConfiguration"]),
        (
            "pods pass",
            |f| f.mutating.as_mut().unwrap()[0].webhooks.as_mut().unwrap()[0].failure_policy = Some("Ignore".into()),
            "webhook-configuration",
            WARN,
            &["failurePolicy"],
        ),
        (
            "it covers everything",
            |f| f.mutating.as_mut().unwrap()[0].webhooks.as_mut().unwrap()[0].namespace_selector = None,
            "webhook-configuration",
            ERR,
            &["covers kube-system", "covers mesh-system"],
        ),
        (
            "it calls somebody else",
            |f| {
                let hook = &mut f.mutating.as_mut().unwrap()[0].webhooks.as_mut().unwrap()[0];
                hook.client_config.service.as_mut().unwrap().name = "other".into();
            },
            "webhook-configuration",
            ERR,
            &["does not call mesh-system/mesh-webhook"],
        ),
        ("no caBundle", |f| f.mutating = Ok(vec![of(hooks(""))]), "webhook-ca-bundle", ERR, &["has no caBundle", "leader"]),
        (
            "a strange caBundle",
            |f| f.validating = Ok(vec![of(hooks(&Root::new("other").pem))]),
            "webhook-ca-bundle",
            ERR,
            &["validating", "none of the authority's roots"],
        ),
        (
            "an old caBundle",
            |f| f.replicas[0].ca.as_mut().unwrap().trust = Ok(format!("{}{}", ROOT.pem, Root::new("mesh root 2").pem)),
            "webhook-ca-bundle",
            WARN,
            &["not all of the authority's roots"],
        ),
        (
            "of another root",
            |f| f.replicas[1].webhook = Some(Ok(vec![Root::new("mesh root 1").leaf(WEBHOOK, (1, 3))])),
            "webhook-certificate",
            ERR,
            &["mesh-controller-1", "not accepted"],
        ),
        (
            "for another name",
            |f| f.replicas[1].webhook = Some(Ok(vec![ROOT.leaf("mesh-controller.mesh-system.svc", (1, 3))])),
            "webhook-certificate",
            ERR,
            &["another name"],
        ),
        (
            "expired",
            |f| {
                f.now = "2026-06-04T00:00:00Z".parse().unwrap();
            },
            "webhook-certificate",
            ERR,
            &["it has expired"],
        ),
        (
            "not renewed",
            |f| f.now = "2026-06-02T20:00:00Z".parse().unwrap(),
            "webhook-certificate",
            WARN,
            &["should have been renewed"],
        ),
        (
            "it does not listen",
            |f| {
                let why = "mesh-system/mesh-controller-1:15430 cannot be reached".to_owned();
                f.replicas[1].webhook = Some(Err(Missing { what: String::new(), fault: Fault::Mesh, why }));
            },
            "webhook-certificate",
            ERR,
            &["cannot be reached"],
        ),
        ("no sidecar", |f| f.trial = Ok(Trial::Created(BTreeSet::new())), "webhook-answers", ERR, &["would get none"]),
        ("x509", |f| refused(f, "x509: certificate signed by unknown authority"), "webhook-answers", ERR, &["webhook-ca-bundle"]),
        ("no endpoints", |f| refused(f, "no endpoints available"), "webhook-answers", ERR, &["control-plane-services"]),
        ("a firewall", |f| refused(f, "context deadline exceeded"), "webhook-answers", ERR, &["firewalls", "15430"]),
        ("a quota", |f| f.trial = Ok(Trial::Refused("exceeded quota".into())), "webhook-answers", WARN, &["exceeded quota"]),
    ]);
}

#[test]
fn certificates() {
    fn issuer(facts: &mut Facts, until: &str) {
        let pages = facts.replicas[0].ca.as_mut().unwrap();
        pages.issuers.as_mut().unwrap().issuer.not_after = until.into();
    }
    fn second(facts: &mut Facts, change: fn(&mut crate::check::facts::Issuers)) {
        let mut other = facts.replicas[0].clone();
        other.pod = "mesh-ca-2".into();
        change(other.ca.as_mut().unwrap().issuers.as_mut().unwrap());
        facts.replicas.push(other);
    }
    hold(&[
        (
            "a root expired",
            |f| f.replicas[0].ca.as_mut().unwrap().issuers.as_mut().unwrap().roots[0].not_after = "2026-06-01T00:00:00Z".into(),
            "ca-roots",
            ERR,
            &["mesh root 1 expired", "should have renewed"],
        ),
        (
            "a foreign root ends",
            |f| {
                let root = &mut f.replicas[0].ca.as_mut().unwrap().issuers.as_mut().unwrap().roots[0];
                root.not_after = "2026-06-02T00:00:00Z".into();
                root.generation = None;
            },
            "ca-roots",
            WARN,
            &["ends 2026-06-02", "where it is made"],
        ),
        ("two worlds", |f| second(f, |page| page.roots[0].fingerprint = "x".into()), "ca-roots", ERR, &["mesh-ca-1 against mesh-ca-2", "Secret"]),
        ("replicas agree", |f| second(f, |_| {}), "ca-roots", OK, &[]),
        ("the issuer is old", |f| issuer(f, "2026-06-02T00:00:00Z"), "ca-issuer", WARN, &["mesh issuer 1 ends"]),
        ("the issuer expired", |f| issuer(f, "2026-05-30T00:00:00Z"), "ca-issuer", ERR, &["expired"]),
        ("two issuers", |f| second(f, |page| page.issuer.fingerprint = "x".into()), "ca-issuer", WARN, &["different issuers"]),
        ("a namespace with pods has none", |f| drop(f.trust.as_mut().unwrap().pop()), "trust-bundles", ERR, &["shop: there is no ConfigMap", "do not start"]),
        ("another namespace has none", |f| drop(f.trust.as_mut().unwrap().remove(0)), "trust-bundles", WARN, &["kube-system"]),
        (
            "another root",
            |f| f.trust.as_mut().unwrap()[2] = trust("shop", &Root::new("x").pem),
            "trust-bundles",
            ERR,
            &["shop: mesh-trust has none of the authority's roots"],
        ),
        (
            "without the authority its own bundle counts",
            |f| {
                f.replicas.remove(0);
                f.trust.as_mut().unwrap()[2] = trust("shop", "");
            },
            "trust-bundles",
            ERR,
            &["shop"],
        ),
        (
            "the authority's own expired",
            |f| f.replicas[0].metrics = Ok(metrics("mesh_ca_server_expiry_timestamp_seconds 1000\n")),
            "control-plane-certificates",
            ERR,
            &["mesh-ca-1: its certificate expired 1970"],
        ),
    ]);
}

#[test]
fn configuration() {
    fn problem(severity: Severity) -> ProblemView {
        ProblemView {
            severity,
            condition: Of::Accepted,
            reason: "TargetNotFound".into(),
            object: Some("AuthorizationPolicy/shop/x".into()),
            field: "spec.targetRefs[0]".into(),
            path: None,
            line: None,
            message: "no Service cart".into(),
        }
    }
    fn condition(facts: &mut Facts, kind: &str, status: Option<bool>) {
        facts.conditions = Ok(vec![Condition {
            object: "HTTPRoute shop/cart".into(),
            kind: kind.into(),
            status,
            reason: "BackendNotFound".into(),
            message: "no Service".into(),
        }]);
    }
    fn problems(facts: &mut Facts, list: Vec<ProblemView>) {
        let mut other = facts.replicas[1].clone();
        other.controller.as_mut().unwrap().problems = Ok(list.clone());
        facts.replicas[1].controller.as_mut().unwrap().problems = Ok(list);
        facts.replicas.push(other);
    }
    hold(&[
        ("an error, told by both replicas", |f| problems(f, vec![problem(Severity::Error)]), "problems", ERR, &["1 thing", "spec.targetRefs[0]: no Service cart"]),
        ("a warning", |f| problems(f, vec![problem(Severity::Warning)]), "problems", WARN, &["no Service cart"]),
        ("not resolved", |f| condition(f, "ResolvedRefs", Some(false)), "conditions", ERR, &["HTTPRoute shop/cart", "BackendNotFound"]),
        ("not known yet", |f| condition(f, "Accepted", None), "conditions", OK, &[]),
        ("a condition of somebody else's", |f| condition(f, "Cached", Some(false)), "conditions", OK, &[]),
    ]);
}

#[test]
fn the_cni_plugin() {
    fn set(facts: &mut Facts, wanted: i32, ready: i32) {
        facts.daemon_sets = Ok(vec![of(json!({
            "metadata": {"name": "mesh-cni"},
            "status": {"desiredNumberScheduled": wanted, "numberReady": ready, "currentNumberScheduled": wanted,
                "numberMisscheduled": 0, "updatedNumberScheduled": wanted},
        }))]);
    }
    fn agent(facts: &mut Facts) {
        set(facts, 1, 1);
        let pod = system_pod("mesh-cni-1", "mesh-cni", "node-1");
        facts.system_pods.as_mut().unwrap().push(of(pod));
    }
    hold(&[
        (
            "counted on and not there",
            |f| {
                let annotations = &mut f.pods.as_mut().unwrap()[0].metadata.annotations;
                *annotations = Some([("mesh.dev/injection".to_owned(), "{\"cni\": true}".to_owned())].into());
            },
            "cni-daemonset",
            ERR,
            &["1 pod counts on the CNI plugin"],
        ),
        ("ready", |f| set(f, 2, 2), "cni-daemonset", OK, &["ready on 2 nodes"]),
        ("not ready", |f| set(f, 2, 1), "cni-daemonset", ERR, &["ready on 1 of 2 nodes"]),
        ("nowhere", |f| set(f, 0, 0), "cni-daemonset", ERR, &["fits no node"]),
        ("in force", |f| agent(f), "cni-nodes", OK, &["in force on 1 node"]),
        (
            "no conflist",
            |f| {
                agent(f);
                let mut replica = f.replicas[0].clone();
                (replica.pod, replica.part) = ("mesh-cni-1".into(), "mesh-cni");
                replica.not_ready = Ok(Some("no conflist in /etc/cni/net.d".into()));
                f.replicas.push(replica);
            },
            "cni-nodes",
            ERR,
            &["node-1: no conflist", "do not start"],
        ),
        ("a node without an agent", |f| set(f, 1, 1), "cni-nodes", WARN, &["node-1 has no agent"]),
    ]);
}

#[test]
fn injection() {
    fn bare(facts: &mut Facts, made_ago: i64) {
        facts.pods.as_mut().unwrap().push(of(bare_pod("shop", "old-1", made_ago)));
    }
    hold(&[
        ("older than the mesh", |f| bare(f, 7_200), "pods-injected", ERR, &["shop/old-1: namespace shop asks", "older than the mesh", "rollout restart"]),
        (
            "older than the label",
            |f| {
                bare(f, 600);
                let shop = f.namespaces.as_mut().unwrap().last_mut().unwrap();
                shop.metadata.managed_fields = of(json!([{"time": "2026-06-01T11:55:00Z",
                    "fieldsV1": {"f:metadata": {"f:labels": {"f:mesh.dev/inject": {}}}}}]));
            },
            "pods-injected",
            ERR,
            &["older than the label"],
        ),
        ("no webhook", |f| { bare(f, 60); f.mutating = Ok(Vec::new()); }, "pods-injected", ERR, &["not registered"]),
        ("nobody knows", |f| bare(f, 60), "pods-injected", ERR, &["perhaps"]),
        (
            "ended pods do not matter",
            |f| {
                let mut pod = bare_pod("shop", "job", 60);
                pod["status"]["phase"] = "Succeeded".into();
                f.pods.as_mut().unwrap().push(of(pod));
            },
            "pods-injected",
            OK,
            &[],
        ),
        (
            "pods of the node's network need none",
            |f| {
                let mut pod = bare_pod("shop", "agent", 60);
                pod["spec"]["hostNetwork"] = true.into();
                f.pods.as_mut().unwrap().push(of(pod));
            },
            "pods-injected",
            OK,
            &["1 pod has a sidecar"],
        ),
        (
            "no longer wanted",
            |f| f.namespaces.as_mut().unwrap()[2] = of(namespace("shop", None)),
            "pods-excluded",
            WARN,
            &["shop/web-1", "would get none"],
        ),
        (
            "refused by Pod Security",
            |f| {
                let labels = f.namespaces.as_mut().unwrap()[2].metadata.labels.as_mut().unwrap();
                labels.insert("pod-security.kubernetes.io/enforce".into(), "restricted".into());
            },
            "pods-admitted",
            ERR,
            &["shop enforces Pod Security restricted", "cni.enabled"],
        ),
        (
            "two meshes",
            |f| {
                let mut pod = meshed_pod("shop", "both");
                pod["spec"]["containers"][0]["name"] = "istio-proxy".into();
                f.pods.as_mut().unwrap().push(of(pod));
            },
            "pods-one-mesh",
            ERR,
            &["shop/both", "Istio"],
        ),
    ]);
}

#[test]
fn sidecars() {
    fn key(facts: &mut Facts, status: KeyStatus) {
        let proxies = facts.replicas[1].controller.as_mut().unwrap().proxies.as_mut().unwrap();
        proxies[0].keys.insert("shop/cart:80".into(), status);
    }
    fn expiry(facts: &mut Facts, in_seconds: i64) {
        let page = format!("mesh_certificate_expiry_timestamp_seconds {}", now().as_second() + in_seconds);
        facts.proxies.insert("shop/web-1".into(), Ok(metrics(&page)));
    }
    fn sent(seconds_ago: i64) -> KeyStatus {
        let at = now().as_millisecond() - seconds_ago * 1000;
        KeyStatus { sent: "2".into(), sent_ms: at.try_into().unwrap(), acked: Some("1".into()), refused: None }
    }
    hold(&[
        (
            "not ready",
            |f| {
                let mut pod = meshed_pod("shop", "web-1");
                pod["status"]["initContainerStatuses"][0]["ready"] = false.into();
                f.pods = Ok(vec![of(pod)]);
            },
            "proxies-running",
            ERR,
            &["shop/web-1: mesh-proxy: runs, but is not ready", "-c mesh-proxy"],
        ),
        (
            "the init container fails",
            |f| {
                let mut pod = meshed_pod("shop", "web-1");
                pod["status"]["initContainerStatuses"].as_array_mut().unwrap().push(json!({"name": "mesh-init", "ready": false,
                    "restartCount": 3, "image": "", "imageID": "", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}));
                f.pods = Ok(vec![of(pod)]);
            },
            "proxies-running",
            ERR,
            &["mesh-init: CrashLoopBackOff"],
        ),
        (
            "another version",
            |f| f.replicas[1].controller.as_mut().unwrap().proxies.as_mut().unwrap()[0].version = "0.0.1".into(),
            "proxies-version",
            WARN,
            &["shop/web-1: 0.0.1, the control plane"],
        ),
        (
            "not connected",
            |f| f.replicas[1].controller.as_mut().unwrap().proxies = Ok(Vec::new()),
            "proxies-connected",
            ERR,
            &["shop/web-1", "no controller"],
        ),
        (
            "one replica's page is not known",
            |f| {
                let mut other = f.replicas[1].clone();
                let missing = Missing { what: "/proxies".into(), fault: Fault::Mesh, why: "it hangs".into() };
                other.controller.as_mut().unwrap().proxies = Err(missing);
                f.replicas.push(other);
            },
            "proxies-connected",
            ERR,
            &["it hangs"],
        ),
        (
            "connected to the other replica",
            |f| {
                let mut other = f.replicas[1].clone();
                other.controller.as_mut().unwrap().proxies = Ok(Vec::new());
                f.replicas.push(other);
            },
            "proxies-connected",
            OK,
            &["1 sidecar is connected"],
        ),
        (
            "refused",
            |f| key(f, KeyStatus { refused: Some(Refusal { reason: "odd".into(), ..Refusal::default() }), ..sent(0) }),
            "proxies-in-sync",
            ERR,
            &["shop/web-1: refused shop/cart:80: odd"],
        ),
        ("not acknowledged", |f| key(f, sent(60)), "proxies-in-sync", WARN, &["shop/cart:80 was sent and is not acknowledged"]),
        ("under way", |f| key(f, sent(1)), "proxies-in-sync", OK, &[]),
        ("expired", |f| expiry(f, -5), "proxies-certificates", ERR, &["shop/web-1: its certificate expired"]),
        ("about to", |f| expiry(f, 5), "proxies-certificates", WARN, &["was not renewed"]),
        ("none", |f| drop(f.proxies.insert("shop/web-1".into(), Ok(Vec::new()))), "proxies-certificates", ERR, &["no certificate"]),
        ("nobody to ask", |f| f.proxies.clear(), "proxies-certificates", SKIP, &[]),
    ]);
}
