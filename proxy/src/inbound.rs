//! The inbound journey: what comes for the application. Floor 6: imports everything below.
//!
//! accepted -> policy of the port (`policy`) -> first bytes: TLS of a sidecar is terminated, anything else is plain ->
//! who is it -> for each request: normal form, authorization, to the application (`http`); for a connection that is not
//! HTTP: authorization, copy (`tcp`).

mod http;
mod policy;
mod tcp;

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use ::http::{Request, Response};
use bytes::Bytes;
use mesh_api::{
    names,
    spiffe::SpiffeId,
    sys::Stream,
    tls::{self, ClientAuth},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use self::policy::{Policies, PortState};
use crate::{
    exchange::Tracked,
    fault::{Code, Fault},
    l4::{Prefixed, Wide, accept::Slots},
    l7::{body::Body, h1, h2, mux},
    phase::Phase,
    sniff::{self, GRACE_INBOUND, SILENCE, Seen},
    telemetry::metrics::{Direction, Edge},
    upstream::{Upstream, dial::HandshakeMetrics},
    worker::Worker,
};

/// A handshake takes at most this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of the application that are kept; a workload has few ports.
const MAX_APPS: usize = 256;

/// The inbound side of one worker.
pub struct Inbound {
    worker: Rc<Worker>,
    acceptor: TlsAcceptor,
    policies: Policies,
    /// Of connections, and of what is as good as one.
    slots: Rc<Slots>,
    apps: RefCell<HashMap<SocketAddr, Rc<Upstream>>>,
    handshakes: HandshakeMetrics,
}

/// One accepted connection.
#[derive(Clone)]
pub(crate) struct Arrival {
    /// Address of the caller's socket.
    pub(crate) peer: SocketAddr,
    /// From the handshake, and nowhere else.
    pub(crate) identity: Option<SpiffeId>,
}

impl Arrival {
    /// What its requests, or itself, are counted under.
    pub(crate) fn edge(&self, worker: &Worker, protocol: &'static str) -> Edge {
        let caller = self.identity.as_ref().and_then(|identity| identity.namespace_account().ok());
        let (namespace, source) = caller.unwrap_or(("", "unknown"));
        Edge {
            direction: Direction::Inbound,
            source: source.into(),
            source_namespace: namespace.into(),
            destination: Arc::clone(&worker.telemetry.workload),
            destination_namespace: Arc::clone(&worker.telemetry.namespace),
            route: "".into(),
            protocol,
            peer: self.identity.as_ref().map(|identity| identity.as_str().into()),
        }
    }

    pub(crate) fn address(&self) -> IpAddr {
        self.peer.ip().to_canonical()
    }
}

impl Inbound {
    /// Of one worker, whose inbound connections take `slots`.
    ///
    /// # Errors
    /// Where TLS is not available.
    pub fn new(worker: &Rc<Worker>, slots: &Rc<Slots>) -> Result<Rc<Self>, rustls::Error> {
        let alpn = [names::ALPN_MESH_MUX, names::ALPN_MESH_HTTP, names::ALPN_MESH_TCP];
        let config = tls::server_config(&worker.keeper, worker.sys.clock, ClientAuth::Required, &alpn)?;
        Ok(Rc::new(Self {
            worker: Rc::clone(worker),
            acceptor: TlsAcceptor::from(config),
            policies: Policies::new(worker),
            slots: Rc::clone(slots),
            apps: RefCell::default(),
            handshakes: HandshakeMetrics::new(&worker.telemetry, "server"),
        }))
    }

    /// The worker it belongs to.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Carries one connection that came for `port` to the application at `app`.
    pub async fn serve(self: Rc<Self>, mut stream: Stream, peer: SocketAddr, port: u16, app: SocketAddr) {
        let _open = sniff::Open::count(&self.worker, Direction::Inbound);
        let Some(state) = self.policies.port(port).await else {
            self.refuse(&stream, &Fault::new(Code::Denied, "the policy of this workload is not known yet"));
            return;
        };
        let arrival = Arrival { peer, identity: None };
        let app = self.app(app);
        let seen = if state.is_strict() || state.protocol().is_http() {
            sniff::client_side(&mut stream).await
        } else {
            // Also where the server is known to speak first: the caller may be a sidecar, whose greeting must be first.
            Box::pin(sniff::either_side(&mut stream, GRACE_INBOUND, SILENCE, tcp::dial(Rc::clone(&app)))).await
        };
        // A health probe has no identity; which requests are one is told by looking at them.
        let may_probe = matches!(seen, Seen::Http1(_) | Seen::Http2(_)) && state.expects_probes();
        match seen {
            Seen::Closed => {}
            Seen::Mesh(prefix) => Box::pin(self.terminate(Wide::new(prefix, stream), arrival, state, app)).await,
            _ if !may_probe && state.admit(&arrival).is_err() => {
                self.refuse(&stream, &Fault::new(Code::Denied, "the port requires mutual TLS of the mesh"));
            }
            // Each way is on the heap by itself: a connection takes the memory of its own.
            Seen::Http1(prefix) if state.speaks_http() => {
                Box::pin(self.serve_http1(stream, prefix, arrival, state, app)).await;
            }
            Seen::Http2(prefix) if state.speaks_http() => {
                Box::pin(self.serve_http2(Prefixed::new(prefix, stream), arrival, state, app, false)).await;
            }
            // Declared as HTTP: what is something else gets the codec's refusal, and reaches the application never.
            Seen::Tls(prefix) | Seen::Opaque(prefix) if state.protocol().is_http() => {
                Box::pin(self.serve_http1(stream, prefix, arrival, state, app)).await;
            }
            Seen::Http1(prefix) | Seen::Http2(prefix) | Seen::Tls(prefix) | Seen::Opaque(prefix) => {
                Box::pin(tcp::carry(&self.worker, Prefixed::new(prefix, stream), &arrival, &state, &app)).await;
            }
            Seen::Server(upstream, first) => {
                Box::pin(tcp::carry_on(&self.worker, stream, *upstream, first, &arrival, &state)).await;
            }
        }
    }

    /// TLS of a sidecar: who is it, and what does it bring?
    async fn terminate(
        self: &Rc<Self>,
        stream: Wide<Stream>,
        mut arrival: Arrival,
        state: Rc<PortState>,
        app: Rc<Upstream>,
    ) {
        let Some((stream, identity)) = self.handshake(stream).await else { return };
        arrival.identity = Some(identity);
        let alpn = stream.get_ref().1.alpn_protocol();
        if alpn == Some(names::ALPN_MESH_MUX) {
            Box::pin(self.serve_mux(stream, arrival, state, app)).await;
        } else if alpn == Some(names::ALPN_MESH_HTTP) {
            Box::pin(self.serve_http2(stream, arrival, state, app, true)).await;
        } else if state.protocol().is_http() {
            // Bytes that nobody looks at could hold requests with somebody else's name in them.
            let fault = Fault::new(Code::Denied, "the port is declared as HTTP, and this is not");
            self.refuse(stream.get_ref().0.get_ref(), &fault);
        } else {
            Box::pin(tcp::carry(&self.worker, stream, &arrival, &state, &app)).await;
        }
    }

    async fn handshake(&self, stream: Wide<Stream>) -> Option<(TlsStream<Wide<Stream>>, SpiffeId)> {
        let accepted = timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await;
        let stream = match accepted {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.handshakes.count(&error);
                tracing::info!(%error, "a TLS handshake failed");
                return None;
            }
            Err(_) => {
                self.handshakes.failed.increment(1);
                return None;
            }
        };
        let connection = stream.get_ref().1;
        match tls::require_alpn(connection).and_then(|_| tls::peer_identity(connection)) {
            Ok(identity) => {
                self.handshakes.ok.increment(1);
                Some((stream, identity))
            }
            Err(refused) => {
                self.handshakes.refused.increment(1);
                tracing::info!(%refused, "a peer was refused");
                None
            }
        }
    }

    async fn serve_http1(
        self: &Rc<Self>,
        stream: Stream,
        prefix: Bytes,
        arrival: Arrival,
        state: Rc<PortState>,
        app: Rc<Upstream>,
    ) {
        arrival.edge(&self.worker, "http1").count_connection(&self.worker.telemetry);
        let context = http::Context::new(&self.worker, arrival, state, app, false);
        let service = |request: Request<h1::Incoming>| http::handle(Rc::clone(&context), request.map(Body::H1));
        let drain = self.worker.reached(Phase::DrainingInbound);
        match h1::serve(stream, prefix, service, &self.worker.inbound_http1, drain).await {
            Ok(()) => context.afterwards().await,
            Err(error) => tracing::debug!(%error, "an inbound connection ended"),
        }
    }

    async fn serve_http2<IO>(
        self: &Rc<Self>,
        io: IO,
        arrival: Arrival,
        state: Rc<PortState>,
        app: Rc<Upstream>,
        meshed: bool,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        arrival.edge(&self.worker, "http2").count_connection(&self.worker.telemetry);
        let context = http::Context::new(&self.worker, arrival, state, app, meshed);
        let service = move |request: Request<h2::Incoming>| http::handle(Rc::clone(&context), request.map(Body::H2));
        let drain = self.worker.reached(Phase::DrainingInbound);
        if let Err(error) = h2::server::serve(io, Rc::new(service), &h2::client::Limits::default(), drain).await {
            tracing::debug!(%error, "an inbound connection ended");
        }
    }

    async fn serve_mux(
        self: &Rc<Self>,
        io: TlsStream<Wide<Stream>>,
        arrival: Arrival,
        state: Rc<PortState>,
        app: Rc<Upstream>,
    ) {
        arrival.edge(&self.worker, "http2").count_connection(&self.worker.telemetry);
        let context = http::Context::new(&self.worker, arrival.clone(), Rc::clone(&state), Rc::clone(&app), true);
        let service = Streams { inbound: Rc::clone(self), context, arrival, state, app };
        let drain = self.worker.reached(Phase::DrainingInbound);
        if let Err(error) = mux::server::serve(io, Rc::new(service), &mux::Limits::default(), drain).await {
            tracing::debug!(%error, "an inbound connection ended");
        }
    }

    /// The application at an address, with the connections kept to it.
    fn app(&self, address: SocketAddr) -> Rc<Upstream> {
        let mut apps = self.apps.borrow_mut();
        if !apps.contains_key(&address) && apps.len() >= MAX_APPS {
            apps.clear();
        }
        let make = || Rc::new(Upstream::new(&self.worker.inbound_dialer, address, None));
        Rc::clone(apps.entry(address).or_insert_with(make))
    }

    fn refuse(&self, stream: &Stream, fault: &Fault) {
        self.worker.inbound_refusals.record(fault);
        stream.reset_on_drop();
    }
}

/// The streams of one connection from another sidecar.
struct Streams {
    inbound: Rc<Inbound>,
    context: Rc<http::Context>,
    arrival: Arrival,
    state: Rc<PortState>,
    app: Rc<Upstream>,
}

impl mux::server::Service for Streams {
    type Body = Tracked;

    fn answer(&self, request: Request<mux::Incoming>) -> impl Future<Output = Response<Tracked>> {
        http::handle(Rc::clone(&self.context), request.map(Body::Mux))
    }

    /// Each is to the application what a connection is, and is counted and bounded as one.
    async fn carry(&self, stream: mux::ByteStream) {
        let Self { inbound, arrival, state, app, .. } = self;
        if stream.is_over() {
            return;
        }
        let Some(_slot) = inbound.slots.try_take() else {
            return tcp::refuse(
                &inbound.worker,
                &stream,
                arrival,
                &Fault::new(Code::Overloaded, "too many connections"),
            );
        };
        let _open = sniff::Open::count(&inbound.worker, Direction::Inbound);
        if state.protocol().is_http() {
            // Bytes that nobody looks at could hold requests with somebody else's name in them.
            let fault = Fault::new(Code::Denied, "the port is declared as HTTP, and this is not");
            return tcp::refuse(&inbound.worker, &stream, arrival, &fault);
        }
        tcp::carry(&inbound.worker, stream, arrival, state, app).await;
    }
}

/// Names of policies are shared texts.
pub(crate) fn object(name: &crate::authz::PolicyName) -> Arc<str> {
    Arc::clone(&name.text)
}
