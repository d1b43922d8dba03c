//! The sidecar proxy of the mesh.

pub mod admin;
pub mod app;
pub mod authz;
pub mod balance;
pub mod budget;
pub mod carry;
pub mod config;
pub mod detect;
pub mod discovery;
pub mod exchange;
pub mod fault;
pub mod inbound;
pub mod l4;
pub mod l7;
pub mod normal;
pub mod outbound;
pub mod routing;
pub mod sniff;
pub mod telemetry;
pub mod trace;
pub mod tracing_context;
pub mod tunnel;
pub mod upstream;
pub mod worker;
