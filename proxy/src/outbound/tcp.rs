//! Outbound connections that are not HTTP: an endpoint is chosen for the connection, its bytes are copied.

use std::{net::SocketAddr, rc::Rc};

use bytes::Bytes;
use mesh_api::sys::Stream;
use tokio::time::Instant;

use super::destination::Destination;
use crate::{
    balance::{Outcome, Pick},
    carry::between,
    fault::Code,
    l4::Prefixed,
    sniff::AsyncReadable,
    telemetry::metrics::Direction,
    upstream::{
        SendError, Upstream,
        dial::{self, Tunnelled},
    },
    worker::Worker,
};

/// Endpoints tried for one connection.
const TRIES: usize = 3;

/// A connection to an endpoint, which it keeps busy for the balancer.
pub(super) struct Dialled {
    io: Tunnelled,
    pick: Pick<Upstream>,
}

impl AsyncReadable for Dialled {
    type Reader = Tunnelled;

    fn reader(&mut self) -> &mut Tunnelled {
        &mut self.io
    }
}

/// Connects to an endpoint of the destination; on failure to another one.
pub(super) async fn dial(destination: Rc<Destination>) -> Result<Dialled, SendError> {
    let mut last = None;
    let mut excluded = None;
    for _ in 0..TRIES {
        let Some(pick) = choose(&destination, excluded) else { break };
        match pick.payload().connect().await {
            Ok(io) => return Ok(Dialled { io, pick }),
            Err(error) => {
                tracing::debug!(endpoint = %pick.endpoint().address, cause = error.cause, "no connection to an endpoint");
                excluded = Some(pick.endpoint().address);
                pick.finish(Outcome::Unreachable, Instant::now().into_std());
                last = Some(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| SendError::new(Code::NoEndpoints, "the destination has no ready endpoint", true, "")))
}

fn choose(destination: &Destination, excluded: Option<SocketAddr>) -> Option<Pick<Upstream>> {
    let compiled = destination.current();
    let backend = compiled.backends.get(compiled.router.decide_connection(destination.random())?)?;
    let balancer = backend.balancer.borrow();
    let now = Instant::now().into_std();
    match excluded {
        None => balancer.pick(now),
        Some(excluded) => balancer.pick_excluding(excluded, now),
    }
}

/// Carries a connection whose first bytes are `prefix`.
pub(super) async fn carry(worker: &Worker, destination: &Rc<Destination>, stream: Stream, prefix: Bytes) {
    // What it takes to connect is gone before anything is carried.
    match Box::pin(dial(Rc::clone(destination))).await {
        Ok(dialled) => {
            count(worker, destination, &dialled);
            between(worker, Direction::Outbound, Prefixed::new(prefix, stream), dialled.io).await;
            drop(dialled.pick);
        }
        Err(error) => {
            worker.outbound_refusals.record(&error.fault);
            tracing::info!(code = error.fault.code.as_str(), cause = error.cause, "a connection could not be carried");
            stream.reset_on_drop();
        }
    }
}

fn count(worker: &Worker, destination: &Destination, dialled: &Dialled) {
    let peer = dialled.pick.payload().identity();
    destination.current().edge(worker, "tcp", peer).count_connection(&worker.telemetry);
}

/// Carries a connection whose server spoke first.
pub(super) async fn carry_on(
    worker: &Worker,
    destination: &Destination,
    stream: Stream,
    upstream: Dialled,
    first: Bytes,
) {
    count(worker, destination, &upstream);
    between(worker, Direction::Outbound, stream, Prefixed::new(first, upstream.io)).await;
    drop(upstream.pick);
}

/// Carries a connection to where it would have gone without the proxy.
pub(super) async fn pass(worker: &Worker, stream: Stream, address: SocketAddr) {
    match dial::plain(&worker.outbound_dialer, address).await {
        Ok(upstream) => {
            between(worker, Direction::Outbound, stream, Tunnelled::Plain(upstream)).await;
        }
        Err(error) => {
            worker.outbound_refusals.record(&error.fault);
            stream.reset_on_drop();
        }
    }
}
