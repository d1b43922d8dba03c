//! Connections whose other end may rest: take nothing for as long as it likes.
//!
//! The kernel is told to give a connection up whose peer acknowledges nothing for half a minute, so that one that has
//! vanished is noticed. It makes no difference between that and a peer that is there and takes nothing.

use mesh_api::sys::Stream;
use socket2::SockRef;

/// Lets the other end rest. One that vanishes is still noticed while nothing is on its way to it; otherwise after the
/// kernel's own time, some fifteen minutes.
pub fn allow(stream: &Stream) {
    if let Stream::Host(socket) = stream
        && let Err(error) = SockRef::from(socket).set_tcp_user_timeout(None)
    {
        tracing::debug!(%error, "the connection keeps its limit");
    }
}

/// Lets the other end rest where it is on this machine: it cannot vanish without a word.
pub fn allow_if_local(stream: &Stream) {
    let ends = (stream.local_addr(), stream.peer_addr());
    if let (Ok(local), Ok(peer)) = ends
        && local.ip() == peer.ip()
    {
        allow(stream);
    }
}
