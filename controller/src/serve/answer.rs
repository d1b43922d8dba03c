//! What a stream is sent: decided from what it was sent last and what is true now. Pure.

use std::{fmt, sync::Arc};

use mesh_api::model::{
    Target,
    destination::{Destination, DestinationDelta},
    policy::InboundPolicy,
};

/// What a stream watches.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// The inbound policy of its own workload.
    Inbound,
    /// A destination.
    Destination(Target),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inbound => f.write_str("inbound"),
            Self::Destination(target) => target.fmt(f),
        }
    }
}

/// Something, and the hash of its wire form.
#[derive(Debug, PartialEq)]
pub struct Snapshot<T> {
    /// Equal content has an equal version, on every replica and after every restart.
    pub version: Arc<str>,
    /// The content.
    pub value: T,
}

/// What is true now.
#[derive(Clone, Debug)]
pub enum Answer {
    /// A destination, shared between the streams that watch it.
    Destination(Arc<Snapshot<Destination>>),
    /// An inbound policy.
    Inbound(Arc<Snapshot<InboundPolicy>>),
    /// There is nothing, or nothing for this proxy; why, for people.
    Missing(String),
}

/// What a stream was sent last for a key.
#[derive(Clone, Debug)]
pub enum Sent {
    /// Nothing yet. The proxy says that it holds this version; empty: none.
    Claimed(Arc<str>),
    /// That there is nothing.
    Missing,
    /// A destination.
    Destination {
        /// It.
        snapshot: Arc<Snapshot<Destination>>,
        /// False: the proxy refused it, so it holds something else, and no change can be based on it.
        is_base: bool,
    },
    /// An inbound policy of this version.
    Inbound(Arc<str>),
}

/// What to send.
#[derive(Clone, Debug)]
pub enum Reply {
    /// All of it.
    Destination(Arc<Snapshot<Destination>>),
    /// What changed since `base`.
    Delta {
        /// Version that the proxy holds.
        base: Arc<str>,
        /// What changed.
        delta: DestinationDelta,
        /// Version after the change.
        version: Arc<str>,
    },
    /// All of it.
    Inbound(Arc<Snapshot<InboundPolicy>>),
    /// The proxy's version is the newest.
    Current(Arc<str>),
    /// There is nothing.
    NotFound(String),
}

/// Decides what a stream is sent; `None`: nothing new.
#[must_use]
pub fn decide(sent: &Sent, answer: &Answer) -> Option<Reply> {
    match (sent, answer) {
        (Sent::Missing, Answer::Missing(_)) => None,
        (_, Answer::Missing(reason)) => Some(Reply::NotFound(reason.clone())),
        (Sent::Claimed(version), Answer::Destination(now)) if *version == now.version => {
            Some(Reply::Current(version.clone()))
        }
        (Sent::Claimed(version), Answer::Inbound(now)) if *version == now.version => {
            Some(Reply::Current(version.clone()))
        }
        (Sent::Destination { snapshot, .. }, Answer::Destination(now)) if snapshot.version == now.version => None,
        (Sent::Inbound(version), Answer::Inbound(now)) if *version == now.version => None,
        (Sent::Destination { snapshot, is_base: true }, Answer::Destination(now)) => {
            Some(change(snapshot, now).unwrap_or_else(|| Reply::Destination(now.clone())))
        }
        (_, Answer::Destination(now)) => Some(Reply::Destination(now.clone())),
        (_, Answer::Inbound(now)) => Some(Reply::Inbound(now.clone())),
    }
}

/// The change, where only endpoints changed and it is smaller than the whole.
fn change(old: &Snapshot<Destination>, now: &Snapshot<Destination>) -> Option<Reply> {
    let delta = now.value.delta_from(&old.value)?;
    let changed: usize = delta.backends.values().map(|change| change.upsert.len() + change.remove.len()).sum();
    let whole: usize = now.value.backends.values().map(|backend| backend.endpoints.len()).sum();
    let smaller = changed <= whole;
    smaller.then(|| Reply::Delta { base: old.version.clone(), delta, version: now.version.clone() })
}

impl Sent {
    /// What was sent, after `answer` was.
    #[must_use]
    pub fn after(answer: &Answer) -> Self {
        match answer {
            Answer::Destination(snapshot) => Self::Destination { snapshot: snapshot.clone(), is_base: true },
            Answer::Inbound(snapshot) => Self::Inbound(snapshot.version.clone()),
            Answer::Missing(_) => Self::Missing,
        }
    }

    /// The proxy refused a version: what it holds now is not known.
    pub fn refused(&mut self) {
        if let Self::Destination { is_base, .. } = self {
            *is_base = false;
        }
    }
}
