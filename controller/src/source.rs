//! Where objects come from. A source sends [`Event`]s: whatever it is (a folder of manifests, an API server), nothing
//! below it can tell. Floor 3: imports `problem`, `conditions`, `telemetry`.

pub mod decode;
mod document;
pub mod files;
pub mod kubernetes;
mod merge;
pub mod object;
mod stand_in;

use std::path::Path;

use mesh_api::{model::ObjectRef, resources::Resource};

pub use self::decode::Located;
use crate::problem::Problem;

/// What a source tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The object is there, or has changed.
    Apply(Box<Resource>),
    /// The object is gone.
    Delete(ObjectRef),
    /// All that was there at the start has been told. Sent once.
    Synced,
    /// Everything that is wrong in the source now; replaces what was told before.
    Problems(Vec<Problem>),
}

/// Reads every manifest in a folder (or one file), once: what is good, and what is wrong. Objects come in the order of
/// their files' paths; of an object that is there twice only the first is given.
#[must_use]
pub fn load_dir(path: &Path) -> (Vec<Located<Resource>>, Vec<Problem>) {
    let mut state = files::State::new(vec![path.to_owned()]);
    state.scan();
    state.contents()
}
