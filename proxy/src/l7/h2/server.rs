//! The server half: one connection, a task for each stream.

use std::{future::Future, rc::Rc, time::Duration};

use bytes::Bytes;
use h2::{Reason, server::SendResponse};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};

use super::{
    Incoming,
    body::{ResetReason, Wanted, send_body},
    client::{Limits, content_length, expects_continue},
};

/// How often it is looked at whether a connection is used.
const LOOK: Duration = Duration::from_secs(60);
/// A connection without streams for so many looks is closed.
const IDLE_LOOKS: u32 = 5;
/// After a peer stopped answering, what is still to be written has this long.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why a connection ended before its peer closed it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The preface or the settings did not come in time.
    #[error("the HTTP/2 preface did not come in time")]
    Preface,
    /// The connection broke, or broke the rules.
    #[error("HTTP/2: {0}")]
    Connection(#[from] h2::Error),
}

/// Serves a connection until its client leaves or `drain` completes and the streams in flight are done.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<IO, S, F, B>(
    io: IO,
    service: Rc<S>,
    limits: &Limits,
    drain: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
    S: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: ResetReason,
{
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(limits.send_buffer)
        .max_concurrent_reset_streams(64)
        .max_pending_accept_reset_streams(64);
    let handshake = builder.handshake(io);
    let mut connection = timeout(limits.preface_timeout, handshake).await.map_err(|_| ServeError::Preface)??;
    let mut alive = connection.ping_pong().map(|pings| Box::pin(keep_alive(pings, limits.ping_interval)));
    tokio::pin!(drain);
    let mut draining = false;
    let mut over: Option<std::pin::Pin<Box<tokio::time::Sleep>>> = None;
    let mut idle = 0;
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                None => return Ok(()),
                Some(Err(error)) => return Err(error.into()),
                Some(Ok((request, respond))) => {
                    // On the heap before it is a task: a task is copied when it begins, and again when it ends.
                    tokio::task::spawn_local(Box::pin(stream(request, respond, Rc::clone(&service))));
                }
            },
            () = &mut drain, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = either(alive.as_mut()) => {
                // Not NO_ERROR: what was cut off must look so.
                connection.abrupt_shutdown(Reason::INTERNAL_ERROR);
                alive = None;
                over = Some(Box::pin(sleep(LAST_WORDS)));
            }
            () = either(over.as_mut()) => return Err(ServeError::Connection(Reason::INTERNAL_ERROR.into())),
            _ = looks.tick() => {
                idle = if connection.has_streams() { 0 } else { idle + 1 };
                if idle >= IDLE_LOOKS && !draining {
                    draining = true;
                    connection.graceful_shutdown();
                }
            }
        }
    }
}

/// What is due, where something is.
async fn either<F: Future<Output = ()> + Unpin>(due: Option<F>) {
    match due {
        Some(due) => due.await,
        None => std::future::pending().await,
    }
}

/// Completes when the peer has not answered a ping within the interval.
pub(super) async fn keep_alive(mut pings: h2::PingPong, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        match timeout(interval, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection says itself how it ended.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

async fn stream<S, F, B>(request: Request<h2::RecvStream>, mut respond: SendResponse<Bytes>, service: Rc<S>)
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes> + Unpin,
    B::Error: ResetReason,
{
    let length = content_length(request.headers());
    let asks_for_body = request.method() != Method::HEAD;
    let wanted = expects_continue(request.headers()).then(Rc::<Wanted>::default);
    let request = request.map(|body| Incoming::new(body, length).when_wanted(wanted.clone()));
    // The caller gave up: dropping the service's future cancels all that it does.
    let given_up = std::future::poll_fn(|cx| {
        if wanted.as_ref().is_some_and(|wanted| wanted.poll(cx).is_ready()) {
            let mut go_on = Response::new(());
            *go_on.status_mut() = StatusCode::CONTINUE;
            // A stream that is gone is seen right here.
            let _ = respond.send_informational(go_on);
        }
        respond.poll_reset(cx)
    });
    let response = tokio::select! {
        biased;
        response = service(request) => response,
        _ = given_up => return,
    };
    let (parts, body) = response.into_parts();
    let bodyless = body.is_end_stream() || !asks_for_body;
    let Ok(mut sender) = respond.send_response(Response::from_parts(parts, ()), bodyless) else { return };
    if bodyless {
        return;
    }
    // However it failed, the stream is reset by now.
    let _ = send_body(body, &mut sender).await;
}
