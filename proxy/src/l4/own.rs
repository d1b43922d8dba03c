//! Which addresses are this machine's.

use std::net::IpAddr;

/// The addresses of this network namespace's interfaces, without loopback. Empty where the system does not say.
#[must_use]
pub fn addresses() -> Vec<IpAddr> {
    let interfaces = match nix::ifaddrs::getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            tracing::warn!(%error, "the own addresses are not known: the workload may not reach itself by its service");
            return Vec::new();
        }
    };
    let ip = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    interfaces.filter_map(ip).filter(|ip| !ip.is_loopback()).collect()
}
