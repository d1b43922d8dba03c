//! Reaching one endpoint: who it is, which protocol, and the connections that are kept to it. Floor 4: imports `l7`,
//! `l4`, `fault`, `telemetry`.
//!
//! To a member: one multiplexed connection over mutual TLS. To anything else, and to the application itself: as the
//! application would have done it, HTTP/1.1 from a pool or HTTP/2 with prior knowledge.

pub mod dial;
mod link;
mod pool;
mod replay;

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use http::{Method, Response, Version, request::Parts};
use http_body::Body as _;
use mesh_api::{spiffe::SpiffeId, sys::Sys, tls::Keeper};

use self::{link::Link, pool::Pool};
use crate::{
    fault::{Code, Fault},
    l7::body::Body,
    telemetry::Telemetry,
};

/// Connections to one endpoint that each carry many requests.
const MAX_LINKS: usize = 4;

/// What all endpoints of one worker have in common.
pub struct Dialer {
    /// Sockets and clock.
    pub sys: Sys,
    /// Own certificate and roots.
    pub keeper: Arc<Keeper>,
    /// For connecting, handshake included.
    pub connect_timeout: Duration,
    /// Requests that may wait for a connection to one endpoint.
    pub max_pending: usize,
    /// Counters of handshakes.
    pub handshakes: dial::HandshakeMetrics,
}

impl Dialer {
    /// For one worker.
    #[must_use]
    pub fn new(
        sys: &Sys,
        keeper: &Arc<Keeper>,
        telemetry: &Arc<Telemetry>,
        connect_timeout: Duration,
        max_pending: usize,
    ) -> Rc<Self> {
        let handshakes = dial::HandshakeMetrics::new(telemetry, "client");
        Rc::new(Self { sys: sys.clone(), keeper: Arc::clone(keeper), connect_timeout, max_pending, handshakes })
    }
}

/// Why there is no response.
#[derive(Debug)]
pub struct SendError {
    /// What went wrong, for the caller.
    pub fault: Fault,
    /// True where the endpoint cannot have worked on the request.
    pub unprocessed: bool,
    /// True where the connection broke before there was an answer: what does no harm twice may be tried elsewhere.
    pub lost: bool,
    /// The request's body, where it is still whole.
    pub body: Option<Box<Body>>,
    /// For the log.
    pub cause: String,
}

impl SendError {
    pub(crate) fn new(code: Code, detail: &'static str, unprocessed: bool, cause: impl ToString) -> Self {
        Self { fault: Fault::new(code, detail), unprocessed, lost: false, body: None, cause: cause.to_string() }
    }
}

/// One endpoint, and the connections kept to it by one worker.
pub struct Upstream {
    dialer: Rc<Dialer>,
    address: SocketAddr,
    identity: Option<SpiffeId>,
    /// One, unless more streams are open than one can carry, or one carries bulk.
    links: RefCell<Vec<Rc<Link>>>,
    pool: Rc<Pool>,
}

impl Upstream {
    /// No connection is made before the first request. With an identity the peer must prove it.
    #[must_use]
    pub fn new(dialer: &Rc<Dialer>, address: SocketAddr, identity: Option<SpiffeId>) -> Self {
        let links = RefCell::new(vec![Link::new(dialer, address, identity.clone())]);
        Self { dialer: Rc::clone(dialer), address, identity, links, pool: Pool::new(dialer, address) }
    }

    /// The first link that has room and carries no bulk: a loss on a connection stops all that it carries, and what is long is
    /// before what is short in every buffer on the way. Where there is none, another, as long as they are few.
    fn link(&self) -> Rc<Link> {
        let mut links = self.links.borrow_mut();
        let free = links.iter().find(|link| link.has_room() && !link.is_busy());
        let full = || links.get(MAX_LINKS - 1).map(|last| links.iter().find(|link| link.has_room()).unwrap_or(last));
        if let Some(link) = free.or_else(full) {
            return Rc::clone(link);
        }
        let link = Link::new(&self.dialer, self.address, self.identity.clone());
        links.push(Rc::clone(&link));
        link
    }

    /// Whom the peer must prove to be; `None`: it is no member.
    #[must_use]
    pub fn identity(&self) -> Option<&SpiffeId> {
        self.identity.as_ref()
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until one request can be sent at once: connected, identity proven, a stream free. What fails here is safe
    /// to try elsewhere, with the body still untouched. To a member it goes over the link; otherwise `version` says
    /// which protocol the endpoint is spoken to in. `repeatable`: the request may be sent twice without harm.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub async fn ready(&self, version: Version, repeatable: bool) -> Result<Ready, SendError> {
        if self.identity.is_some() || version == Version::HTTP_2 {
            self.link().ready().await.map(Ready::Link)
        } else {
            self.pool.ready(repeatable).await.map(Ready::Pool)
        }
    }

    /// What carries bytes that are not HTTP as a connection would: to a sidecar a stream of the link, where both know such;
    /// otherwise a connection.
    ///
    /// # Errors
    /// [`SendError`]; nothing was sent.
    pub async fn connect(&self) -> Result<dial::Tunnelled, SendError> {
        let Some(identity) = &self.identity else {
            return dial::plain(&self.dialer, self.address).await.map(dial::Tunnelled::Plain);
        };
        if let Some(stream) = self.link().bytes().await? {
            return Ok(dial::Tunnelled::Stream(stream));
        }
        let alpn = [mesh_api::names::ALPN_MESH_TCP];
        let stream = dial::mutual(&self.dialer, self.address, identity, &alpn).await?;
        Ok(dial::Tunnelled::Mutual(Box::new(stream)))
    }
}

/// A place for exactly one request.
pub enum Ready {
    /// A stream of the link.
    Link(link::Ready),
    /// A connection of the pool.
    Pool(pool::Ready),
}

impl Ready {
    /// Sends a request and waits for the head of its response. The head is lent, so that who sends it to somebody else needs
    /// no copy.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn send(self, head: &mut Parts, body: Body) -> Result<Response<Body>, SendError> {
        match self {
            Self::Link(ready) => link::send(ready, head, body).await,
            Self::Pool(ready) => ready.send(head, body).await,
        }
    }
}

/// True where sending a request twice does no harm (RFC 9110 section 9.2.2) and is possible: no body that would be gone.
#[must_use]
pub fn is_repeatable(method: &Method, body: &Body) -> bool {
    let idempotent = method.is_safe() || *method == Method::PUT || *method == Method::DELETE;
    idempotent && body.is_end_stream()
}
