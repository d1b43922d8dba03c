//! Inbound policy: who may call a workload, and how.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{
    Name, ObjectRef, Protocol, WorkloadId,
    route::{PathMatch, ValueMatch},
};

/// All that the inbound side of one workload must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPolicy {
    /// Whose.
    pub workload: WorkloadId,
    /// Its service account; the namespace is the workload's.
    pub service_account: Name,
    /// Declared ports, by the number on which peers reach them.
    pub ports: BTreeMap<u16, PortPolicy>,
    /// Every other port.
    pub default_port: PortPolicy,
}

impl InboundPolicy {
    /// What holds for `port`.
    #[must_use]
    pub fn port(&self, port: u16) -> &PortPolicy {
        self.ports.get(&port).unwrap_or(&self.default_port)
    }
}

/// What holds for one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPolicy {
    /// What the application speaks there.
    pub protocol: Protocol,
    /// Whether callers without a mesh identity are let in at all.
    pub transport: Transport,
    /// Deny first, then allow, then audit.
    pub policies: Vec<AuthorizationPolicy>,
    /// What happens where no policy spoke.
    pub default_allow: bool,
    /// Requests that are let in whoever sends them and whatever policies say: the health probes of the orchestrator,
    /// which has no identity.
    pub probes: Vec<Probe>,
}

/// A request that a health probe makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Method.
    pub method: Name,
    /// Whole path, without query; with a `/` at its end or without is the same.
    pub path: Name,
}

/// Whether mutual TLS is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Plain connections are let in, without an identity.
    #[default]
    Permissive,
    /// Only mutual TLS.
    Strict,
}

/// One AuthorizationPolicy as far as it holds for a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    /// The object, named in every refusal.
    pub origin: ObjectRef,
    /// What a match means.
    pub action: Action,
    /// One that matches is enough; none matches nothing.
    pub rules: Vec<AuthorizationRule>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Refuse. Evaluated first.
    Deny,
    /// Let in. Where any allow policy is there, one must match.
    Allow,
    /// Only note.
    Audit,
}

/// Both parts must match; an empty part matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationRule {
    /// Any of these callers.
    pub from: Vec<Source>,
    /// Any of these operations.
    pub to: Vec<Operation>,
}

/// A caller. All given fields must match, any entry of a field is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// SPIFFE IDs; `*` at the end stands for any rest, `*` alone for any verified identity.
    pub identities: Vec<Name>,
    /// Namespaces of verified identities.
    pub namespaces: Vec<Name>,
    /// Networks of the peer's socket address.
    pub cidrs: Vec<IpNet>,
    /// None of these identities.
    pub not_identities: Vec<Name>,
    /// None of these namespaces.
    pub not_namespaces: Vec<Name>,
    /// None of these networks.
    pub not_cidrs: Vec<IpNet>,
}

/// What the caller wants. All given fields must match, any entry of a field is enough.
///
/// A connection that is not HTTP has no host, method, path or header. In an allow policy such a field then matches
/// nothing; in a deny policy it matches everything: what cannot be judged is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Operation {
    /// Host names, lower case, without port; `*.` in front stands for one label or more.
    pub hosts: Vec<Name>,
    /// Methods, case-sensitive.
    pub methods: Vec<Name>,
    /// Paths, without query.
    pub paths: Vec<PathMatch>,
    /// Ports on which the workload is reached.
    pub ports: Vec<u16>,
    /// Header fields, all of them.
    pub headers: Vec<ValueMatch>,
    /// None of these methods.
    pub not_methods: Vec<Name>,
    /// None of these paths.
    pub not_paths: Vec<PathMatch>,
}

impl Operation {
    /// True where a field can only be judged by looking at a request.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        !(self.hosts.is_empty()
            && self.methods.is_empty()
            && self.paths.is_empty()
            && self.headers.is_empty()
            && self.not_methods.is_empty()
            && self.not_paths.is_empty())
    }
}
