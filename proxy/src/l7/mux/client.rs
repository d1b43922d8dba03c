//! The client half: one connection, shared by all requests to one peer.

use std::{cell::RefCell, rc::Rc, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{HeaderMap, Method, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{
    Limits,
    body::{Incoming, Upload},
    bytes::ByteStream,
    drive::Driver,
    fields::{self, FieldsError},
    frame,
    halves::{Receive, Sending, halves},
    state::{Broken, Over, Shared, Side, State, keep_time},
};
use crate::l7::{
    h1::take_map,
    h2::{ResetReason, Slot, client::expects_continue},
};

/// How long a body is held back for the word that it is wanted.
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection takes no more requests. Nothing was sent.
    #[error("the connection takes no more requests")]
    NotSent,
    /// The head is too large. Nothing was sent, and nothing would be.
    #[error("the head of the request is larger than 64 KiB")]
    TooLarge,
    /// The peer left, and had not looked at it.
    #[error("the peer left before it looked at the request")]
    NotTaken,
    /// The peer broke it off.
    #[error("the peer broke the request off: {0}")]
    Reset(Reason),
    /// The answer's head is not valid.
    #[error("the answer is not valid: {0}")]
    Invalid(#[from] FieldsError),
    /// The connection broke.
    #[error("{0}")]
    Broken(Broken),
    /// It was broken off here.
    #[error("the request was broken off")]
    Over,
}

impl RequestError {
    /// True where the peer cannot have worked on the request: it was never sent, or the peer refused it, or said when it left
    /// that it did not look at it.
    #[must_use]
    pub fn is_unprocessed(&self) -> bool {
        matches!(self, Self::NotSent | Self::NotTaken | Self::Reset(Reason::REFUSED_STREAM))
    }

    /// True where the connection broke: that says nothing about the request, but that it may have been worked on.
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        matches!(self, Self::Broken(_))
    }
}

impl From<Over> for RequestError {
    fn from(over: Over) -> Self {
        match over {
            Over::Reset(reason) => Self::Reset(reason),
            Over::NotTaken => Self::NotTaken,
            Over::Broken(broken) => Self::Broken(broken),
            Over::Here => Self::Over,
        }
    }
}

/// Opens streams. When the last one of a connection is gone, the connection ends with its last stream.
#[derive(Clone)]
pub struct Sender(Rc<Owner>);

struct Owner(Shared);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.borrow_mut().leave();
    }
}

/// Begins a connection. The second part drives it and must be polled until it ends.
pub fn connect<IO>(io: IO, limits: &Limits) -> (Sender, impl Future<Output = Result<(), Broken>> + use<IO>)
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let shared = Rc::new(RefCell::new(State::new(Side::Client, limits)));
    let mut driver = Driver::new(io, Rc::clone(&shared));
    let every = limits.ping_interval;
    let sender = Sender(Rc::new(Owner(Rc::clone(&shared))));
    let drive = async move {
        keep_time(&shared, every);
        std::future::poll_fn(|cx| {
            if driver.is_due() {
                shared.borrow_mut().look()?;
                driver.rest()?;
            }
            // A server begins nothing.
            driver.poll(cx, |_| {})
        })
        .await
    };
    (sender, drive)
}

impl Sender {
    /// Streams at once that the peer takes.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.0.borrow().peer_streams()
    }

    /// False where the connection takes no more requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.0.borrow().is_open()
    }

    /// True where a stream carries bulk, which others would share the connection with, or nothing more may be sent.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.0.0.borrow().is_busy()
    }

    /// Sends a request; its body goes on by itself while the response is awaited and read. The stream keeps its `slot` as long
    /// as it is there.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn send<B>(&self, slot: Slot, head: &Parts, body: B) -> Result<Response<Incoming>, RequestError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
        B::Error: ResetReason,
    {
        let (receive, mut sending) = self.begin(head, body)?;
        let mut upload = None;
        let held = sending.is_some() && expects_continue(&head.headers);
        let answer = std::future::poll_fn(|cx| {
            if let Some(mut body) = sending.take() {
                // Most bodies are there as a whole: no task for those.
                if held || body.poll(cx).is_pending() {
                    upload = Some(spawn(body, held));
                }
            }
            receive.poll_head(cx)
        });
        let (block, end) = answer.await?;
        let answer = head_of(block).inspect_err(|_| receive.reset(Reason::PROTOCOL_ERROR));
        let (response, length) = answer?;
        let may_lack_it = has_no_body(head, response.status());
        if end && !may_lack_it && length.is_some_and(|length| length > 0) {
            return Err(FieldsError::Invalid.into());
        }
        Ok(response.map(|()| Incoming::new(receive, length, end).with(upload, slot)))
    }

    /// Opens a stream of bytes; `None` where the connection takes no more.
    #[must_use]
    pub fn open_bytes(&self) -> Option<ByteStream> {
        let shared = &self.0.0;
        let id = shared.borrow_mut().open_bytes()?;
        let (receive, send) = halves(shared, id);
        Some(ByteStream::new(receive, send))
    }

    fn begin<B>(&self, head: &Parts, body: B) -> Result<(Receive, Option<Sending<B>>), RequestError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: ResetReason,
    {
        let bodyless = body.is_end_stream();
        let length = body.size_hint().exact().filter(|length| *length > 0);
        let shared = &self.0.0;
        let mut state = shared.borrow_mut();
        let id = state.open().ok_or(RequestError::NotSent)?;
        let put = |out: &mut BytesMut| fields::put_request(out, &head.method, target(head), &head.headers, length);
        let sent = state.send_fields(id, frame::REQUEST, bodyless, put);
        drop(state);
        let (receive, send) = halves(shared, id);
        sent.map_err(|_| RequestError::TooLarge)?;
        Ok((receive, (!bodyless).then(|| Sending::new(send, body))))
    }
}

fn spawn<B>(mut body: Sending<B>, held: bool) -> Upload
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: ResetReason,
{
    Upload(tokio::task::spawn_local(async move {
        if held {
            // Nobody need answer it: after a while the body goes as it would have (RFC 9110 section 10.1.1).
            let _ = timeout(CONTINUE_TIMEOUT, body.gate()).await;
        }
        std::future::poll_fn(|cx| -> Poll<()> { body.poll(cx) }).await;
    }))
}

/// A path, `*`, or for `CONNECT` an authority.
fn target(head: &Parts) -> &[u8] {
    match (head.uri.path_and_query(), head.uri.authority()) {
        (Some(target), _) => target.as_str().as_bytes(),
        (None, Some(authority)) => authority.as_str().as_bytes(),
        (None, None) => b"/",
    }
}

/// True where an answer tells of a body that it does not bring (RFC 9110 section 8.6).
fn has_no_body(request: &Parts, status: StatusCode) -> bool {
    request.method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The head of an answer, and the length that it says its body has.
fn head_of(block: Bytes) -> Result<(Response<()>, Option<u64>), FieldsError> {
    let mut headers: HeaderMap = take_map(16);
    let status = fields::take_response(block, &mut headers)?;
    let length = fields::body_length(&mut headers)?;
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    *response.status_mut() = status;
    *response.version_mut() = http::Version::HTTP_2;
    Ok((response, length))
}
