//! What is to be written where, decided from what was seen: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

/// What somebody undoes again and again is written again after waits that grow from the first to the second,
const PATIENCE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// and at once again where it was left alone for this long.
const FORGIVEN: Duration = Duration::from_secs(60);

/// What a ConfigMap holds, as far as it matters: a digest of what it should be.
pub(super) type Print = [u8; 32];

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) namespace: String,
    /// Nobody can change it any more (`immutable`): it is removed first.
    pub(super) replace: bool,
}

/// What came of a [`Job`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Written,
    /// The namespace is gone, or going: the watch says so in a moment, or it is there again.
    Gone,
    /// The ConfigMap cannot be changed: next time it is replaced.
    Immutable,
    Failed,
}

/// A namespace.
#[derive(Debug, Default)]
struct Place {
    /// What its ConfigMap held when it was last seen; `None`: there is none.
    there: Option<Print>,
    terminating: bool,
    immutable: bool,
    busy: bool,
    /// Tries since it was last left alone.
    tries: u32,
    last: Option<Instant>,
}

impl Place {
    /// From when on it may be written.
    fn from(&self, now: Instant) -> Instant {
        let Some(last) = self.last else { return now };
        if self.tries == 0 || now.duration_since(last) >= FORGIVEN {
            return now;
        }
        last + PATIENCE.0.saturating_mul(1 << (self.tries - 1).min(16)).min(PATIENCE.1)
    }
}

/// Namespaces, what their ConfigMaps hold, and what they should hold.
#[derive(Debug, Default)]
pub(super) struct Desk {
    wanted: Option<Print>,
    places: BTreeMap<String, Place>,
    /// ConfigMaps of namespaces that were not heard of (yet).
    early: BTreeMap<String, (Print, bool)>,
    /// Who may have something to do.
    open: BTreeSet<String>,
}

impl Desk {
    /// What every ConfigMap should hold from now on.
    pub(super) fn want(&mut self, print: Print) {
        if self.wanted.replace(print) != Some(print) {
            self.open = self.places.keys().cloned().collect();
        }
    }

    /// A namespace is there.
    pub(super) fn namespace(&mut self, name: &str, terminating: bool) {
        let place = self.places.entry(name.to_owned()).or_default();
        place.terminating = terminating;
        if let Some((print, immutable)) = self.early.remove(name) {
            (place.there, place.immutable) = (Some(print), immutable);
        }
        self.open.insert(name.to_owned());
    }

    /// A namespace is gone.
    pub(super) fn namespace_gone(&mut self, name: &str) {
        self.places.remove(name);
        self.early.remove(name);
        self.open.remove(name);
    }

    /// A ConfigMap is there, with this in it.
    pub(super) fn config_map(&mut self, namespace: &str, print: Print, immutable: bool) {
        match self.places.get_mut(namespace) {
            Some(place) => {
                (place.there, place.immutable) = (Some(print), immutable);
                self.open.insert(namespace.to_owned());
            }
            None => drop(self.early.insert(namespace.to_owned(), (print, immutable))),
        }
    }

    /// A ConfigMap is gone.
    pub(super) fn config_map_gone(&mut self, namespace: &str) {
        self.early.remove(namespace);
        if let Some(place) = self.places.get_mut(namespace) {
            (place.there, place.immutable) = (None, false);
            self.open.insert(namespace.to_owned());
        }
    }

    /// These namespaces are all there are.
    pub(super) fn only_namespaces(&mut self, names: &BTreeSet<String>) {
        let gone: Vec<String> = self.places.keys().filter(|name| !names.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.namespace_gone(name));
    }

    /// These namespaces have a ConfigMap, and no others.
    pub(super) fn only_config_maps(&mut self, names: &BTreeSet<String>) {
        let gone: Vec<String> = self.places.keys().filter(|name| !names.contains(*name)).cloned().collect();
        gone.iter().for_each(|name| self.config_map_gone(name));
        self.early.retain(|name, _| names.contains(name));
    }

    /// What is to be done now, or else when to look again; neither where nothing is left to do.
    pub(super) fn next(&mut self, now: Instant) -> (Option<Job>, Option<Instant>) {
        let Some(wanted) = self.wanted else { return (None, None) };
        let mut settled = Vec::new();
        let mut job = None;
        let mut later: Option<Instant> = None;
        for name in &self.open {
            let Some(place) = self.places.get_mut(name) else {
                settled.push(name.clone());
                continue;
            };
            if place.terminating || place.there == Some(wanted) {
                settled.push(name.clone());
                continue;
            }
            // It is looked at again when that is done.
            if place.busy {
                continue;
            }
            let from = place.from(now);
            if from > now {
                later = Some(later.map_or(from, |other| other.min(from)));
                continue;
            }
            if place.last.is_some_and(|last| now.duration_since(last) >= FORGIVEN) {
                place.tries = 0;
            }
            (place.busy, place.last, place.tries) = (true, Some(now), place.tries.saturating_add(1));
            job = Some(Job { namespace: name.clone(), replace: place.immutable });
            break;
        }
        for name in settled {
            self.open.remove(&name);
        }
        (job, later)
    }

    /// A job is over. What was written is known to be there without being seen.
    pub(super) fn done(&mut self, namespace: &str, written: Print, outcome: Outcome) {
        let Some(place) = self.places.get_mut(namespace) else { return };
        place.busy = false;
        match outcome {
            Outcome::Written => (place.there, place.immutable) = (Some(written), false),
            Outcome::Immutable => place.immutable = true,
            Outcome::Gone | Outcome::Failed => {}
        }
        self.open.insert(namespace.to_owned());
    }

    /// Namespaces that do not have what they should.
    pub(super) fn behind(&self) -> usize {
        let behind = |place: &&Place| !place.terminating && place.there != self.wanted;
        self.places.values().filter(behind).count()
    }
}

#[cfg(test)]
mod tests;
