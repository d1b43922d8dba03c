//! The client half: one connection, shared by all requests to one peer.

use std::{pin::Pin, task::Poll, time::Duration};

use bytes::Bytes;
use h2::{Reason, client::SendRequest};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::timeout,
};

use super::{
    Incoming, Slot,
    body::{ResetReason, Upload, send_body},
    server::keep_alive,
};

/// How long a body is held back for the word that it is wanted.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Limits of a connection, of either half.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes a stream may send before we have taken them.
    pub stream_window: u32,
    /// Bytes a connection may send before we have taken them. Many times what one stream may: readers that do not read
    /// must not use up what all others need.
    pub connection_window: u32,
    /// Streams at once.
    pub max_streams: u32,
    /// Bytes of a header list, decoded.
    pub max_header_list: u32,
    /// Bytes a stream may have waiting to be written.
    pub send_buffer: usize,
    /// For the preface and the first settings.
    pub preface_timeout: Duration,
    /// How often a connection is asked for a sign of life, and how long the answer may take.
    pub ping_interval: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 256 * 1024,
            connection_window: 64 * 1024 * 1024,
            max_streams: 1024,
            max_header_list: 64 * 1024,
            send_buffer: 128 * 1024,
            preface_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
        }
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection cannot take it. Nothing was sent.
    #[error("the connection takes no more requests: {0}")]
    NotSent(h2::Error),
    /// The stream failed.
    #[error("{0}")]
    Failed(h2::Error),
}

impl RequestError {
    /// True where the peer cannot have worked on the request: it was never sent, or the peer refused it, or said in its
    /// GOAWAY that it did not look at it (RFC 9113 sections 6.8 and 8.7).
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::NotSent(_) => true,
            Self::Failed(error) => {
                error.reason() == Some(Reason::REFUSED_STREAM)
                    || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR))
            }
        }
    }

    /// True where the connection broke: that says nothing about the request, but that it may have been worked on.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Failed(error) if error.is_io())
    }

    /// The code that the peer gave, where it gave one.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        let (Self::NotSent(error) | Self::Failed(error)) = self;
        error.reason()
    }
}

/// Opens a connection. The second part drives it and must be polled until it ends.
///
/// # Errors
/// As the connection says, or a timeout.
pub async fn connect<IO>(
    io: IO,
    limits: &Limits,
) -> Result<(SendRequest<Bytes>, impl Future<Output = Result<(), h2::Error>> + use<IO>), h2::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.max_header_list)
        .max_send_buffer_size(limits.send_buffer)
        // How many it takes the peer says in its first frame. What comes before that it could refuse.
        .initial_max_send_streams(1)
        .enable_push(false);
    let handshake = timeout(limits.preface_timeout, builder.handshake(io)).await;
    let (sender, mut connection) = handshake.map_err(|_| h2::Error::from(Reason::SETTINGS_TIMEOUT))??;
    let pings = connection.ping_pong();
    let interval = limits.ping_interval;
    let drive = async move {
        match pings {
            None => connection.await,
            Some(pings) => tokio::select! {
                ended = &mut connection => ended,
                () = keep_alive(pings, interval) => Err(h2::Error::from(Reason::INTERNAL_ERROR)),
            },
        }
    };
    Ok((sender, drive))
}

/// Sends a request; its body goes on by itself while the response is awaited and read. The stream keeps its `slot` as long
/// as it is there.
///
/// # Errors
/// [`RequestError`]. On `NotSent`, and where the request had no body, the caller still holds all that is needed for
/// another try.
pub async fn send<B>(
    sender: &mut SendRequest<Bytes>,
    slot: Slot,
    head: Request<()>,
    body: B,
) -> Result<Response<Incoming>, RequestError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: ResetReason,
{
    let bodyless = body.is_end_stream();
    let held = (!bodyless && expects_continue(head.headers())).then(oneshot::channel::<()>);
    let (mut response, mut stream) = sender.send_request(head, bodyless).map_err(RequestError::NotSent)?;
    let (mut go_on, gate) = held.unzip();
    let upload = (!bodyless).then(|| {
        Upload(tokio::task::spawn_local(async move {
            if let Some(gate) = gate {
                // Nobody need answer it: after a while the body goes as it would have (RFC 9110 section 10.1.1).
                let _ = timeout(CONTINUE_TIMEOUT, gate).await;
            }
            // A failure of ours has reset the stream, a failure of the peer's shows in the response.
            let _ = send_body(body, &mut stream).await;
        }))
    });
    let response = std::future::poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(interim))) = response.poll_informational(cx) {
            if let (StatusCode::CONTINUE, Some(go_on)) = (interim.status(), go_on.take()) {
                let _ = go_on.send(());
            }
        }
        Pin::new(&mut response).poll(cx)
    });
    let response = response.await.map_err(RequestError::Failed)?;
    let length = content_length(response.headers());
    Ok(response.map(|body| Incoming::new(body, length).with_upload(upload, slot)))
}

/// True where the sender holds the body back until it hears that it is wanted.
#[must_use]
pub fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|expect| expect.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// The value of `content-length`, where it is one number.
#[must_use]
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
