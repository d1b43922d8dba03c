//! The one body type of the request path: whatever came in, and whatever the proxy says itself. Floor 2.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, ReadBuf, ReadHalf},
    sync::oneshot,
};

use super::{h1, h2 as mesh_h2, mux};
use crate::normal::headers::clean_trailers;

/// Bytes read from a tunnel at once.
const TUNNEL_READ: usize = 16 * 1024;

/// A body.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// A text of the proxy's own; empty once it was taken.
    Text(&'static str),
    /// Received over HTTP/1.
    H1(h1::Incoming),
    /// Received over HTTP/2.
    H2(mesh_h2::Incoming),
    /// Received from another sidecar.
    Mux(mux::Incoming),
    /// The bytes of a connection that was upgraded, or will be.
    Tunnel(Tunnel),
    /// Another body, of which a part was taken before.
    Again(Box<Again>),
}

/// A body whose beginning is to be sent again.
#[derive(Debug)]
pub struct Again {
    sent: std::vec::IntoIter<Sent>,
    rest: Body,
}

/// What was sent of it.
#[derive(Debug)]
pub enum Sent {
    /// Bytes.
    Data(Bytes),
    /// Trailers.
    Trailers(HeaderMap),
}

impl Again {
    /// First `sent`, then `rest`.
    #[must_use]
    pub fn new(sent: Vec<Sent>, rest: Body) -> Self {
        Self { sent: sent.into_iter(), rest }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.sent.next() {
            Some(Sent::Data(data)) => Poll::Ready(Some(Ok(Frame::data(data)))),
            Some(Sent::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let sent = self.sent.as_slice().iter().map(|sent| match sent {
            Sent::Data(data) => data.len() as u64,
            Sent::Trailers(_) => 0,
        });
        let (sent, rest) = (sent.sum::<u64>(), self.rest.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + sent);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + sent);
        }
        hint
    }
}

/// Why a body ended before its end. What was received must not be taken for complete.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over HTTP/1.
    #[error("{0}")]
    H1(#[from] h1::BodyError),
    /// Over HTTP/2.
    #[error("{0}")]
    H2(#[from] mesh_h2::BodyError),
    /// From another sidecar.
    #[error("{0}")]
    Mux(#[from] mux::BodyError),
    /// The upgraded connection broke.
    #[error("the upgraded connection broke: {0}")]
    Tunnel(std::io::Error),
    /// The deadline passed.
    #[error("the deadline passed")]
    Deadline,
}

impl mesh_h2::ResetReason for BodyError {
    fn reset_reason(&self) -> Reason {
        match self {
            Self::H2(error) => error.reason().unwrap_or(Reason::INTERNAL_ERROR),
            Self::Mux(error) => error.reason().unwrap_or(Reason::INTERNAL_ERROR),
            Self::Deadline => Reason::CANCEL,
            Self::H1(_) | Self::Tunnel(_) => Reason::INTERNAL_ERROR,
        }
    }
}

/// The bytes that come out of an upgraded connection.
#[derive(Debug)]
pub enum Tunnel {
    /// The answer that upgrades it has not been given; dropped, there will be none.
    Waiting(oneshot::Receiver<ReadHalf<h1::Upgraded>>),
    /// They come.
    Open(ReadHalf<h1::Upgraded>),
    /// The connection ended.
    Done,
}

impl Tunnel {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            match self {
                Self::Done => return Poll::Ready(None),
                Self::Waiting(waiting) => match Pin::new(waiting).poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(reader)) => *self = Self::Open(reader),
                    Poll::Ready(Err(_)) => *self = Self::Done,
                },
                Self::Open(reader) => {
                    let mut space = BytesMut::zeroed(TUNNEL_READ);
                    let mut buffer = ReadBuf::new(&mut space);
                    match Pin::new(reader).poll_read(cx, &mut buffer) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(BodyError::Tunnel(error)))),
                        Poll::Ready(Ok(())) => {
                            let read = buffer.filled().len();
                            if read == 0 {
                                *self = Self::Done;
                                continue;
                            }
                            space.truncate(read);
                            return Poll::Ready(Some(Ok(Frame::data(space.freeze()))));
                        }
                    }
                }
            }
        }
    }
}

impl Body {
    /// Of a response over a stream: waits until the request's body, which would otherwise end with the response, is sent.
    pub async fn sent(&mut self) {
        match self {
            Self::H2(body) => body.sent().await,
            Self::Mux(body) => body.sent().await,
            _ => {}
        }
    }
}

/// Trailers pass the same filter as heads, whichever way they go.
fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            clean_trailers(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => {
                let text = std::mem::take(text);
                if text.is_empty() { Poll::Ready(None) } else { Poll::Ready(Some(Ok(Frame::data(text.into())))) }
            }
            Self::H1(body) => Pin::new(body).poll_frame(cx).map_ok(cleaned).map_err(Into::into),
            Self::H2(body) => Pin::new(body).poll_frame(cx).map_ok(cleaned).map_err(Into::into),
            Self::Mux(body) => Pin::new(body).poll_frame(cx).map_ok(cleaned).map_err(Into::into),
            Self::Tunnel(tunnel) => tunnel.poll_frame(cx),
            Self::Again(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Tunnel(Tunnel::Done) => true,
            Self::Text(text) => text.is_empty(),
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
            Self::Mux(body) => body.is_end_stream(),
            Self::Tunnel(_) => false,
            Self::Again(body) => body.sent.as_slice().is_empty() && body.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::H1(body) => body.size_hint(),
            Self::H2(body) => body.size_hint(),
            Self::Mux(body) => body.size_hint(),
            Self::Tunnel(_) => SizeHint::new(),
            Self::Again(body) => body.size_hint(),
        }
    }
}
