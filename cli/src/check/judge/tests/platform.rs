//! Kubernetes itself, and what installing needs.

use super::*;

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
        ("a little too old", |f| version(f, 28), "api-version", ERR, &["older than 1.29"]),
        ("just new enough", |f| version(f, 29), "api-version", OK, &["1.29"]),
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
