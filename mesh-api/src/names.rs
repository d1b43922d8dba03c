//! Every label, annotation, header, port and metric prefix that the mesh owns, once. Floor 0: imports nothing.

mod marks;

pub use marks::{MARKS, Mark, OWN_MARKS};

/// Group of the mesh's own resources.
pub const GROUP: &str = "mesh.dev";
/// Group and version of the mesh's own resources.
pub const API_VERSION: &str = "mesh.dev/v1alpha1";
/// Group and version of the Gateway API kinds that are read.
pub const GATEWAY_API_VERSION: &str = "gateway.networking.k8s.io/v1";

/// Trust domain where none is configured.
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
/// Namespace of the control plane.
pub const SYSTEM_NAMESPACE: &str = "mesh-system";
/// Service account of the controller in [`SYSTEM_NAMESPACE`].
pub const CONTROLLER_ACCOUNT: &str = "mesh-controller";
/// Name of the controller in the status of Gateway API's routes.
pub const CONTROLLER_NAME: &str = "mesh.dev/controller";
/// Lease in [`SYSTEM_NAMESPACE`] by which one of the controller's replicas is the leader.
pub const CONTROLLER_LEASE: &str = "mesh-controller";
/// Service account of the certificate authority in [`SYSTEM_NAMESPACE`].
pub const CA_ACCOUNT: &str = "mesh-ca";
/// Audience that a token for the certificate authority must be made for.
pub const CA_AUDIENCE: &str = "mesh-ca";

/// Port of the webhooks' server, behind [`WEBHOOK_SERVICE`].
pub const PORT_WEBHOOK: u16 = 15430;
/// Service (and DNS name) of the webhooks in [`SYSTEM_NAMESPACE`].
pub const WEBHOOK_SERVICE: &str = "mesh-webhook";

/// Name of both webhook configurations, of those that inject and of those that validate.
pub const WEBHOOK_CONFIGURATION: &str = "mesh";

/// ConfigMap with the trusted roots that the certificate authority keeps in every namespace,
pub const TRUST_CONFIG_MAP: &str = "mesh-trust";
/// and the key in it: PEM.
pub const TRUST_KEY: &str = "roots.pem";
/// Secret with roots and issuers in [`SYSTEM_NAMESPACE`]; the certificate authority makes it.
pub const CA_SECRET: &str = "mesh-ca";

/// Annotation of [`CA_SECRET`] by which a rotation is ordered: `issuer`, `root`, or `repair` after every root expired. The
/// leader of the certificate authority takes it away when it is carried out or refused,
pub const ANNOTATION_ROTATE: &str = "mesh.dev/rotate";
/// and says here what came of it.
pub const ANNOTATION_OUTCOME: &str = "mesh.dev/rotate-outcome";

/// Label of a namespace or a pod, annotation of a pod: `enabled` or `disabled`. A pod's word beats its namespace's.
pub const INJECT: &str = "mesh.dev/inject";
/// Label of a pod that has a sidecar: its value is [`INJECTED_VALUE`].
pub const LABEL_INJECTED: &str = "mesh.dev/injected";
/// Value of [`LABEL_INJECTED`].
pub const INJECTED_VALUE: &str = "true";
/// Annotation of a pod that has a sidecar: what was decided at injection, as JSON.
pub const ANNOTATION_INJECTION: &str = "mesh.dev/injection";
/// Annotation of a pod: ports of the application that are reached without the proxy (`80,8000-8010`).
pub const ANNOTATION_SKIP_INBOUND_PORTS: &str = "mesh.dev/skip-inbound-ports";
/// Annotation of a pod: ports that the application reaches without the proxy.
pub const ANNOTATION_SKIP_OUTBOUND_PORTS: &str = "mesh.dev/skip-outbound-ports";
/// Annotation of a pod: networks that the application reaches without the proxy (`10.0.0.0/8,fd00::/8`).
pub const ANNOTATION_SKIP_SUBNETS: &str = "mesh.dev/skip-subnets";
/// Annotation of a pod or a Service: ports whose bytes are never looked at.
pub const ANNOTATION_OPAQUE_PORTS: &str = "mesh.dev/opaque-ports";
/// Annotation of a pod: CPU that the proxy asks for (a Kubernetes quantity).
pub const ANNOTATION_PROXY_CPU_REQUEST: &str = "mesh.dev/proxy-cpu-request";
/// Annotation of a pod: CPU that the proxy may use.
pub const ANNOTATION_PROXY_CPU_LIMIT: &str = "mesh.dev/proxy-cpu-limit";
/// Annotation of a pod: memory that the proxy asks for.
pub const ANNOTATION_PROXY_MEMORY_REQUEST: &str = "mesh.dev/proxy-memory-request";
/// Annotation of a pod: memory that the proxy may use.
pub const ANNOTATION_PROXY_MEMORY_LIMIT: &str = "mesh.dev/proxy-memory-limit";
/// Annotation of a pod: log level of the proxy.
pub const ANNOTATION_PROXY_LOG_LEVEL: &str = "mesh.dev/proxy-log-level";
/// Annotation of a pod: `true` or `false`, whether each request gets a line in the proxy's log.
pub const ANNOTATION_PROXY_ACCESS_LOG: &str = "mesh.dev/proxy-access-log";
/// Annotation of a pod: image of the proxy.
pub const ANNOTATION_PROXY_IMAGE: &str = "mesh.dev/proxy-image";
/// Annotation of a pod: `true` or `false`, whether the sidecar is an init container that stays (the default where the
/// cluster can) or a plain container.
pub const ANNOTATION_NATIVE_SIDECAR: &str = "mesh.dev/native-sidecar";
/// Name of the sidecar's container.
pub const PROXY_CONTAINER: &str = "mesh-proxy";
/// Name of the init container that redirects connections, or that looks whether the CNI plugin did.
pub const INIT_CONTAINER: &str = "mesh-init";
/// Label of a pod whose network has to be made anew, where the CNI agent may not delete pods: [`REPAIR_VALUE`].
pub const LABEL_REPAIR: &str = "mesh.dev/repair";
/// Value of [`LABEL_REPAIR`].
pub const REPAIR_VALUE: &str = "needed";
/// Volume of a pod with the sidecar's bootstrap token and the roots,
pub const IDENTITY_VOLUME: &str = "mesh-identity";
/// and where containers of the mesh have it.
pub const IDENTITY_MOUNT: &str = "/var/run/secrets/mesh";
/// User (and group) of the sidecar: by it the proxy's own connections are told from the application's.
pub const PROXY_UID: u32 = 15400;

/// Label of every object that a chart of the mesh makes: the chart's name.
pub const LABEL_CHART: &str = "mesh.dev/chart";
/// ConfigMap in [`SYSTEM_NAMESPACE`] in which `meshctl` keeps what it installed.
pub const RELEASE_CONFIG_MAP: &str = "mesh-release";

/// Annotation of a Service: namespaces that may discover it (`*`, `.` for its own, or names; comma separated).
pub const ANNOTATION_EXPORT_TO: &str = "mesh.dev/export-to";

/// ALPN of a connection between two sidecars that carries multiplexed HTTP, as HTTP/2.
pub const ALPN_MESH_HTTP: &[u8] = b"mesh-http/1";
/// ALPN of the same with frames of the mesh's own: what sidecars prefer where both know it.
pub const ALPN_MESH_MUX: &[u8] = b"mesh-mux/1";
/// ALPN of a connection between two sidecars that carries one opaque byte stream.
pub const ALPN_MESH_TCP: &[u8] = b"mesh-tcp/1";
/// ALPN of gRPC to the control plane.
pub const ALPN_GRPC: &[u8] = b"h2";

/// Prefix of every header name the mesh owns. Each such header is removed from every message of every peer.
pub const HEADER_PREFIX: &str = "mesh-";
/// To the application: the verified SPIFFE ID of the caller.
pub const HEADER_CLIENT_ID: &str = "mesh-client-id";
/// To a caller inside the mesh: why the mesh itself answered (stable code).
pub const HEADER_ERROR: &str = "mesh-error";
/// To a caller inside the mesh: the object behind a refusal, `Kind/NAMESPACE/NAME`.
pub const HEADER_POLICY: &str = "mesh-policy";
/// Between sidecars: the protocol that the caller's application spoke (`h1`, `h2`).
pub const HEADER_ORIG_PROTO: &str = "mesh-orig-proto";

/// Prefix of every metric.
pub const METRIC_PREFIX: &str = "mesh_";
/// Prefix of every environment variable of configuration.
pub const ENV_PREFIX: &str = "MESH_";

/// Port of the certificate authority's gRPC service.
pub const PORT_CA: u16 = 15410;
/// Port of the controller's discovery service.
pub const PORT_DISCOVERY: u16 = 15420;
/// Port of a proxy's admin server.
pub const PORT_ADMIN: u16 = 15490;
/// Port of the CNI agent's admin server, on the node.
pub const PORT_CNI: u16 = 15480;
/// Port to which inbound connections are redirected.
pub const PORT_INBOUND: u16 = 15440;
/// Port to which outbound connections are redirected.
pub const PORT_OUTBOUND: u16 = 15450;

/// True where `name` (in any case, `_` for `-` as well) is a header that only the mesh may set.
#[must_use]
pub fn is_reserved_header(name: &str) -> bool {
    let bytes = name.as_bytes();
    let prefix = HEADER_PREFIX.as_bytes();
    bytes.len() >= prefix.len()
        && bytes
            .iter()
            .zip(prefix)
            .all(|(have, want)| have.eq_ignore_ascii_case(want) || (*want == b'-' && *have == b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_in_every_spelling() {
        for name in ["mesh-client-id", "MESH-ID", "mesh_client_id", "Mesh_x"] {
            assert!(is_reserved_header(name), "{name}");
        }
        for name in ["mes", "mesh", "meshed-by", "x-mesh-id", ""] {
            assert!(!is_reserved_header(name), "{name}");
        }
    }
}
