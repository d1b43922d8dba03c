//! The sidecar proxy of the mesh.

pub mod config;
pub mod discovery;
pub mod exchange;
pub mod fault;
pub mod l4;
pub mod l7;
pub mod normal;
pub mod routing;
pub mod telemetry;
pub mod upstream;
pub mod worker;
