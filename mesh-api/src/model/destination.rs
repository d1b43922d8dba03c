//! A destination: all that the outbound side of a proxy must know to reach one target.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use super::{
    Name, Protocol, WorkloadId,
    route::{RouteEntry, Rule, WeightedBackend},
};
use crate::spiffe::SpiffeId;

/// A port of a service, as a place to send to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendId {
    /// Namespace of the service.
    pub namespace: Name,
    /// Name of the service.
    pub name: Name,
    /// Port of the service (not of its endpoints).
    pub port: u16,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.svc:{}", self.name, self.namespace, self.port)
    }
}

/// All about one target. Complete in itself: every backend that a rule names is in `backends`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Which port of which service this is; `name` is empty for an address that belongs to no service.
    pub id: BackendId,
    /// What the port speaks.
    pub protocol: Protocol,
    /// Matches in order of precedence: the first one that fits decides.
    pub routes: Vec<RouteEntry>,
    /// What the matches lead to, by [`RouteEntry::rule`].
    pub rules: Vec<Rule>,
    /// True where routes are attached: a request that no match fits is answered 404.
    pub routed: bool,
    /// Where connections go that are not HTTP, and requests while no route is attached.
    pub default_backends: Vec<WeightedBackend>,
    /// Every backend that is named above.
    pub backends: BTreeMap<BackendId, Backend>,
}

/// The endpoints behind one port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backend {
    /// What the endpoints speak.
    pub protocol: Protocol,
    /// By address.
    pub endpoints: BTreeMap<SocketAddr, Endpoint>,
}

/// One place to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to connect.
    pub address: SocketAddr,
    /// Whom the server must prove to be. `None`: it is no member, plain.
    pub identity: Option<SpiffeId>,
    /// Which instance of a workload it is; without a name where that is not known.
    pub workload: WorkloadId,
    /// Name of what the instance belongs to, as people know it (a Deployment, ...); for labels. Empty where unknown.
    pub owner: Name,
    /// Topology zone; empty where unknown.
    pub zone: Name,
    /// Relative share of the load; 0 takes none.
    pub weight: u32,
    /// False: it is on its way out, nothing new goes there.
    pub ready: bool,
}

/// What changed between two versions of one destination, where only endpoints did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationDelta {
    /// By backend, only those that changed.
    pub backends: BTreeMap<BackendId, BackendDelta>,
}

/// What changed in one backend's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackendDelta {
    /// New or changed, by address.
    pub upsert: BTreeMap<SocketAddr, Endpoint>,
    /// Gone.
    pub remove: Vec<SocketAddr>,
}

/// A delta names a backend that the base does not have: the receiver must ask anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the change is for backend {0}, which is not known here")]
pub struct UnknownBackend(pub BackendId);

impl Destination {
    /// What must change to make `old` into `self`; `None` where more than endpoints differs.
    #[must_use]
    pub fn delta_from(&self, old: &Self) -> Option<DestinationDelta> {
        let same_frame = self.id == old.id
            && self.protocol == old.protocol
            && self.routed == old.routed
            && self.routes == old.routes
            && self.rules == old.rules
            && self.default_backends == old.default_backends
            && self.backends.len() == old.backends.len();
        if !same_frame {
            return None;
        }
        let mut delta = DestinationDelta::default();
        for (id, new) in &self.backends {
            let old = old.backends.get(id).filter(|old| old.protocol == new.protocol)?;
            let change = new.delta_from(old);
            if change != BackendDelta::default() {
                delta.backends.insert(id.clone(), change);
            }
        }
        Some(delta)
    }

    /// Applies a change to the base that it was made from.
    ///
    /// # Errors
    /// [`UnknownBackend`]; `self` is then unchanged.
    pub fn apply(&mut self, delta: DestinationDelta) -> Result<(), UnknownBackend> {
        if let Some(unknown) = delta.backends.keys().find(|id| !self.backends.contains_key(id)) {
            return Err(UnknownBackend(unknown.clone()));
        }
        for (id, change) in delta.backends {
            if let Some(backend) = self.backends.get_mut(&id) {
                for address in &change.remove {
                    backend.endpoints.remove(address);
                }
                backend.endpoints.extend(change.upsert);
            }
        }
        Ok(())
    }
}

impl Backend {
    fn delta_from(&self, old: &Self) -> BackendDelta {
        let changed = |(address, endpoint): &(&SocketAddr, &Endpoint)| old.endpoints.get(address) != Some(*endpoint);
        BackendDelta {
            upsert: self.endpoints.iter().filter(changed).map(|(a, e)| (*a, e.clone())).collect(),
            remove: old.endpoints.keys().filter(|address| !self.endpoints.contains_key(address)).copied().collect(),
        }
    }
}
