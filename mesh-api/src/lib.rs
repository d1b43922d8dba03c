//! What the processes of the mesh agree on.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  3  grpc        the control-plane channel: mTLS client and server over the seam
//!     admin       the admin server that every process has
//!  2  convert     model <-> proto, the only place that sees both
//!     tls         SPIFFE verification, credentials that rotate, TLS configurations
//!     config      defaults, file, environment, flags; every mistake at once
//!  1  model       the mesh in plain types
//!     resources   the kinds users write
//!     log         logging, with a level that can be changed
//!     sys         the seam to sockets, clock and randomness
//!  0  names       every label, header, port, once
//!     address     hosts and ports that are connected to
//!     spiffe      identities
//!     pattern     users' regular expressions, bounded
//!     backoff     waits between tries
//!     places      connections of a server that anybody reaches, bounded
//!     probe       health probes that sidecars carry out
//!     supervise   tasks whose end is noticed
//! ```

pub mod address;
pub mod admin;
pub mod backoff;
pub mod config;
pub mod convert;
pub mod grpc;
pub mod identity;
pub mod log;
pub mod model;
pub mod names;
pub mod pattern;
pub mod places;
pub mod probe;
pub mod resources;
pub mod spiffe;
pub mod supervise;
pub mod sys;
pub mod tls;

/// Generated from `proto/`.
pub mod proto {
    #![allow(missing_docs, clippy::all, reason = "generated; documented in the .proto files")]
    include!(concat!(env!("OUT_DIR"), "/mesh.v1.rs"));
}
