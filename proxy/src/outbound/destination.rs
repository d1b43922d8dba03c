//! A destination as one worker uses it: compiled, with its balancers and connections.

use std::{
    cell::{Cell, RefCell},
    net::IpAddr,
    rc::Rc,
    sync::Arc,
};

use mesh_api::{
    model::{
        Protocol, Target,
        destination::{Backend as Model, BackendId, Destination as Described, Endpoint},
    },
    spiffe::SpiffeId,
};
use tokio::time::{Instant, timeout};

use super::Outbound;
use crate::{
    balance::Balancer,
    discovery::{Follow, State},
    fault::{Code, Fault},
    l4::own,
    routing::Router,
    telemetry::metrics::{Direction, Edge, RequestMetrics},
    upstream::Upstream,
    worker::Worker,
};

/// What is known of a target.
pub(super) enum Lookup {
    /// This.
    Known(Rc<Destination>),
    /// There is no such destination.
    Missing,
}

/// One destination. What the controller sends is taken over with the next request, not before: a destination that is
/// not used costs nothing.
pub(super) struct Destination {
    worker: Rc<Worker>,
    follow: RefCell<Follow<Described>>,
    current: RefCell<Rc<Compiled>>,
    server_first: Cell<bool>,
    last_used: Cell<Instant>,
}

/// One version of it.
pub(super) struct Compiled {
    pub(super) described: Arc<Described>,
    pub(super) router: Router,
    /// By their position in the router.
    pub(super) backends: Vec<Rc<Backend>>,
}

/// One backend with its endpoints.
pub(super) struct Backend {
    pub(super) id: BackendId,
    pub(super) protocol: Protocol,
    pub(super) balancer: RefCell<Balancer<Upstream>>,
    /// Few: one for each rule, protocol and identity.
    edges: RefCell<Vec<(EdgeKey, Rc<RequestMetrics>)>>,
}

/// More edges than this are not kept: an identity a request would be needed to reach it.
const MAX_EDGES: usize = 64;

#[derive(Clone, PartialEq)]
struct EdgeKey {
    rule: Option<Arc<str>>,
    protocol: &'static str,
    peer: Option<SpiffeId>,
}

impl Outbound {
    /// What is known of `target`, waiting for the first answer where it was not asked for before.
    pub(super) async fn lookup(&self, target: &Target) -> Result<Lookup, Fault> {
        let known = self.destinations.borrow().get(target).cloned();
        if let Some(destination) = known {
            destination.last_used.set(Instant::now());
            if destination.refresh() {
                return Ok(Lookup::Known(destination));
            }
            self.destinations.borrow_mut().remove(target);
        }
        let late = Fault::new(Code::DiscoveryTimeout, "the control plane has not answered for this destination yet");
        let asked = timeout(self.worker.config.discovery.wait, self.ask(target)).await;
        match asked.map_err(|_| late)? {
            None => Err(Fault::new(Code::Overloaded, "too many destinations are in use")),
            Some((_, State::Missing(_) | State::Waiting)) => Ok(Lookup::Missing),
            Some((follow, State::Known(described))) => {
                let destination = Rc::new(Destination::new(&self.worker, follow, &described));
                self.insert(target, &destination);
                Ok(Lookup::Known(destination))
            }
        }
    }

    async fn ask(&self, target: &Target) -> Option<(Follow<Described>, State<Described>)> {
        let mut follow = self.worker.discovery.follow(target.clone()).await?;
        let state = follow.wait_for(|state| !matches!(state, State::Waiting)).await.ok()?.clone();
        Some((follow, state))
    }

    fn insert(&self, target: &Target, destination: &Rc<Destination>) {
        let mut all = self.destinations.borrow_mut();
        let (now, idle) = (Instant::now(), self.worker.config.discovery.idle);
        // Only those that no connection holds either.
        all.retain(|_, one| Rc::strong_count(one) > 1 || now.duration_since(one.last_used.get()) < idle);
        if all.len() >= self.worker.config.discovery.max_destinations {
            let unused = all.iter().filter(|(_, one)| Rc::strong_count(one) == 1);
            let oldest = unused.min_by_key(|(_, one)| one.last_used.get()).map(|(target, _)| target.clone());
            if let Some(oldest) = oldest {
                all.remove(&oldest);
            }
        }
        all.insert(target.clone(), Rc::clone(destination));
    }
}

impl Destination {
    fn new(worker: &Rc<Worker>, mut follow: Follow<Described>, described: &Arc<Described>) -> Self {
        follow.mark_unchanged();
        Self {
            worker: Rc::clone(worker),
            current: RefCell::new(Rc::new(Compiled::new(worker, described, &[]))),
            follow: RefCell::new(follow),
            server_first: Cell::new(false),
            last_used: Cell::new(Instant::now()),
        }
    }

    /// The newest version; where the destination is gone meanwhile, the last there was.
    pub(super) fn current(&self) -> Rc<Compiled> {
        self.refresh();
        Rc::clone(&self.current.borrow())
    }

    /// What its port speaks.
    pub(super) fn protocol(&self) -> Protocol {
        self.current.borrow().described.protocol
    }

    /// Uniform over all of `u64`.
    pub(super) fn random(&self) -> u64 {
        self.worker.random()
    }

    /// Its server was seen to speak first: next time nobody waits for the client.
    pub(super) fn server_spoke_first(&self) {
        self.server_first.set(true);
    }

    pub(super) fn server_speaks_first(&self) -> bool {
        self.server_first.get()
    }

    /// Takes over what came; false where the destination is gone.
    fn refresh(&self) -> bool {
        let mut follow = self.follow.borrow_mut();
        if !follow.has_changed().unwrap_or(false) {
            return !matches!(&*follow.borrow(), State::Missing(_));
        }
        let state = follow.borrow_and_update().clone();
        match state {
            State::Known(described) => {
                let old = Rc::clone(&self.current.borrow());
                *self.current.borrow_mut() = Rc::new(Compiled::new(&self.worker, &described, &old.backends));
                true
            }
            State::Missing(_) => false,
            State::Waiting => true,
        }
    }
}

impl Compiled {
    /// Backends that stay keep their balancer, and with it their connections.
    fn new(worker: &Rc<Worker>, described: &Arc<Described>, old: &[Rc<Backend>]) -> Self {
        let (router, unusable) = Router::compile(described);
        for problem in unusable {
            tracing::warn!(destination = %described.id, ?problem, "a part of the routes cannot be used");
        }
        let backends = router.backends().iter().map(|id| {
            let model = described.backends.get(id).cloned().unwrap_or_default();
            let same = old.iter().find(|one| one.id == *id && one.protocol == model.protocol);
            let backend = same.map_or_else(|| Rc::new(Backend::new(worker, id, model.protocol)), Rc::clone);
            backend.update(worker, &model);
            backend
        });
        Self { backends: backends.collect(), described: Arc::clone(described), router }
    }
}

impl Compiled {
    /// The handles for requests that get no backend.
    pub(super) fn unrouted(&self, worker: &Worker, protocol: &'static str) -> Rc<RequestMetrics> {
        RequestMetrics::new(&worker.telemetry, self.edge(worker, protocol, None))
    }

    /// What a connection, or a request without a backend, is counted under.
    pub(super) fn edge(&self, worker: &Worker, protocol: &'static str, peer: Option<&SpiffeId>) -> Edge {
        let telemetry = &worker.telemetry;
        Edge {
            direction: Direction::Outbound,
            source: Arc::clone(&telemetry.workload),
            source_namespace: Arc::clone(&telemetry.namespace),
            destination: called(&self.described.id, || {
                self.described.backends.values().flat_map(|backend| backend.endpoints.values()).next()
            }),
            destination_namespace: Arc::clone(&self.described.id.namespace),
            route: "".into(),
            protocol,
            peer: peer.map(|peer| peer.as_str().into()),
        }
    }
}

/// What a destination is called in labels: its Service, else the workload that is there.
fn called<'a>(id: &BackendId, endpoint: impl FnOnce() -> Option<&'a Endpoint>) -> Arc<str> {
    let workload = || endpoint().map(|endpoint| Arc::clone(&endpoint.owner));
    if id.name.is_empty() { workload().unwrap_or_default() } else { Arc::clone(&id.name) }
}

/// Tells whether an endpoint is this very workload. Where nothing is redirected, even that is reached by its sidecar.
struct Own {
    identity: Option<SpiffeId>,
    /// Asked for with the first endpoint that may be it.
    addresses: Option<Vec<IpAddr>>,
}

impl Own {
    fn of(worker: &Worker) -> Self {
        let credentials = worker.keeper.current();
        let identity = credentials.identity.as_ref().map(|identity| identity.id().clone());
        let redirected = worker.config.outbound.transparent.is_some();
        Self { identity: identity.filter(|_| redirected), addresses: None }
    }

    /// Not by the address alone: it may be one that was somebody else's, and whoever asks for that one must not be
    /// answered from here.
    fn is(&mut self, endpoint: &Endpoint) -> bool {
        endpoint.identity.is_some()
            && endpoint.identity == self.identity
            && self.addresses.get_or_insert_with(own::addresses).contains(&endpoint.address.ip())
    }
}

impl Backend {
    fn new(worker: &Worker, id: &BackendId, protocol: Protocol) -> Self {
        let balancer = Balancer::new(worker.random(), Instant::now().into_std());
        Self { id: id.clone(), protocol, balancer: RefCell::new(balancer), edges: RefCell::default() }
    }

    fn update(&self, worker: &Worker, model: &Model) {
        let now = Instant::now().into_std();
        let mut own = Own::of(worker);
        let make = |endpoint: &Endpoint| {
            // No packet leaves the machine, and none is redirected: the application itself is there, not its sidecar.
            let identity = endpoint.identity.clone().filter(|_| !own.is(endpoint));
            Upstream::new(&worker.outbound_dialer, endpoint.address, identity)
        };
        self.balancer.borrow_mut().update(model, now, make);
    }

    /// Whom requests that reached nobody were meant for.
    pub(super) fn usual_peer(&self) -> Option<SpiffeId> {
        self.balancer.borrow().nodes().next().and_then(|node| node.endpoint.identity.clone())
    }

    /// The handles for requests that a rule sends here.
    pub(super) fn metrics(
        &self,
        worker: &Worker,
        rule: Option<&Arc<str>>,
        protocol: &'static str,
        peer: Option<&SpiffeId>,
    ) -> Rc<RequestMetrics> {
        let mut edges = self.edges.borrow_mut();
        let fits = |key: &EdgeKey| {
            let same_rule = match (&key.rule, rule) {
                (Some(one), Some(other)) => Arc::ptr_eq(one, other) || one == other,
                (None, None) => true,
                _ => false,
            };
            same_rule && key.protocol == protocol && key.peer.as_ref() == peer
        };
        if let Some((_, metrics)) = edges.iter().find(|(key, _)| fits(key)) {
            return Rc::clone(metrics);
        }
        let telemetry = &worker.telemetry;
        let balancer = self.balancer.borrow();
        let edge = Edge {
            direction: Direction::Outbound,
            source: Arc::clone(&telemetry.workload),
            source_namespace: Arc::clone(&telemetry.namespace),
            destination: called(&self.id, || balancer.nodes().next().map(|node| &node.endpoint)),
            destination_namespace: Arc::clone(&self.id.namespace),
            route: rule.map_or_else(|| "".into(), Arc::clone),
            protocol,
            peer: peer.map(|peer| peer.as_str().into()),
        };
        let metrics = RequestMetrics::new(telemetry, edge);
        if edges.len() >= MAX_EDGES {
            edges.clear();
        }
        edges.push((EdgeKey { rule: rule.cloned(), protocol, peer: peer.cloned() }, Rc::clone(&metrics)));
        metrics
    }
}
