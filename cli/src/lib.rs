//! The command line of the mesh, `meshctl`: it starts, joins, shows and proves a mesh on one machine, and runs every
//! part of it.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  6  reference    the page about all of it
//!  5  app          arguments in, exit code out
//!  4  commands     one file a command
//!  3  demo         a small shop: its manifests, its programs, its proof
//!  2  release      what is installed: its record, what a change would change, applying and removing it
//!     view         what `status` and `demo` show, computed from what was asked
//!     check        what is wrong with a mesh on a cluster, and what to do
//!     local        the local runner: a control plane and workloads as processes
//!     injection  what is injected, and why not: manifests and settings that are meant, decisions told
//!  1  manifest   manifests of users, changed without a word more than needed
//!     cluster      which cluster is meant, a connection to it, its objects, how far a rollout is
//!     query        asks admin servers, reads Prometheus text
//!     collector    receives traces, shows them
//!  0  chart        the charts that the program carries: values, schema, objects
//!     io           lines, tables, colours, JSON
//! ```

pub mod app;
pub mod chart;
pub mod check;
pub mod cluster;
pub mod collector;
pub mod commands;
pub mod demo;
pub mod injection;
pub mod io;
pub mod local;
pub mod manifest;
pub mod query;
pub mod reference;
pub mod release;
pub mod view;
