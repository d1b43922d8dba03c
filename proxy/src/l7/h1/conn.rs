//! The state of one connection, shared between the task that owns it and the bodies that read from it.
//!
//! Whoever polls a body reads the socket itself; no task stands between. Both run on one thread, so the state is a
//! `RefCell` that is never borrowed across a poll of anything foreign.

use std::cell::{RefCell, RefMut};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};

use super::buffer::{READ_SIZE, READ_SIZE_MAX, WriteBuf, give_back, make_room};
use super::decode::BodyDecoder;
use super::error::BodyError;
use super::timer::LazyTimer;

/// A byte stream in both directions: TCP, TLS, or a pipe in memory.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// How slow the sender of a body may be. Only time spent waiting for the sender counts, not the time in which the
/// receiver did not ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyLimits {
    /// Longest wait for the next bytes.
    pub idle: Duration,
    /// Lowest mean rate, in bytes a second, once `grace` has passed.
    pub min_rate: Option<u32>,
    /// Waiting that is free before `min_rate` applies.
    pub grace: Duration,
}

impl Default for BodyLimits {
    fn default() -> Self {
        Self { idle: Duration::from_secs(60), min_rate: None, grace: Duration::from_secs(10) }
    }
}

/// How far the outgoing message is whose answer is being read (client half).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upload {
    /// A part is still to be sent.
    #[default]
    Pending,
    /// Completely written.
    Done,
    /// It will never be complete.
    Failed,
}

pub(super) struct Core {
    io: Option<Box<dyn Duplex>>,
    pub(super) rbuf: BytesMut,
    /// The peer will send nothing more.
    pub(super) eof: bool,
    read_size: usize,
    pub(super) wbuf: WriteBuf,
    pub(super) read_timer: LazyTimer,
    write_timer: LazyTimer,
    pub(super) write_timeout: Duration,

    /// The body that is being received, and its account.
    pub(super) body: BodyDecoder,
    body_limits: BodyLimits,
    received: u64,
    waited: Duration,
    /// Why that body failed, if it did.
    pub(super) failure: Option<BodyError>,
    /// Counts messages: a body of an earlier one reads nothing.
    pub(super) generation: u32,
    /// Nobody will read the current body any more (server half).
    pub(super) abandoned: bool,
    /// The peer waits for `100 Continue` before it sends the body (server half).
    pub(super) continue_pending: bool,
    /// The head of the final response has been queued (server half).
    pub(super) answered: bool,
    pub(super) upload: Upload,
    /// A byte of the current request has left (client half).
    pub(super) wrote: bool,
    /// Requests sent before the current one (client half).
    pub(super) exchanges: u32,

    /// When to look after a client that has ended its side (server half).
    left: Option<Pin<Box<Sleep>>>,
    /// That client was sent something in order to learn whether it is still there.
    probed: bool,

    /// The task that must hear of a failure of the body.
    owner: Option<Waker>,
    /// The task that waits for the body.
    reader: Option<Waker>,
}

/// A connection's state behind its cell.
pub(super) struct ConnCell(RefCell<Core>);

impl ConnCell {
    pub(super) fn new(io: Box<dyn Duplex>, prefix: Bytes, write_timeout: Duration) -> Self {
        Self(RefCell::new(Core {
            io: Some(io),
            rbuf: BytesMut::from(prefix),
            eof: false,
            read_size: READ_SIZE,
            wbuf: WriteBuf::default(),
            read_timer: LazyTimer::default(),
            write_timer: LazyTimer::default(),
            write_timeout,
            body: BodyDecoder::default(),
            body_limits: BodyLimits::default(),
            received: 0,
            waited: Duration::ZERO,
            failure: None,
            generation: 0,
            abandoned: false,
            continue_pending: false,
            answered: false,
            upload: Upload::Done,
            wrote: false,
            exchanges: 0,
            left: None,
            probed: false,
            owner: None,
            reader: None,
        }))
    }

    /// The state. Never held across a poll or call of foreign code.
    pub(super) fn state(&self) -> RefMut<'_, Core> {
        self.0.borrow_mut()
    }

    /// The state, for destructors, which may run while a panic holds it.
    pub(super) fn try_state(&self) -> Option<RefMut<'_, Core>> {
        self.0.try_borrow_mut().ok()
    }
}

fn remember(slot: &mut Option<Waker>, cx: &Context<'_>) {
    if !slot.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        *slot = Some(cx.waker().clone());
    }
}

impl Core {
    /// Begins the body of the next message.
    pub(super) fn begin_body(&mut self, body: BodyDecoder, limits: BodyLimits) {
        self.generation = self.generation.wrapping_add(1);
        self.body = body;
        self.body_limits = limits;
        self.received = 0;
        self.waited = Duration::ZERO;
        self.failure = None;
        self.abandoned = false;
        self.reader = None;
        self.read_timer.stop();
    }

    /// Other limits for the rest of the current body.
    pub(super) fn limit_body(&mut self, limits: BodyLimits) {
        self.body_limits = limits;
        self.waited = Duration::ZERO;
    }

    /// The current body gives nothing more to whoever holds it; the caller may go on reading it.
    pub(super) fn revoke_body(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        self.read_timer.stop();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Fails the current body and tells the owner and the reader.
    pub(super) fn fail(&mut self, error: BodyError) {
        self.failure.get_or_insert(error);
        for waker in [self.owner.take(), self.reader.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Registers the task that owns the connection.
    pub(super) fn set_owner(&mut self, cx: &Context<'_>) {
        remember(&mut self.owner, cx);
    }

    /// Wakes the task that owns the connection.
    pub(super) fn wake_owner(&mut self) {
        if let Some(owner) = &self.owner {
            owner.wake_by_ref();
        }
    }

    /// Closes the socket, whoever else still holds the state.
    pub(super) fn close(&mut self) {
        drop(self.take_io());
        self.failure.get_or_insert(BodyError::Closed);
        self.rbuf = BytesMut::new();
        self.wbuf = WriteBuf::default();
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// Takes the socket out, for an upgrade.
    pub(super) fn take_io(&mut self) -> Option<Box<dyn Duplex>> {
        self.io.take()
    }

    /// Reads once, appending to `rbuf`; `Ok(0)` is the end of the stream. While it waits, an empty buffer's memory is
    /// given back.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.eof {
            return Poll::Ready(Ok(0));
        }
        let Some(io) = self.io.as_mut() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        make_room(&mut self.rbuf, self.read_size);
        let room = self.rbuf.capacity() - self.rbuf.len();
        let polled = pin!(io.read_buf(&mut self.rbuf)).poll(cx);
        match &polled {
            Poll::Pending | Poll::Ready(Ok(0) | Err(_)) => give_back(&mut self.rbuf),
            Poll::Ready(Ok(n)) if *n == room => self.read_size = (self.read_size * 2).min(READ_SIZE_MAX),
            Poll::Ready(Ok(n)) if *n < READ_SIZE / 4 => self.read_size = READ_SIZE,
            Poll::Ready(Ok(_)) => {}
        }
        if matches!(polled, Poll::Ready(Ok(0))) {
            self.eof = true;
        }
        polled
    }

    /// Writes everything that is queued; fails with `TimedOut` if the peer accepts nothing for the write time-out.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(io) = self.io.as_mut() else { return Poll::Ready(Err(io::ErrorKind::NotConnected.into())) };
        let mut progress = false;
        let polled = self.wbuf.poll_flush(io, cx, &mut progress);
        if progress || polled.is_ready() {
            self.write_timer.stop();
            self.wrote |= progress;
        }
        if polled.is_pending() && self.write_timer.poll_wait(cx, self.write_timeout).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }

    /// The client has ended its side: looks after it each `interval`; true where it is gone.
    pub(super) fn poll_left(&mut self, interval: Duration, http10: bool, cx: &mut Context<'_>) -> bool {
        let timer = self.left.get_or_insert_with(|| Box::pin(sleep(interval)));
        if timer.as_mut().poll(cx).is_pending() {
            return false;
        }
        timer.as_mut().reset(Instant::now() + interval);
        // Registers for the next time.
        let _ = timer.as_mut().poll(cx);
        if !self.probed && !self.answered && !http10 {
            self.probed = true;
            self.wbuf.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
            return matches!(self.poll_flush(cx), Poll::Ready(Err(_)));
        }
        // A reset that came meanwhile is seen by writing, be it nothing; reading yields the end for ever. Resets come in
        // answer to what was sent, and to the kernel's own questions.
        let Some(io) = self.io.as_mut() else { return true };
        matches!(Pin::new(io).poll_write(cx, &[]), Poll::Ready(Err(_)))
    }

    /// Writes everything that is queued, and ends our side of the stream.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        match self.io.as_mut() {
            Some(io) => Pin::new(io).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The next frame of the current body, read from the socket if none is buffered.
    pub(super) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(error) = self.failure {
                return Poll::Ready(Some(Err(error)));
            }
            match self.body.next(&mut self.rbuf, self.eof) {
                Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(reason)) => {
                    self.fail(BodyError::Malformed(reason));
                    continue;
                }
                None if self.body.is_end() => return Poll::Ready(None),
                None => {}
            }
            if self.continue_pending {
                self.continue_pending = false;
                self.wbuf.tail().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                // The owner writes, nobody else: of two tasks that wait to write, the socket wakes only one.
                self.wake_owner();
            }
            match ready!(self.poll_body_fill(cx)) {
                Ok(()) => self.body.advance(&mut self.rbuf, self.eof),
                Err(error) => self.fail(error),
            }
        }
    }

    /// Reads once within the body's limits.
    fn poll_body_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        match self.poll_fill(cx) {
            Poll::Ready(read) => {
                if let Some(since) = self.read_timer.stop() {
                    self.waited += Instant::now() - since;
                }
                let read = read.map_err(|error| BodyError::Io(error.kind()))?;
                self.received += read as u64;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                let limit = self.body_wait_limit();
                if self.read_timer.poll_wait(cx, limit).is_ready() {
                    return Poll::Ready(Err(BodyError::Timeout));
                }
                remember(&mut self.reader, cx);
                Poll::Pending
            }
        }
    }

    fn body_wait_limit(&self) -> Duration {
        let BodyLimits { idle, min_rate, grace } = self.body_limits;
        let Some(rate) = min_rate.filter(|rate| *rate > 0) else { return idle };
        let earned = Duration::from_secs(self.received / u64::from(rate));
        idle.min(grace.saturating_add(earned).saturating_sub(self.waited))
    }
}
