//! The certificate authority of the mesh, as a library with a thin `main.rs`.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  5  app         puts everything together, runs it, ends it
//!  4  serve       gRPC: certificates, the trust bundle
//!     admin       what people see and order
//!     bundle      the roots in every namespace
//!     replicas    who leads, and that all hear of changes
//!  3  issue       caller, request and moment in; certificate out (pure)
//!     own         the authority's own certificate
//!     config      everything that can be configured
//!  2  issuer      what signs: where it comes from, how it rotates
//!  1  authn       who asks for a certificate
//!     pki         certificates and signing requests (pure)
//!     leader      the Lease
//!  0  cluster     the Kubernetes API server
//!     files       secrets on disk
//!     limit       how much is served (pure)
//!     telemetry   the table of metrics
//!     time        wall time in seconds
//! ```

pub mod admin;
pub mod app;
pub mod authn;
pub mod bundle;
pub mod cluster;
pub mod config;
pub mod files;
pub mod issue;
pub mod issuer;
pub mod leader;
pub mod limit;
pub mod own;
pub mod pki;
pub mod replicas;
pub mod serve;
pub mod telemetry;
pub mod time;
