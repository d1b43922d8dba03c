//! When roots and issuers change: a state machine over time. Pure.
//!
//! An issuer changes at once: the new one is signed by the same root, and its certificate travels in every chain. A
//! root changes by overlap, so that nobody meets a certificate whose root it does not know yet:
//!
//! ```text
//!  Steady --announce--> Announced --switch--> Retiring --retire--> Steady
//!           new root      (overlap)  new issuer  (retire)  old root
//!           is trusted               under the             leaves
//!                                    new root
//! ```
//!
//! [`State`] is what survives a restart. Each step is planned from it, carried out elsewhere, and becomes the next
//! state in one move, so a process that dies in between finds either the old state or the new one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::time::Time;

/// How long things live and how long changes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Validity of a new root.
    pub root_lifetime: Duration,
    /// Validity of a new issuer, never beyond its root's.
    pub issuer_lifetime: Duration,
    /// From the moment a new root is trusted to the moment something is signed under it.
    pub overlap: Duration,
    /// From that moment to the one at which the old root is no longer trusted; at least the longest life of a leaf.
    pub retire: Duration,
}

/// A root or an issuer, as far as time is concerned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts up; part of the file's name.
    pub generation: u64,
    /// When it was made. (Its validity begins a little earlier.)
    pub made: Time,
    /// Last second of its validity.
    pub not_after: Time,
    /// SHA-256 of its certificate: a file that was exchanged by hand is noticed.
    pub fingerprint: String,
}

impl Entry {
    /// At two thirds of its life a successor is made.
    fn renewal(&self) -> Time {
        self.made.fraction_until(self.not_after, 2, 3)
    }

    fn expired(&self, now: Time) -> bool {
        now > self.not_after
    }
}

/// Where a change of root stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "name")]
pub enum Phase {
    /// One root.
    Steady,
    /// The new root is trusted, the old one still signs.
    Announced {
        /// Since when.
        since: Time,
    },
    /// The new root signs, the old one is still trusted.
    Retiring {
        /// Since when.
        since: Time,
    },
}

impl Phase {
    /// Name in logs and pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Announced { .. } => "announced",
            Self::Retiring { .. } => "retiring",
        }
    }
}

/// Everything that decides what happens next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Trusted roots, oldest first: one, or two while the root changes.
    pub roots: Vec<Entry>,
    /// What signs leaves.
    pub issuer: Entry,
    /// Generation of the root above the issuer.
    pub issuer_root: u64,
    /// Where a change of root stands.
    pub phase: Phase,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Make a root; trust it beside the present one.
    Announce {
        /// Its generation.
        root: u64,
    },
    /// Make an issuer under this root, and sign with it from now on.
    Issue {
        /// The issuer's generation.
        issuer: u64,
        /// The root's.
        root: u64,
    },
    /// Stop trusting this root.
    Retire {
        /// Its generation.
        root: u64,
    },
    /// Make a root and an issuer under it and forget all others: nothing of them is valid any more.
    Renew {
        /// The root's generation.
        root: u64,
        /// The issuer's.
        issuer: u64,
    },
}

impl Step {
    /// Name in metrics and logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Announce { .. } => "announce",
            Self::Issue { .. } => "issue",
            Self::Retire { .. } => "retire",
            Self::Renew { .. } => "renew",
        }
    }
}

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A new issuer, now.
    RotateIssuer,
    /// A new root: announce it now, the rest follows by time.
    RotateRoot,
    /// Begin anew after the root expired.
    Repair,
}

/// Why an order is not carried out, or nothing can be done at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One change of root at a time.
    #[error("a change of root is under way ({phase}); it goes on at {next}")]
    Busy {
        /// Where it stands.
        phase: &'static str,
        /// When its next step is due.
        next: Time,
    },
    /// Nothing that could sign is valid. Either it is true, or the clock is wrong: which one, only a person can tell.
    #[error(
        "the root expired at {0}: if the clock of this machine is right, run `mesh-ca repair` and give every member the \
         new roots"
    )]
    RootExpired(Time),
    /// There is nothing to repair.
    #[error("the root is valid until {0}: there is nothing to repair")]
    NotExpired(Time),
    /// No root, or one that is not known: the state was written by hand.
    #[error("the state names no root that could have signed its issuer")]
    Inconsistent,
}

/// What is to be done now, if anything.
///
/// # Errors
/// [`Refusal`].
pub fn plan(state: &State, schedule: &Schedule, now: Time, order: Option<Order>) -> Result<Option<Step>, Refusal> {
    let newest = state.roots.last().ok_or(Refusal::Inconsistent)?;
    let next_issuer = state.issuer.generation.saturating_add(1);
    let next_root = newest.generation.saturating_add(1);
    if order == Some(Order::Repair) {
        let renew = Step::Renew { root: next_root, issuer: next_issuer };
        return if newest.expired(now) { Ok(Some(renew)) } else { Err(Refusal::NotExpired(newest.not_after)) };
    }
    if newest.expired(now) {
        return Err(Refusal::RootExpired(newest.not_after));
    }
    let due = |at: Time| at <= now;
    match (change_due(state, schedule)?, state.phase, order) {
        (Some(at), Phase::Announced { .. }, _) if due(at) => {
            return Ok(Some(Step::Issue { issuer: next_issuer, root: newest.generation }));
        }
        (Some(at), Phase::Retiring { .. }, _) if due(at) => {
            let oldest = state.roots.first().ok_or(Refusal::Inconsistent)?;
            return Ok(Some(Step::Retire { root: oldest.generation }));
        }
        (Some(at), phase, Some(Order::RotateRoot)) => {
            return Err(Refusal::Busy { phase: phase.name(), next: at });
        }
        (None, Phase::Steady, order) if order == Some(Order::RotateRoot) || due(newest.renewal()) => {
            return Ok(Some(Step::Announce { root: next_root }));
        }
        _ => {}
    }
    let wanted = order == Some(Order::RotateIssuer) || due(state.issuer.renewal());
    Ok(wanted.then_some(Step::Issue { issuer: next_issuer, root: state.issuer_root }))
}

/// When the next step of a change of root is due; `None` where none is under way.
fn change_due(state: &State, schedule: &Schedule) -> Result<Option<Time>, Refusal> {
    let oldest = state.roots.first().ok_or(Refusal::Inconsistent)?;
    Ok(match state.phase {
        Phase::Steady => None,
        // A root that ends soon leaves less time: half of it for the members to learn, half to renew.
        Phase::Announced { since } => {
            Some(since.plus(schedule.overlap).min(since.fraction_until(oldest.not_after, 1, 2)))
        }
        Phase::Retiring { since } => Some(since.plus(schedule.retire).min(oldest.not_after.max(since))),
    })
}

/// When something is due next.
///
/// # Errors
/// [`Refusal::Inconsistent`].
pub fn next_due(state: &State, schedule: &Schedule) -> Result<Time, Refusal> {
    let newest = state.roots.last().ok_or(Refusal::Inconsistent)?;
    let change = change_due(state, schedule)?.unwrap_or_else(|| newest.renewal());
    Ok(change.min(state.issuer.renewal()))
}

/// What a step made.
#[derive(Clone, Debug, Default)]
pub struct Made {
    /// A root.
    pub root: Option<Entry>,
    /// An issuer.
    pub issuer: Option<Entry>,
}

/// The state after a step. `None` where the step did not make what it should.
#[must_use]
pub fn after(state: &State, step: Step, made: Made, now: Time) -> Option<State> {
    let mut next = state.clone();
    match step {
        Step::Announce { .. } => {
            next.roots.push(made.root?);
            next.phase = Phase::Announced { since: now };
        }
        Step::Issue { root, .. } => {
            if root != state.issuer_root {
                next.phase = Phase::Retiring { since: now };
            }
            next.issuer = made.issuer?;
            next.issuer_root = root;
        }
        Step::Retire { root } => {
            next.roots.retain(|entry| entry.generation != root);
            next.phase = Phase::Steady;
        }
        Step::Renew { root, .. } => {
            next = first(made.root?, made.issuer?);
            next.issuer_root = root;
        }
    }
    Some(next)
}

/// The state of an authority that begins with these.
#[must_use]
pub fn first(root: Entry, issuer: Entry) -> State {
    State { issuer_root: root.generation, roots: vec![root], issuer, phase: Phase::Steady }
}

#[cfg(test)]
mod tests;
