//! A stream that carries bytes without a head: a connection within the connection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    halves::{Next, Receive, Send},
    state::Over,
};

/// Its two ends are as those of a connection over TCP: each side may end its half; dropped before that, the other side sees it
/// broken off.
#[derive(Debug)]
pub struct ByteStream {
    receive: Receive,
    send: Send,
    /// Received and not yet read.
    left: Bytes,
}

impl ByteStream {
    pub(super) fn new(receive: Receive, send: Send) -> Self {
        Self { receive, send, left: Bytes::new() }
    }

    /// True where the other side has broken it off.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.send.is_over()
    }

    /// Breaks it off: the other side must not take what it has seen for all.
    pub fn reset(&self) {
        self.receive.reset(Reason::INTERNAL_ERROR);
    }
}

fn broken(over: Over) -> io::Error {
    match over {
        Over::Broken(broken) => io::Error::new(io::ErrorKind::ConnectionReset, broken),
        Over::Reset(_) | Over::NotTaken | Over::Here => io::ErrorKind::ConnectionReset.into(),
    }
}

impl AsyncRead for ByteStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // All that is there: who passes it on does so in few calls.
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            if self.left.is_empty() {
                match self.receive.poll_next(cx) {
                    Poll::Ready(Ok(Next::Data(data, _))) => self.left = data,
                    _ if buf.filled().len() > before => break,
                    Poll::Pending => return Poll::Pending,
                    // Such a stream has no trailers; they end it.
                    Poll::Ready(Ok(Next::End | Next::Trailers(_))) => break,
                    Poll::Ready(Err(over)) => return Poll::Ready(Err(broken(over))),
                }
            }
            let some = self.left.len().min(buf.remaining());
            buf.put_slice(self.left.get(..some).unwrap_or_default());
            self.left.advance(some);
        }
        if self.left.is_empty() {
            // It keeps the buffer alive that it came in.
            self.left = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ByteStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.send.poll_over(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut state = self.send.shared.borrow_mut();
        if !state.outgoing.has_room(self.send.id) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(state.send_bytes(self.send.id, buf)))
    }

    /// What is left with the connection is on its way.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send.shared.borrow_mut().send_data(self.send.id, Bytes::new(), true);
        Poll::Ready(Ok(()))
    }
}
