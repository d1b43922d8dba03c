//! The certificate authority of the mesh, as a library with a thin `main.rs`.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  1  pki         certificates and signing requests (pure)
//!  0  time        wall time in seconds
//! ```

pub mod pki;
pub mod time;
