//! One multiplexed connection to one endpoint: made with the first request, shared by all, made anew when it is lost.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{LocalBoxFuture, Shared},
};
use h2::client::SendRequest;
use http::{HeaderValue, Request, Response, Uri, header, uri};
use http_body::Body as _;
use mesh_api::{names, spiffe::SpiffeId};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};

use super::{Dialer, SendError, dial, replay};
use crate::{
    fault::Code,
    l7::{
        body::Body,
        h2::{
            Slot, Streams,
            client::{self, Limits, RequestError},
        },
    },
};

type Connecting = Shared<LocalBoxFuture<'static, Result<SendRequest<Bytes>, Rc<SendError>>>>;

/// Streams at once, where the peer allows as many.
const MAX_STREAMS: usize = 1024;

enum State {
    Down,
    Connecting(Connecting),
    Up(SendRequest<Bytes>),
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
    streams: Rc<Streams>,
}

/// A stream that may be opened at once.
pub struct Ready {
    sender: SendRequest<Bytes>,
    slot: Slot,
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
            streams: Rc::default(),
        })
    }

    /// True where another stream can be opened without waiting for one to end.
    pub(super) fn has_room(&self) -> bool {
        self.streams.open() < self.limit()
    }

    /// As many streams as the peer takes, as far as that is known.
    fn limit(&self) -> usize {
        match &*self.state.borrow() {
            // One stands for not known yet: the codec holds the others back until it is.
            State::Up(sender) => match sender.current_max_send_streams() {
                1 => MAX_STREAMS,
                limit => limit.min(MAX_STREAMS),
            },
            State::Down | State::Connecting(_) => MAX_STREAMS,
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
        let waited = timeout(self.dialer.connect_timeout, async {
            let slot = self.streams.take(|| self.limit()).await;
            Ok(Ready { sender: self.sender().await?, slot })
        });
        waited.await.unwrap_or_else(|_| {
            Err(SendError::new(Code::Overloaded, "the endpoint takes no more requests", true, "no free stream in time"))
        })
    }

    async fn sender(self: &Rc<Self>) -> Result<SendRequest<Bytes>, SendError> {
        // A connection may be found closed when it is to be used: then there is one more try with a new one.
        let mut last = None;
        for _ in 0..2 {
            let (sender, generation) = self.connected().await?;
            match sender.ready().await {
                Ok(sender) => return Ok(sender),
                Err(error) => {
                    self.lost(generation);
                    last = Some(error);
                }
            }
        }
        let cause = last.map(|error| error.to_string()).unwrap_or_default();
        Err(SendError::new(Code::ConnectFailed, "the endpoint closes its connections at once", true, cause))
    }

    async fn connected(self: &Rc<Self>) -> Result<(SendRequest<Bytes>, u64), SendError> {
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

    /// Begins to connect. A task of its own sees it through: whoever waits for it may give up.
    fn connect(self: &Rc<Self>) -> Connecting {
        let generation = self.generation.get() + 1;
        self.generation.set(generation);
        let connecting = connect(Rc::clone(self), generation).boxed_local().shared();
        self.state.replace(State::Connecting(connecting.clone()));
        let (link, outcome) = (Rc::clone(self), connecting.clone());
        tokio::task::spawn_local(async move {
            let state = outcome.await.map_or(State::Down, State::Up);
            let is_current = link.generation.get() == generation;
            if is_current && matches!(&*link.state.borrow(), State::Connecting(_)) {
                link.state.replace(state);
            }
        });
        connecting
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

async fn connect(link: Rc<Link>, generation: u64) -> Result<SendRequest<Bytes>, Rc<SendError>> {
    let opened = match &link.identity {
        None => open(&link, dial::plain(&link.dialer, link.address).await?, generation).await,
        Some(identity) => {
            let stream = dial::mutual(&link.dialer, link.address, identity, names::ALPN_MESH_HTTP).await?;
            open(&link, stream, generation).await
        }
    };
    opened.map_err(Rc::new)
}

async fn open<IO>(link: &Rc<Link>, io: IO, generation: u64) -> Result<SendRequest<Bytes>, SendError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let opened = client::connect(io, &Limits::default()).await;
    let (sender, drive) = opened
        .map_err(|error| SendError::new(Code::ConnectFailed, "the endpoint does not speak HTTP/2", true, error))?;
    let weak = Rc::downgrade(link);
    tokio::task::spawn_local(async move {
        if let Err(error) = drive.await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
        if let Some(link) = weak.upgrade() {
            link.lost(generation);
        }
    });
    Ok(sender)
}

/// Sends one request.
pub(super) async fn send(ready: Ready, request: Request<Body>) -> Result<Response<Body>, SendError> {
    let Ready { mut sender, slot } = ready;
    let (head, body) = head_for_http2(request)?;
    if body.is_end_stream() {
        let sent = client::send(&mut sender, slot, head, body).await;
        return sent.map(|response| response.map(Body::H2)).map_err(|error| failed(&error, Some(Body::Empty)));
    }
    let (body, kept) = replay::record(body);
    match client::send(&mut sender, slot, head, body).await {
        Ok(response) => {
            kept.forget();
            Ok(response.map(Body::H2))
        }
        Err(error) => Err(failed(&error, kept.again())),
    }
}

/// The head as HTTP/2 wants it: an absolute target, no `host`, the length of the body where it is known.
fn head_for_http2(request: Request<Body>) -> Result<(Request<()>, Body), SendError> {
    let (mut parts, body) = request.into_parts();
    let host = parts.headers.remove(header::HOST);
    let authority = host.as_ref().map(|host| uri::Authority::try_from(host.as_bytes())).transpose();
    let invalid = |error: &dyn std::fmt::Display| {
        SendError::new(Code::BadRequest, "the request's target is not valid", true, error)
    };
    let authority = authority.map_err(|error| invalid(&error))?;
    if let Some(authority) = authority.or_else(|| parts.uri.authority().cloned()) {
        let mut target = uri::Parts::default();
        target.path_and_query =
            parts.uri.path_and_query().cloned().or_else(|| Some(uri::PathAndQuery::from_static("/")));
        target.scheme = Some(uri::Scheme::HTTP);
        target.authority = Some(authority);
        parts.uri = Uri::from_parts(target).map_err(|error| invalid(&error))?;
    }
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    parts.version = http::Version::HTTP_2;
    Ok((Request::from_parts(parts, ()), body))
}

/// Why there is no answer; with the request's `body`, where it is still whole.
fn failed(error: &RequestError, body: Option<Body>) -> SendError {
    let unprocessed = error.is_unprocessed();
    let (code, detail) = if unprocessed {
        (Code::ConnectFailed, "the endpoint took no more requests")
    } else {
        (Code::UpstreamReset, "the endpoint broke the request off")
    };
    SendError { lost: error.is_connection_lost(), body, ..SendError::new(code, detail, unprocessed, error) }
}
