//! What the mesh's TLS refuses: certificates of every wrong shape, chains that lead nowhere, handshakes that are not
//! ours. Each test is named after the case it stands for (`f01`: section F, case 1).
//!
//! Every case runs over real loopback sockets against `tls::server_config` and `tls::client_config`, where it makes
//! sense in both roles. Beside the refusal each one holds: the alert that the other side reads, that no byte of the
//! application passed, and that the next good peer gets through.

#[cfg(test)]
mod certificates;
#[cfg(test)]
mod chains;
#[cfg(test)]
#[path = "../support/forge.rs"]
mod forge;
#[cfg(test)]
#[path = "../support/link.rs"]
mod link;
