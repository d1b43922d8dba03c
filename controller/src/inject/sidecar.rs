//! What is put into a pod: two containers, a volume, a label, an annotation.
//!
//! Whatever Kubernetes would fill in is said here already, so that a pod that comes back from an API server is what was
//! made.

use mesh_api::{
    names,
    probe::{Probe, Token},
};
use serde_json::{Map, Value, json};

use super::{
    Record,
    overrides::{Amount, Overrides},
    pod::Pod,
    probes,
    settings::{LogFormat, Settings},
};

/// Annotation by which `kubectl logs` and `exec` choose a container.
pub(super) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";
/// Life of a bootstrap token. The kubelet renews it long before; with an API server away it lasts that long.
const TOKEN_SECONDS: u64 = 12 * 3600;
/// The sidecar is not started anew before it had this long to become ready.
const STARTUP_SECONDS: u64 = 600;
/// The proxy drains at most this long, and less where the pod has less.
const MAX_DRAIN: u64 = 30;
/// Between the end of the drain and that of the pod, in seconds.
const DRAIN_MARGIN: u64 = 2;
/// Where Kubernetes gives containers a token of the pod's for its API, unless something is there already.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// User of the check that connections are redirected: neither root nor the proxy, whose connections are not.
const CHECK_UID: u32 = 65532;

/// Everything that is put into one pod.
pub(super) struct Parts {
    pub(super) record: Record,
    pub(super) init: Value,
    pub(super) proxy: Value,
    pub(super) volume: Value,
    /// Annotations for others.
    pub(super) annotations: Vec<(&'static str, String)>,
}

pub(super) fn parts(pod: &Pod<'_>, owner: &str, settings: &Settings, plan: &Overrides, token: &Token) -> Parts {
    let redirect = redirect(plan);
    let before = Record::of_pod(pod);
    // Its own stays: a second look at the pod finds nothing to change.
    let own = before.as_ref().and_then(|before| Token::new(&before.token));
    let token = own.as_ref().unwrap_or(token);
    let (taken, asked) = probes::taken(pod.json(), &plan.skip_inbound, token);
    let proxy = proxy(pod, owner, settings, plan, &asked);
    let (init, volume) = (init(pod, settings, plan, &redirect), volume());
    let version = env!("CARGO_PKG_VERSION");
    let everything = json!([version, plan.native, init, proxy, volume]).to_string();
    let mut annotations = Vec::new();
    // Beside a plain sidecar the application would not be the one that is meant.
    let own = before.is_some_and(|record| record.annotations.iter().any(|name| name == DEFAULT_CONTAINER));
    if !plan.native
        && (own || pod.annotation(DEFAULT_CONTAINER).is_none())
        && let Some(first) = pod.first_container()
    {
        annotations.push((DEFAULT_CONTAINER, first.to_owned()));
    }
    let record = Record {
        version: version.to_owned(),
        image: plan.image.clone(),
        hash: format!("{:016x}", fnv1a(everything.as_bytes())),
        native: plan.native,
        cni: plan.cni,
        redirect,
        annotations: annotations.iter().map(|(name, _)| (*name).to_owned()).collect(),
        token: if taken.is_empty() { String::new() } else { token.as_str().to_owned() },
        probes: taken,
    };
    Parts { record, init, proxy, volume, annotations }
}

impl Record {
    fn of_pod(pod: &Pod<'_>) -> Option<Self> {
        serde_json::from_str(pod.annotation(names::ANNOTATION_INJECTION)?).ok()
    }
}

/// Arguments after `mesh-proxy redirect apply`.
fn redirect(plan: &Overrides) -> Vec<String> {
    let mut arguments = vec![
        format!("--proxy-uid={}", names::PROXY_UID),
        format!("--inbound-port={}", names::PORT_INBOUND),
        format!("--outbound-port={}", names::PORT_OUTBOUND),
        format!("--admin-port={}", names::PORT_ADMIN),
    ];
    if !plan.skip_inbound.is_empty() {
        arguments.push(format!("--skip-inbound-ports={}", plan.skip_inbound));
    }
    if !plan.skip_outbound.is_empty() {
        arguments.push(format!("--skip-outbound-ports={}", plan.skip_outbound));
    }
    if !plan.skip_subnets.is_empty() {
        let nets: Vec<String> = plan.skip_subnets.iter().map(ToString::to_string).collect();
        arguments.push(format!("--skip-subnets={}", nets.join(",")));
    }
    arguments
}

/// The init container: puts redirection in force, or looks whether the CNI plugin did.
fn init(pod: &Pod<'_>, settings: &Settings, plan: &Overrides, redirect: &[String]) -> Value {
    let mut arguments = vec!["redirect", if plan.cni { "check" } else { "apply" }];
    arguments.extend(redirect.iter().map(String::as_str));
    let context = if plan.cni {
        confined(pod, CHECK_UID)
    } else {
        // Rules of the network need this one capability; without root it would not be in force.
        let mut context = confined(pod, 0);
        context["capabilities"]["add"] = json!(["NET_ADMIN"]);
        context["runAsNonRoot"] = false.into();
        context
    };
    json!({
        "name": names::INIT_CONTAINER,
        "image": plan.image,
        "imagePullPolicy": settings.config.pull_policy,
        "args": arguments,
        // What the proxy has after it: the pod needs no more because of it, and keeps its class of service.
        "resources": resources(&plan.cpu, &plan.memory),
        "securityContext": context,
        "volumeMounts": [mount(API_TOKEN)],
    })
}

fn proxy(pod: &Pod<'_>, owner: &str, settings: &Settings, plan: &Overrides, probes: &[Probe]) -> Value {
    let mut container = json!({
        "name": names::PROXY_CONTAINER,
        "image": plan.image,
        "imagePullPolicy": settings.config.pull_policy,
        "env": environment(pod, owner, settings, plan, probes),
        "ports": [{ "containerPort": names::PORT_ADMIN, "name": "mesh-admin", "protocol": "TCP" }],
        "startupProbe": probe("/ready", 1, STARTUP_SECONDS),
        "readinessProbe": probe("/ready", 5, 3),
        "livenessProbe": probe("/live", 10, 6),
        "resources": resources(&plan.cpu, &plan.memory),
        "securityContext": confined(pod, names::PROXY_UID),
        "volumeMounts": [mount(names::IDENTITY_MOUNT), mount(API_TOKEN)],
    });
    if plan.native {
        container["restartPolicy"] = "Always".into();
    }
    container
}

/// The mesh's containers have a token for the certificate authority. In the place of the application's token for the API
/// of Kubernetes they have the same, so that they have no other.
fn mount(path: &str) -> Value {
    json!({ "mountPath": path, "name": names::IDENTITY_VOLUME, "readOnly": true })
}

/// What Pod Security `restricted` asks for.
fn confined(pod: &Pod<'_>, user: u32) -> Value {
    let mut context = json!({
        "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] },
        "privileged": false,
        "readOnlyRootFilesystem": true,
        "runAsGroup": user,
        "runAsNonRoot": true,
        "runAsUser": user,
        "seccompProfile": { "type": "RuntimeDefault" },
    });
    if pod.has_own_apparmor() {
        context["appArmorProfile"] = json!({ "type": "RuntimeDefault" });
    }
    context
}

fn probe(path: &str, period: u64, failures: u64) -> Value {
    json!({
        "failureThreshold": failures,
        "httpGet": { "path": path, "port": names::PORT_ADMIN, "scheme": "HTTP" },
        "periodSeconds": period,
        "successThreshold": 1,
        "timeoutSeconds": 2,
    })
}

fn resources(cpu: &Amount, memory: &Amount) -> Value {
    let mut resources = Map::new();
    let sides = [("requests", &cpu.request, &memory.request), ("limits", &cpu.limit, &memory.limit)];
    for (side, cpu, memory) in sides {
        let given = [("cpu", cpu), ("memory", memory)].into_iter().filter(|(_, amount)| !amount.is_empty());
        let given: Map<String, Value> = given.map(|(name, amount)| (name.to_owned(), amount.as_str().into())).collect();
        if !given.is_empty() {
            resources.insert(side.to_owned(), given.into());
        }
    }
    resources.into()
}

fn environment(pod: &Pod<'_>, owner: &str, settings: &Settings, plan: &Overrides, probes: &[Probe]) -> Value {
    let config = &settings.config;
    let value = |name: &str, value: String| json!({ "name": name, "value": value });
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } } });
    let every = |port: u16| format!("[::]:{port}");
    let format = match config.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let drain = pod.grace_seconds().saturating_sub(DRAIN_MARGIN).min(MAX_DRAIN);
    let mut environment = vec![
        field("MESH_WORKLOAD", "metadata.name"),
        field("MESH_NAMESPACE", "metadata.namespace"),
        // A kubelet expands what looks like a variable.
        value("MESH_OWNER", owner.replace('$', "$$")),
        // Since 1.35 pods have their node's topology as labels; empty where they have not.
        field("MESH_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
        value("MESH_IDENTITY__TRUST_DOMAIN", settings.trust_domain.clone()),
        value("MESH_IDENTITY__CA", plan.ca.clone()),
        value("MESH_IDENTITY__TOKEN_FILE", format!("{}/token", names::IDENTITY_MOUNT)),
        value("MESH_IDENTITY__ROOTS_FILE", format!("{}/{}", names::IDENTITY_MOUNT, names::TRUST_KEY)),
        value("MESH_DISCOVERY__ADDRESS", plan.discovery.clone()),
        value("MESH_INBOUND__TRANSPARENT", every(names::PORT_INBOUND)),
        value("MESH_OUTBOUND__TRANSPARENT", every(names::PORT_OUTBOUND)),
        value("MESH_ADMIN__LISTEN", every(names::PORT_ADMIN)),
        value("MESH_DRAIN", format!("{drain}s")),
        value("MESH_LOG__LEVEL", plan.log_level.clone()),
        value("MESH_LOG__FORMAT", format.to_owned()),
        value("MESH_TELEMETRY__ACCESS_LOG", plan.access_log.to_string()),
    ];
    if !config.otlp_endpoint.is_empty() {
        environment.push(value("MESH_TELEMETRY__OTLP_ENDPOINT", config.otlp_endpoint.clone()));
        environment.push(value("MESH_TELEMETRY__TRACE_RATIO", config.trace_ratio.to_string()));
    }
    if !probes.is_empty() {
        let probes = serde_json::to_string(probes).unwrap_or_default();
        environment.push(value("MESH_ADMIN__PROBES", probes.replace('$', "$$")));
    }
    if plan.workers() > 1 {
        environment.push(value("MESH_WORKERS", plan.workers().to_string()));
    }
    environment.into()
}

/// Bootstrap token and roots, in one place.
fn volume() -> Value {
    json!({
        "name": names::IDENTITY_VOLUME,
        "projected": {
            // Readable by every user, and by the containers only that have the volume.
            "defaultMode": 0o444,
            "sources": [
                { "serviceAccountToken": { "audience": names::CA_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "items": [{ "key": names::TRUST_KEY, "path": names::TRUST_KEY }], "name": names::TRUST_CONFIG_MAP } },
            ],
        },
    })
}

/// FNV-1a: a mark of content, the same in every build.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
