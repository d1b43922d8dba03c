//! Bodies of HTTP/2 messages: receiving, and sending any body.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::Slot;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The stream or its connection broke.
    #[error("the stream broke: {0}")]
    Stream(#[from] h2::Error),
}

impl BodyError {
    /// The code that the peer gave, where it gave one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        let Self::Stream(error) = self;
        error.reason()
    }
}

/// The body of a received message.
#[derive(Debug)]
pub struct Incoming {
    stream: RecvStream,
    /// What `content-length` said is still to come.
    remaining: Option<u64>,
    data_done: bool,
    /// Of a response: the request's body on its way; it ends with the response.
    upload: Option<Upload>,
    /// Of a response: its stream's place on the connection.
    _slot: Option<Slot>,
    /// Of a request whose sender holds the body back: told when somebody wants it.
    wanted: Option<Rc<Wanted>>,
}

/// Says that a body which is held back (`Expect: 100-continue`, RFC 9110 section 10.1.1) is wanted.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    asked: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Wanted {
    fn ask(&self) {
        self.asked.set(true);
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Ready once, when the body is wanted.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.asked.replace(false) {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
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

impl Incoming {
    /// The body behind a head whose `content-length`, where it had one, is `length`.
    #[must_use]
    pub fn new(stream: RecvStream, length: Option<u64>) -> Self {
        let data_done = stream.is_end_stream();
        let remaining = if data_done { Some(0) } else { length };
        Self { stream, remaining, data_done, upload: None, _slot: None, wanted: None }
    }

    pub(super) fn when_wanted(mut self, wanted: Option<Rc<Wanted>>) -> Self {
        self.wanted = wanted;
        self
    }

    pub(super) fn with_upload(self, upload: Option<Upload>, slot: Slot) -> Self {
        Self { upload, _slot: Some(slot), ..self }
    }
}

impl Incoming {
    /// Of a response: waits until the request's body is sent, or given up by the peer.
    pub async fn sent(&mut self) {
        if let Some(Upload(task)) = self.upload.as_mut() {
            // A panic there is reported as what it is; here it is an end like others.
            let _ = task.await;
        }
        self.upload = None;
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(wanted) = self.wanted.take() {
            wanted.ask();
        }
        if !self.data_done {
            match self.stream.poll_data(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(data))) => {
                    // A stream that ended meanwhile has no use for credit.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.remaining = self.remaining.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
                Poll::Ready(None) => self.data_done = true,
            }
        }
        match self.stream.poll_trailers(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(trailers))) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Poll::Ready(Ok(None)) => Poll::Ready(None),
            Poll::Ready(Err(error)) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.remaining.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

/// How sending a body ended, where it did not end well.
#[derive(Debug)]
pub enum SendFault<E> {
    /// The body itself failed. The stream was reset: what was sent must not be taken for complete.
    Body(E),
    /// The peer wants no more.
    Reset(Option<Reason>),
}

/// Maps a failing body to the code that the peer sees.
pub trait ResetReason {
    /// The code for `RST_STREAM`.
    fn reset_reason(&self) -> Reason;
}

/// Sends a whole body, as fast as the peer gives credit, and its trailers.
///
/// # Errors
/// [`SendFault`]; the stream is then over in both cases.
pub async fn send_body<B>(mut body: B, stream: &mut SendStream<Bytes>) -> Result<(), SendFault<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: ResetReason,
{
    loop {
        match next_frame(&mut body, stream).await? {
            None => {
                stream.send_data(Bytes::new(), true).map_err(|error| SendFault::Reset(error.reason()))?;
                return Ok(());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    send_data(data, last, stream).await?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                    stream.send_trailers(trailers).map_err(|error| SendFault::Reset(error.reason()))?;
                    return Ok(());
                }
            },
            Some(Err(error)) => {
                stream.send_reset(error.reset_reason());
                return Err(SendFault::Body(error));
            }
        }
    }
}

type NextFrame<B> = Option<Result<Frame<Bytes>, <B as Body>::Error>>;

/// The next frame, or the peer's reset, whichever is first: a body that stalls must not hide that nobody waits for it.
async fn next_frame<B>(body: &mut B, stream: &mut SendStream<Bytes>) -> Result<NextFrame<B>, SendFault<B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    std::future::poll_fn(|cx| {
        if let Poll::Ready(reset) = stream.poll_reset(cx) {
            return Poll::Ready(Err(SendFault::Reset(reset.ok())));
        }
        Pin::new(&mut *body).poll_frame(cx).map(Ok)
    })
    .await
}

async fn send_data<E>(mut data: Bytes, last: bool, stream: &mut SendStream<Bytes>) -> Result<(), SendFault<E>> {
    let gone = |error: h2::Error| SendFault::Reset(error.reason());
    if data.is_empty() {
        return if last { stream.send_data(data, true).map_err(gone) } else { Ok(()) };
    }
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = loop {
            if stream.capacity() > 0 {
                break stream.capacity();
            }
            match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(Ok(0)) => {}
                Some(Ok(granted)) => break granted,
                Some(Err(error)) => return Err(gone(error)),
                None => return Err(SendFault::Reset(None)),
            }
        };
        let piece = data.split_to(granted.min(data.len()));
        let ends = last && data.is_empty();
        stream.send_data(piece, ends).map_err(gone)?;
    }
    Ok(())
}
