//! One multiplexed connection to one endpoint: made with the first request, shared by all, made anew when it is lost.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    time::Duration,
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
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{Dialer, SendError, dial};
use crate::{
    fault::{Code, Fault},
    l7::{
        body::Body,
        h2::{
            Slot,
            client::{self, Limits, RequestError},
        },
    },
};

/// How often a full connection is looked at.
const LOOK: Duration = Duration::from_millis(2);

type Connecting = Shared<LocalBoxFuture<'static, Result<SendRequest<Bytes>, Rc<SendError>>>>;

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
    /// Streams of the present connection.
    open: RefCell<Rc<Cell<usize>>>,
}

/// A place for one request on the connection.
pub struct Stream {
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
            open: RefCell::default(),
        })
    }

    /// A handle that may open one stream. Waits for the connection, and for a free stream on it, in bounded number and
    /// time.
    pub(super) async fn stream(self: &Rc<Self>) -> Result<Stream, SendError> {
        if self.pending.get() >= self.dialer.max_pending {
            return Err(SendError::new(
                Code::Overloaded,
                "too many requests wait for this endpoint",
                true,
                "queue is full",
            ));
        }
        let _waiting = Waiting::begin(&self.pending);
        let waited = timeout(self.dialer.connect_timeout, self.ready_stream()).await;
        waited.unwrap_or_else(|_| {
            Err(SendError::new(Code::Overloaded, "the endpoint takes no more requests", true, "no free stream in time"))
        })
    }

    async fn ready_stream(self: &Rc<Self>) -> Result<Stream, SendError> {
        // A connection may be found closed when it is to be used: then there is one more try with a new one.
        let mut last = None;
        for _ in 0..2 {
            let (sender, generation) = self.connected().await?;
            let open = Rc::clone(&self.open.borrow());
            match room(sender, &open).await {
                Ok(stream) => return Ok(stream),
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
        let connecting = {
            let mut state = self.state.borrow_mut();
            match &*state {
                State::Up(sender) => return Ok((sender.clone(), self.generation.get())),
                State::Connecting(connecting) => connecting.clone(),
                State::Down => {
                    self.generation.set(self.generation.get() + 1);
                    *self.open.borrow_mut() = Rc::default();
                    let connecting = begin(self, self.generation.get());
                    *state = State::Connecting(connecting.clone());
                    connecting
                }
            }
        };
        let generation = self.generation.get();
        match connecting.await {
            Ok(sender) => {
                if self.generation.get() == generation {
                    let mut state = self.state.borrow_mut();
                    if matches!(*state, State::Connecting(_)) {
                        *state = State::Up(sender.clone());
                    }
                }
                Ok((sender, generation))
            }
            Err(error) => {
                self.lost(generation);
                Err(SendError { fault: error.fault.clone(), unprocessed: true, cause: error.cause.clone() })
            }
        }
    }

    fn lost(&self, generation: u64) {
        if self.generation.get() == generation {
            *self.state.borrow_mut() = State::Down;
        }
    }
}

/// Waits until the peer lets one more stream be opened. What is asked of the connection beyond that it would queue, for
/// as long as it takes and in any number.
async fn room(sender: SendRequest<Bytes>, open: &Rc<Cell<usize>>) -> Result<Stream, h2::Error> {
    let mut sender = sender.ready().await?;
    while open.get() >= sender.current_max_send_streams() {
        sleep(LOOK).await;
        sender = sender.ready().await?;
    }
    Ok(Stream { sender, slot: Slot::take(open) })
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

/// Begins to connect, in a task of its own: whoever waits may give up, and nobody keeps the link alive by waiting.
fn begin(link: &Rc<Link>, generation: u64) -> Connecting {
    let (dialer, address, identity) = (Rc::clone(&link.dialer), link.address, link.identity.clone());
    let weak = Rc::downgrade(link);
    let (result, connected) = oneshot::channel();
    tokio::task::spawn_local(async move {
        let connected = connect(&dialer, address, identity.as_ref(), &weak, generation).await;
        // Everybody gave up waiting.
        let _ = result.send(connected.map_err(Rc::new));
    });
    let ended = |_| Err(Rc::new(SendError::new(Code::ConnectFailed, "connecting broke off", true, "no result")));
    connected.map(move |result| result.unwrap_or_else(ended)).boxed_local().shared()
}

async fn connect(
    dialer: &Dialer,
    address: SocketAddr,
    identity: Option<&SpiffeId>,
    link: &Weak<Link>,
    generation: u64,
) -> Result<SendRequest<Bytes>, SendError> {
    match identity {
        None => open(link, dial::plain(dialer, address).await?, generation).await,
        Some(identity) => {
            let stream = dial::mutual(dialer, address, identity, names::ALPN_MESH_HTTP).await?;
            open(link, stream, generation).await
        }
    }
}

async fn open<IO>(link: &Weak<Link>, io: IO, generation: u64) -> Result<SendRequest<Bytes>, SendError>
where
    IO: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let opened = client::connect(io, &Limits::default()).await;
    let (sender, drive) = opened
        .map_err(|error| SendError::new(Code::ConnectFailed, "the endpoint does not speak HTTP/2", true, error))?;
    let link = Weak::clone(link);
    tokio::task::spawn_local(async move {
        if let Err(error) = drive.await {
            tracing::debug!(%error, "a connection to an endpoint ended");
        }
        if let Some(link) = link.upgrade() {
            link.lost(generation);
        }
    });
    Ok(sender)
}

/// Sends one request.
pub(super) async fn send(stream: Stream, request: Request<Body>) -> Result<Response<Body>, SendError> {
    let Stream { mut sender, slot } = stream;
    let (head, body) = head_for_http2(request)?;
    match client::send(&mut sender, head, body).await {
        Ok(response) => Ok(response.map(|body| Body::H2(body.holding(slot)))),
        Err(error) => Err(failed(&error)),
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

fn failed(error: &RequestError) -> SendError {
    let unprocessed = error.is_unprocessed();
    let (code, detail) = if unprocessed {
        (Code::ConnectFailed, "the endpoint took no more requests")
    } else {
        (Code::UpstreamReset, "the endpoint broke the request off")
    };
    SendError { fault: Fault::new(code, detail), unprocessed, cause: error.to_string() }
}
