//! What the mesh's TLS refuses: certificates of every wrong shape, chains that lead nowhere, handshakes that are not
//! ours, floods. Each test is named after its case in the catalogue of hostile input (`f01`: section F, case 1).
//!
//! Every case runs over real loopback sockets against `tls::server_config` and `tls::client_config`, in both roles
//! where that makes sense. Beside the refusal each one holds: the alert that the other side reads, that no byte of the
//! application passed, and that the next good peer gets through.
//!
//! Tested with the proxy's listeners, because only they have what the case is about: F05 on a permissive port, F29 (the
//! name in the hello decides nothing here; it decides there whether a connection is the mesh's), F31 beside
//! a permissive port, F33 where a fallback to plain text could be, F35 (there are no revocation lists: a leaf lives for a
//! day at most, and a root leaves by F36; what is to be cut then is the listener's). F39 needs a running authority.

#[cfg(test)]
mod certificates;
#[cfg(test)]
mod chains;
#[cfg(test)]
#[path = "../support/forge.rs"]
#[allow(dead_code, reason = "shared with the tests of the control plane, which need more of it")]
mod forge;
#[cfg(test)]
mod handshake;
#[cfg(test)]
#[path = "../support/link.rs"]
mod link;
#[cfg(test)]
mod parsers;
#[cfg(test)]
mod records;
#[cfg(test)]
mod wire;
