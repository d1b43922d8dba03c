//! The sidecar proxy of the mesh.
//!
//! Floors, bottom up: `l7` (HTTP codecs; depends on nothing else of the crate).

pub mod l7;
