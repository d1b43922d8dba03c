//! Redirection: what makes an application's connections pass through the proxy. Floor 1: imports `mesh_api` only.
//!
//! [`plan`] decides, as a script for `nft`; [`run`] hands a script to the kernel. One table for IPv4 and IPv6, taken over
//! as a whole or not at all. Where the proxy is not there, what is redirected is refused by the kernel: nothing goes
//! round it.

mod run;

pub use run::{RunError, run};

use std::{
    fmt::{self, Display, Write as _},
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use mesh_api::{config::Validate, names};

/// Entries of one list at most: the script stays small enough to be read at a glance, and to fit into a pipe.
const MAX_ENTRIES: usize = 256;

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

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
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

/// The script that puts `settings` in force, in place of whatever an earlier one did. Settings with
/// [mistakes](Validate::mistakes) give a script all the same, and should not.
///
/// Inbound: what is for this machine itself, from elsewhere. Outbound: what is for elsewhere, from anybody but the proxy.
/// What never leaves the machine is left alone: sidecar and application speak over loopback.
#[must_use]
pub fn plan(settings: &Settings) -> String {
    let mut script = remove_plan();
    let Settings { inbound_port, outbound_port, admin_port, .. } = settings;
    script.push_str("table inet mesh {\n");

    chain(&mut script, "inbound", "prerouting");
    rule(&mut script, "iif \"lo\" return");
    rule(&mut script, "fib daddr type != local return");
    rule(&mut script, &format!("tcp dport {admin_port} return"));
    skip(&mut script, "tcp dport", &merged(&settings.skip_inbound_ports));
    rule(&mut script, &format!("meta l4proto tcp redirect to :{inbound_port}"));
    script.push_str("\t}\n\n");

    chain(&mut script, "outbound", "output");
    rule(&mut script, "oif \"lo\" return");
    rule(
        &mut script,
        &match settings.proxy {
            Owner::User(id) => format!("meta skuid {id} return"),
            Owner::Group(id) => format!("meta skgid {id} return"),
        },
    );
    skip(&mut script, "tcp dport", &merged(&settings.skip_outbound_ports));
    let (v4, v6) = by_family(&settings.skip_subnets);
    skip(&mut script, "ip daddr", &v4);
    skip(&mut script, "ip6 daddr", &v6);
    rule(&mut script, &format!("meta l4proto tcp redirect to :{outbound_port}"));
    script.push_str("\t}\n}\n");
    script
}

/// The script that takes everything back. Where there is nothing to take back it does nothing.
#[must_use]
pub fn remove_plan() -> String {
    // What is not there cannot be deleted: first it is made, if need be.
    "add table inet mesh\ndelete table inet mesh\n".to_owned()
}

fn chain(script: &mut String, name: &str, hook: &str) {
    // -100: `dstnat`, whose name older programs do not take for the output hook.
    let _ = write!(script, "\tchain {name} {{\n\t\ttype nat hook {hook} priority -100; policy accept;\n");
}

fn rule(script: &mut String, rule: &str) {
    let _ = writeln!(script, "\t\t{rule}");
}

fn skip<T: Display>(script: &mut String, what: &str, entries: &[T]) {
    if !entries.is_empty() {
        let entries: Vec<String> = entries.iter().map(ToString::to_string).collect();
        rule(script, &format!("{what} {{ {} }} return", entries.join(", ")));
    }
}

/// In order, overlapping and adjoining ranges as one: a set of the kernel takes nothing twice.
fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first <= last.last.saturating_add(1) => last.last = last.last.max(range.last),
            _ => merged.push(range),
        }
    }
    merged
}

/// The same for networks.
fn by_family(subnets: &[IpNet]) -> (Vec<Ipv4Net>, Vec<Ipv6Net>) {
    let v4: Vec<Ipv4Net> = subnets
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        })
        .collect();
    let v6: Vec<Ipv6Net> = subnets
        .iter()
        .filter_map(|net| match net {
            IpNet::V4(_) => None,
            IpNet::V6(net) => Some(net.trunc()),
        })
        .collect();
    (Ipv4Net::aggregate(&v4), Ipv6Net::aggregate(&v6))
}

#[cfg(test)]
mod tests;
