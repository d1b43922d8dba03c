//! Addresses as configuration gives them: `HOST:PORT` with a host name or an IP address. Floor 0: imports nothing.
//!
//! What cannot be a name or an address is found when it is read. What a name stands for is asked at each connection
//! (`crate::sys::Net::resolve`) and never kept.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Longest host name, in bytes, without a dot at its end (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// Longest part of a host name, in bytes.
const MAX_LABEL: usize = 63;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// By its address.
    Ip(IpAddr),
    /// By its name.
    Name(String),
}

/// A host and a port to connect to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: Host,
    port: u16,
}

/// Why a text is no [`HostPort`]. The author's to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// No port, or none that can be connected to.
    #[error("the port is missing or not 1 to 65535; expected is HOST:PORT")]
    Port,
    /// An IPv6 address without brackets.
    #[error("an IPv6 address stands in brackets: [::1]:15410")]
    Brackets,
    /// Neither a name nor an address.
    #[error("the host is neither an IP address nor a host name (letters, digits, '-', '_' and dots between them)")]
    Host,
}

impl HostPort {
    /// The host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (host, port) = text.rsplit_once(':').ok_or(AddressError::Port)?;
        // `u16` would take a sign.
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| digits && *port != 0).ok_or(AddressError::Port)?;
        let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(v6) => Host::Ip(v6.parse::<Ipv6Addr>().map_err(|_| AddressError::Host)?.into()),
            None if host.contains(':') => return Err(AddressError::Brackets),
            None => match host.parse::<IpAddr>() {
                Ok(ip) => Host::Ip(ip),
                Err(_) if is_name(host) => Host::Name(host.to_owned()),
                Err(_) => return Err(AddressError::Host),
            },
        };
        Ok(Self { host, port })
    }
}

/// A host name (RFC 1123 section 2.1; with `_`, which some resolvers' names have). One whose last part is a number is
/// an address that was mistyped.
fn is_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= MAX_NAME && name.split('.').all(label) && !numeric
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| D::Error::custom(format!("`{text}`: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses() {
        for text in [
            "127.0.0.1:15410",
            "[::1]:1",
            "[fd00::1:2]:65535",
            "localhost:80",
            "mesh-ca.mesh-system.svc.cluster.local:15410",
            "mesh-ca.mesh-system.svc.cluster.local.:15410",
            "my_ca:15410",
            "1a.b:1",
            "CA:1",
        ] {
            let address: HostPort = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(serde_json::to_value(&address).unwrap(), text);
            assert_eq!(serde_json::from_value::<HostPort>(text.into()).unwrap(), address);
        }
        let ip: SocketAddr = "[::1]:7".parse().unwrap();
        assert_eq!(HostPort::from(ip), "[::1]:7".parse().unwrap());
    }

    #[test]
    fn mistakes() {
        let long = format!("{}.a:1", "a".repeat(64));
        let longest = format!("{}a:1", "a.".repeat(127));
        for (text, error) in [
            ("", AddressError::Port),
            ("ca", AddressError::Port),
            ("ca:", AddressError::Port),
            ("ca:0", AddressError::Port),
            ("ca:+1", AddressError::Port),
            ("ca:65536", AddressError::Port),
            ("ca: 1", AddressError::Port),
            ("ca:http", AddressError::Port),
            ("::1:15410", AddressError::Brackets),
            (":1", AddressError::Host),
            (".:1", AddressError::Host),
            ("a..b:1", AddressError::Host),
            (".a:1", AddressError::Host),
            ("-a:1", AddressError::Host),
            ("a-:1", AddressError::Host),
            ("a b:1", AddressError::Host),
            ("a/b:1", AddressError::Host),
            ("http//a:1", AddressError::Host),
            ("https://a:1", AddressError::Brackets),
            ("u@a:1", AddressError::Host),
            ("é:1", AddressError::Host),
            ("10.0.0:1", AddressError::Host),
            ("10.0.0.256:1", AddressError::Host),
            ("1:1", AddressError::Host),
            ("[127.0.0.1]:1", AddressError::Host),
            ("[fe80::1%eth0]:1", AddressError::Host),
            ("[ca]:1", AddressError::Host),
            (&long, AddressError::Host),
            (&longest, AddressError::Host),
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(error), "{text:?}");
        }
    }
}
