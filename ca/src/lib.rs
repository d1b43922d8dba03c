//! The certificate authority of the mesh, as a library with a thin `main.rs`.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  2  issuer      what signs: where it comes from, how it rotates
//!  1  authn       who asks for a certificate
//!     pki         certificates and signing requests (pure)
//!  0  files       secrets on disk
//!     telemetry   the table of metrics
//!     time        wall time in seconds
//! ```

pub mod authn;
pub mod files;
pub mod issuer;
pub mod pki;
pub mod telemetry;
pub mod time;
