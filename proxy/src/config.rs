//! Configuration of the proxy: typed, with a default for everything. Floor 0: imports `mesh_api` only.

use std::{net::SocketAddr, time::Duration};

use mesh_api::{
    address::HostPort,
    config::{Validate, duration},
    identity::IdentityConfig,
    log::LogConfig,
    model::Target,
    names,
    probe::Probe,
};
use serde::{Deserialize, Serialize};

/// All of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the workload that this proxy stands beside.
    pub workload: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of what the workload is an instance of, for metrics and traces; empty: the workload itself.
    pub owner: String,
    /// Topology zone; empty where unknown.
    pub zone: String,
    /// Threads that carry traffic, each with its own listeners and connections.
    pub workers: u16,
    /// After SIGTERM, what is in flight has this long to end.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// Who it is.
    pub identity: IdentityConfig,
    /// Where it learns everything else.
    pub discovery: DiscoveryConfig,
    /// What comes in.
    pub inbound: InboundConfig,
    /// What goes out.
    pub outbound: OutboundConfig,
    /// The admin server.
    pub admin: AdminConfig,
    /// Metrics, traces, access log.
    pub telemetry: TelemetryConfig,
    /// Its own log.
    pub log: LogConfig,
}

/// Where discovery is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DiscoveryConfig {
    /// Host (name or address) and port of the controller; a name is resolved at each connection.
    pub address: HostPort,
    /// How long a connection waits for the first answer about its destination.
    #[serde(with = "duration")]
    pub wait: Duration,
    /// Destinations known at once; the longest unused one is forgotten first.
    pub max_destinations: usize,
    /// A destination unused for this long is forgotten.
    #[serde(with = "duration")]
    pub idle: Duration,
}

/// The inbound side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InboundConfig {
    /// Where redirected connections arrive; their original destination says which port is meant.
    pub transparent: Option<SocketAddr>,
    /// Addresses of their own, where nothing is redirected.
    pub listeners: Vec<InboundListener>,
    /// How long connecting to the application may take.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
}

/// A port of the workload, without redirection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundListener {
    /// Where peers reach it.
    pub listen: SocketAddr,
    /// Where the application listens.
    pub app: SocketAddr,
}

/// The outbound side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OutboundConfig {
    /// Where redirected connections arrive; their original destination says where they want to go.
    pub transparent: Option<SocketAddr>,
    /// A local address for each upstream, where nothing is redirected.
    pub listeners: Vec<OutboundListener>,
    /// How long connecting to an endpoint may take, handshake included.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// Requests that may wait for a connection to one endpoint.
    pub max_pending: usize,
}

/// A local address for one upstream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundListener {
    /// Where the application connects to.
    pub listen: SocketAddr,
    /// `NAME.NAMESPACE:PORT` or `IP:PORT`.
    pub to: String,
}

/// The admin server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Probes of the application that are asked for here.
    pub probes: Vec<Probe>,
}

/// Metrics, traces, access log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryConfig {
    /// OTLP over gRPC, such as `http://127.0.0.1:4317`; empty: no traces.
    pub otlp_endpoint: String,
    /// Share of the traces begun here that is recorded, 0 to 1; a caller's decision is followed.
    pub trace_ratio: f64,
    /// A line for each request, on standard output.
    pub access_log: bool,
    /// Label sets at once; what comes beyond is counted as `other`.
    pub max_series: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workload: "unknown".into(),
            namespace: "default".into(),
            owner: String::new(),
            zone: String::new(),
            workers: 1,
            drain: Duration::from_secs(30),
            identity: IdentityConfig::default(),
            discovery: DiscoveryConfig::default(),
            inbound: InboundConfig::default(),
            outbound: OutboundConfig::default(),
            admin: AdminConfig::default(),
            telemetry: TelemetryConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for DiscoveryConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], names::PORT_DISCOVERY)).into(),
            wait: Duration::from_secs(5),
            max_destinations: 1024,
            idle: Duration::from_secs(600),
        }
    }
}

impl Default for InboundConfig {
    fn default() -> Self {
        Self {
            transparent: None,
            listeners: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            max_connections: 20_000,
        }
    }
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self {
            transparent: None,
            listeners: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            max_connections: 20_000,
            max_pending: 1024,
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], names::PORT_ADMIN).into(), probes: Vec::new() }
    }
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), trace_ratio: 0.01, access_log: false, max_series: 10_000 }
    }
}

impl Validate for Config {
    fn mistakes(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |good: bool, key: &str, reason: String| {
            if !good {
                wrong.push((key.to_owned(), reason));
            }
        };
        check((1..=256).contains(&self.workers), "workers", format!("{} is not 1 to 256", self.workers));
        check(
            (0.0..=1.0).contains(&self.telemetry.trace_ratio),
            "telemetry.trace_ratio",
            format!("{} is not 0 to 1", self.telemetry.trace_ratio),
        );
        let endpoint = &self.telemetry.otlp_endpoint;
        check(
            endpoint.is_empty()
                || endpoint
                    .parse::<http::Uri>()
                    .is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some()),
            "telemetry.otlp_endpoint",
            format!("`{endpoint}` is not http://HOST:PORT"),
        );
        for (at, listener) in self.outbound.listeners.iter().enumerate() {
            if let Err(error) = listener.to.parse::<Target>() {
                check(false, &format!("outbound.listeners[{at}].to"), error.to_string());
            }
        }
        wrong
    }
}

/// Every key with its meaning, for the reference page; a test holds it complete.
pub const KEYS: &[(&str, &str)] = &[
    ("workload", "Name of the workload that this proxy stands beside."),
    ("namespace", "Its namespace."),
    (
        "owner",
        "Name of what the workload is an instance of, such as a Deployment, for metrics and traces; empty: the workload itself.",
    ),
    ("zone", "Topology zone; empty where unknown."),
    ("workers", "Threads that carry traffic, each with its own listeners and connections."),
    ("drain", "After SIGTERM, what is in flight has this long to end."),
    ("identity.trust_domain", "Trust domain of the mesh."),
    ("identity.ca", "`HOST:PORT` of the certificate authority; a host name is resolved at each connection."),
    ("identity.token_file", "File with the bootstrap token; read again for each certificate."),
    (
        "identity.roots_file",
        "PEM file with the roots to trust for the first contact; read again when it cannot be made.",
    ),
    ("identity.validity_seconds", "Wished validity of certificates; 0 leaves it to the authority."),
    ("discovery.address", "`HOST:PORT` of the controller; a host name is resolved at each connection."),
    ("discovery.wait", "How long a connection waits for the first answer about its destination."),
    ("discovery.max_destinations", "Destinations known at once; the longest unused one is forgotten first."),
    ("discovery.idle", "A destination unused for this long is forgotten."),
    ("inbound.transparent", "Where redirected connections arrive."),
    ("inbound.listeners", "List of `{listen, app}`: a port of the workload, without redirection."),
    ("inbound.connect_timeout", "How long connecting to the application may take."),
    ("inbound.max_connections", "Inbound connections at once; further ones wait in the kernel's queue."),
    ("outbound.transparent", "Where redirected connections of the application arrive."),
    ("outbound.listeners", "List of `{listen, to}`: a local address for one upstream."),
    ("outbound.connect_timeout", "How long connecting to an endpoint may take, handshake included."),
    ("outbound.max_connections", "Outbound connections at once; further ones wait in the kernel's queue."),
    ("outbound.max_pending", "Requests that may wait for a connection to one endpoint."),
    (
        "admin.listen",
        "Where the admin server listens. Health, the probes and metrics are everybody's; all else is answered to this machine (or pod) and to port-forwards only.",
    ),
    (
        "admin.probes",
        "List of `{at, port, seconds, https, http}`: health probes and hooks of the application that a kubelet asks the admin \
         server for, by the path `at`, which has a part that cannot be guessed. Without `https` and `http` (`{path, \
         headers}`) a connection to the port is all that is asked.",
    ),
    ("telemetry.otlp_endpoint", "OTLP over gRPC, such as `http://127.0.0.1:4317`; empty: no traces."),
    ("telemetry.trace_ratio", "Share of the traces begun here that is recorded; a caller's decision is followed."),
    ("telemetry.access_log", "A line for each request, on standard output."),
    ("telemetry.max_series", "Label sets of metrics at once; what comes beyond is counted as `other`."),
    ("log.level", "Log level, such as `info` or `info,mesh_proxy=debug`."),
    ("log.format", "`text` or `json`."),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_meaning() {
        let keys: Vec<String> = mesh_api::config::keys_of(&Config::default()).into_iter().map(|(key, _)| key).collect();
        let told: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        let mut sorted_keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let mut sorted_told = told.clone();
        sorted_keys.sort_unstable();
        sorted_told.sort_unstable();
        assert_eq!(sorted_keys, sorted_told);
    }

    #[test]
    fn contradictions_are_found() {
        let mut config = Config { workers: 0, ..Config::default() };
        config.telemetry.trace_ratio = 2.0;
        config.telemetry.otlp_endpoint = "collector".into();
        config.outbound.listeners.push(OutboundListener { listen: ([127, 0, 0, 1], 1).into(), to: "x".into() });
        let keys: Vec<String> = config.mistakes().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["workers", "telemetry.trace_ratio", "telemetry.otlp_endpoint", "outbound.listeners[0].to"]);
        assert!(Config::default().mistakes().is_empty());
    }
}
