//! The certificate authority of the mesh, as a library with a thin `main.rs`.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  1  authn       who asks for a certificate
//!     pki         certificates and signing requests (pure)
//!  0  files       secrets on disk
//!     time        wall time in seconds
//! ```

pub mod authn;
pub mod files;
pub mod pki;
pub mod time;
