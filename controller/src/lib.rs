//! The control plane of the mesh: reads what users write, works out what each proxy must know, and tells it.
//!
//! A change travels upwards through these floors; each imports lower floors only:
//!
//! ```text
//!  6  app        puts everything together and owns every task
//!  5  pages      what the admin server shows
//!     reporter   statuses of objects, written by the leader
//!  4  serve      the discovery service: one actor a stream, newest state, no queue
//!     webhook    the admission webhooks: pods get sidecars, broken objects are refused
//!  3  source     where objects come from: folders of manifests, or an API server
//!     leader     which of several replicas writes
//!  2  resolve    index -> what one proxy must know; pure
//!     review     index -> references that lead nowhere, conflicts; pure
//!  1  inject     what a pod needs to be a member, and whether it becomes one; pure
//!     index      all objects, incrementally; which topics a change makes dirty; pure
//!     translate  one object -> checked parts; pure
//!     status     who is connected and runs what, in types that the command line can read back
//!     conditions from problems to the conditions of a status; pure
//!     cluster    the way to an API server
//!     config     what the process is told
//!  0  problem    what is wrong, said so that it can be mended
//!     telemetry  every metric, once
//! ```

pub mod app;
pub mod cluster;
pub mod conditions;
pub mod config;
pub mod index;
pub mod inject;
pub mod leader;
pub mod pages;
pub mod problem;
pub mod reporter;
pub mod resolve;
pub mod review;
pub mod serve;
pub mod source;
pub mod status;
pub mod telemetry;
pub mod translate;
pub mod webhook;

#[cfg(test)]
mod fixtures;
