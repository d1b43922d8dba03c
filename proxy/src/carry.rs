//! Carries connections that are not HTTP, between any two sides. Floor 5.

use std::{sync::Arc, time::Duration};

use ::metrics::{Counter, Label};
use mesh_api::sys::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::{
    l4::{self, Prefixed},
    telemetry::{Telemetry, metrics::Direction},
    upstream::dial::Tunnelled,
    worker::Worker,
};

/// A connection on which nothing moves for this long is closed.
const IDLE: Duration = Duration::from_secs(3600);

/// Bytes carried, by way.
pub struct Transferred {
    sent: Counter,
    received: Counter,
}

impl Transferred {
    /// For one direction.
    #[must_use]
    pub fn new(telemetry: &Arc<Telemetry>, direction: Direction) -> Self {
        let counter = |way| {
            let direction = Label::from_static_parts("direction", direction.as_str());
            telemetry.counter("mesh_transferred_bytes_total", vec![direction, Label::from_static_parts("way", way)])
        };
        Self { sent: counter("sent"), received: counter("received") }
    }
}

/// A break on one side must look like one on the other.
pub trait Reset {
    /// Makes the peer see a reset in place of a clean end.
    fn reset_on_drop(&self);
}

impl Reset for Stream {
    fn reset_on_drop(&self) {
        Stream::reset_on_drop(self);
    }
}

impl Reset for Tunnelled {
    fn reset_on_drop(&self) {
        Tunnelled::reset_on_drop(self);
    }
}

impl<IO: Reset> Reset for Prefixed<IO> {
    fn reset_on_drop(&self) {
        self.get_ref().reset_on_drop();
    }
}

impl<IO: Reset> Reset for TlsStream<IO> {
    fn reset_on_drop(&self) {
        self.get_ref().0.reset_on_drop();
    }
}

/// Copies until both sides have ended; where one breaks, the other is broken too.
pub async fn between<C, S>(worker: &Worker, direction: Direction, mut client: C, mut server: S)
where
    C: AsyncRead + AsyncWrite + Unpin + Reset,
    S: AsyncRead + AsyncWrite + Unpin + Reset,
{
    let end = l4::copy(&mut client, &mut server, IDLE).await;
    let bytes = worker.transferred(direction);
    bytes.sent.increment(end.sent);
    bytes.received.increment(end.received);
    if let Err(error) = end.result {
        tracing::debug!(%error, "a carried connection broke");
        client.reset_on_drop();
        server.reset_on_drop();
    }
}
