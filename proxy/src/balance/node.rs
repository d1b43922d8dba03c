//! What is known of one endpoint: requests in flight, latency, failures to connect.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use mesh_api::model::destination::Endpoint;

/// Time in which a latency is forgotten to 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// Latencies below this are all the same: the difference is noise.
const NOISE: f64 = 200e-6;
/// What a failed request counts as, in seconds, where it failed faster.
const FAILURE: f64 = 1.0;
/// Wait after the first failure to connect; doubles with each.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest wait after failures to connect.
pub(super) const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// An endpoint with its state and whatever the user keeps for it.
#[derive(Debug)]
pub struct Node<T> {
    /// The endpoint as it was first seen; its weight and readiness may have changed since.
    pub endpoint: Endpoint,
    /// The user's.
    pub payload: T,
    in_flight: Cell<u32>,
    /// Latency in seconds as of `measured`; 0 where nothing was measured yet.
    latency: Cell<f64>,
    measured: Cell<Instant>,
    /// Failures to connect since the last success.
    failures: Cell<u32>,
    /// When the last failure to connect was noticed.
    failed_at: Cell<Option<Instant>>,
    /// Not to be chosen before; `None` where there was no failure.
    avoid_until: Cell<Option<Instant>>,
}

impl<T> Node<T> {
    pub(super) fn new(endpoint: Endpoint, payload: T, now: Instant) -> Self {
        Self {
            endpoint,
            payload,
            in_flight: Cell::new(0),
            latency: Cell::new(0.0),
            measured: Cell::new(now),
            failures: Cell::new(0),
            failed_at: Cell::new(None),
            avoid_until: Cell::new(None),
        }
    }

    /// Requests that were sent and are not finished.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Expected latency as of `now`; `None` where nothing is known.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        let latency = self.decayed(now);
        (latency > 0.0).then(|| Duration::from_secs_f64(latency))
    }

    /// True while it is avoided because connecting failed.
    #[must_use]
    pub fn is_avoided(&self, now: Instant) -> bool {
        self.avoid_until.get().is_some_and(|until| now < until)
    }

    pub(super) fn avoid_until(&self) -> Option<Instant> {
        self.avoid_until.get()
    }

    fn decayed(&self, now: Instant) -> f64 {
        self.latency.get() * weight_of(now.saturating_duration_since(self.measured.get()))
    }

    pub(super) fn begin(&self, now: Instant) {
        self.in_flight.set(self.in_flight.get().saturating_add(1));
        if self.avoid_until.get().is_some_and(|until| until <= now) {
            // This one is the probe; nobody follows before its outcome is known or its time is over.
            self.avoid_until.set(Some(now + backoff(self.failures.get())));
        }
    }

    pub(super) fn end(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
    }

    pub(super) fn answered(&self, latency: Duration, now: Instant) {
        self.reached();
        self.record(latency.as_secs_f64(), now);
    }

    pub(super) fn failed(&self, latency: Duration, now: Instant) {
        self.reached();
        self.record(latency.as_secs_f64().max(FAILURE), now);
    }

    /// Not finished: it took at least `latency` so far.
    pub(super) fn cancelled(&self, latency: Duration, now: Instant) {
        if latency.as_secs_f64() > self.decayed(now) {
            self.record(latency.as_secs_f64(), now);
        }
    }

    /// `random` spreads the return of endpoints that failed together.
    pub(super) fn unreachable(&self, started: Instant, now: Instant, random: u64) {
        if self.failed_at.get().is_some_and(|at| started < at) {
            // One of several that were under way when the first of them failed: that is one failure.
            return;
        }
        self.failed_at.set(Some(now));
        let wait = backoff(self.failures.get());
        self.failures.set(self.failures.get().saturating_add(1));
        let jitter = wait.mul_f64(f64::from(u32::try_from(random >> 32).unwrap_or(0)) / f64::from(u32::MAX) / 2.0);
        self.avoid_until.set(Some(now + wait.saturating_sub(jitter)));
    }

    fn reached(&self) {
        self.failures.set(0);
        self.avoid_until.set(None);
    }

    /// Peak-sensitive: up at once, down slowly.
    fn record(&self, latency: f64, now: Instant) {
        let weight = weight_of(now.saturating_duration_since(self.measured.get()));
        let old = self.latency.get();
        let new = if old > latency { old * weight + latency * (1.0 - weight) } else { latency };
        // Above 0, which stands for "nothing known".
        self.latency.set(new.max(NOISE / 1000.0));
        self.measured.set(self.measured.get().max(now));
    }
}

/// How much of a value that old is left.
fn weight_of(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.min(10)).min(MAX_BACKOFF)
}

/// What a request to this endpoint would cost, relative to others. `latency` is `None` to leave it out.
pub(super) fn cost(latency: Option<f64>, in_flight: u32, relative_weight: f64) -> f64 {
    latency.unwrap_or(1.0).max(NOISE) * (f64::from(in_flight) / relative_weight + 1.0)
}

/// The latencies of two endpoints, if both are known: one that is new is compared by its load alone.
pub(super) fn latencies<T>(first: &Node<T>, second: &Node<T>, now: Instant) -> Option<(f64, f64)> {
    let (first, second) = (first.decayed(now), second.decayed(now));
    (first > 0.0 && second > 0.0).then_some((first, second))
}
