//! Inbound connections that are not HTTP: judged once, and again whenever the policy changes.

use std::rc::Rc;

use bytes::Bytes;
use mesh_api::sys::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Arrival,
    policy::{Changes, PortState},
};
use crate::{
    carry::{self, End},
    fault::Fault,
    l4::Prefixed,
    sniff::AsyncReadable,
    telemetry::metrics::Direction,
    upstream::{SendError, Upstream, dial::Tunnelled},
    worker::Worker,
};

/// A connection to the application.
pub(super) struct Dialled(Tunnelled);

impl AsyncReadable for Dialled {
    type Reader = Tunnelled;

    fn reader(&mut self) -> &mut Tunnelled {
        &mut self.0
    }
}

pub(super) async fn dial(app: Rc<Upstream>) -> Result<Dialled, SendError> {
    app.connect().await.map(Dialled)
}

/// Carries a connection, where policy lets it.
pub(super) async fn carry<C>(worker: &Worker, client: C, arrival: &Arrival, state: &PortState, app: &Upstream)
where
    C: AsyncRead + AsyncWrite + Unpin + End,
{
    let changes = state.changes();
    if let Err(fault) = state.authorize(arrival, None) {
        return refuse(worker, &client, arrival, &fault);
    }
    // What it takes to connect is gone before anything is carried.
    match Box::pin(app.connect()).await {
        Ok(server) => between(worker, client, server, arrival, (state, changes)).await,
        Err(error) => refuse(worker, &client, arrival, &error.fault),
    }
}

/// Carries a connection whose server spoke first.
pub(super) async fn carry_on(
    worker: &Worker,
    client: Stream,
    server: Dialled,
    first: Bytes,
    arrival: &Arrival,
    state: &PortState,
) {
    let changes = state.changes();
    if let Err(fault) = state.authorize(arrival, None) {
        return refuse(worker, &client, arrival, &fault);
    }
    between(worker, client, Prefixed::new(first, server.0), arrival, (state, changes)).await;
}

async fn between<C, S>(
    worker: &Worker,
    client: C,
    server: S,
    arrival: &Arrival,
    (state, mut changes): (&PortState, Changes),
) where
    C: AsyncRead + AsyncWrite + Unpin + End,
    S: AsyncRead + AsyncWrite + Unpin + End,
{
    arrival.edge(worker, "tcp").count_connection(&worker.telemetry);
    let judged = async {
        loop {
            changes.next().await;
            if let Err(fault) = state.authorize(arrival, None) {
                return fault;
            }
        }
    };
    tokio::select! {
        () = carry::between(worker, Direction::Inbound, client, server) => {}
        fault = judged => {
            worker.inbound_refusals.record(&fault);
            tracing::info!(peer = %arrival.peer, identity = ?arrival.identity, policy = ?fault.object, "a connection is not allowed any more");
        }
    }
}

pub(super) fn refuse(worker: &Worker, client: &impl End, arrival: &Arrival, fault: &Fault) {
    worker.inbound_refusals.record(fault);
    tracing::info!(peer = %arrival.peer, identity = ?arrival.identity, code = fault.code.as_str(), reason = fault.detail, policy = ?fault.object, "a connection was refused");
    client.break_off();
}
