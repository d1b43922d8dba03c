//! What is redirected where, and what is not, as people say it. Floor 0 of the module: imports nothing of it.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use ipnet::IpNet;
use mesh_api::{config::Validate, names};

/// Entries of one list at most: the rules stay few enough to be read at a glance.
pub(super) const MAX_ENTRIES: usize = 256;

/// By what the proxy's own connections are told from the application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// User id of the proxy's process.
    User(u32),
    /// Group id of the proxy's process.
    Group(u32),
}

/// Ports from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// From `first` to `last`. `None` where there is no such range, or where it has the port 0.
    #[must_use]
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }

    /// The first port of it.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last port of it.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// True where the port is in it.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The same range, but to `last` at least.
    pub(super) fn extended(self, last: u16) -> Self {
        Self { last: self.last.max(last), ..self }
    }
}

impl Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A text is no [`PortRange`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not PORT or FIRST-LAST, of ports from 1 to 65535")]
pub struct PortRangeError(String);

impl FromStr for PortRange {
    type Err = PortRangeError;

    /// Accepts `PORT` and `FIRST-LAST`.
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let port = |part: &str| digits(part).then(|| part.parse().ok()).flatten();
        let range = port(first).zip(port(last)).and_then(|(first, last)| Self::new(first, last));
        range.ok_or_else(|| PortRangeError(text.chars().take(32).collect()))
    }
}

/// What is redirected where, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whose connections are not redirected: the proxy's own.
    pub proxy: Owner,
    /// Where the proxy takes what comes in.
    pub inbound_port: u16,
    /// Where the proxy takes what goes out.
    pub outbound_port: u16,
    /// Port of the proxy's admin server, which is reached directly.
    pub admin_port: u16,
    /// Ports of the application that are reached directly.
    pub skip_inbound_ports: Vec<PortRange>,
    /// Ports that the application reaches directly, wherever they are.
    pub skip_outbound_ports: Vec<PortRange>,
    /// Networks that the application reaches directly. What comes from them is redirected like anything else: a policy
    /// is not to be left behind by an address.
    pub skip_subnets: Vec<IpNet>,
}

impl Settings {
    /// The mesh's own ports, nothing skipped.
    #[must_use]
    pub fn new(proxy: Owner) -> Self {
        Self {
            proxy,
            inbound_port: names::PORT_INBOUND,
            outbound_port: names::PORT_OUTBOUND,
            admin_port: names::PORT_ADMIN,
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_subnets: Vec::new(),
        }
    }
}

impl Validate for Settings {
    fn mistakes(&self) -> Vec<(String, String)> {
        let mut wrong = Vec::new();
        let mut check = |good: bool, key: &str, reason: String| {
            if !good {
                wrong.push((key.to_owned(), reason));
            }
        };
        let (Owner::User(id) | Owner::Group(id)) = self.proxy;
        // Nobody has the last id: the kernel takes it for none at all.
        check(id != 0, "proxy", "the proxy must not run as root: root's connections would go round it".into());
        check(id != u32::MAX, "proxy", format!("{id} is nobody's id"));
        let own = [
            ("inbound-port", self.inbound_port),
            ("outbound-port", self.outbound_port),
            ("admin-port", self.admin_port),
        ];
        for (at, (key, port)) in own.iter().enumerate() {
            check(*port != 0, key, "0 is no port".into());
            for (other, same) in own.iter().take(at) {
                check(port != same, key, format!("{port} is the {other} already"));
            }
        }
        // A connection to the proxy's inbound port that is not redirected has no original destination.
        for range in &self.skip_inbound_ports {
            for (key, port) in own.iter().take(2) {
                check(!range.contains(*port), "skip-inbound-ports", format!("{range} has the proxy's own {key} in it"));
            }
        }
        let lists = [
            ("skip-inbound-ports", self.skip_inbound_ports.len()),
            ("skip-outbound-ports", self.skip_outbound_ports.len()),
            ("skip-subnets", self.skip_subnets.len()),
        ];
        for (key, entries) in lists {
            check(entries <= MAX_ENTRIES, key, format!("{entries} entries are more than {MAX_ENTRIES}"));
        }
        wrong
    }
}
