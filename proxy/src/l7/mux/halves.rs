//! The two halves of a stream: whoever drops one has said its last word on it.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::Reason;
use http::HeaderMap;
use http_body::Body;

use super::{
    fields, frame,
    state::{Over, Shared},
};
use crate::l7::h2::ResetReason;

/// Receives.
#[derive(Debug)]
pub(super) struct Receive {
    pub(super) shared: Shared,
    pub(super) id: u32,
}

impl Drop for Receive {
    fn drop(&mut self) {
        self.shared.borrow_mut().drop_receive(self.id);
    }
}

/// What a stream gives next.
pub(super) enum Next {
    /// A piece of the body; the last one where nothing follows.
    Data(Bytes, bool),
    /// Trailers, undecoded.
    Trailers(Bytes),
    /// It has ended.
    End,
}

impl Receive {
    /// What comes next of the body.
    pub(super) fn poll_next(&self, cx: &Context<'_>) -> Poll<Result<Next, Over>> {
        let mut state = self.shared.borrow_mut();
        let Some(stream) = state.stream(self.id) else { return Poll::Ready(Err(Over::Here)) };
        if let Some(piece) = stream.pop() {
            let last = stream.is_drained();
            state.give(self.id, piece.len());
            return Poll::Ready(Ok(Next::Data(piece, last)));
        }
        if stream.ended() {
            return Poll::Ready(Ok(stream.take_trailers().map_or(Next::End, Next::Trailers)));
        }
        if let Some(over) = stream.over() {
            return Poll::Ready(Err(over.clone()));
        }
        stream.read_by(cx.waker());
        Poll::Pending
    }

    /// The head of the answer, undecoded, and whether nothing follows it.
    pub(super) fn poll_head(&self, cx: &Context<'_>) -> Poll<Result<(Bytes, bool), Over>> {
        let mut state = self.shared.borrow_mut();
        let Some(stream) = state.stream(self.id) else { return Poll::Ready(Err(Over::Here)) };
        if let Some(head) = stream.take_head() {
            return Poll::Ready(Ok((head, stream.is_drained())));
        }
        if let Some(over) = stream.over() {
            return Poll::Ready(Err(over.clone()));
        }
        if stream.ended() {
            // A body without a head.
            return Poll::Ready(Err(Over::Reset(Reason::PROTOCOL_ERROR)));
        }
        stream.read_by(cx.waker());
        Poll::Pending
    }

    /// Ends the stream before its end.
    pub(super) fn reset(&self, reason: Reason) {
        self.shared.borrow_mut().reset(self.id, reason);
    }
}

/// Sends.
#[derive(Debug)]
pub(super) struct Send {
    pub(super) shared: Shared,
    pub(super) id: u32,
}

impl Drop for Send {
    fn drop(&mut self) {
        self.shared.borrow_mut().drop_send(self.id);
    }
}

impl Send {
    /// Ready where the stream is over: nobody wants what this half has to say.
    pub(super) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.shared.borrow_mut();
        match state.stream(self.id) {
            Some(stream) if stream.over().is_none() => {
                stream.written_by(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    /// Ready where the peer asks for the body, or the stream is over.
    pub(super) fn poll_go_on(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.shared.borrow_mut();
        match state.stream(self.id) {
            Some(stream) if stream.over().is_none() && !stream.may_go_on() => {
                stream.written_by(cx.waker());
                Poll::Pending
            }
            _ => Poll::Ready(()),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.shared.borrow_mut().stream(self.id).is_none_or(|stream| stream.over().is_some())
    }

    fn has_room(&self) -> bool {
        self.shared.borrow().outgoing.has_room(self.id)
    }
}

/// A body on its way: sent as fast as the peer gives credit.
pub(super) struct Sending<B> {
    send: Send,
    body: B,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: ResetReason,
{
    pub(super) fn new(send: Send, body: B) -> Self {
        Self { send, body }
    }

    /// Waits for the word that the body is wanted.
    pub(super) async fn gate(&self) {
        std::future::poll_fn(|cx| self.send.poll_go_on(cx)).await;
    }

    /// Ready when all is said, by one side or the other. Where the body failed, the stream is reset: what was sent must not be
    /// taken for complete.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.send.poll_over(cx).is_ready() {
                return Poll::Ready(());
            }
            if !self.send.has_room() {
                return Poll::Pending;
            }
            let (shared, id) = (&self.send.shared, self.send.id);
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => {
                    shared.borrow_mut().send_data(id, Bytes::new(), true);
                    return Poll::Ready(());
                }
                Some(Err(error)) => {
                    shared.borrow_mut().reset(id, error.reset_reason());
                    return Poll::Ready(());
                }
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let last = self.body.is_end_stream();
                        shared.borrow_mut().send_data(id, data, last);
                        if last {
                            return Poll::Ready(());
                        }
                    }
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                        let put = |out: &mut bytes::BytesMut| fields::put_fields(out, &trailers);
                        let mut state = shared.borrow_mut();
                        if state.send_fields(id, frame::TRAILERS, true, put).is_err() {
                            state.reset(id, Reason::INTERNAL_ERROR);
                        }
                        return Poll::Ready(());
                    }
                },
            }
        }
    }
}

/// The two halves of one stream.
pub(super) fn halves(shared: &Shared, id: u32) -> (Receive, Send) {
    (Receive { shared: Rc::clone(shared), id }, Send { shared: Rc::clone(shared), id })
}
