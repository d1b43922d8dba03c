//! Bytes and connections, below any protocol. Floor 1: imports `mesh_api` only.

pub mod accept;
mod copy;
pub mod own;
mod prefixed;
pub mod rest;
mod stock;
mod wide;

pub use copy::{CopyEnd, copy};
pub use prefixed::Prefixed;
pub use wide::Wide;
