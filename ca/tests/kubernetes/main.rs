//! The authority in a cluster, against an API server in the test: its Secret, its way to know members, the roots in
//! every namespace, and several replicas of it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its premises fail")]

#[cfg(test)]
mod bundle;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod review;
#[cfg(test)]
mod secret;
