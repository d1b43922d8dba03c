//! What objects become: checked, in the model's own types, ready to be indexed. Floor 1.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use mesh_api::{
    model::{
        Name, ObjectRef, Protocol, WorkloadId,
        policy::{Action, AuthorizationRule, Probe, Transport},
        route::{Filter, HttpMatch},
    },
    spiffe::SpiffeId,
};

pub use super::ports::PortSet;

/// Labels, or what labels must contain.
pub type Labels = BTreeMap<String, String>;

/// True where `labels` holds all of `wanted`.
#[must_use]
pub fn has_labels(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Names a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId {
    /// Namespace.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// Rank of an object among others in conflict (Gateway API): the oldest first, then by namespace and name. An object
/// without a time comes after all that have one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    undated: bool,
    created: Name,
    namespace: Name,
    name: Name,
}

impl Rank {
    /// From metadata; a time that is not RFC 3339 in UTC counts as none.
    #[must_use]
    pub fn new(created: Option<&str>, object: &ObjectRef) -> Self {
        // Fractions of a second are cut: text then orders as time does.
        let seconds = created
            .and_then(|text| text.strip_suffix('Z').or_else(|| text.strip_suffix('z')))
            .and_then(|text| text.get(..19))
            .filter(|text| text.as_bytes().get(10) == Some(&b'T'));
        Self {
            undated: seconds.is_none(),
            created: seconds.unwrap_or_default().into(),
            namespace: object.namespace.clone(),
            name: object.name.clone(),
        }
    }
}

/// One object, translated.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// A namespace; it says nothing so far but that it is there.
    Namespace,
    /// A Service.
    Service(Service),
    /// A workload.
    Workload(Workload),
    /// A node of a cluster.
    Node(Node),
    /// A part of a Service's endpoints.
    Slice(Slice),
    /// An HTTPRoute.
    Route(Route),
    /// An AuthorizationPolicy.
    Authorization(Authorization),
    /// A TransportPolicy.
    Transport(TransportRule),
}

/// A Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its virtual addresses; none for a headless one.
    pub addresses: BTreeSet<IpAddr>,
    /// What its workloads have; `None` selects nothing.
    pub selector: Option<Labels>,
    /// By number.
    pub ports: BTreeMap<u16, ServicePort>,
    /// Who may discover it.
    pub export: Export,
    /// Of two addresses of one workload the IPv6 one is used.
    pub prefers_v6: bool,
}

impl Service {
    /// True where a workload with these labels, in the Service's namespace, belongs to it.
    #[must_use]
    pub fn selects(&self, labels: &Labels) -> bool {
        self.selector.as_ref().is_some_and(|selector| has_labels(labels, selector))
    }
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct ServicePort {
    /// Name, where it has one.
    pub name: Option<Name>,
    /// The workloads' port.
    pub target: Target,
    /// What it speaks, where that is said.
    pub protocol: Option<Protocol>,
}

/// How a Service's port names a workload's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By number.
    Number(u16),
    /// By name.
    Name(Name),
}

/// Who may discover a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Export {
    /// Everybody.
    #[default]
    Everywhere,
    /// Clients in these namespaces.
    To(BTreeSet<Name>),
}

impl Export {
    /// True where a client (or a route) in `namespace` may know the Service.
    #[must_use]
    pub fn allows(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::To(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// A workload: one instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// What it came from.
    pub kind: WorkloadKind,
    /// Name of what it belongs to, as people know it (a Deployment, ...).
    pub owner: Name,
    /// Labels.
    pub labels: Labels,
    /// Service account.
    pub account: Name,
    /// What it proves to be; `None` where it has no sidecar.
    pub identity: Option<SpiffeId>,
    /// Where peers reach it; none until it has an address.
    pub addresses: BTreeSet<IpAddr>,
    /// Topology zone, where it says so itself; else its node's holds.
    pub zone: Name,
    /// Node that it runs on; empty where unknown.
    pub node: Name,
    /// Relative share of the load.
    pub weight: u32,
    /// On its way out.
    pub draining: bool,
    /// By number.
    pub ports: BTreeMap<u16, WorkloadPort>,
    /// Ports whose bytes are never looked at.
    pub opaque: PortSet,
    /// Ports on which peers reach the program itself, although it has a sidecar.
    pub direct: PortSet,
    /// What the orchestrator asks it by, for its health.
    pub probes: BTreeMap<u16, BTreeSet<Probe>>,
}

/// What a workload came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// An ExternalWorkload: Services select it by its labels.
    External,
    /// A Pod: EndpointSlices say where Services reach it.
    Pod,
    /// A Pod in its node's network: its address is not its own, and it is never a member.
    HostPod,
}

impl Workload {
    /// The number behind a Service's target port; `None` where the workload has no port of that name.
    #[must_use]
    pub fn port(&self, target: &Target) -> Option<u16> {
        match target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => {
                self.ports.iter().find(|(_, port)| port.name.as_ref() == Some(name)).map(|(number, _)| *number)
            }
        }
    }

    /// What a port speaks, where the workload says so.
    #[must_use]
    pub fn protocol(&self, number: u16) -> Option<Protocol> {
        if self.opaque.contains(number) {
            return Some(Protocol::Opaque);
        }
        self.ports.get(&number)?.protocol
    }

    /// Whom peers must expect on a port; `None`: nobody, plain.
    #[must_use]
    pub fn identity_at(&self, number: u16) -> Option<&SpiffeId> {
        self.identity.as_ref().filter(|_| !self.direct.contains(number))
    }

    /// True where peers reach it by its addresses, and nobody else.
    #[must_use]
    pub fn owns_addresses(&self) -> bool {
        self.kind != WorkloadKind::HostPod
    }
}

/// A node of a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Topology zone; empty where unknown.
    pub zone: Name,
}

/// A part of a Service's endpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Slice {
    /// The Service.
    pub service: ServiceId,
    /// By the name of the Service's port, which may be empty.
    pub ports: BTreeMap<Name, SlicePort>,
    /// By address.
    pub endpoints: BTreeMap<IpAddr, SliceEndpoint>,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SlicePort {
    /// Number; `None`: the same as the Service's.
    pub number: Option<u16>,
    /// What it speaks, where that is said.
    pub protocol: Option<Protocol>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub struct SliceEndpoint {
    /// Whether it can be sent to.
    pub state: EndpointState,
    /// The Pod that is said to be there.
    pub pod: Option<WorkloadId>,
    /// Topology zone; empty where it is not said.
    pub zone: Name,
}

/// Whether an endpoint can be sent to; the best is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndpointState {
    /// Not.
    Out,
    /// It is on its way out and still answers: only where nothing better is there.
    Leaving,
    /// Yes.
    Ready,
}

/// A declared port of a workload.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkloadPort {
    /// Name, where it has one.
    pub name: Option<Name>,
    /// What it speaks, where that is said.
    pub protocol: Option<Protocol>,
}

/// An HTTPRoute with Services as parents.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// The object.
    pub origin: ObjectRef,
    /// Among others in conflict.
    pub rank: Rank,
    /// Where it is attached.
    pub parents: Vec<Parent>,
    /// Host names; none: all.
    pub hosts: Vec<Name>,
    /// Its rules, at least one.
    pub rules: Vec<RouteRule>,
}

/// A Service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The Service.
    pub service: ServiceId,
    /// Only this port.
    pub port: Option<u16>,
    /// Only the port of this name.
    pub section: Option<Name>,
    /// Which entry of `spec.parentRefs` it was.
    pub at: usize,
}

impl Parent {
    /// True where the route is attached to this port of the Service.
    #[must_use]
    pub fn covers(&self, number: u16, port: &ServicePort) -> bool {
        self.port.is_none_or(|wanted| wanted == number)
            && self.section.as_ref().is_none_or(|wanted| port.name.as_ref() == Some(wanted))
    }
}

/// One rule of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteRule {
    /// Its own name, else its index.
    pub name: Name,
    /// Any of these, at least one; without hosts, which are the route's.
    pub matches: Vec<HttpMatch>,
    /// Applied before a backend is chosen.
    pub filters: Vec<Filter>,
    /// Chosen by weight.
    pub backends: Vec<RouteBackend>,
    /// From the request's head to the response's end.
    pub request_timeout: Option<Duration>,
    /// For each try of a backend.
    pub backend_timeout: Option<Duration>,
}

/// A backend of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteBackend {
    /// The Service.
    pub service: ServiceId,
    /// Its port.
    pub port: u16,
    /// Share.
    pub weight: u32,
    /// Applied only to what goes there.
    pub filters: Vec<Filter>,
    /// Why nothing may go there although the object was read: its share is answered 500.
    pub broken: Option<Name>,
}

/// The workloads that a policy is for, all in its own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// Every workload.
    pub namespace: bool,
    /// Workloads by labels.
    pub selector: Option<Labels>,
    /// ExternalWorkloads by name.
    pub workloads: BTreeSet<Name>,
    /// Workloads by service account.
    pub accounts: BTreeSet<Name>,
    /// The ports of these Services, on the workloads behind them.
    pub services: BTreeSet<Name>,
}

/// How closely a policy names a workload; the closest is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closeness {
    /// By its namespace.
    Namespace,
    /// By a Service in front of it.
    Service,
    /// Itself, by name, by labels or by its service account.
    Workload,
}

impl Targets {
    /// How closely these targets name a workload of the same namespace, by other means than a Service.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId, workload: &Workload) -> Option<Closeness> {
        let by_labels = self.selector.as_ref().is_some_and(|selector| has_labels(&workload.labels, selector));
        let by_name = workload.kind == WorkloadKind::External && self.workloads.contains(&id.name);
        if by_labels || by_name || self.accounts.contains(&workload.account) {
            return Some(Closeness::Workload);
        }
        self.namespace.then_some(Closeness::Namespace)
    }
}

/// An AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct Authorization {
    /// The object.
    pub origin: ObjectRef,
    /// Among others of the same action.
    pub rank: Rank,
    /// For whom.
    pub targets: Targets,
    /// What a match means.
    pub action: Action,
    /// Any that matches is enough.
    pub rules: Vec<AuthorizationRule>,
}

/// A TransportPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportRule {
    /// The object.
    pub origin: ObjectRef,
    /// Among others that are as close.
    pub rank: Rank,
    /// For whom.
    pub targets: Targets,
    /// For every port.
    pub mode: Transport,
    /// Exceptions, by the workload's port.
    pub ports: BTreeMap<u16, Transport>,
}

impl TransportRule {
    /// What holds for `port`.
    #[must_use]
    pub fn mode(&self, port: u16) -> Transport {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }
}
