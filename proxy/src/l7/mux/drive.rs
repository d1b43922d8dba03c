//! The connection's socket: reads frames, writes what is gathered, once for each batch of tasks that were ready.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::{
    frame::Frame,
    outgoing::ENOUGH,
    state::{Arrived, Broken, Shared},
};

/// Reads before other tasks get their turn.
const READS: usize = 8;
/// Bytes that are read at once; more where that was not enough.
const READ: usize = 16 * 1024;
const READ_MOST: usize = 64 * 1024;
/// A buffer with less room is not read into.
const READ_LEAST: usize = 4 * 1024;

/// The socket of a connection and what is between two frames.
pub(super) struct Driver<IO> {
    io: IO,
    shared: Shared,
    input: BytesMut,
    read: usize,
    unflushed: bool,
    closed: bool,
    /// For a whole interval.
    rested: bool,
}

impl<IO> Drop for Driver<IO> {
    fn drop(&mut self) {
        // Streams outlive the connection: they must hear that nothing will come.
        self.shared.borrow_mut().fail(&Broken::Closed);
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Driver<IO> {
    pub(super) fn new(io: IO, shared: Shared) -> Self {
        Self { io, shared, input: BytesMut::new(), read: READ, unflushed: false, closed: false, rested: false }
    }

    /// True once after each interval.
    pub(super) fn is_due(&self) -> bool {
        self.shared.borrow_mut().is_due()
    }

    /// Memory that nothing is in is given back.
    ///
    /// # Errors
    /// Where the peer does not close a connection on which all has been said.
    pub(super) fn rest(&mut self) -> Result<(), Broken> {
        if std::mem::replace(&mut self.rested, self.closed) {
            return Err(Broken::Silent);
        }
        if self.input.is_empty() {
            (self.input, self.read) = (BytesMut::new(), READ);
        }
        let mut state = self.shared.borrow_mut();
        let out = state.outgoing.out();
        if out.is_empty() {
            *out = BytesMut::new();
        }
        Ok(())
    }

    /// Ready when the connection is over: in good order, or broken, which all streams have then heard. Requests go to `begin`.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut begin: impl FnMut(Arrived)) -> Poll<Result<(), Broken>> {
        let polled = self.poll_both(cx, &mut begin);
        if let Poll::Ready(Err(broken)) = &polled {
            self.shared.borrow_mut().fail(broken);
        }
        polled
    }

    fn poll_both(&mut self, cx: &mut Context<'_>, begin: &mut impl FnMut(Arrived)) -> Poll<Result<(), Broken>> {
        self.shared.borrow_mut().driver_is(cx.waker());
        let gone = self.poll_input(cx, begin)?;
        // What was said before it went may be all that there was to say.
        let written = self.poll_output(cx);
        if gone.is_ready() {
            let complete = self.shared.borrow().is_complete();
            return Poll::Ready(if complete { Ok(()) } else { Err(Broken::Closed) });
        }
        written
    }

    /// Ready when the peer says nothing more.
    fn poll_input(&mut self, cx: &mut Context<'_>, begin: &mut impl FnMut(Arrived)) -> Result<Poll<()>, Broken> {
        for _ in 0..READS {
            match self.poll_read(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Ok(0)) => return Ok(Poll::Ready(())),
                Poll::Ready(Ok(_)) => {}
                // A peer that goes does not always say so in TLS.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Poll::Ready(())),
                Poll::Ready(Err(error)) => return Err(error.into()),
            }
            while let Some(frame) =
                Frame::take(&mut self.input).map_err(|_| Broken::Rules("it sent what is no frame"))?
            {
                // Not held while a request begins: that may be anything.
                let arrived = self.shared.borrow_mut().receive(frame)?;
                if let Some(arrived) = arrived {
                    begin(arrived);
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.input.capacity() - self.input.len() < READ_LEAST.max(self.read / 4) {
            self.input.reserve(self.read);
        }
        let room = self.input.capacity() - self.input.len();
        let read = std::task::ready!(pin!(self.io.read_buf(&mut self.input)).poll(cx))?;
        if read == room {
            self.read = READ_MOST;
        }
        Poll::Ready(Ok(read))
    }

    /// Ready when all is said.
    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let mut state = self.shared.borrow_mut();
        loop {
            state.fill(ENOUGH)?;
            if self.closed {
                // What came since has no answer: the peer has heard that this side has said all.
                state.outgoing.out().clear();
                return Poll::Pending;
            }
            let out = state.outgoing.out();
            if out.is_empty() {
                break;
            }
            let written = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, out))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            out.advance(written);
            self.unflushed = true;
        }
        if self.unflushed {
            std::task::ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        if !state.is_over() {
            return Poll::Pending;
        }
        if !self.closed {
            // The peer may be gone already; that it cannot be told changes nothing.
            let _ = std::task::ready!(Pin::new(&mut self.io).poll_shutdown(cx));
            self.closed = true;
        }
        // What it said meanwhile must not be answered with a reset, which could destroy what it has not read yet.
        Poll::Pending
    }
}
