//! The discovery service. Floor 4: imports `index`, `resolve`, `source` (its events), `telemetry`, `problem`.
//!
//! ```text
//!  source ──events──▶ hub ──topics──▶ mailboxes     one a stream: a set of keys, never a queue of messages
//!                      │                  │
//!                    index ◀──resolve── actor ──▶ at most two messages under way ──▶ proxy
//! ```
//!
//! A change puts keys into the mailboxes of the streams that watch them, and nothing else. Each stream's actor works
//! out the newest answer when there is room to send it, compares it with what it sent last, and sends what differs or
//! nothing. So however slow a reader is, it costs a set of keys; it delays nobody; and when it reads on, it gets the
//! newest state, not the history.

mod answer;
mod cache;
mod hub;
mod service;
mod session;
mod stream;
mod watchers;

pub use self::{
    answer::{Answer, Key, Reply, Sent, Snapshot, decide},
    hub::{Hub, Limits},
    service::{DiscoveryService, Identify, identify_by_tls},
};

#[cfg(test)]
mod tests;
