//! Health probes that a sidecar carries out in the kubelet's place: what injection tells it of them. Floor 0: imports
//! nothing.
//!
//! A bare connection that comes to a pod from elsewhere is accepted by the sidecar, whoever is behind it, and one with the
//! application's own TLS cannot be looked into. So the kubelet asks the sidecar's admin server, which asks the application.

use serde::{Deserialize, Serialize};

/// What their paths on the admin server begin with; the container and the probe follow: `/probe/web/readiness`.
pub const PREFIX: &str = "/probe/";

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Its path on the admin server.
    pub at: String,
    /// Port of the application.
    pub port: u16,
    /// How long it may take, in seconds.
    pub seconds: u64,
    /// What is asked for over TLS; `None`: that a connection can be made is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub https: Option<Get>,
}

/// A request over TLS. Whose certificate it is, is not looked at: a kubelet does not either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Get {
    /// Path, with query.
    pub path: String,
    /// Headers, as name and value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
}
