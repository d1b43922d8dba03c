//! The sidecar proxy of the mesh.

pub mod config;
pub mod discovery;
pub mod fault;
pub mod l4;
pub mod l7;
pub mod telemetry;
