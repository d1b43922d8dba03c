//! The command line of the mesh, `meshctl`: it starts, joins, shows and proves a mesh on one machine, and runs every
//! part of it.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  4  app          arguments in, exit code out
//!  3  commands     one file a command
//!  2  view         what `status` and `demo` show, computed from what was asked
//!     local        the local runner: a control plane and workloads as processes
//!  1  query        asks admin servers, reads Prometheus text
//!     collector    receives traces, shows them
//!  0  io           lines, tables, colours, JSON
//! ```

pub mod app;
pub mod collector;
pub mod commands;
pub mod io;
pub mod local;
pub mod query;
pub mod view;
