//! Bodies that are received.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, StatusCode};
use http_body::{Body, Frame, SizeHint};

use super::{
    fields::{self, FieldsError},
    frame,
    halves::{Next, Receive},
    state::{Broken, Over},
};
use crate::l7::h2::Slot;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The peer ended it.
    #[error("the peer ended the stream: {0}")]
    Reset(Reason),
    /// Its connection broke.
    #[error("{0}")]
    Broken(Broken),
    /// It has another length than its head said.
    #[error("the body does not have the length that its head said")]
    Length,
    /// Its trailers are not valid.
    #[error("{0}")]
    Trailers(#[from] FieldsError),
    /// It was ended here.
    #[error("the stream is over")]
    Over,
}

impl BodyError {
    /// The code that the peer gave, where it gave one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Reset(reason) => Some(*reason),
            Self::Length | Self::Trailers(_) => Some(Reason::PROTOCOL_ERROR),
            Self::Broken(_) | Self::Over => None,
        }
    }
}

impl From<Over> for BodyError {
    fn from(over: Over) -> Self {
        match over {
            Over::Reset(reason) => Self::Reset(reason),
            Over::NotTaken => Self::Reset(Reason::REFUSED_STREAM),
            Over::Broken(broken) => Self::Broken(broken),
            Over::Here => Self::Over,
        }
    }
}

/// A task that sends a body; dropped, it ends, and the stream is reset where it was not complete.
#[derive(Debug)]
pub(super) struct Upload(pub(super) tokio::task::JoinHandle<()>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The body of a received message.
#[derive(Debug)]
pub struct Incoming {
    receive: Receive,
    /// What `content-length` said is still to come.
    remaining: Option<u64>,
    done: bool,
    /// Of a request whose sender holds the body back until it hears that it is wanted.
    held: bool,
    /// Of a response: the request's body on its way; it ends with the response.
    upload: Option<Upload>,
    /// Of a response: its stream's place on the connection.
    _slot: Option<Slot>,
}

impl Incoming {
    /// The body behind a head; `end` where nothing follows that.
    pub(super) fn new(receive: Receive, length: Option<u64>, end: bool) -> Self {
        let remaining = if end { Some(0) } else { length };
        Self { receive, remaining, done: end, held: false, upload: None, _slot: None }
    }

    pub(super) fn held(mut self, held: bool) -> Self {
        self.held = held;
        self
    }

    pub(super) fn with(self, upload: Option<Upload>, slot: Slot) -> Self {
        Self { upload, _slot: Some(slot), ..self }
    }

    /// Of a response: waits until the request's body is sent, or given up by the peer.
    pub async fn sent(&mut self) {
        if let Some(Upload(task)) = self.upload.as_mut() {
            // A panic there is reported as what it is; here it is an end like others.
            let _ = task.await;
        }
        self.upload = None;
    }

    /// Says that the body is wanted (RFC 9110 section 10.1.1).
    fn ask(&self) {
        let mut state = self.receive.shared.borrow_mut();
        let put = |out: &mut bytes::BytesMut| fields::put_response(out, StatusCode::CONTINUE, &HeaderMap::new());
        // It is far from too large.
        let _ = state.send_fields(self.receive.id, frame::RESPONSE, false, put);
    }

    /// The body must not be taken for what its head said.
    fn refuse(&mut self, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.done = true;
        self.receive.reset(Reason::PROTOCOL_ERROR);
        Some(Err(error))
    }

    fn data(&mut self, data: Bytes, last: bool) -> Option<Result<Frame<Bytes>, BodyError>> {
        if let Some(remaining) = self.remaining {
            match remaining.checked_sub(data.len() as u64) {
                Some(left) if left == 0 || !last => self.remaining = Some(left),
                _ => return self.refuse(BodyError::Length),
            }
        }
        self.done = last;
        Some(Ok(Frame::data(data)))
    }

    fn end(&mut self, trailers: Option<Bytes>) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.done = true;
        if self.remaining.is_some_and(|left| left > 0) {
            return self.refuse(BodyError::Length);
        }
        let mut fields = HeaderMap::new();
        match fields::take_fields(trailers?, &mut fields) {
            Ok(()) => Some(Ok(Frame::trailers(fields))),
            Err(error) => self.refuse(error.into()),
        }
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        if std::mem::take(&mut self.held) {
            self.ask();
        }
        Poll::Ready(match std::task::ready!(self.receive.poll_next(cx)) {
            Ok(Next::Data(data, last)) => self.data(data, last),
            Ok(Next::Trailers(block)) => self.end(Some(block)),
            Ok(Next::End) => self.end(None),
            Err(over) => Some(Err(over.into())),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
