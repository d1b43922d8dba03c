//! One multiplexed connection to one endpoint: made with the first request, shared by all, made anew when it is lost.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
};

use ::h2::client::SendRequest;
use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use http::{HeaderValue, Request, Response, Uri, header, request::Parts, uri};
use http_body::Body as _;
use mesh_api::{names, spiffe::SpiffeId};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::timeout,
};

use super::{Dialer, SendError, dial, replay};
use crate::{
    fault::Code,
    l7::{
        body::{Body, BodyError},
        h2::{self, Slot, Streams},
        mux,
    },
    normal::headers::MESH_ERROR,
};

type Connecting = Shared<LocalBoxFuture<'static, Result<Sender, Rc<SendError>>>>;

/// Streams at once, where the peer allows as many.
const MAX_STREAMS: usize = 1024;

enum State {
    Down,
    Connecting(Connecting),
    Up(Sender),
}

/// What opens streams: frames of the mesh's own between sidecars that both know them, HTTP/2 to all others.
#[derive(Clone)]
enum Sender {
    Http2(SendRequest<Bytes>),
    Mux(mux::Sender),
}

impl Sender {
    /// As many streams as the peer takes, as far as that is known. What is asked of a codec beyond that it would queue, for as
    /// long as it takes and in any number.
    fn limit(&self) -> usize {
        let limit = match self {
            Self::Mux(sender) => sender.limit(),
            Self::Http2(sender) => match sender.current_max_send_streams() {
                // Stands for not known yet: the codec holds the others back for the moment that takes.
                1 => MAX_STREAMS,
                limit => limit,
            },
        };
        limit.min(MAX_STREAMS)
    }

    /// Itself, once a stream can be opened at once.
    async fn ready(self) -> Result<Self, String> {
        match self {
            Self::Http2(sender) => sender.ready().await.map(Self::Http2).map_err(|error| error.to_string()),
            Self::Mux(sender) if sender.is_open() => Ok(Self::Mux(sender)),
            Self::Mux(_) => Err(mux::RequestError::NotSent.to_string()),
        }
    }

    async fn send<B>(self, slot: Slot, head: &Parts, body: B) -> Result<Response<Body>, NoAnswer>
    where
        B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + 'static,
    {
        match self {
            Self::Http2(mut sender) => {
                let head = head_for_http2(head, body.size_hint().exact()).map_err(NoAnswer::Target)?;
                let sent = h2::client::send(&mut sender, slot, head, body).await;
                sent.map(|response| response.map(Body::H2)).map_err(NoAnswer::Http2)
            }
            Self::Mux(sender) => {
                let sent = sender.send(slot, head, body).await;
                sent.map(|response| response.map(Body::Mux)).map_err(NoAnswer::Mux)
            }
        }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("{0}")]
    Target(uri::InvalidUri),
    #[error("{0}")]
    Http2(h2::client::RequestError),
    #[error("{0}")]
    Mux(mux::RequestError),
}

impl NoAnswer {
    fn is_unprocessed(&self) -> bool {
        match self {
            Self::Target(_) => true,
            Self::Http2(error) => error.is_unprocessed(),
            Self::Mux(error) => error.is_unprocessed(),
        }
    }

    fn is_connection_lost(&self) -> bool {
        match self {
            Self::Target(_) => false,
            Self::Http2(error) => error.is_connection_lost(),
            Self::Mux(error) => error.is_connection_lost(),
        }
    }
}

/// The connection, or what it takes to make it.
pub(super) struct Link {
    dialer: Rc<Dialer>,
    address: SocketAddr,
    identity: Option<SpiffeId>,
    state: RefCell<State>,
    /// Counts connections: what happens to an older one does not concern the newer.
    generation: Cell<u64>,
    pending: Cell<usize>,
    /// Those of the present connection.
    streams: RefCell<Rc<Streams>>,
}

/// A stream that may be opened at once.
pub struct Ready {
    sender: Sender,
    slot: Slot,
    /// The peer is a sidecar that proved itself.
    meshed: bool,
}

impl Link {
    pub(super) fn new(dialer: &Rc<Dialer>, address: SocketAddr, identity: Option<SpiffeId>) -> Rc<Self> {
        Rc::new(Self {
            dialer: Rc::clone(dialer),
            address,
            identity,
            state: RefCell::new(State::Down),
            generation: Cell::new(0),
            pending: Cell::new(0),
            streams: RefCell::default(),
        })
    }

    /// True where another stream can be opened without waiting for one to end.
    pub(super) fn has_room(&self) -> bool {
        let limit = match &*self.state.borrow() {
            State::Up(sender) => sender.limit(),
            State::Down | State::Connecting(_) => MAX_STREAMS,
        };
        self.streams.borrow().open() + self.pending.get() < limit
    }

    /// True where others do better on another connection.
    pub(super) fn is_busy(&self) -> bool {
        match &*self.state.borrow() {
            State::Up(Sender::Mux(sender)) => sender.is_busy(),
            _ => false,
        }
    }

    /// A place for one stream. Waits for the connection, and for a free stream on it, in bounded number and time.
    pub(super) async fn ready(self: &Rc<Self>) -> Result<Ready, SendError> {
        if self.pending.get() >= self.dialer.max_pending {
            return Err(SendError::new(
                Code::Overloaded,
                "too many requests wait for this endpoint",
                true,
                "queue is full",
            ));
        }
        let _waiting = Waiting::begin(&self.pending);
        let waited = timeout(self.dialer.connect_timeout, self.stream()).await;
        waited.unwrap_or_else(|_| {
            Err(SendError::new(Code::Overloaded, "the endpoint takes no more requests", true, "no free stream in time"))
        })
    }

    async fn stream(self: &Rc<Self>) -> Result<Ready, SendError> {
        // A connection may be found closed when it is to be used: then there is one more try with a new one.
        let mut last = None;
        for _ in 0..2 {
            let (sender, generation) = self.connected().await?;
            let streams = Rc::clone(&self.streams.borrow());
            let slot = streams.take(|| sender.limit()).await;
            match sender.ready().await {
                Ok(sender) => return Ok(Ready { sender, slot, meshed: self.identity.is_some() }),
                Err(error) => {
                    self.lost(generation);
                    last = Some(error);
                }
            }
        }
        let cause = last.unwrap_or_default();
        Err(SendError::new(Code::ConnectFailed, "the endpoint closes its connections at once", true, cause))
    }

    /// A stream of bytes; `None` where the peer knows none, or takes no more. Those who wait for the connection are
    /// connections themselves, and bounded as such.
    pub(super) async fn bytes(self: &Rc<Self>) -> Result<Option<mux::ByteStream>, SendError> {
        for _ in 0..2 {
            let (sender, generation) = self.connected().await?;
            let Sender::Mux(sender) = sender else { return Ok(None) };
            if sender.is_open() {
                return Ok(sender.open_bytes());
            }
            self.lost(generation);
        }
        Ok(None)
    }

    async fn connected(self: &Rc<Self>) -> Result<(Sender, u64), SendError> {
        let connecting = match &*self.state.borrow() {
            State::Up(sender) => return Ok((sender.clone(), self.generation.get())),
            State::Connecting(connecting) => Some(connecting.clone()),
            State::Down => None,
        };
        let connecting = connecting.unwrap_or_else(|| self.connect());
        let generation = self.generation.get();
        match connecting.await {
            Ok(sender) => Ok((sender, generation)),
            Err(error) => Err(SendError::new(error.fault.code, error.fault.detail, true, &error.cause)),
        }
    }

    /// Begins to connect, in a task of its own: whoever waits may give up, and nobody keeps the link alive by waiting.
    fn connect(self: &Rc<Self>) -> Connecting {
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        self.streams.replace(Rc::default());
        let (dialer, address, identity) = (Rc::clone(&self.dialer), self.address, self.identity.clone());
        let (link, (result, connected)) = (Rc::downgrade(self), oneshot::channel());
        tokio::task::spawn_local(async move {
            let opened = connect(&dialer, address, identity.as_ref(), &link, generation).await.map_err(Rc::new);
            if let Some(link) = link.upgrade() {
                link.connected_as(generation, opened.as_ref().ok());
            }
            // Everybody gave up waiting.
            let _ = result.send(opened);
        });
        let broken = |_| Err(Rc::new(SendError::new(Code::ConnectFailed, "connecting broke off", true, "no result")));
        let connecting = connected.map(move |result| result.unwrap_or_else(broken)).boxed_local().shared();
        self.state.replace(State::Connecting(connecting.clone()));
        connecting
    }

    fn connected_as(&self, generation: u64, sender: Option<&Sender>) {
        let waiting = matches!(&*self.state.borrow(), State::Connecting(_));
        if waiting && self.generation.get() == generation {
            self.state.replace(sender.cloned().map_or(State::Down, State::Up));
        }
    }

    fn lost(&self, generation: u64) {
        if self.generation.get() == generation {
            self.state.replace(State::Down);
        }
    }
}

struct Waiting<'a>(&'a Cell<usize>);

impl<'a> Waiting<'a> {
    fn begin(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn connect(
    dialer: &Dialer,
    address: SocketAddr,
    identity: Option<&SpiffeId>,
    link: &Weak<Link>,
    generation: u64,
) -> Result<Sender, SendError> {
    let Some(identity) = identity else {
        return open_http2(link, dial::plain(dialer, address).await?, generation).await;
    };
    let known = [names::ALPN_MESH_MUX, names::ALPN_MESH_HTTP];
    let stream = dial::mutual(dialer, address, identity, &known).await?;
    if stream.get_ref().1.alpn_protocol() != Some(names::ALPN_MESH_MUX) {
        return open_http2(link, stream, generation).await;
    }
    let (sender, drive) = mux::client::connect(stream, &mux::Limits::default());
    tokio::task::spawn_local(driven(drive, Weak::clone(link), generation));
    Ok(Sender::Mux(sender))
}

async fn open_http2<IO>(link: &Weak<Link>, io: IO, generation: u64) -> Result<Sender, SendError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let opened = h2::client::connect(io, &h2::client::Limits::default()).await;
    let (sender, drive) = opened
        .map_err(|error| SendError::new(Code::ConnectFailed, "the endpoint does not speak HTTP/2", true, error))?;
    tokio::task::spawn_local(driven(drive, Weak::clone(link), generation));
    Ok(Sender::Http2(sender))
}

/// Drives a connection to its end, and says that it is lost.
async fn driven<E: std::fmt::Display>(drive: impl Future<Output = Result<(), E>>, link: Weak<Link>, generation: u64) {
    if let Err(error) = drive.await {
        tracing::debug!(%error, "a connection to an endpoint ended");
    }
    if let Some(link) = link.upgrade() {
        link.lost(generation);
    }
}

/// Sends one request.
pub(super) async fn send(ready: Ready, head: &Parts, body: Body) -> Result<Response<Body>, SendError> {
    let Ready { sender, slot, meshed } = ready;
    let refused = |response: &Response<_>| meshed.then(|| refusal(response)).flatten();
    if body.is_end_stream() {
        return match sender.send(slot, head, body).await {
            Ok(response) => match refused(&response) {
                Some(error) => Err(SendError { body: Some(Box::new(Body::Empty)), ..error }),
                None => Ok(response),
            },
            Err(error) => Err(failed(&error, Some(Body::Empty))),
        };
    }
    let (body, kept) = replay::record(body);
    match sender.send(slot, head, body).await {
        Ok(response) => match refused(&response) {
            Some(error) => Err(SendError { body: kept.again().map(Box::new), ..error }),
            None => {
                kept.forget();
                Ok(response)
            }
        },
        Err(error) => Err(failed(&error, kept.again())),
    }
}

/// What the sidecar at the other end answered because it could not reach its application, or lost it. Such an answer is
/// its own: from those of applications it removes the header that names the reason.
fn refusal<B>(response: &Response<B>) -> Option<SendError> {
    let code = Code::from_header(response.headers().get(&MESH_ERROR)?)?;
    let detail = match code {
        Code::ConnectFailed => "the application behind the endpoint takes no connection",
        Code::Overloaded => "the application behind the endpoint takes no more requests",
        Code::UpstreamReset => "the application behind the endpoint broke the request off",
        _ => return None,
    };
    let unprocessed = code.is_safe_to_retry();
    let lost = code == Code::UpstreamReset;
    Some(SendError { lost, ..SendError::new(code, detail, unprocessed, "its sidecar said so") })
}

/// The head as HTTP/2 wants it: an absolute target, no `host`, the length of the body where it is known.
fn head_for_http2(head: &Parts, length: Option<u64>) -> Result<Request<()>, uri::InvalidUri> {
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.version_mut() = http::Version::HTTP_2;
    // The codec keeps the map; `head` stays whole for another try.
    *request.headers_mut() = head.headers.clone();
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.as_ref().map(|host| uri::Authority::try_from(host.as_bytes())).transpose()?;
    if let Some(authority) = authority.or_else(|| head.uri.authority().cloned()) {
        let mut target = uri::Parts::default();
        target.path_and_query =
            head.uri.path_and_query().cloned().or_else(|| Some(uri::PathAndQuery::from_static("/")));
        target.scheme = Some(uri::Scheme::HTTP);
        target.authority = Some(authority);
        // All three are there: nothing can be missing.
        *request.uri_mut() = Uri::from_parts(target).unwrap_or_default();
    } else {
        request.uri_mut().clone_from(&head.uri);
    }
    if let Some(length) = length.filter(|length| *length > 0) {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(request)
}

/// Why there is no answer; with the request's `body`, where it is still whole.
fn failed(error: &NoAnswer, body: Option<Body>) -> SendError {
    let unprocessed = error.is_unprocessed();
    let (code, detail) = match error {
        NoAnswer::Target(_) => (Code::BadRequest, "the request's target is not valid"),
        NoAnswer::Mux(mux::RequestError::TooLarge) => (Code::BadRequest, "the head of the request is too large"),
        NoAnswer::Mux(mux::RequestError::Invalid(_)) => (Code::BadResponse, "the answer of the endpoint is not valid"),
        _ if unprocessed => (Code::ConnectFailed, "the endpoint took no more requests"),
        _ => (Code::UpstreamReset, "the endpoint broke the request off"),
    };
    SendError {
        lost: error.is_connection_lost(),
        body: body.map(Box::new),
        ..SendError::new(code, detail, unprocessed, error)
    }
}
