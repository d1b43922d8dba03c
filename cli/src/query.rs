//! Asks the admin servers of the mesh's processes, and reads what they export. Floor 1: imports nothing of the crate.

mod client;
pub mod prometheus;

pub use client::{Answer, QueryError, get, post};
