//! The local runner: a control plane and workloads as processes of this machine. Floor 2: imports `query`, `collector`,
//! `io`.
//!
//! ```text
//!  5  runner     a mesh from its start to its end, for a command
//!  4  control    the admin server of a mesh
//!     follow     what goes on while a mesh runs
//!  3  mesh       the control plane, the workloads
//!  2  workload   a sidecar and a program, together
//!     settings   what all processes share, and the configuration each gets
//!     join       workloads that joined with `meshctl run`
//!     register   what they register (pure)
//!  1  keep       keeps one process running
//!     manifests  follows a folder
//!     plan       from an ExternalWorkload to what is to be started (pure)
//!     tokens     join tokens
//!  0  process    starts and ends one process
//!     state      the folder of a mesh
//!     ports, overrides, report, toml
//! ```

mod control;
mod follow;
pub mod join;
pub mod keep;
pub mod manifests;
pub mod mesh;
pub mod overrides;
pub mod plan;
pub mod ports;
pub mod process;
pub mod register;
pub mod report;
pub mod runner;
pub mod settings;
pub mod state;
pub mod tokens;
pub mod toml;
pub mod workload;
