//! Whether the redirection is in force. Floor 4: imports `kernel`.
//!
//! Who has the capability NET_ADMIN reads the rules. Who has it not, as an init container of a pod that may do nothing,
//! connects to somewhere and sees whether the connection arrives at the proxy's port of its own machine. The table is
//! taken over as a whole or not at all: where what goes out is redirected, so is what comes in.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use nix::unistd::{getegid, geteuid};
use socket2::SockRef;

use super::{
    by_family,
    kernel::{Kernel, KernelError},
    nftables::Difference,
    plan::{Family, plan_for},
    settings::{Owner, Settings},
};

/// How long a connection may take to arrive on the same machine.
const ARRIVAL: Duration = Duration::from_secs(2);

/// By what the redirection is known to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The rules in the kernel are exactly those that are wanted.
    Rules,
    /// A connection was redirected.
    Connection,
}

/// The redirection is not in force, or is not known to be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// Other rules are there, or none.
    #[error("connections are not redirected as they should be: {0}")]
    Different(#[from] Difference),
    /// A connection went past the proxy.
    #[error("connections are not redirected: one to {0} did not arrive at the proxy's port of this machine ({1})")]
    Past(SocketAddr, String),
    /// It could not be tried.
    #[error("it cannot be told whether connections are redirected: {0}")]
    Unknown(String),
    /// The rules cannot be read.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Says whether `settings` are in force in this thread's network namespace.
///
/// # Errors
/// [`CheckError`]: they are not, or that cannot be told.
pub fn check(settings: &Settings) -> Result<Proof, CheckError> {
    match by_family(|family| found(settings, family)) {
        Ok(found) => found.map(|()| Proof::Rules).map_err(CheckError::Different),
        Err(KernelError::NotPermitted(_)) => by_connection(settings).map(|()| Proof::Connection),
        Err(error) => Err(error.into()),
    }
}

fn found(settings: &Settings, family: Family) -> Result<Result<(), Difference>, KernelError> {
    let found = Kernel::open()?.compare(&plan_for(settings, family))?;
    if family == Family::Inet && found == Err(Difference::NoTable) && !super::has_ipv6() {
        return Kernel::open()?.compare(&plan_for(settings, Family::Ip));
    }
    Ok(found)
}

/// Tries it, in each family that has a way out.
fn by_connection(settings: &Settings) -> Result<(), CheckError> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    if settings.proxy == Owner::User(user) || settings.proxy == Owner::Group(group) {
        return Err(CheckError::Unknown("this runs as the proxy's user, whose connections are left alone".into()));
    }
    let v4 = arrives(settings, Ipv4Addr::LOCALHOST.into())?;
    let v6 = arrives(settings, Ipv6Addr::LOCALHOST.into())?;
    if v4 || v6 {
        return Ok(());
    }
    Err(CheckError::Unknown("there is no way out of this network namespace that could be tried".into()))
}

/// True where a connection arrives at the proxy's port on `loopback`; false where there is nothing to try it with.
fn arrives(settings: &Settings, loopback: IpAddr) -> Result<bool, CheckError> {
    let candidates = candidates(settings, loopback.is_ipv6());
    if candidates.is_empty() {
        return Ok(false);
    }
    let gate = SocketAddr::new(loopback, settings.outbound_port);
    let listener = match TcpListener::bind(gate) {
        Ok(listener) => listener,
        Err(error) if matches!(error.kind(), ErrorKind::AddrNotAvailable | ErrorKind::Unsupported) => return Ok(false),
        Err(error) => {
            let why = format!("listening on {gate} failed ({error}); it is tried before the proxy runs");
            return Err(CheckError::Unknown(why));
        }
    };
    for to in candidates {
        match TcpStream::connect_timeout(&to, ARRIVAL) {
            Ok(stream) => return arrived(&listener, &stream).map_err(|error| CheckError::Past(to, error.to_string())),
            Err(error) if no_way(&error) => (),
            Err(error) => return Err(CheckError::Past(to, error.to_string())),
        }
    }
    Ok(false)
}

fn no_way(error: &io::Error) -> bool {
    use ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable, Unsupported};
    matches!(error.kind(), NetworkUnreachable | HostUnreachable | AddrNotAvailable | Unsupported)
}

/// Waits until the connection is there, among those of others.
fn arrived(listener: &TcpListener, stream: &TcpStream) -> io::Result<bool> {
    let (own, deadline) = (stream.local_addr()?, Instant::now() + ARRIVAL);
    SockRef::from(listener).set_read_timeout(Some(ARRIVAL))?;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((_, peer)) if peer == own => return Ok(true),
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(ErrorKind::TimedOut, "somebody else took it"))
}

/// Addresses elsewhere that are redirected: such that nobody has, and then the cluster's API server, for pods whose only
/// way leads to the cluster.
fn candidates(settings: &Settings, v6: bool) -> Vec<SocketAddr> {
    // Documentation's addresses: RFC 5737, RFC 3849.
    let nobody: &[&str] = if v6 { &["2001:db8::1"] } else { &["192.0.2.1", "198.51.100.1", "203.0.113.1"] };
    let server = std::env::var("KUBERNETES_SERVICE_HOST").ok();
    let redirected = |ip: &IpAddr| ip.is_ipv6() == v6 && !settings.skip_subnets.iter().any(|net| net.contains(ip));
    let skipped = |port: u16| settings.skip_outbound_ports.iter().any(|range| range.contains(port));
    let Some(port) = [443, 80].into_iter().chain(1..=u16::MAX).find(|port| !skipped(*port)) else { return Vec::new() };
    let addresses = nobody.iter().copied().chain(server.as_deref()).filter_map(|text| text.parse::<IpAddr>().ok());
    addresses.filter(redirected).map(|ip| SocketAddr::new(ip, port)).collect()
}
