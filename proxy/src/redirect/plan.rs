//! The rules as data: what both the script for people and the messages for the kernel are made of. Floor 1: imports
//! `settings`.

use std::fmt::{self, Display};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::settings::{Owner, PortRange, Settings};

/// Name of the table, in every network namespace.
pub const TABLE: &str = "mesh";
/// `dstnat`, whose name older programs do not take for the output hook.
pub const PRIORITY: i32 = -100;

/// What a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4: for kernels that were built without the other.
    Ip,
}

impl Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
        })
    }
}

/// The one table, named [`TABLE`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it sees.
    pub family: Family,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain of type `nat` with priority [`PRIORITY`] that accepts what none of its rules takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name.
    pub name: &'static str,
    /// Where packets come by.
    pub hook: Hook,
    /// The first that fits wins.
    pub rules: Vec<Rule>,
}

/// Where packets come by a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What arrives.
    Prerouting,
    /// What processes of this machine send.
    Output,
}

impl Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        })
    }
}

/// What is done with what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Which packets.
    pub when: Match,
    /// What is done with them.
    pub verdict: Verdict,
}

/// Which packets a rule takes. Lists are in order, and nothing in them overlaps or could be one with its neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// Came in over loopback.
    FromLoopback,
    /// Goes out over loopback.
    ToLoopback,
    /// Is for an address that this machine does not have.
    NotForUs,
    /// Was sent by a process of this user or group.
    By(Owner),
    /// TCP to one of these ports.
    Ports(Vec<PortRange>),
    /// To one of these networks.
    V4(Vec<Ipv4Net>),
    /// To one of these networks.
    V6(Vec<Ipv6Net>),
    /// TCP.
    Tcp,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet goes its way.
    Return,
    /// The connection goes to this port of this machine.
    Redirect(u16),
}

/// The table that puts `settings` in force. Settings with [mistakes](mesh_api::config::Validate::mistakes) give a table
/// all the same, and should not.
///
/// Inbound: what is for this machine itself, from elsewhere. Outbound: what is for elsewhere, from anybody but the proxy.
/// What never leaves the machine is left alone: sidecar and application speak over loopback.
#[must_use]
pub fn plan(settings: &Settings) -> Table {
    plan_for(settings, Family::Inet)
}

/// The same for a family.
#[must_use]
pub(super) fn plan_for(settings: &Settings, family: Family) -> Table {
    let returned = |when| Rule { when, verdict: Verdict::Return };
    let redirected = |port| Rule { when: Match::Tcp, verdict: Verdict::Redirect(port) };

    let mut inbound = vec![returned(Match::FromLoopback), returned(Match::NotForUs)];
    inbound.extend(
        PortRange::new(settings.admin_port, settings.admin_port).map(|port| returned(Match::Ports(vec![port]))),
    );
    inbound.extend(some(merged(&settings.skip_inbound_ports)).map(|ports| returned(Match::Ports(ports))));
    inbound.push(redirected(settings.inbound_port));

    let mut outbound = vec![returned(Match::ToLoopback), returned(Match::By(settings.proxy))];
    outbound.extend(some(merged(&settings.skip_outbound_ports)).map(|ports| returned(Match::Ports(ports))));
    let (v4, v6) = by_family(&settings.skip_subnets);
    outbound.extend(some(v4).map(|networks| returned(Match::V4(networks))));
    if family == Family::Inet {
        outbound.extend(some(v6).map(|networks| returned(Match::V6(networks))));
    }
    outbound.push(redirected(settings.outbound_port));

    Table {
        family,
        chains: vec![
            Chain { name: "inbound", hook: Hook::Prerouting, rules: inbound },
            Chain { name: "outbound", hook: Hook::Output, rules: outbound },
        ],
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// In order, overlapping and adjoining ranges as one: a set of the kernel takes nothing twice.
pub(super) fn merged(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match merged.last_mut() {
            Some(last) if range.first() <= last.last().saturating_add(1) => *last = last.extended(range.last()),
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
