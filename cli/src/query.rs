//! Asks the admin servers of the mesh's processes, and reads what they export. Floor 1: imports `cluster`'s errors only.

mod client;
pub mod forward;
mod peer;
pub mod prometheus;
pub mod relay;

pub use client::{Answer, QueryError, get, post};

#[cfg(test)]
pub(crate) mod fake;
