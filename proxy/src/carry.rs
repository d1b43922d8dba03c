//! Carries connections that are not HTTP, between any two sides. Floor 5.

use std::{sync::Arc, time::Duration};

use ::metrics::{Counter, Label};
use mesh_api::sys::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::{
    l4::{self, Prefixed, rest},
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

/// A connection over TCP, whatever is between.
pub trait OverTcp {
    /// The socket beneath.
    fn tcp(&self) -> &Stream;
}

impl OverTcp for Stream {
    fn tcp(&self) -> &Stream {
        self
    }
}

impl OverTcp for Tunnelled {
    fn tcp(&self) -> &Stream {
        match self {
            Self::Plain(stream) => stream,
            Self::Mutual(stream) => stream.get_ref().0,
        }
    }
}

impl<IO: OverTcp> OverTcp for Prefixed<IO> {
    fn tcp(&self) -> &Stream {
        self.get_ref().tcp()
    }
}

impl<IO: OverTcp> OverTcp for TlsStream<IO> {
    fn tcp(&self) -> &Stream {
        self.get_ref().0.tcp()
    }
}

/// Copies until both sides have ended; where one breaks, the other is broken too.
pub async fn between<C, S>(worker: &Worker, direction: Direction, mut client: C, mut server: S)
where
    C: AsyncRead + AsyncWrite + Unpin + OverTcp,
    S: AsyncRead + AsyncWrite + Unpin + OverTcp,
{
    // What is carried is not known: neither side need take anything soon.
    rest::allow(client.tcp());
    rest::allow(server.tcp());
    let end = l4::copy(&mut client, &mut server, IDLE).await;
    let bytes = worker.transferred(direction);
    bytes.sent.increment(end.sent);
    bytes.received.increment(end.received);
    if let Err(error) = end.result {
        tracing::debug!(%error, "a carried connection broke");
        // A break on one side must look like one on the other.
        client.tcp().reset_on_drop();
        server.tcp().reset_on_drop();
    }
}
