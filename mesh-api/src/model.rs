//! The mesh in plain types: no prost, no Kubernetes. Floor 1: imports `spiffe` only.
//!
//! What the controller resolves, what the wire carries, what the proxy compiles into its hot path and what the
//! command line explains are these types.

pub mod destination;
pub mod policy;
pub mod route;

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc};

/// A short text that is shared much and changed never.
pub type Name = Arc<str>;

/// Names one object of the configuration, so that every decision can say which object was behind it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Kind, as in manifests.
    pub kind: Name,
    /// Namespace; empty where the kind has none.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// Names one instance of a workload: a pod, or an external workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadId {
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Not said: looked at, from both sides.
    #[default]
    Detect,
    /// HTTP/1.x.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC: HTTP/2 with its status in trailers.
    Grpc,
    /// The application's own TLS: passed on untouched.
    Tls,
    /// Any bytes: never parsed.
    Opaque,
}

impl Protocol {
    /// From a Service port's `appProtocol` (KEP-1940 names included). `None` for a value that nobody here knows.
    #[must_use]
    pub fn from_app_protocol(value: &str) -> Option<Self> {
        Some(match value.to_ascii_lowercase().as_str() {
            "http" | "http/1.1" | "kubernetes.io/ws" => Self::Http1,
            "http2" | "h2c" | "kubernetes.io/h2c" => Self::Http2,
            "grpc" => Self::Grpc,
            "https" | "tls" | "kubernetes.io/wss" => Self::Tls,
            "tcp" | "opaque" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "smtp" => Self::Opaque,
            _ => return None,
        })
    }

    /// From a port's name, as in `mysql` or `tls-admin`: what stands before the first `-`. Only names of protocols whose
    /// bytes are passed on untouched say anything: HTTP and gRPC are recognised when they come, and a name must not make
    /// a port refuse what it carried before.
    #[must_use]
    pub fn from_port_name(name: &str) -> Option<Self> {
        Some(match name.split('-').next().unwrap_or_default() {
            "tls" | "https" => Self::Tls,
            "tcp" | "mysql" | "postgres" | "postgresql" | "redis" | "mongo" | "smtp" => Self::Opaque,
            _ => return None,
        })
    }

    /// True where requests can be told apart.
    #[must_use]
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Http2 | Self::Grpc)
    }

    /// Stable lower-case name, for labels and tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tls => "tls",
            Self::Opaque => "tcp",
        }
    }
}

/// What a proxy asks discovery about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A port of a service by name.
    Service {
        /// Namespace.
        namespace: Name,
        /// Name.
        name: Name,
        /// Port of the service.
        port: u16,
    },
    /// An address to which an application connected.
    Address(SocketAddr),
}

/// Why a text is not a [`Target`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not NAME.NAMESPACE:PORT, NAME.NAMESPACE.svc:PORT or IP:PORT")]
pub struct TargetError {
    text: String,
}

impl FromStr for Target {
    type Err = TargetError;

    /// Accepts `NAME.NAMESPACE[.svc[.DOMAIN]]:PORT` and `IP:PORT`; case and a trailing dot do not matter.
    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError { text: text.chars().take(300).collect() };
        if text.len() > 300 {
            return Err(wrong());
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port: u16 = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let mut labels = host.split('.');
        let (Some(name), Some(namespace)) = (labels.next(), labels.next()) else { return Err(wrong()) };
        if labels.next().is_some_and(|third| third != "svc") || !is_dns_label(name) || !is_dns_label(namespace) {
            return Err(wrong());
        }
        Ok(Self::Service { namespace: namespace.into(), name: name.into(), port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { namespace, name, port } => write!(f, "{name}.{namespace}.svc:{port}"),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

/// True for a DNS label as Kubernetes names objects (RFC 1123): `a-z 0-9 -`, at most 63, no `-` at an end.
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.len() <= 63 && text.bytes().all(good) && !text.starts_with('-') && !text.ends_with('-')
}

/// True for a DNS subdomain as Kubernetes names most objects (RFC 1123): labels with dots between, at most 253. A label may
/// be longer than one that is a host name.
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(good) && !label.starts_with('-') && !label.ends_with('-');
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects() {
        for name in ["a", "a.b-c.9", &"x".repeat(253)] {
            assert!(is_dns_subdomain(name), "{name}");
        }
        for name in
            ["", ".", "..", "a.", ".a", "a..b", "-a", "a-.b", "A", "a/b", "a_b", "é", "a\0", "a:b", &"x".repeat(254)]
        {
            assert!(!is_dns_subdomain(name), "{name:?}");
        }
    }

    #[test]
    fn targets() {
        for text in
            ["web.shop:80", "web.shop.svc:80", "Web.Shop.svc.cluster.local:80", "web.shop.svc.cluster.local.:80"]
        {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), "web.shop.svc:80", "{text}");
        }
        assert_eq!("[::1]:9".parse::<Target>().unwrap().to_string(), "[::1]:9");
        for text in
            ["", "web", "web:80", "web.shop", "web.shop:0", "web.shop:99999", "we b.shop:1", "web.shop.pod:1", ".:1"]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
