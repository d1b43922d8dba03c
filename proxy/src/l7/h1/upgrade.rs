//! Connections that stop being HTTP: `101 Switching Protocols` and 2xx to `CONNECT` (RFC 9110 §7.8, §9.3.6).

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::Duplex;

/// A byte stream that was an HTTP connection. Reads yield first what was received behind the head.
pub struct Upgraded {
    io: Box<dyn Duplex>,
    early: Bytes,
}

impl Upgraded {
    pub(super) const fn new(io: Box<dyn Duplex>, early: Bytes) -> Self {
        Self { io, early }
    }

    /// The stream, and the bytes already read from it, which come before everything that it will yield.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn Duplex>, Bytes) {
        (self.io, self.early)
    }
}

impl std::fmt::Debug for Upgraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgraded").field("early", &self.early.len()).finish_non_exhaustive()
    }
}

impl AsyncRead for Upgraded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.early.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let n = self.early.len().min(buf.remaining());
        buf.put_slice(self.early.get(..n).unwrap_or_default());
        self.early.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Upgraded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The service did not answer with an upgrade, or the connection ended first. The request was answered as plain HTTP,
/// or not at all; nothing was tunnelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection was not upgraded")]
pub struct UpgradeError;

enum State {
    Waiting(Option<Waker>),
    Ready(Upgraded),
    Refused,
}

/// Yields the client's byte stream once the answer that upgrades the connection has been written.
pub struct OnUpgrade(Rc<RefCell<State>>);

impl std::fmt::Debug for OnUpgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnUpgrade")
    }
}

impl Future for OnUpgrade {
    type Output = Result<Upgraded, UpgradeError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.borrow_mut();
        match std::mem::replace(&mut *state, State::Refused) {
            State::Ready(tunnel) => Poll::Ready(Ok(tunnel)),
            State::Refused => Poll::Ready(Err(UpgradeError)),
            State::Waiting(_) => {
                *state = State::Waiting(Some(cx.waker().clone()));
                Poll::Pending
            }
        }
    }
}

/// The server's end of an [`OnUpgrade`]. Dropped, it refuses.
pub(super) struct Fulfil(Rc<RefCell<State>>);

/// A connected pair.
pub(super) fn pair() -> (Fulfil, OnUpgrade) {
    let state = Rc::new(RefCell::new(State::Waiting(None)));
    (Fulfil(Rc::clone(&state)), OnUpgrade(state))
}

impl Fulfil {
    /// Somebody still wants the stream.
    pub(super) fn is_awaited(&self) -> bool {
        Rc::strong_count(&self.0) > 1
    }

    /// Hands the stream over.
    pub(super) fn fulfil(self, tunnel: Upgraded) {
        self.settle(State::Ready(tunnel));
    }

    fn settle(&self, new: State) {
        let mut state = self.0.borrow_mut();
        if let State::Waiting(waker) = &mut *state {
            let waker = waker.take();
            *state = new;
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl Drop for Fulfil {
    fn drop(&mut self) {
        self.settle(State::Refused);
    }
}
