//! The outbound journey: what the application sends. Floor 6: imports everything below.
//!
//! accepted -> destination (`destination`) -> who speaks first, and what (`sniff`) -> for each request: normal form,
//! route, endpoint, filters, send (`http`); for a connection that is not HTTP: endpoint, copy (`tcp`).

mod destination;
mod http;
mod tcp;

use std::{cell::RefCell, collections::HashMap, net::SocketAddr, rc::Rc, time::Duration};

use ::http::{Request, Response};
use bytes::Bytes;
use mesh_api::{
    model::{Protocol, Target},
    sys::Stream,
};

use self::destination::{Destination, Lookup};
use crate::{
    fault::{Code, Fault, is_grpc},
    l4::{Prefixed, rest},
    l7::{body::Body, h1, h2},
    phase::Phase,
    sniff::{self, GRACE, SILENCE, SILENCE_OWN, Seen},
    telemetry::metrics::Direction,
    tunnel::Afterwards,
    worker::Worker,
};

/// The outbound side of one worker.
pub struct Outbound {
    worker: Rc<Worker>,
    destinations: RefCell<HashMap<Target, Rc<Destination>>>,
}

impl Outbound {
    /// Knows no destination yet.
    #[must_use]
    pub fn new(worker: &Rc<Worker>) -> Rc<Self> {
        Rc::new(Self { worker: Rc::clone(worker), destinations: RefCell::default() })
    }

    /// The worker it belongs to.
    #[must_use]
    pub fn worker(&self) -> &Worker {
        &self.worker
    }

    /// Learns about every destination that has a listener of its own.
    pub async fn warm(&self) {
        for one in &self.worker.config.outbound.listeners {
            if let Ok(target) = one.to.parse() {
                // What is not known yet is asked again with the first connection.
                let _ = self.lookup(&target).await;
            }
        }
    }

    /// Carries one connection of the application to `target`. `original` is where it meant to go, where it was
    /// redirected: what nobody knows goes there, as it would have without the proxy.
    pub async fn serve(self: Rc<Self>, stream: Stream, target: Target, original: Option<SocketAddr>) {
        let _open = sniff::Open::count(&self.worker, Direction::Outbound);
        // The own application is on this machine, whatever addresses a redirection shows.
        rest::allow(&stream);
        match self.lookup(&target).await {
            Ok(Lookup::Known(destination)) => self.carry(stream, &destination).await,
            Ok(Lookup::Missing) => match original {
                Some(address) => Box::pin(tcp::pass(&self.worker, stream, address)).await,
                None => {
                    let detail = "nobody knows the destination, or it is not for this workload to know";
                    Box::pin(self.refuse(stream, Fault::new(Code::UnknownDestination, detail))).await;
                }
            },
            Err(fault) => Box::pin(self.refuse(stream, fault)).await,
        }
    }

    /// What a connection turns out to be is told by a part that is gone before the connection is carried; each way to carry
    /// it is on the heap by itself. So a connection takes the memory that it needs, and not that of the largest of all ways.
    async fn carry(self: &Rc<Self>, mut stream: Stream, destination: &Rc<Destination>) {
        let seen = match destination.protocol() {
            Protocol::Opaque | Protocol::Tls => Seen::Opaque(Bytes::new()),
            Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => sniff::http_version(&mut stream, SILENCE_OWN).await,
            Protocol::Detect => {
                let dial = tcp::dial(Rc::clone(destination));
                {
                    let grace = if destination.server_speaks_first() { Duration::ZERO } else { GRACE };
                    Box::pin(sniff::either_side(&mut stream, grace, SILENCE_OWN, dial)).await
                }
            }
        };
        match seen {
            Seen::Closed => {}
            Seen::Http1(prefix) => {
                destination.current().edge(&self.worker, "http1", None).count_connection(&self.worker.telemetry);
                Box::pin(self.serve_http1(stream, prefix, destination)).await;
            }
            Seen::Http2(prefix) => {
                destination.current().edge(&self.worker, "http2", None).count_connection(&self.worker.telemetry);
                Box::pin(self.serve_http2(stream, prefix, destination)).await;
            }
            Seen::Mesh(prefix) | Seen::Tls(prefix) | Seen::Opaque(prefix) => {
                Box::pin(tcp::carry(&self.worker, destination, stream, prefix)).await;
            }
            Seen::Server(upstream, first) => {
                destination.server_spoke_first();
                Box::pin(tcp::carry_on(&self.worker, destination, stream, *upstream, first)).await;
            }
        }
    }

    async fn serve_http1(self: &Rc<Self>, stream: Stream, prefix: Bytes, destination: &Rc<Destination>) {
        let worker = &self.worker;
        let afterwards = Rc::new(Afterwards::default());
        let service = |request: Request<h1::Incoming>| {
            let (worker, destination) = (Rc::clone(&self.worker), Rc::clone(destination));
            http::handle(worker, destination, Rc::clone(&afterwards), request.map(Body::H1))
        };
        let drain = worker.reached(Phase::DrainingAll);
        match h1::serve(stream, prefix, service, &worker.outbound_http1, drain).await {
            Ok(()) => afterwards.carry().await,
            Err(error) => tracing::debug!(%error, "a connection of the application ended"),
        }
    }

    async fn serve_http2(self: &Rc<Self>, stream: Stream, prefix: Bytes, destination: &Rc<Destination>) {
        let (worker, destination) = (Rc::clone(&self.worker), Rc::clone(destination));
        let service = move |request: Request<h2::Incoming>| {
            // A stream of HTTP/2 becomes no tunnel.
            http::handle(Rc::clone(&worker), Rc::clone(&destination), Rc::default(), request.map(Body::H2))
        };
        let drain = self.worker.reached(Phase::DrainingAll);
        let io = Prefixed::new(prefix, stream);
        if let Err(error) = h2::server::serve(io, Rc::new(service), &h2::client::Limits::default(), drain).await {
            tracing::debug!(%error, "a connection of the application ended");
        }
    }

    /// Tells the application why, where it speaks HTTP; otherwise closes.
    async fn refuse(&self, mut stream: Stream, fault: Fault) {
        self.worker.outbound_refusals.record(&fault);
        match sniff::http_version::<std::convert::Infallible>(&mut stream, SILENCE).await {
            Seen::Http1(prefix) => {
                let service = |request: Request<h1::Incoming>| {
                    let response = refusal(&fault, request.headers());
                    async move { response }
                };
                let _ = h1::serve(stream, prefix, service, &self.worker.outbound_http1, std::future::ready(())).await;
            }
            Seen::Http2(prefix) => {
                let service = move |request: Request<h2::Incoming>| {
                    let response = refusal(&fault, request.headers());
                    async move { response }
                };
                let drain = self.worker.reached(Phase::DrainingAll);
                let limits = h2::client::Limits::default();
                let _ = h2::server::serve(Prefixed::new(prefix, stream), Rc::new(service), &limits, drain).await;
            }
            _ => stream.reset_on_drop(),
        }
    }
}

fn refusal(fault: &Fault, headers: &::http::HeaderMap) -> Response<Body> {
    fault.response(is_grpc(headers), true, Body::Text)
}
