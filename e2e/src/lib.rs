//! End-to-end tests of the mesh with real programs, and what they stand on. Floor 3: sees the mesh from outside only,
//! through the `meshctl` binary, its admin servers and the wire.
//!
//! Floors within, each importing lower ones only:
//!
//! ```text
//! 6  scenarios
//! 5  suite
//! 4  provider  bench
//! 3  compare  cluster
//! 2  mesh  programs  capture  netns  tools
//! 1  stage  http  tls  bin  cache  api
//! 0  ports  process  transcript  oci
//! ```
//!
//! Every test stands on a [`stage::Stage`]: a scratch directory, kept when the test fails, and a lease of ports and
//! loopback addresses that no other test has. Every child process dies with its guard, and with the test process.

pub mod api;
pub mod bench;
pub mod bin;
pub mod cache;
pub mod capture;
pub mod cluster;
pub mod compare;
pub mod http;
pub mod mesh;
pub mod netns;
pub mod oci;
pub mod ports;
pub mod process;
pub mod programs;
pub mod provider;
pub mod scenarios;
pub mod stage;
pub mod suite;
pub mod tls;
pub mod tools;
pub mod transcript;
