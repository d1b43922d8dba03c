//! Sockets behind the seam: the machine's, or a simulated network's.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::address::{Host, HostPort};

/// Where sockets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Net {
    /// The machine.
    Host,
    /// The surrounding turmoil host.
    #[cfg(feature = "sim")]
    Sim,
}

/// How many connections may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Addresses of one name that are looked at.
const MAX_ADDRESSES: usize = 16;
/// A peer that vanished is noticed after this time, idle or in the middle of sending.
const DEAD_PEER: Duration = Duration::from_secs(30);

/// The number of "address family not supported".
const EAFNOSUPPORT: i32 = 97;

impl Net {
    /// Listens. Where every address is meant (`[::]`) on a machine without IPv6, those of IPv4 are listened on.
    /// `shared` lets several listeners (of workers, of an old and a new process) have the same address.
    ///
    /// # Errors
    /// As the system says: address in use, not permitted, not there.
    pub async fn bind(self, address: SocketAddr, shared: bool) -> io::Result<Listener> {
        match self {
            Self::Host => {
                let stream = |address| Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP));
                let (socket, address) = match stream(address) {
                    Ok(socket) => (socket, address),
                    Err(error) => {
                        let address = without_v6(address, &error).ok_or(error)?;
                        (stream(address)?, address)
                    }
                };
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(shared)?;
                socket.set_nonblocking(true)?;
                if address.is_ipv6() && address.ip().is_unspecified() {
                    // Every address of the machine, whatever the machine's own default is.
                    socket.set_only_v6(false)?;
                }
                socket.bind(&address.into())?;
                socket.listen(BACKLOG)?;
                Ok(Listener::Host(tokio::net::TcpListener::from_std(socket.into())?))
            }
            #[cfg(feature = "sim")]
            Self::Sim => {
                // The simulator knows the wildcard address and loopback only.
                let any = SocketAddr::from(([0, 0, 0, 0], address.port()));
                Ok(Listener::Sim(turmoil::net::TcpListener::bind(any).await?))
            }
        }
    }

    /// Every address that `target` stands for at this moment, in the order in which they should be tried; never none.
    /// The caller sets the deadline.
    ///
    /// # Errors
    /// As the system's resolver says.
    pub async fn resolve(self, target: &HostPort) -> io::Result<Vec<SocketAddr>> {
        let name = match target.host() {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, target.port())]),
            Host::Name(name) => name.as_str(),
        };
        let mut found: Vec<SocketAddr> = match self {
            Self::Host => tokio::net::lookup_host((name, target.port())).await?.collect(),
            #[cfg(feature = "sim")]
            Self::Sim => turmoil::net::lookup_host((name, target.port())).await?.collect(),
        };
        let mut seen = std::collections::HashSet::new();
        found.retain(|address| seen.insert(*address));
        found.truncate(MAX_ADDRESSES);
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("`{name}` has no address")));
        }
        Ok(found)
    }

    /// Connects; Nagle off, dead peers noticed. The caller sets the deadline.
    ///
    /// # Errors
    /// As the system says.
    pub async fn connect(self, address: SocketAddr) -> io::Result<Stream> {
        let stream = match self {
            Self::Host => Stream::Host(tokio::net::TcpStream::connect(address).await?),
            #[cfg(feature = "sim")]
            Self::Sim => Stream::Sim(turmoil::net::TcpStream::connect(address).await?),
        };
        stream.prepare()?;
        Ok(stream)
    }
}

/// What to listen on instead on a machine that has no IPv6 at all: where every address was meant, every one of IPv4.
fn without_v6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let every = address.is_ipv6() && address.ip().is_unspecified();
    (every && error.raw_os_error() == Some(EAFNOSUPPORT)).then(|| SocketAddr::from(([0, 0, 0, 0], address.port())))
}

/// A listening socket.
pub enum Listener {
    /// The machine's.
    Host(tokio::net::TcpListener),
    /// A simulated one.
    #[cfg(feature = "sim")]
    Sim(turmoil::net::TcpListener),
}

impl Listener {
    /// The next connection; Nagle off, dead peers noticed.
    ///
    /// # Errors
    /// As the system says. A connection that its peer gave up is skipped, not an error; with no file descriptor left,
    /// the error comes back each time: the caller waits before it asks again.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            let (stream, peer) = match self {
                Self::Host(listener) => match listener.accept().await {
                    Ok((stream, peer)) => (Stream::Host(stream), peer),
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => return Err(error),
                },
                #[cfg(feature = "sim")]
                Self::Sim(listener) => {
                    let (stream, peer) = listener.accept().await?;
                    (Stream::Sim(stream), peer)
                }
            };
            if stream.prepare().is_ok() {
                return Ok((stream, peer));
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Host(listener) => listener.local_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(listener) => listener.local_addr(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// The machine's.
    Host(tokio::net::TcpStream),
    /// A simulated one.
    #[cfg(feature = "sim")]
    Sim(turmoil::net::TcpStream),
}

impl Stream {
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Host(stream) => {
                stream.set_nodelay(true)?;
                let socket = SockRef::from(stream);
                let keepalive =
                    TcpKeepalive::new().with_time(DEAD_PEER / 2).with_interval(DEAD_PEER / 6).with_retries(3);
                socket.set_tcp_keepalive(&keepalive)?;
                socket.set_tcp_user_timeout(Some(DEAD_PEER))
            }
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.set_nodelay(true),
        }
    }

    /// Our end.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Host(stream) => stream.local_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.local_addr(),
        }
    }

    /// The other end.
    ///
    /// # Errors
    /// Where the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Host(stream) => stream.peer_addr(),
            #[cfg(feature = "sim")]
            Self::Sim(stream) => stream.peer_addr(),
        }
    }

    /// Where the application meant to connect before the connection was redirected (`SO_ORIGINAL_DST`), of either
    /// family. For one that was not redirected the system may answer the listener's own address.
    #[must_use]
    pub fn original_dst(&self) -> Option<SocketAddr> {
        match self {
            Self::Host(stream) => {
                let socket = SockRef::from(stream);
                let local = stream.local_addr().ok()?;
                let found = if is_v4(&local) { socket.original_dst_v4() } else { socket.original_dst_v6() };
                found.ok()?.as_socket()
            }
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }

    /// Sends a reset in place of a clean end when it is dropped: the peer must not take what it got for all there is.
    pub fn reset_on_drop(&self) {
        match self {
            Self::Host(stream) => {
                // A socket that is gone already needs no reset.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            }
            #[cfg(feature = "sim")]
            Self::Sim(_) => {}
        }
    }
}

/// True for IPv4, mapped into IPv6 as well: that is the table the kernel keeps the original destination in.
fn is_v4(address: &SocketAddr) -> bool {
    match address {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().is_some(),
    }
}

macro_rules! each {
    ($stream:expr, $io:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Host($io) => $call,
            #[cfg(feature = "sim")]
            Stream::Sim($io) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Host(io) => io.is_write_vectored(),
            #[cfg(feature = "sim")]
            Self::Sim(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_ipv6_every_address_is_every_address_of_ipv4() {
        let none = io::Error::from_raw_os_error(EAFNOSUPPORT);
        let other = io::Error::from(io::ErrorKind::AddrInUse);
        let every: SocketAddr = "[::]:7".parse().unwrap();
        assert_eq!(without_v6(every, &none), Some("0.0.0.0:7".parse().unwrap()));
        assert_eq!(without_v6(every, &other), None);
        assert_eq!(without_v6("[::1]:7".parse().unwrap(), &none), None);
        assert_eq!(without_v6("0.0.0.0:7".parse().unwrap(), &none), None);
    }
}
