//! Free ports and loopback addresses, and who listens where.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

use rand::Rng as _;

/// Below the range from which the system takes ports for outgoing connections: a part that is started again finds its
/// port still free.
const FIRST: u16 = 20_000;
/// How many there are.
const COUNT: u16 = 12_000;
/// Tries before there is none.
const TRIES: usize = 2_000;

/// Hands out ports of 127.0.0.1, none twice.
#[derive(Debug, Default)]
pub struct Ports {
    given: HashSet<u16>,
}

impl Ports {
    /// Nothing is handed out yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A port that nobody has at the moment.
    ///
    /// # Errors
    /// Where no free one is found.
    pub fn take(&mut self) -> io::Result<SocketAddr> {
        let mut rng = rand::rng();
        for _ in 0..TRIES {
            let port = FIRST + u16::try_from(rng.next_u32() % u32::from(COUNT)).unwrap_or(0);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if !self.given.contains(&port) && is_free(address) {
                self.given.insert(port);
                return Ok(address);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no free port of 127.0.0.1 from {FIRST} on")))
    }

    /// `address` is not used any more.
    pub fn give_back(&mut self, address: SocketAddr) {
        self.given.remove(&address.port());
    }
}

/// A loopback address of its own for `name`, on which `port` is free; the same name gets the same one where it can.
///
/// # Errors
/// Where no free one is found.
pub fn loopback_for(name: &str, port: u16, taken: &HashSet<IpAddr>) -> io::Result<IpAddr> {
    // FNV-1a: it only has to spread.
    let start = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    for step in 0..u32::try_from(TRIES).unwrap_or(u32::MAX) {
        let [_, b, c, d] = start.wrapping_add(step.wrapping_mul(0x9E37_79B9)).to_be_bytes();
        // 127.64.0.0/10: away from the addresses that people choose by hand.
        let ip = IpAddr::V4(Ipv4Addr::new(127, 64 | (b & 63), c, 1 + d % 254));
        if !taken.contains(&ip) && is_free(SocketAddr::new(ip, port)) {
            return Ok(ip);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("port {port} is in use on every loopback address tried")))
}

fn is_free(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_ok()
}

/// True where some process listens on `address`, alone or as part of all addresses; asked of the system, without
/// touching the listener.
#[must_use]
pub fn is_listening(address: SocketAddr) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .any(|table| listeners(&table).any(|found| covers(found, address)))
}

fn covers(listener: SocketAddr, address: SocketAddr) -> bool {
    let ip = listener.ip().to_canonical();
    let all = match ip {
        IpAddr::V4(ip) => ip.is_unspecified() && address.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    listener.port() == address.port() && (all || ip == address.ip().to_canonical())
}

/// Listening sockets of a table of the kernel's (proc(5)): the second field is the local address, the fourth the state.
fn listeners(table: &str) -> impl Iterator<Item = SocketAddr> + '_ {
    const LISTEN: &str = "0A";
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next()?;
        (fields.nth(1)? == LISTEN).then(|| address(local)).flatten()
    })
}

/// `0100007F:1F90`: the address in words of the machine's byte order, the port in plain.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_handed_out_once() {
        let mut ports = Ports::new();
        let all: HashSet<_> = (0..50).map(|_| ports.take().unwrap()).collect();
        assert_eq!(all.len(), 50);
        assert!(all.iter().all(|address| (FIRST..FIRST + COUNT).contains(&address.port())));
    }

    #[test]
    fn a_name_keeps_its_address_until_it_is_taken() {
        let mut taken = HashSet::new();
        let first = loopback_for("shop/web", 18_080, &taken).unwrap();
        assert_eq!(loopback_for("shop/web", 18_080, &taken).unwrap(), first);
        taken.insert(first);
        assert_ne!(loopback_for("shop/web", 18_080, &taken).unwrap(), first);
    }

    #[test]
    fn listeners_are_seen_and_connections_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(is_listening(address));
        let client = std::net::TcpStream::connect(address).unwrap();
        assert!(!is_listening(client.local_addr().unwrap()));
        drop(listener);
        assert!(!is_listening(address));
    }

    #[test]
    fn the_wildcard_covers_every_address() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_listening(SocketAddr::from(([127, 0, 0, 9], port))));
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        assert_eq!(address("0100007F:1F90"), Some("127.0.0.1:8080".parse().unwrap()));
        let six = address("00000000000000000000000001000000:0050");
        assert_eq!(six, Some("[::1]:80".parse().unwrap()));
        assert_eq!(address("zz:1"), None);
    }
}
