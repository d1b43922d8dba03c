//! [`Incoming`]: the body of a received message.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::client::ResponseEnd;
use super::conn::ConnCell;
use super::encode::{WireFraming, encode_response_head};
use super::error::BodyError;
use super::upgrade::{OnUpgrade, Upgraded};

/// Interim responses that wait to be written are bounded by this many bytes.
const INTERIM_QUEUE_MAX: usize = 16 * 1024;

/// The body of a received request or response.
///
/// A body that came with its head holds nothing of the connection. Any other reads the connection itself when it is
/// polled; dropped before its end, the request body is drained or the connection closed, and the response body's
/// connection is closed.
pub struct Incoming {
    kind: Kind,
    /// Of a request: the connection it came on, for interim responses.
    origin: Option<(Rc<ConnCell>, u32)>,
}

enum Kind {
    Empty,
    /// One frame.
    Whole(Bytes),
    Stream(Stream),
    /// An empty request body that may become a tunnel.
    Upgradable(OnUpgrade),
    /// The empty body of a response that is a tunnel.
    Upgraded(Box<Upgraded>),
}

struct Stream {
    conn: Rc<ConnCell>,
    generation: u32,
    /// Of a response: what happens at its end.
    end: Option<ResponseEnd>,
}

impl Incoming {
    /// A body without bytes.
    pub(super) const fn empty() -> Self {
        Self { kind: Kind::Empty, origin: None }
    }

    /// A body that is there as one piece.
    pub(super) fn whole(data: Bytes) -> Self {
        Self { kind: if data.is_empty() { Kind::Empty } else { Kind::Whole(data) }, origin: None }
    }

    /// The body that `conn` is about to receive.
    pub(super) const fn stream(conn: Rc<ConnCell>, generation: u32, end: Option<ResponseEnd>) -> Self {
        Self { kind: Kind::Stream(Stream { conn, generation, end }), origin: None }
    }

    pub(super) const fn upgradable(handle: OnUpgrade) -> Self {
        Self { kind: Kind::Upgradable(handle), origin: None }
    }

    pub(super) fn upgraded(tunnel: Upgraded) -> Self {
        Self { kind: Kind::Upgraded(Box::new(tunnel)), origin: None }
    }

    pub(super) fn with_origin(mut self, conn: Rc<ConnCell>, generation: u32) -> Self {
        self.origin = Some((conn, generation));
        self
    }

    /// Of a request that asks for an upgrade, or a `CONNECT`: the handle that yields the client's byte stream once the
    /// service has answered 101, or 2xx to `CONNECT`. Without somebody holding the handle such an answer becomes 502.
    pub fn take_on_upgrade(&mut self) -> Option<OnUpgrade> {
        match std::mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Upgradable(handle) => Some(handle),
            other => {
                self.kind = other;
                None
            }
        }
    }

    /// Of a 101 response, or a 2xx to `CONNECT`: the upstream's byte stream, with what it has already sent.
    pub fn take_upgraded(&mut self) -> Option<Upgraded> {
        match std::mem::replace(&mut self.kind, Kind::Empty) {
            Kind::Upgraded(tunnel) => Some(*tunnel),
            other => {
                self.kind = other;
                None
            }
        }
    }

    /// Of a request: where interim responses (103, 102) to it can be sent.
    #[must_use]
    pub fn interim(&self) -> Option<InterimSender> {
        self.origin.as_ref().map(|(conn, generation)| InterimSender { conn: Rc::clone(conn), generation: *generation })
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            Kind::Empty => "Empty",
            Kind::Whole(_) => "Whole",
            Kind::Stream(_) => "Stream",
            Kind::Upgradable(_) => "Upgradable",
            Kind::Upgraded(_) => "Upgraded",
        };
        f.debug_struct("Incoming").field("kind", &kind).field("size", &self.size_hint()).finish()
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match &mut self.kind {
            Kind::Stream(stream) => {
                let polled = stream.poll_frame(cx);
                if stream.end.is_some() && stream.is_received() {
                    // The response is complete: its connection is free before its last frame is used.
                    self.detach_received();
                }
                polled
            }
            Kind::Whole(data) => {
                let data = std::mem::take(data);
                self.kind = Kind::Empty;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Kind::Empty | Kind::Upgradable(_) | Kind::Upgraded(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Stream(stream) => stream.is_end(),
            Kind::Whole(_) => false,
            Kind::Empty | Kind::Upgradable(_) | Kind::Upgraded(_) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stream(stream) => stream.size_hint(),
            Kind::Whole(data) => SizeHint::with_exact(data.len() as u64),
            Kind::Empty | Kind::Upgradable(_) | Kind::Upgraded(_) => SizeHint::with_exact(0),
        }
    }
}

impl Incoming {
    /// Ends the exchange once nothing of the response is left on the connection, if what is ahead of the reader can be
    /// kept without it.
    fn detach_received(&mut self) {
        let Kind::Stream(stream) = &mut self.kind else { return };
        let Some(rest) = stream.conn.state().body.take_whole() else { return };
        let end = stream.end.take();
        let conn = Rc::clone(&stream.conn);
        self.kind = if rest.is_empty() { Kind::Empty } else { Kind::Whole(rest) };
        if let Some(end) = end {
            end.finish(conn);
        }
    }
}

impl Stream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut core = self.conn.state();
        if core.generation != self.generation {
            return Poll::Ready(Some(Err(BodyError::Closed)));
        }
        core.poll_body(cx)
    }

    fn is_received(&self) -> bool {
        let core = self.conn.state();
        core.generation == self.generation && core.failure.is_none() && core.body.is_received()
    }

    fn is_end(&self) -> bool {
        let core = self.conn.state();
        core.generation == self.generation && core.failure.is_none() && core.body.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        let core = self.conn.state();
        if core.generation == self.generation { core.body.size_hint() } else { SizeHint::new() }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let Some(mut core) = self.conn.try_state() else { return };
        if self.end.is_some() {
            // An unfinished response cannot be followed by another.
            core.close();
        } else if core.generation == self.generation {
            // What is left of a request is the server's to drain.
            core.abandoned = true;
        }
    }
}

/// Sends interim responses to one request, before its final response.
pub struct InterimSender {
    conn: Rc<ConnCell>,
    generation: u32,
}

impl InterimSender {
    /// Queues an interim response; says whether it will be written. It is dropped when the final response has begun,
    /// when `status` is not an interim one that may be passed on (100 and 101 are the codec's own), or when the client
    /// does not read what was queued before.
    pub fn send(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let mut core = self.conn.state();
        let passable = (102..200).contains(&status.as_u16());
        if !passable || core.answered || core.generation != self.generation || core.wbuf.len() > INTERIM_QUEUE_MAX {
            return false;
        }
        encode_response_head(status, headers, WireFraming::None, false, core.wbuf.tail());
        core.wake_owner();
        true
    }
}
