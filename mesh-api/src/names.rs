//! Every label, annotation, header, port and metric prefix that the mesh owns, once. Floor 0: imports nothing.

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
/// Service account of the certificate authority in [`SYSTEM_NAMESPACE`].
pub const CA_ACCOUNT: &str = "mesh-ca";
/// Audience that a token for the certificate authority must be made for.
pub const CA_AUDIENCE: &str = "mesh-ca";

/// Annotation of a Service: namespaces that may discover it (`*`, `.` for its own, or names; comma separated).
pub const ANNOTATION_EXPORT_TO: &str = "mesh.dev/export-to";

/// ALPN of a connection between two sidecars that carries multiplexed HTTP.
pub const ALPN_MESH_HTTP: &[u8] = b"mesh-http/1";
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
