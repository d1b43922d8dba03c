//! The server half: one connection, a task for each stream.

use std::{cell::RefCell, future::Future, pin::pin, rc::Rc, task::Poll};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{Method, Request, Response, Uri};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Limits,
    body::Incoming,
    bytes::ByteStream,
    drive::Driver,
    fields::{self, FieldsError},
    frame,
    halves::{Send, Sending, halves},
    state::{Arrived, Broken, Shared, Side, State, keep_time},
};
use crate::{
    l7::{
        h1::{give_back_map, take_map},
        h2::{ResetReason, client::expects_continue},
    },
    normal::check_raw_target,
};

/// What serves the streams of connections.
pub trait Service {
    /// The body of an answer.
    type Body: Body<Data = Bytes, Error: ResetReason> + Unpin;

    /// Answers a request.
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Self::Body>>;

    /// Carries bytes that have no head.
    fn carry(&self, stream: ByteStream) -> impl Future<Output = ()>;
}

/// Serves a connection until its client leaves, or `drain` completes and the streams in flight are done.
///
/// # Errors
/// [`Broken`].
pub async fn serve<IO, S>(
    io: IO,
    service: Rc<S>,
    limits: &Limits,
    drain: impl Future<Output = ()>,
) -> Result<(), Broken>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Service + 'static,
{
    let shared = Rc::new(RefCell::new(State::new(Side::Server, limits)));
    let mut driver = Driver::new(io, Rc::clone(&shared));
    keep_time(&shared, limits.ping_interval);
    let mut drain = pin!(drain);
    let (mut draining, mut idle) = (false, 0);
    std::future::poll_fn(|cx| {
        if !draining && drain.as_mut().poll(cx).is_ready() {
            draining = true;
            shared.borrow_mut().go_away();
        }
        if driver.is_due() {
            let mut state = shared.borrow_mut();
            state.look()?;
            idle = if state.has_streams() { 0 } else { idle + 1 };
            if idle >= limits.idle_intervals {
                state.go_away();
            }
            drop(state);
            driver.rest()?;
        }
        driver.poll(cx, |arrived| begin(&shared, arrived, &service))
    })
    .await
}

/// Begins a stream's task; resets the stream where its head is not one.
fn begin<S: Service + 'static>(shared: &Shared, arrived: Arrived, service: &Rc<S>) {
    let (receive, send) = halves(shared, arrived.stream);
    let service = Rc::clone(service);
    let Some((block, end)) = arrived.request else {
        let stream = ByteStream::new(receive, send);
        tokio::task::spawn_local(Box::pin(async move { service.carry(stream).await }));
        return;
    };
    match head_of(block) {
        Err(error) => {
            tracing::debug!(%error, "a request of a sidecar is not valid");
            receive.reset(Reason::PROTOCOL_ERROR);
        }
        // Whoever hears of a body that is not there might wait for it, or take the next request for it.
        Ok((_, Some(1..))) if end => receive.reset(Reason::PROTOCOL_ERROR),
        Ok((head, length)) => {
            let held = !end && expects_continue(head.headers());
            let request = head.map(|()| Incoming::new(receive, length, end).held(held));
            // On the heap before it is a task: a task is copied when it begins, and again when it ends.
            tokio::task::spawn_local(Box::pin(stream(request, send, service)));
        }
    }
}

/// The head of a request, and the length that it says its body has.
fn head_of(block: Bytes) -> Result<(Request<()>, Option<u64>), FieldsError> {
    let mut headers = take_map(16);
    let (method, target) = fields::take_request(block, &mut headers)?;
    // What the type for targets would drop or take.
    check_raw_target(&target).map_err(|_| FieldsError::Invalid)?;
    let length = fields::body_length(&mut headers)?;
    let mut request = Request::new(());
    *request.uri_mut() = Uri::from_maybe_shared(target).map_err(|_| FieldsError::Invalid)?;
    *request.method_mut() = method;
    *request.headers_mut() = headers;
    *request.version_mut() = http::Version::HTTP_2;
    Ok((request, length))
}

async fn stream<S: Service>(request: Request<Incoming>, send: Send, service: Rc<S>) {
    let asks_for_body = request.method() != Method::HEAD;
    let response = {
        let mut answering = pin!(service.answer(request));
        std::future::poll_fn(|cx| match send.poll_over(cx) {
            // The caller gave up, perhaps before anything began: dropping the service's future cancels all that it does.
            Poll::Ready(()) => Poll::Ready(None),
            Poll::Pending => answering.as_mut().poll(cx).map(Some),
        })
        .await
    };
    let Some(response) = response else { return };
    let (parts, body) = response.into_parts();
    let bodyless = body.is_end_stream() || !asks_for_body;
    let put = |out: &mut BytesMut| fields::put_response(out, parts.status, &parts.headers);
    let sent = send.shared.borrow_mut().send_fields(send.id, frame::RESPONSE, bodyless, put);
    give_back_map(parts.headers);
    if sent.is_err() {
        send.shared.borrow_mut().reset(send.id, Reason::INTERNAL_ERROR);
        return;
    }
    if !bodyless {
        let mut sending = Sending::new(send, body);
        // However it failed, the stream is reset by now.
        std::future::poll_fn(|cx| sending.poll(cx)).await;
    }
}
