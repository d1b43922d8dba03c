//! A mesh to look at: the manifests of a small shop, its programs, and the proof that it works. Floor 3: imports
//! `local`, `view`, `query`, `collector`, `io`.

pub mod app;
pub mod check;
mod grpc;
mod http;
pub mod manifests;
pub mod screen;

pub use self::http::Client;
