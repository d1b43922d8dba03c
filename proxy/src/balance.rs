//! Balancing: two random choices, the cheaper one wins; the cost is latency (peak-sensitive, moving average) times
//! load. Floor 1: imports the model only.
//!
//! One [`Balancer`] per worker and backend, on one thread: state is in cells, nothing is locked. Time is passed in.
//! A pick takes constant time; an update takes time linear in the endpoints and needs no request to happen.
//!
//! Among endpoints whose costs differ by noise only, weights decide. The two candidates come from one set; a preference
//! for near zones would draw them from two.

mod node;
mod sampler;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use mesh_api::model::destination::{Backend, Endpoint};

pub use self::node::Node;
use self::{
    node::{cost, latencies},
    sampler::{Random, Sampler},
};

/// How much cheaper the second candidate must be to be preferred to the first, which was drawn by weight.
const CLEARLY: f64 = 1.25;
/// Draws to find a second candidate, or one that is not avoided.
const DRAWS: usize = 8;

/// Chooses endpoints of one backend. `T` is what the user keeps for each: connections.
#[derive(Debug)]
pub struct Balancer<T> {
    /// All endpoints, those that are not ready too: what they have in flight goes on, and they may come back.
    nodes: BTreeMap<SocketAddr, Rc<Node<T>>>,
    /// Those that may be chosen.
    live: Vec<Live<T>>,
    sampler: Sampler,
    shared: Rc<Shared>,
}

/// What picks need of their balancer, even after it is gone.
#[derive(Debug)]
struct Shared {
    random: Random,
    /// The latest time that was passed in: for picks that are dropped without being finished.
    clock: Cell<Instant>,
    /// Every endpoint is avoided until then: no use in searching again before.
    none_before: Cell<Option<Instant>>,
}

#[derive(Debug)]
struct Live<T> {
    node: Rc<Node<T>>,
    /// Weight, relative to the mean of all.
    relative_weight: f64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The endpoint answered; also with an error of its application's own.
    Answered,
    /// The endpoint failed: reset, 502 to 504, time-out.
    Failed,
    /// No connection could be made.
    Unreachable,
    /// It says nothing about the endpoint: the request ended for reasons of the caller's.
    Cancelled,
}

/// An endpoint that was chosen; counts as a request in flight until it is dropped or finished.
///
/// Dropping it unrecorded is [`Outcome::Cancelled`]: an endpoint that lets every caller wait until it gives up still becomes
/// expensive.
#[derive(Debug)]
pub struct Pick<T> {
    node: Rc<Node<T>>,
    started: Instant,
    shared: Rc<Shared>,
    recorded: bool,
}

impl<T> Balancer<T> {
    /// A balancer without endpoints. Different `seed`s keep workers and proxies from choosing in step.
    #[must_use]
    pub fn new(seed: u64, now: Instant) -> Self {
        Self {
            nodes: BTreeMap::new(),
            live: Vec::new(),
            sampler: Sampler::default(),
            shared: Rc::new(Shared { random: Random::new(seed), clock: Cell::new(now), none_before: Cell::new(None) }),
        }
    }

    /// Takes over a new set of endpoints. One that stays keeps its state and its payload; one whose identity, workload
    /// or zone changed is another endpoint at the same address and gets a new payload from `make`.
    pub fn update(&mut self, backend: &Backend, now: Instant, mut make: impl FnMut(&Endpoint) -> T) {
        self.shared.tick(now);
        self.nodes.retain(|address, node| {
            backend.endpoints.get(address).is_some_and(|endpoint| is_same(&node.endpoint, endpoint))
        });
        for (address, endpoint) in &backend.endpoints {
            self.nodes.entry(*address).or_insert_with(|| Rc::new(Node::new(endpoint.clone(), make(endpoint), now)));
        }
        let usable = backend.endpoints.iter().filter(|(_, endpoint)| endpoint.ready && endpoint.weight > 0);
        let usable = usable.filter_map(|(address, endpoint)| Some((self.nodes.get(address)?, endpoint.weight)));
        let (nodes, weights): (Vec<_>, Vec<u32>) = usable.map(|(node, weight)| (Rc::clone(node), weight)).unzip();
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        // A count of endpoints fits a float exactly.
        let mean = total / weights.len() as f64;
        let relative = weights.iter().map(|weight| f64::from(*weight) / mean);
        self.live =
            nodes.into_iter().zip(relative).map(|(node, relative_weight)| Live { node, relative_weight }).collect();
        self.sampler = Sampler::new(&weights);
        self.shared.none_before.set(None);
    }

    /// Chooses an endpoint. `None` where none is ready.
    #[must_use]
    pub fn pick(&self, now: Instant) -> Option<Pick<T>> {
        self.pick_where(now, |_| true)
    }

    /// Chooses an endpoint for another try: not `excluded`. `None` where no other is ready.
    #[must_use]
    pub fn pick_excluding(&self, excluded: SocketAddr, now: Instant) -> Option<Pick<T>> {
        if self.live.iter().take(2).all(|one| one.node.endpoint.address == excluded) {
            return None;
        }
        self.pick_where(now, |node| node.endpoint.address != excluded)
    }

    /// How many endpoints may be chosen.
    #[must_use]
    pub fn ready(&self) -> usize {
        self.live.len()
    }

    /// All endpoints, those that are not ready too.
    pub fn nodes(&self) -> impl Iterator<Item = &Rc<Node<T>>> {
        self.nodes.values()
    }

    fn pick_where(&self, now: Instant, allowed: impl Fn(&Node<T>) -> bool) -> Option<Pick<T>> {
        self.shared.tick(now);
        let first = self.candidate(now, None, &allowed).or_else(|| self.search(now, &allowed))?;
        let chosen = match self.candidate(now, Some(&first.node), &allowed) {
            Some(second) if is_clearly_cheaper(second, first, now) => second,
            _ => first,
        };
        chosen.node.begin(now);
        Some(Pick { node: Rc::clone(&chosen.node), started: now, shared: Rc::clone(&self.shared), recorded: false })
    }

    /// A random endpoint that is allowed, not avoided, and not `other`; `None` where a few draws gave none.
    fn candidate(
        &self,
        now: Instant,
        other: Option<&Rc<Node<T>>>,
        allowed: impl Fn(&Node<T>) -> bool,
    ) -> Option<&Live<T>> {
        if self.live.len() < 2 && other.is_some() || self.shared.none_is_free(now) {
            return None;
        }
        let fits = |one: &&Live<T>| {
            !other.is_some_and(|other| Rc::ptr_eq(other, &one.node)) && !one.node.is_avoided(now) && allowed(&one.node)
        };
        (0..DRAWS).filter_map(|_| self.sampler.draw(&self.shared.random).and_then(|at| self.live.get(at))).find(fits)
    }

    /// Looks at all: most are avoided or not allowed. Where all are avoided, the one that returns first is better than
    /// none; the result holds until then.
    fn search(&self, now: Instant, allowed: impl Fn(&Node<T>) -> bool) -> Option<&Live<T>> {
        if self.shared.none_is_free(now) {
            let mut draws =
                (0..DRAWS).filter_map(|_| self.sampler.draw(&self.shared.random).and_then(|at| self.live.get(at)));
            return draws.find(|one| allowed(&one.node)).or_else(|| self.live.iter().find(|one| allowed(&one.node)));
        }
        let start = self.sampler.draw(&self.shared.random)?;
        let (before, from) = self.live.split_at_checked(start)?;
        let order = || from.iter().chain(before).filter(|one| allowed(&one.node));
        if let Some(free) = order().find(|one| !one.node.is_avoided(now)) {
            return Some(free);
        }
        if self.live.iter().all(|one| one.node.is_avoided(now)) {
            self.shared.none_before.set(self.live.iter().filter_map(|one| one.node.avoid_until()).min());
        }
        order().min_by_key(|one| one.node.avoid_until())
    }
}

impl Shared {
    fn tick(&self, now: Instant) {
        self.clock.set(self.clock.get().max(now));
    }

    fn none_is_free(&self, now: Instant) -> bool {
        self.none_before.get().is_some_and(|until| now < until)
    }
}

/// State may be kept: connections to the old endpoint are as good as to the new one.
fn is_same(old: &Endpoint, new: &Endpoint) -> bool {
    old.address == new.address && old.identity == new.identity && old.workload == new.workload && old.zone == new.zone
}

fn is_clearly_cheaper<T>(second: &Live<T>, first: &Live<T>, now: Instant) -> bool {
    let known = latencies(&first.node, &second.node, now);
    let first_cost = cost(known.map(|known| known.0), first.node.in_flight(), first.relative_weight);
    let second_cost = cost(known.map(|known| known.1), second.node.in_flight(), second.relative_weight);
    second_cost * CLEARLY < first_cost
}

impl<T> Pick<T> {
    /// The endpoint that was chosen.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.node.endpoint
    }

    /// What the user keeps for it.
    #[must_use]
    pub fn payload(&self) -> &T {
        &self.node.payload
    }

    /// The endpoint with its state.
    #[must_use]
    pub fn node(&self) -> &Rc<Node<T>> {
        &self.node
    }

    /// Tells how the endpoint did, at `now`: when the head of the response is there, or a failure is. It stays in flight
    /// until it is dropped, so that a long stream counts as load and not as latency. Only the first call counts.
    pub fn record(&mut self, outcome: Outcome, now: Instant) {
        self.shared.tick(now);
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        let latency: Duration = now.saturating_duration_since(self.started);
        match outcome {
            Outcome::Answered => self.node.answered(latency, now),
            Outcome::Failed => self.node.failed(latency, now),
            Outcome::Unreachable => self.node.unreachable(self.started, now, self.shared.random.next()),
            Outcome::Cancelled => self.node.cancelled(latency, now),
        }
        if matches!(outcome, Outcome::Answered | Outcome::Failed) {
            self.shared.none_before.set(None);
        }
    }

    /// Records and ends the request.
    pub fn finish(mut self, outcome: Outcome, now: Instant) {
        self.record(outcome, now);
    }
}

impl<T> Drop for Pick<T> {
    fn drop(&mut self) {
        self.record(Outcome::Cancelled, self.shared.clock.get());
        self.node.end();
    }
}
