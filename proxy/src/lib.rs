//! The sidecar.

pub mod config;
pub mod discovery;
pub mod fault;
pub mod l7;
pub mod telemetry;
