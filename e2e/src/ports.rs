//! Ports and loopback addresses that no other test has, in this process or another. Floor 0.
//!
//! The numbers are cut into slots. A slot belongs to whoever holds the lock of its file; the kernel frees it with the
//! process, so that nothing is left behind by a killed test. All ports lie below the kernel's ephemeral range: no
//! outgoing connection takes one between its choice and its use.

use std::{
    fs::{File, OpenOptions, TryLockError},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result, bail};

/// Slots on one machine: at most so many leases at once.
const SLOTS: u16 = 200;
/// Ports in a slot.
const PORTS: u16 = 100;
/// First port of the first slot.
const FIRST_PORT: u16 = 10_000;
/// Loopback addresses in a slot.
const ADDRESSES: u16 = 250;
/// Networks between namespaces in a slot.
const NETWORKS: u16 = 60;

/// One slot of ports, loopback addresses and networks, held until it is dropped.
#[derive(Debug)]
pub struct Lease {
    slot: u16,
    ports: AtomicU16,
    addresses: AtomicU16,
    networks: AtomicU16,
    _lock: File,
}

/// A network of four addresses for the two ends of a link, and a name that is as unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// At most 12 bytes, so that an interface can bear it with a letter more.
    pub name: String,
    /// One end; the prefix is 30 bits long.
    pub near: Ipv4Addr,
    /// The other end.
    pub far: Ipv4Addr,
}

impl Lease {
    /// Takes a free slot.
    ///
    /// # Errors
    /// Where every slot is taken, or the lock files cannot be written.
    pub fn take() -> Result<Self> {
        let dir = std::env::temp_dir().join("mesh-e2e-leases");
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let first = u16::try_from(std::process::id() % u32::from(SLOTS)).unwrap_or(0);
        for step in 0..SLOTS {
            let slot = (first + step) % SLOTS;
            let path = dir.join(slot.to_string());
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {
                    let zero = || AtomicU16::new(0);
                    return Ok(Self { slot, ports: zero(), addresses: zero(), networks: zero(), _lock: lock });
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
        }
        bail!("all {SLOTS} slots of ports are taken: other tests are still running")
    }

    /// A port on which nobody listens, on any address of this machine.
    ///
    /// # Errors
    /// Where the slot is used up.
    pub fn port(&self) -> Result<u16> {
        loop {
            let next = self.ports.fetch_add(1, Ordering::Relaxed);
            if next >= PORTS {
                bail!("the {PORTS} ports of slot {} are used up", self.slot);
            }
            let port = FIRST_PORT + self.slot * PORTS + next;
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return Ok(port);
            }
        }
    }

    /// 127.0.0.1 with a port of its own.
    ///
    /// # Errors
    /// As [`Lease::port`].
    pub fn local(&self) -> Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, self.port()?).into())
    }

    /// A loopback address that nobody else uses, never 127.0.0.1.
    ///
    /// # Errors
    /// Where the slot is used up.
    pub fn address(&self) -> Result<Ipv4Addr> {
        let next = self.addresses.fetch_add(1, Ordering::Relaxed);
        if next >= ADDRESSES {
            bail!("the {ADDRESSES} addresses of slot {} are used up", self.slot);
        }
        let byte = |value: u16| u8::try_from(value).context("a byte of an address");
        Ok(Ipv4Addr::new(127, 64, byte(self.slot + 1)?, byte(next + 1)?))
    }

    /// A network for a link between namespaces.
    ///
    /// # Errors
    /// Where the slot is used up.
    pub fn network(&self) -> Result<Network> {
        let next = self.networks.fetch_add(1, Ordering::Relaxed);
        if next >= NETWORKS {
            bail!("the {NETWORKS} networks of slot {} are used up", self.slot);
        }
        let byte = |value: u16| u8::try_from(value).context("a byte of an address");
        let end =
            |last: u16| Ok::<_, anyhow::Error>(Ipv4Addr::new(10, 213, byte(self.slot + 1)?, byte(next * 4 + last)?));
        Ok(Network { name: format!("e2e{}x{next}", self.slot), near: end(1)?, far: end(2)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_never_share_a_slot() {
        let leases: Vec<Lease> = (0..8).map(|_| Lease::take().unwrap()).collect();
        let mut slots: Vec<u16> = leases.iter().map(|lease| lease.slot).collect();
        slots.sort_unstable();
        slots.dedup();
        assert_eq!(slots.len(), leases.len());
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let lease = Lease::take().unwrap();
        let first = FIRST_PORT + lease.slot * PORTS;
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert_eq!(lease.port().unwrap(), first + 1);
    }

    #[test]
    fn a_slot_ends() {
        let lease = Lease::take().unwrap();
        let given = (0..=PORTS).map_while(|_| lease.port().ok()).count();
        assert!(given <= usize::from(PORTS));
        assert!(lease.port().unwrap_err().to_string().contains("used up"));
        assert_ne!(lease.address().unwrap(), lease.address().unwrap());
        let network = lease.network().unwrap();
        assert_ne!(network.near, network.far);
        assert!(network.name.len() <= 12);
    }
}
