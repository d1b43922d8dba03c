//! The bodies of requests that may have to be sent again: an endpoint that leaves says of some that it never looked at
//! them, when their bodies are on their way already.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use crate::l7::body::{Again, Body, BodyError, Sent};

/// Bytes that are kept of one body; of a longer one nothing is.
const KEPT: usize = 64 * 1024;

struct Record {
    rest: Body,
    /// What was taken of it; `None` where that is not kept.
    sent: Option<Vec<Sent>>,
    bytes: usize,
}

impl Record {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(sent) = self.sent.as_mut() else { return };
        if let Some(data) = frame.data_ref() {
            self.bytes += data.len();
            sent.push(Sent::Data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            sent.push(Sent::Trailers(trailers.clone()));
        }
        if self.bytes > KEPT {
            self.sent = None;
        }
    }
}

/// A body that remembers what was taken of it.
pub(super) struct Recorded(Rc<RefCell<Record>>);

/// What it remembers.
pub(super) struct Kept(Rc<RefCell<Record>>);

/// Begins to remember.
pub(super) fn record(body: Body) -> (Recorded, Kept) {
    let record = Rc::new(RefCell::new(Record { rest: body, sent: Some(Vec::new()), bytes: 0 }));
    (Recorded(Rc::clone(&record)), Kept(record))
}

impl Kept {
    /// There is an answer: nothing will be sent again.
    pub(super) fn forget(self) {
        self.0.borrow_mut().sent = None;
    }

    /// The whole body once more, where all that was taken of it is remembered.
    pub(super) fn again(self) -> Option<Body> {
        let mut record = self.0.borrow_mut();
        let sent = record.sent.take()?;
        let rest = std::mem::replace(&mut record.rest, Body::Empty);
        Some(Body::Again(Box::new(Again::new(sent, rest))))
    }
}

impl HttpBody for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut record = self.0.borrow_mut();
        let polled = Pin::new(&mut record.rest).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            record.keep(frame);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.borrow().rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.borrow().rest.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(body: &mut (impl HttpBody<Data = Bytes, Error = BodyError> + Unpin)) -> Option<Bytes> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        Some(frame.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn what_was_taken_comes_again_before_the_rest() {
        let (mut body, kept) = record(Body::Text("hello"));
        assert_eq!(next(&mut body).await.unwrap(), "hello");
        let mut again = kept.again().unwrap();
        assert_eq!(again.size_hint().exact(), Some(5));
        assert!(!again.is_end_stream());
        assert_eq!(next(&mut again).await.unwrap(), "hello");
        assert!(again.is_end_stream());
        assert_eq!(next(&mut again).await, None);
        // The first one has nothing left.
        assert_eq!(next(&mut body).await, None);
    }

    #[tokio::test]
    async fn what_is_too_long_or_answered_does_not_come_again() {
        static LONG: [u8; KEPT + 1] = [b'x'; KEPT + 1];
        let (mut body, kept) = record(Body::Text(std::str::from_utf8(&LONG).unwrap()));
        next(&mut body).await;
        assert!(kept.again().is_none());
        let (body, kept) = record(Body::Text("short"));
        kept.forget();
        assert!(body.0.borrow().sent.is_none());
    }
}
