//! The control plane, its webhooks.

use super::*;

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
        (
            "one is not there",
            |f| drop(f.deployments.as_mut().unwrap().remove(0)),
            "control-plane-deployments",
            ERR,
            &["mesh-ca is not there"],
        ),
        (
            "none is available",
            |f| {
                status(f, |status| {
                    status.available_replicas = None;
                    status.conditions =
                        of(json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]));
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
        (
            "a rollout",
            |f| status(f, |status| status.updated_replicas = None),
            "control-plane-deployments",
            WARN,
            &["rollout", "--wait"],
        ),
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
        (
            "restarts",
            |f| pod(f, "/status/containerStatuses/0/restartCount", json!(6)),
            "control-plane-pods",
            WARN,
            &["6 times", "--previous"],
        ),
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
        (
            "no CRDs",
            |f| drop(f.groups.as_mut().unwrap().remove("mesh.dev")),
            "control-plane-crds",
            ERR,
            &["not installed"],
        ),
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
        (
            "no leader",
            |f| drop(f.leases.as_mut().unwrap().remove(1)),
            "control-plane-leases",
            ERR,
            &["mesh-controller has no leader"],
        ),
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
        (
            "no validation",
            |f| f.validating = Ok(Vec::new()),
            "webhook-configuration",
            ERR,
            &["ValidatingWebhookConfiguration"],
        ),
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
        (
            "no caBundle",
            |f| f.mutating = Ok(vec![of(hooks(""))]),
            "webhook-ca-bundle",
            ERR,
            &["has no caBundle", "leader"],
        ),
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
        (
            "x509",
            |f| refused(f, "x509: certificate signed by unknown authority"),
            "webhook-answers",
            ERR,
            &["webhook-ca-bundle"],
        ),
        ("no endpoints", |f| refused(f, "no endpoints available"), "webhook-answers", ERR, &["control-plane-services"]),
        (
            "nobody listens",
            |f| refused(f, "connect: connection refused"),
            "webhook-answers",
            ERR,
            &["webhook-certificate"],
        ),
        (
            "nobody listens, and there is no caBundle either",
            |f| {
                f.mutating = Ok(vec![of(hooks(""))]);
                f.validating = Ok(vec![of(hooks(""))]);
                let why = "connection refused".to_owned();
                f.replicas[1].webhook = Some(Err(Missing { what: String::new(), fault: Fault::Mesh, why }));
            },
            "webhook-certificate",
            ERR,
            &["connection refused"],
        ),
        ("a firewall", |f| refused(f, "context deadline exceeded"), "webhook-answers", ERR, &["firewalls", "15430"]),
        (
            "a quota",
            |f| f.trial = Ok(Trial::Refused("exceeded quota".into())),
            "webhook-answers",
            WARN,
            &["exceeded quota"],
        ),
    ]);
}
