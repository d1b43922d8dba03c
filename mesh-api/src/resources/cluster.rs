//! Kinds that only a cluster's API server holds: what runs, and where. Nobody writes them for the mesh, so they are read
//! leniently and only as far as they are used.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Metadata, TargetPort};

/// Label of a Node: its topology zone.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Label of an EndpointSlice: the Service that it is of.
pub const LABEL_SERVICE: &str = "kubernetes.io/service-name";
/// Labels of a Pod: what its ReplicaSet's name has behind its Deployment's, or behind that of another kind that rolls out.
const LABELS_TEMPLATE: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];
/// Digits that a CronJob puts behind its name for a Job's: minutes since 1970.
const CRON_DIGITS: std::ops::RangeInclusive<usize> = 8..=10;

/// `v1` Node: only its labels are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Metadata.
    pub metadata: Metadata,
}

/// `v1` Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pod {
    /// Metadata.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default)]
    pub spec: PodSpec,
    /// What is.
    #[serde(default)]
    pub status: PodStatus,
}

/// What a Pod wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// Service account; `default` where it is empty.
    pub service_account_name: String,
    /// Node that it runs on; empty until there is one.
    pub node_name: String,
    /// It has no network of its own, but its node's.
    pub host_network: bool,
    /// Its containers.
    #[serde(deserialize_with = "null_is_default")]
    pub containers: Vec<Container>,
    /// Containers that run before those, or beside them.
    #[serde(deserialize_with = "null_is_default")]
    pub init_containers: Vec<Container>,
}

/// A container of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// Of an init container: `Always` makes it one that runs beside the others.
    pub restart_policy: Option<String>,
    /// Ports that it declares; it may listen on others too.
    #[serde(deserialize_with = "null_is_default")]
    pub ports: Vec<ContainerPort>,
    /// Whether it lives.
    pub liveness_probe: Option<Probe>,
    /// Whether it can be sent to.
    pub readiness_probe: Option<Probe>,
    /// Whether it has come up.
    pub startup_probe: Option<Probe>,
}

/// A port that a container declares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name, to which a Service's `targetPort` can refer.
    pub name: Option<String>,
    /// Number.
    pub container_port: u16,
    /// `TCP` where it is not given.
    pub protocol: Option<String>,
}

/// How the kubelet asks a container something; what it does by running a program is not read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Probe {
    /// By a GET.
    pub http_get: Option<HttpGet>,
    /// By a connection.
    pub tcp_socket: Option<TcpSocket>,
    /// By gRPC's health protocol.
    pub grpc: Option<GrpcProbe>,
}

/// A GET of the kubelet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpGet {
    /// Path and query; `/` where it is not given.
    #[serde(default)]
    pub path: Option<String>,
    /// Port, by number or by a name of the container's ports.
    pub port: TargetPort,
    /// Where it goes, if not to the Pod.
    #[serde(default)]
    pub host: Option<String>,
    /// `HTTP` where it is not given, or `HTTPS`.
    #[serde(default)]
    pub scheme: Option<String>,
}

/// A connection of the kubelet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TcpSocket {
    /// Port, by number or by a name of the container's ports.
    pub port: TargetPort,
    /// Where it goes, if not to the Pod.
    #[serde(default)]
    pub host: Option<String>,
}

/// A gRPC call of the kubelet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GrpcProbe {
    /// Port.
    pub port: u16,
}

/// What a Pod is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Its address; empty until it has one.
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    /// All its addresses, of both families.
    #[serde(rename = "podIPs", deserialize_with = "null_is_default")]
    pub pod_ips: Vec<PodIp>,
}

/// An address of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// It.
    pub ip: String,
}

/// `discovery.k8s.io` EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Metadata; the label [`LABEL_SERVICE`] names the Service.
    pub metadata: Metadata,
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(default)]
    pub address_type: String,
    /// What is there.
    #[serde(default, deserialize_with = "null_is_default")]
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports of all of them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<SlicePort>,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SliceEndpoint {
    /// Its addresses; they stand for one another.
    #[serde(deserialize_with = "null_is_default")]
    pub addresses: Vec<String>,
    /// Whether it can be sent to.
    pub conditions: SliceConditions,
    /// What is behind it, where that is known.
    pub target_ref: Option<ObjectReference>,
    /// Topology zone.
    pub zone: Option<String>,
}

/// Whether an endpoint can be sent to; what is not said is as the standard reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SliceConditions {
    /// True where it is not said.
    pub ready: Option<bool>,
    /// As ready where it is not said.
    pub serving: Option<bool>,
    /// False where it is not said.
    pub terminating: Option<bool>,
}

/// Names an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectReference {
    /// Kind.
    pub kind: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// A port of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SlicePort {
    /// Name of the Service's port; none where that has none.
    pub name: Option<String>,
    /// Number; none: every port.
    pub port: Option<u16>,
    /// `TCP` where it is not given.
    pub protocol: Option<String>,
    /// What it speaks, as in a Service.
    pub app_protocol: Option<String>,
}

/// Who made an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OwnerReference {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The one that keeps it as it should be.
    pub controller: bool,
}

impl Metadata {
    /// Name of what a Pod with this metadata belongs to, as people know it: its Deployment (or whatever made its
    /// ReplicaSet), StatefulSet, DaemonSet, CronJob, Job, ...; its own name where it stands alone.
    #[must_use]
    pub fn workload(&self) -> &str {
        let Some(owner) = self.owner_references.iter().find(|owner| owner.controller) else { return &self.name };
        match owner.kind.as_str() {
            "ReplicaSet" => {
                without_template(&owner.name, LABELS_TEMPLATE.iter().find_map(|label| self.labels.get(*label)))
            }
            "Job" => without_time(&owner.name),
            _ => &owner.name,
        }
    }
}

fn without_template<'a>(name: &'a str, hash: Option<&String>) -> &'a str {
    let hash = hash.filter(|hash| !hash.is_empty());
    let short = hash.and_then(|hash| name.strip_suffix(hash.as_str())).and_then(|name| name.strip_suffix('-'));
    short.filter(|short| !short.is_empty()).unwrap_or(name)
}

fn without_time(name: &str) -> &str {
    let parts = name.rsplit_once('-');
    let cron = parts.filter(|(short, time)| {
        !short.is_empty() && CRON_DIGITS.contains(&time.len()) && time.bytes().all(|byte| byte.is_ascii_digit())
    });
    cron.map_or(name, |(short, _)| short)
}

/// Lists that are empty come as `null` now and then.
fn null_is_default<'de, T: Default + Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(owner: &str, name: &str, hash: &str) -> String {
        let metadata = Metadata {
            name: "pod-x1".into(),
            labels: [(LABELS_TEMPLATE[0].to_owned(), hash.to_owned())].into(),
            owner_references: vec![
                OwnerReference { kind: "Other".into(), name: "other".into(), controller: false },
                OwnerReference { kind: owner.into(), name: name.into(), controller: true },
            ],
            ..Metadata::default()
        };
        metadata.workload().to_owned()
    }

    #[test]
    fn pods_are_known_by_what_made_them() {
        for (owner, name, hash, expected) in [
            ("ReplicaSet", "web-7d4b9c", "7d4b9c", "web"),
            ("ReplicaSet", "web-7d4b9c", "", "web-7d4b9c"),
            ("ReplicaSet", "web-7d4b9c", "other", "web-7d4b9c"),
            ("ReplicaSet", "-7d4b9c", "7d4b9c", "-7d4b9c"),
            ("StatefulSet", "db", "", "db"),
            ("DaemonSet", "log-28000000", "", "log-28000000"),
            ("Job", "import-1", "", "import-1"),
            ("Job", "nightly-28012345", "", "nightly"),
            ("Job", "nightly-2801234x", "", "nightly-2801234x"),
            ("Job", "-28012345", "", "-28012345"),
            ("Cluster", "pg", "", "pg"),
        ] {
            assert_eq!(workload(owner, name, hash), expected, "{owner} {name}");
        }
        assert_eq!(Metadata { name: "alone".into(), ..Metadata::default() }.workload(), "alone");
    }

    #[test]
    fn what_an_api_server_leaves_out_or_null_is_read() {
        let slice: EndpointSlice = serde_json::from_str(
            r#"{"metadata": {"name": "x"}, "addressType": "IPv4", "endpoints": null, "ports": null}"#,
        )
        .unwrap();
        assert!(slice.endpoints.is_empty() && slice.ports.is_empty());
        let pod: Pod = serde_json::from_str(r#"{"metadata": {"name": "x"}}"#).unwrap();
        assert_eq!(pod.spec, PodSpec::default());
        let pod: Pod = serde_json::from_str(
            r#"{"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "b", "resources": {},
                "livenessProbe": {"httpGet": {"path": "/a", "port": "web", "scheme": "HTTP"}, "periodSeconds": 1}}]},
                "status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "hostIPs": []}}"#,
        )
        .unwrap();
        assert_eq!(pod.status.pod_ips.len(), 2);
        let probe = pod.spec.containers[0].liveness_probe.as_ref().unwrap();
        assert_eq!(probe.http_get.as_ref().unwrap().port, TargetPort::Name("web".into()));
    }
}
