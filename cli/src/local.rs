//! The local runner: a control plane and workloads as processes of this machine. Floor 2: imports `query`, `collector`,
//! `io`.
//!
//! ```text
//!  4  runner     the whole mesh: starts, follows the manifests, answers, ends
//!  3  workload   a sidecar and a program, together
//!     parts      the certificate authority and the controller
//!  2  keep       keeps one process running
//!     plan       from an ExternalWorkload to what is to be started (pure)
//!  1  process    starts and ends one process
//!     state      the folder of a mesh
//!     manifests  reads folders
//!     tokens     join tokens
//!  0  ports, overrides, toml, report
//! ```

pub mod keep;
pub mod manifests;
pub mod overrides;
pub mod plan;
pub mod ports;
pub mod process;
pub mod report;
pub mod state;
pub mod tokens;
pub mod toml;
