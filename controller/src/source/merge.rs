//! From the contents of many files to one set of objects: an object that stands in two places is taken from the first,
//! by path and then by position, and the second place is told of it. Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use mesh_api::{model::ObjectRef, resources::Resource};

use super::decode::Located;
use crate::problem::{Problem, Reason, Severity};

/// One set of objects.
#[derive(Debug, Default)]
pub(super) struct Merged<'a> {
    pub(super) objects: BTreeMap<ObjectRef, &'a Located<Resource>>,
    pub(super) problems: Vec<Problem>,
}

/// Takes objects in order of precedence.
pub(super) fn merge<'a>(objects: impl Iterator<Item = &'a Located<Resource>>) -> Merged<'a> {
    let mut merged = Merged::default();
    for located in objects {
        let object = located.value.object_ref();
        match merged.objects.entry(object) {
            Entry::Vacant(entry) => {
                entry.insert(located);
            }
            Entry::Occupied(entry) => merged.problems.push(Problem {
                place: Some(located.place.clone()),
                object: Some(entry.key().clone()),
                field: String::new(),
                reason: Reason::Duplicate,
                severity: Severity::Error,
                message: format!("stands in {} too, which holds", entry.get().place),
            }),
        }
    }
    merged
}
