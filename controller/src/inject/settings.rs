//! What every sidecar is made from: the section `[inject]` of the configuration.

use std::{fmt, net::SocketAddr, str::FromStr};

use mesh_api::names;
use serde::{Deserialize, Serialize};

use super::{overrides, ports, quantity};

/// The configuration of injection. Lists are written as in annotations: `25,8000-8010`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InjectConfig {
    /// Image of the sidecar.
    pub image: String,
    /// When nodes fetch it.
    pub pull_policy: PullPolicy,
    /// Whether sidecars are init containers that stay.
    pub native: Native,
    /// Whether a CNI plugin redirects connections.
    pub cni: bool,
    /// CPU that a proxy asks for; empty: none.
    pub cpu_request: String,
    /// CPU that a proxy may use; empty: no limit.
    pub cpu_limit: String,
    /// Memory that a proxy asks for; empty: none.
    pub memory_request: String,
    /// Memory that a proxy may use; empty: no limit.
    pub memory_limit: String,
    /// Log level of proxies.
    pub log_level: String,
    /// Log format of proxies.
    pub log_format: LogFormat,
    /// Whether each request gets a line in the proxy's log.
    pub access_log: bool,
    /// Where spans are sent; empty: nowhere.
    pub otlp_endpoint: String,
    /// Share of the traces begun at a proxy that is recorded.
    pub trace_ratio: f64,
    /// Ports of applications that are reached without the proxy.
    pub skip_inbound_ports: String,
    /// Ports that applications reach without the proxy.
    pub skip_outbound_ports: String,
    /// Networks that applications reach without the proxy.
    pub skip_subnets: String,
    /// Address of the certificate authority as pods see it, HOST:PORT.
    pub ca: String,
    /// Address of the controller as pods see it, HOST:PORT.
    pub discovery: String,
}

impl Default for InjectConfig {
    fn default() -> Self {
        let service = |name: &str, port: u16| format!("{name}.{}.svc.cluster.local:{port}", names::SYSTEM_NAMESPACE);
        Self {
            image: format!("mesh.dev/proxy:{}", env!("CARGO_PKG_VERSION")),
            pull_policy: PullPolicy::IfNotPresent,
            native: Native::Auto,
            cni: false,
            cpu_request: "10m".into(),
            cpu_limit: String::new(),
            memory_request: "32Mi".into(),
            memory_limit: "512Mi".into(),
            log_level: "info".into(),
            log_format: LogFormat::Json,
            access_log: false,
            otlp_endpoint: String::new(),
            trace_ratio: 0.01,
            skip_inbound_ports: String::new(),
            skip_outbound_ports: String::new(),
            skip_subnets: String::new(),
            ca: service(names::CA_ACCOUNT, names::PORT_CA),
            discovery: service(names::CONTROLLER_ACCOUNT, names::PORT_DISCOVERY),
        }
    }
}

impl InjectConfig {
    /// Every mistake, as (key, reason), keys without the section's name.
    #[must_use]
    pub fn mistakes(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |key: &str, good: Result<(), String>| {
            if let Err(reason) = good {
                wrong.push((key.to_owned(), reason));
            }
        };
        check("image", overrides::check_image(&self.image));
        check("log_level", overrides::check_log_level(&self.log_level));
        check("skip_inbound_ports", overrides::inbound_ports(&self.skip_inbound_ports).map(drop));
        check("skip_outbound_ports", self.skip_outbound_ports.parse::<ports::PortList>().map(drop));
        check("skip_subnets", ports::subnets(&self.skip_subnets).map(drop));
        let amounts = [
            ("cpu_request", &self.cpu_request),
            ("cpu_limit", &self.cpu_limit),
            ("memory_request", &self.memory_request),
            ("memory_limit", &self.memory_limit),
        ];
        for (key, amount) in amounts {
            let good = amount.is_empty() || quantity::thousandths(amount).is_some();
            check(key, good.then_some(()).ok_or_else(|| format!("`{amount}` is not a quantity such as 100m or 64Mi")));
        }
        for (key, address) in [("ca", &self.ca), ("discovery", &self.discovery)] {
            let port = address.rsplit_once(':').filter(|(host, _)| is_host(host)).map(|(_, port)| port.parse::<u16>());
            let good = matches!(port, Some(Ok(1..)));
            check(key, good.then_some(()).ok_or_else(|| format!("`{address}` is not HOST:PORT")));
        }
        let ratio = (0.0..=1.0).contains(&self.trace_ratio);
        check("trace_ratio", ratio.then_some(()).ok_or_else(|| format!("{} is not 0 to 1", self.trace_ratio)));
        let endpoint = &self.otlp_endpoint;
        let uri = endpoint.parse::<http::Uri>();
        let good = endpoint.is_empty()
            || uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some())
                && !endpoint.contains('$');
        check("otlp_endpoint", good.then_some(()).ok_or_else(|| format!("`{endpoint}` is not http://HOST:PORT")));
        wrong
    }
}

fn is_host(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte))
}

/// The configuration, and what comes from elsewhere.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The section of the configuration; free of [mistakes](InjectConfig::mistakes).
    pub config: InjectConfig,
    /// Trust domain of the mesh.
    pub trust_domain: String,
    /// Where the control plane is by number, for pods that may not know the cluster's names; `None`: not known.
    pub addresses: Option<Addresses>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { config: InjectConfig::default(), trust_domain: names::DEFAULT_TRUST_DOMAIN.into(), addresses: None }
    }
}

/// Where the control plane is, as IP:PORT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The certificate authority.
    pub ca: SocketAddr,
    /// The controller.
    pub discovery: SocketAddr,
}

/// When nodes fetch an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Where they do not have it.
    IfNotPresent,
    /// Each time.
    Always,
    /// Never: it is there already.
    Never,
}

/// How lines of a proxy's log look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Whether sidecars are init containers that stay (KEP-753).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Native {
    /// Where the cluster has them: from 1.29 on, and where its version is not known.
    Auto,
    /// Always.
    True,
    /// Never.
    False,
}

/// Version of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

impl Version {
    /// As an API server writes its numbers; some add a `+`.
    #[must_use]
    pub fn of(major: &str, minor: &str) -> Option<Self> {
        let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok();
        Some(Self { major: number(major)?, minor: number(minor)? })
    }

    /// True from 1.29 on, where native sidecars are there without being switched on.
    #[must_use]
    pub fn has_native_sidecars(self) -> bool {
        self >= Self { major: 1, minor: 29 }
    }

    /// True where the cluster can be made to have them: 1.28 behind a gate.
    pub(super) fn may_have_native_sidecars(self) -> bool {
        self >= Self { major: 1, minor: 28 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = String;

    /// Reads `1.30`, also as part of `v1.30.2`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.trim_start_matches('v').split('.');
        let version = parts.next().zip(parts.next()).and_then(|(major, minor)| Self::of(major, minor));
        version.ok_or_else(|| format!("`{text}` is not a version such as 1.30"))
    }
}
