//! What `status` and `demo` show, computed from what the mesh's processes told. Floor 2: imports `query`, `local`, `check`,
//! `io`.

pub mod cluster;
pub mod edges;
pub mod members;
pub mod scrape;
pub mod status;

pub use scrape::{Scrape, scrape};
