//! What is wrong with a mesh on a cluster, whose fault that is, and what to do. Floor 2: imports `cluster`, `query`, `io`.
//!
//! Facts are gathered, judged and shown, each by itself: what decides is pure, and can be tried without a cluster.
//!
//! ```text
//!  3  report    all verdicts together, shown
//!     pages     the page of each check
//!  2  catalog   every check: its name, its place, its judge
//!  1  judge     facts in, verdict out
//!     gather    asks the cluster and the mesh
//!  0  facts     what is known, or why not
//!     verdict   what a check comes to
//!     pods, certs, foreign, wish    what pods and certificates say, by what other meshes are known
//! ```

pub mod catalog;
pub mod certs;
pub mod facts;
pub mod foreign;
pub mod gather;
pub mod judge;
pub mod pages;
pub mod pods;
pub mod report;
pub mod verdict;
pub mod wish;
