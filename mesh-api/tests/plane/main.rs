//! The control-plane channel and what runs over it: who calls over `grpc`, and how `identity::Member` gets its
//! certificate, keeps it, and renews it, against a small authority in the test.

#[cfg(test)]
mod authority;
#[cfg(test)]
#[path = "../support/forge.rs"]
#[allow(dead_code, reason = "shared with the tests of tls, which need more of it")]
mod forge;
#[cfg(test)]
mod grpc;
#[cfg(test)]
mod identity;
