//! What was told of an API server's objects: turns what watches bring into events of the source. Pure.
//!
//! An object that cannot be read keeps its last good state in force; one that never was good is stood in for, where it is
//! a policy. While a kind is listed anew nothing is taken away: what is gone shows when the list is complete.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use mesh_api::model::{Name, ObjectRef};

use super::{kinds::KINDS, seen::Body};
use crate::{
    conditions::Board,
    problem::{Problem, Reason, Severity},
    source::Event,
};

/// Most objects of one kind.
const MAX_OBJECTS: usize = 500_000;
/// Most problems that are told.
const MAX_PROBLEMS: usize = 1000;

/// What a watch of one kind brings.
#[derive(Debug)]
pub(super) enum Step {
    /// All objects will be listed from here on.
    Listing,
    /// The object is there.
    Seen(Box<Body>),
    /// The object is gone.
    Gone(Box<Body>),
    /// All objects that are there have been listed.
    Listed,
}

/// Namespace and name.
type Id = (Name, Name);

/// What is known of all kinds.
#[derive(Debug)]
pub(super) struct State {
    kinds: Vec<Known>,
    board: Arc<Board>,
    /// Which kinds the cluster has; `None` while nobody has looked.
    served: Option<Vec<bool>>,
    told_problems: Vec<Problem>,
    synced: bool,
}

/// What is known of one kind.
#[derive(Debug, Default)]
struct Known {
    told: HashMap<Id, Told>,
    /// While it is listed: what came so far.
    listing: Option<HashSet<Id>>,
    /// It has been listed once.
    listed: bool,
    problems: BTreeMap<Id, Problem>,
    /// Objects without a name that could be read.
    nameless: Option<Problem>,
    refused: bool,
}

/// What was told of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    uid: u64,
    /// A good state of it is in force.
    good: bool,
    /// Anything of it is in force.
    there: bool,
}

impl State {
    /// Nothing is known. The statuses of objects go to `board`.
    pub(super) fn new(board: Arc<Board>) -> Self {
        let kinds = KINDS.iter().map(|_| Known::default()).collect();
        Self { kinds, board, served: None, told_problems: Vec::new(), synced: false }
    }

    /// The cluster has these kinds, and not the others.
    pub(super) fn serve(&mut self, served: &[bool]) -> Vec<Event> {
        let mut events = Vec::new();
        for (kind, known) in self.kinds.iter_mut().enumerate() {
            if served.get(kind) == Some(&false) {
                let gone: Vec<Id> = known.told.keys().cloned().collect();
                events.extend(gone.iter().filter_map(|id| known.forget(kind, id, &self.board)));
                *known = Known::default();
            }
        }
        self.served = Some(served.to_vec());
        self.conclude(&mut events);
        events
    }

    /// Takes over what a watch of a kind brought.
    pub(super) fn take(&mut self, kind: usize, step: Step) -> Vec<Event> {
        let mut events = Vec::new();
        let Some(known) = self.kinds.get_mut(kind) else { return events };
        match step {
            Step::Listing => known.listing = Some(HashSet::new()),
            Step::Seen(body) => known.see(kind, *body, &self.board, &mut events),
            Step::Gone(body) => {
                let id = (body.namespace.as_str().into(), body.name.as_str().into());
                events.extend(known.forget(kind, &id, &self.board));
            }
            Step::Listed => {
                let listed = known.listing.take().unwrap_or_default();
                let gone: Vec<Id> = known.told.keys().filter(|id| !listed.contains(*id)).cloned().collect();
                events.extend(gone.iter().filter_map(|id| known.forget(kind, id, &self.board)));
                known.listed = true;
            }
        }
        self.conclude(&mut events);
        events
    }

    /// Problems are told where they changed, and not in the middle of a list; that everything is known, once.
    fn conclude(&mut self, events: &mut Vec<Event>) {
        if self.kinds.iter().any(|known| known.listing.is_some()) {
            return;
        }
        let all = self.kinds.iter().flat_map(|known| known.nameless.iter().chain(known.problems.values()));
        let same = all.clone().take(MAX_PROBLEMS).eq(self.told_problems.iter());
        if !same {
            self.told_problems = all.take(MAX_PROBLEMS).cloned().collect();
            events.push(Event::Problems(self.told_problems.clone()));
        }
        let is_listed = |(known, served): (&Known, &bool)| known.listed || !served;
        let complete = self.served.as_ref().is_some_and(|served| self.kinds.iter().zip(served).all(is_listed));
        if complete && !self.synced {
            self.synced = true;
            events.push(Event::Synced);
        }
    }
}

impl Known {
    fn see(&mut self, kind: usize, body: Body, board: &Board, events: &mut Vec<Event>) {
        let Body { namespace, name, uid, read, observed } = body;
        let id: Id = (namespace.into(), name.into());
        if id.1.is_empty() {
            self.nameless = read.outcome.err().map(|problem| Problem { object: None, ..*problem });
            return;
        }
        if let Some(listing) = &mut self.listing {
            listing.insert(id.clone());
        }
        let object = object(kind, &id);
        let uid = BuildHasherDefault::<DefaultHasher>::default().hash_one(uid);
        let before = self.told.get(&id).copied();
        if before.is_some_and(|before| before.uid != uid) {
            // Another one of the same name: nothing of the old one holds on.
            events.extend(self.forget(kind, &id, board));
        }
        let before = before.filter(|before| before.uid == uid);
        if before.is_none() && self.told.len() >= MAX_OBJECTS {
            self.too_many(kind);
            return;
        }
        if let Some(observed) = observed {
            board.put(object.clone(), *observed);
        }
        let told = match read.outcome {
            Ok(resource) => {
                self.problems.remove(&id);
                events.push(Event::Apply(resource));
                Told { uid, good: true, there: true }
            }
            Err(mut problem) => {
                problem.object = Some(object.clone());
                let good = before.is_some_and(|before| before.good);
                let mut there = good;
                if good {
                    problem.message.push_str("; the object's last good state stays in force");
                } else if let Some(stand_in) = read.stand_in {
                    events.push(Event::Apply(stand_in));
                    there = true;
                } else if before.is_some_and(|before| before.there) {
                    events.push(Event::Delete(object));
                }
                self.problems.insert(id.clone(), *problem);
                Told { uid, good, there }
            }
        };
        self.told.insert(id, told);
    }

    fn forget(&mut self, kind: usize, id: &Id, board: &Board) -> Option<Event> {
        self.problems.remove(id);
        let told = self.told.remove(id)?;
        let object = object(kind, id);
        board.remove(&object);
        told.there.then_some(Event::Delete(object))
    }

    fn too_many(&mut self, kind: usize) {
        if !std::mem::replace(&mut self.refused, true) {
            let name = KINDS.get(kind).map_or("", |kind| kind.name);
            let message = format!("more than {MAX_OBJECTS} objects of kind {name}; the rest is not in force");
            let (place, object, field) = (None, None, String::new());
            let (reason, severity) = (Reason::TooLarge, Severity::Error);
            self.nameless = Some(Problem { place, object, field, reason, severity, message });
        }
    }
}

fn object(kind: usize, (namespace, name): &Id) -> ObjectRef {
    let kind = KINDS.get(kind).map_or("", |kind| kind.name).into();
    ObjectRef { kind, namespace: namespace.clone(), name: name.clone() }
}

#[cfg(test)]
mod tests;
