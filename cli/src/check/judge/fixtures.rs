//! A cluster on which all is well, to be broken by tests, one thing at a time.

use std::{collections::BTreeSet, sync::LazyLock};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Pod},
    jiff::Timestamp,
};
use mesh_api::names::{API_VERSION, GATEWAY_API_VERSION};
use mesh_controller::status::{KeyStatus, Overview, ProxyStatus};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    check::facts::{Authority, CaPages, Clock, ControllerPages, Facts, Issuers, Replica, Server, Trial},
    cluster::Version,
    query::prometheus::{self, Sample},
};

/// When it is.
pub(crate) const NOW: &str = "2026-06-01T12:00:00Z";
/// Version of everything.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// Anything of Kubernetes, from JSON.
pub(crate) fn of<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn ago(seconds: i64) -> String {
    Timestamp::from_second(now().as_second() - seconds).unwrap().to_string()
}

/// A root and what it signed.
pub(crate) struct Root {
    pub(crate) pem: String,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Root {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { pem: issuer.pem(), issuer }
    }

    /// The certificate of a server of this name, valid over these days of June 2026.
    pub(crate) fn leaf(&self, name: &str, days: (u8, u8)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = rcgen::date_time_ymd(2026, 6, days.0);
        params.not_after = rcgen::date_time_ymd(2026, 6, days.1);
        params.signed_by(&KeyPair::generate().unwrap(), &self.issuer).unwrap().der().to_vec()
    }
}

/// The root of the healthy cluster.
pub(crate) static ROOT: LazyLock<Root> = LazyLock::new(|| Root::new("mesh root 1"));
/// The name that the API server calls.
pub(crate) const WEBHOOK: &str = "mesh-webhook.mesh-system.svc";

/// A namespace, with its label for injection.
pub(crate) fn namespace(name: &str, inject: Option<&str>) -> Value {
    let mut value = json!({"metadata": {"name": name, "labels": {"kubernetes.io/metadata.name": name}}});
    if let Some(inject) = inject {
        value["metadata"]["labels"]["mesh.dev/inject"] = inject.into();
    }
    value
}

/// A pod of the control plane that is well.
pub(crate) fn system_pod(name: &str, account: &str, node: &str) -> Value {
    let image = format!("mesh.dev/{}:{VERSION}", account.trim_start_matches("mesh-"));
    json!({
        "metadata": {"name": name, "namespace": "mesh-system"},
        "spec": {"serviceAccountName": account, "nodeName": node, "containers": [{"name": "main", "image": image}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "main", "ready": true, "restartCount": 0, "image": image, "imageID": "", "state": {"running": {}}}]},
    })
}

/// A pod with a sidecar that is well.
pub(crate) fn meshed_pod(namespace: &str, name: &str) -> Value {
    let image = format!("mesh.dev/proxy:{VERSION}");
    json!({
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": ago(60),
            "labels": {"mesh.dev/injected": "true"}},
        "spec": {
            "initContainers": [{"name": "mesh-proxy", "image": image, "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "app"}],
        },
        "status": {"phase": "Running",
            "initContainerStatuses": [{"name": "mesh-proxy", "ready": true, "started": true, "restartCount": 0,
                "image": image, "imageID": "", "state": {"running": {}}}],
            "containerStatuses": [{"name": "app", "ready": true, "restartCount": 0, "image": "app", "imageID": "",
                "state": {"running": {}}}]},
    })
}

/// A pod without a sidecar.
pub(crate) fn bare_pod(namespace: &str, name: &str, made_ago: i64) -> Value {
    json!({
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": ago(made_ago)},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
        "status": {"phase": "Running"},
    })
}

/// A connected proxy that runs what it was sent.
pub(crate) fn proxy(namespace: &str, workload: &str) -> ProxyStatus {
    let current = KeyStatus { sent: "1".into(), acked: Some("1".into()), ..KeyStatus::default() };
    ProxyStatus {
        namespace: namespace.into(),
        workload: workload.into(),
        version: VERSION.into(),
        since_ms: 1,
        keys: [("inbound".into(), current)].into(),
        ..ProxyStatus::default()
    }
}

/// The webhook configurations, as they should be. `bundle` is PEM.
pub(crate) fn hooks(bundle: &str) -> Value {
    let selector = json!({"matchExpressions": [
        {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", "mesh-system"]}]});
    json!({
        "metadata": {"name": "mesh", "creationTimestamp": ago(3600)},
        "webhooks": [{
            "name": "inject.mesh.dev", "sideEffects": "None", "admissionReviewVersions": ["v1"], "failurePolicy": "Fail",
            "namespaceSelector": selector,
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "clientConfig": {
                "service": {"name": "mesh-webhook", "namespace": "mesh-system", "path": "/inject"},
                "caBundle": serde_json::to_value(ByteString(bundle.as_bytes().to_vec())).unwrap(),
            },
        }],
    })
}

/// The trust bundle of a namespace.
pub(crate) fn trust(namespace: &str, pem: &str) -> ConfigMap {
    of(json!({"metadata": {"name": "mesh-trust", "namespace": namespace}, "data": {"roots.pem": pem}}))
}

/// What a metrics page comes to.
pub(crate) fn metrics(page: &str) -> Vec<Sample> {
    prometheus::parse(page)
}

fn replica(pod: &str, part: &'static str) -> Replica {
    Replica {
        pod: pod.into(),
        part,
        not_ready: Ok(None),
        metrics: Ok(metrics(&format!("mesh_ca_server_expiry_timestamp_seconds {}", now().as_second() + 3600))),
        clock: Some(Clock { ahead_ms: 200, slack_ms: 600 }),
        controller: None,
        ca: None,
        webhook: None,
    }
}

/// A page of the authority.
pub(crate) fn issuers() -> Issuers {
    let authority = |name: &str, until: &str| Authority {
        generation: Some(1),
        name: name.into(),
        not_before: "2026-05-25T00:00:00Z".into(),
        not_after: until.into(),
        fingerprint: name.into(),
    };
    Issuers {
        roots: vec![authority("mesh root 1", "2031-01-01T00:00:00Z")],
        issuer: authority("mesh issuer 1", "2026-07-25T00:00:00Z"),
    }
}

fn deployment(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "mesh-system"},
        "spec": {"replicas": 1, "selector": {}, "template": {}},
        "status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1},
    })
}

/// All is well: one node, one namespace `shop` with the pod `web-1`.
pub(crate) fn healthy() -> Facts {
    let pem = ROOT.pem.as_str();
    let mut facts = Facts::none(now(), "not gathered");
    facts.server = Ok(Server {
        url: "https://cluster".into(),
        context: "admin@cluster".into(),
        version: Version { major: 1, minor: 36 },
        clock: Some(Clock { ahead_ms: 0, slack_ms: 600 }),
    });
    facts.rights = Ok(Vec::new());
    facts.nodes = Ok(vec![of(json!({
        "metadata": {"name": "node-1"},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"architecture": "amd64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "6.1.0-13",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux", "osImage": "",
                "systemUUID": ""},
        },
    }))]);
    facts.node_leases = Ok(vec![of(json!({
        "metadata": {"name": "node-1", "managedFields": [{"manager": "kubelet", "time": ago(5)}]},
        "spec": {"renewTime": ago(5)},
    }))]);
    let groups = [("mesh.dev", "v1alpha1"), ("gateway.networking.k8s.io", "v1")];
    facts.groups = Ok(groups.map(|(group, version)| (group.to_owned(), vec![version.to_owned()])).into());
    let kinds = |kinds: &[&str]| Ok(kinds.iter().map(|kind| (*kind).to_owned()).collect());
    facts.kinds.insert(API_VERSION, kinds(&["AuthorizationPolicy", "TransportPolicy", "ExternalWorkload"]));
    facts.kinds.insert(GATEWAY_API_VERSION, kinds(&["HTTPRoute"]));
    facts.mutating = Ok(vec![of(hooks(pem))]);
    facts.validating = Ok(vec![of(hooks(pem))]);
    let names = [("kube-system", None), ("mesh-system", None), ("shop", Some("enabled"))];
    facts.namespaces = Ok(names.map(|(name, inject)| of(namespace(name, inject))).into());
    facts.deployments = Ok(["mesh-ca", "mesh-controller"].map(|name| of(deployment(name))).into());
    facts.daemon_sets = Ok(Vec::new());
    let pods = [("mesh-ca-1", "mesh-ca"), ("mesh-controller-1", "mesh-controller")];
    facts.system_pods = Ok(pods.map(|(name, account)| of(system_pod(name, account, "node-1"))).into());
    let slice = |service: &str| {
        of(json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]}))
    };
    facts.endpoints = Ok(["mesh-ca", "mesh-controller", "mesh-webhook"].map(slice).into());
    let lease = |name: &str| {
        of(json!({"metadata": {"name": name},
            "spec": {"holderIdentity": format!("{name}-1"), "leaseDurationSeconds": 15, "renewTime": ago(4)}}))
    };
    facts.leases = Ok(["mesh-ca", "mesh-controller"].map(lease).into());
    facts.inject = Ok(Box::default());
    facts.trust = Ok(["kube-system", "mesh-system", "shop"].map(|name| trust(name, pem)).into());
    let mut ca = replica("mesh-ca-1", "mesh-ca");
    ca.ca = Some(CaPages { trust: Ok(pem.to_owned()), issuers: Ok(issuers()) });
    let mut controller = replica("mesh-controller-1", "mesh-controller");
    let overview = Overview { version: VERSION.into(), synced: true, proxies: 1, ..Overview::default() };
    controller.controller = Some(ControllerPages {
        overview: Ok(overview),
        proxies: Ok(vec![proxy("shop", "web-1")]),
        problems: Ok(Vec::new()),
    });
    controller.webhook = Some(Ok(vec![ROOT.leaf(WEBHOOK, (1, 3))]));
    facts.replicas = vec![ca, controller];
    facts.trial = Ok(Trial::Created(BTreeSet::from(["mesh-proxy".to_owned(), "trial".to_owned()])));
    facts.conditions = Ok(Vec::new());
    facts.pods = Ok(vec![of::<Pod>(meshed_pod("shop", "web-1"))]);
    let page = format!("mesh_certificate_expiry_timestamp_seconds {}", now().as_second() + 3600);
    facts.proxies.insert("shop/web-1".into(), Ok(metrics(&page)));
    facts
}
