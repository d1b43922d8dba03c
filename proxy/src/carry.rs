//! Carries connections that are not HTTP, between any two sides. Floor 5.

use std::{sync::Arc, time::Duration};

use ::metrics::{Counter, Label};
use mesh_api::sys::Stream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use crate::{
    l4::{self, Prefixed, Wide, rest},
    l7::mux::ByteStream,
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

/// An end of a connection that is carried.
pub trait End {
    /// It may take nothing for as long as it likes.
    fn may_rest(&self);

    /// It is to be seen that the connection broke: dropped after this, it is no orderly end.
    fn break_off(&self);
}

impl End for Stream {
    fn may_rest(&self) {
        rest::allow(self);
    }

    fn break_off(&self) {
        self.reset_on_drop();
    }
}

impl End for Tunnelled {
    fn may_rest(&self) {
        match self {
            Self::Plain(stream) => stream.may_rest(),
            Self::Mutual(stream) => stream.get_ref().0.may_rest(),
            Self::Stream(stream) => stream.may_rest(),
        }
    }

    fn break_off(&self) {
        match self {
            Self::Plain(stream) => stream.break_off(),
            Self::Mutual(stream) => stream.get_ref().0.break_off(),
            Self::Stream(stream) => stream.break_off(),
        }
    }
}

/// What its connection is told is for all its streams: that takes what comes, always.
impl End for ByteStream {
    fn may_rest(&self) {}

    fn break_off(&self) {
        self.reset();
    }
}

impl<IO: End> End for Prefixed<IO> {
    fn may_rest(&self) {
        self.get_ref().may_rest();
    }

    fn break_off(&self) {
        self.get_ref().break_off();
    }
}

impl<IO: End> End for Wide<IO> {
    fn may_rest(&self) {
        self.get_ref().may_rest();
    }

    fn break_off(&self) {
        self.get_ref().break_off();
    }
}

impl<IO: End> End for TlsStream<IO> {
    fn may_rest(&self) {
        self.get_ref().0.may_rest();
    }

    fn break_off(&self) {
        self.get_ref().0.break_off();
    }
}

/// Copies until both sides have ended; where one breaks, the other is broken too.
pub async fn between<C, S>(worker: &Worker, direction: Direction, mut client: C, mut server: S)
where
    C: AsyncRead + AsyncWrite + Unpin + End,
    S: AsyncRead + AsyncWrite + Unpin + End,
{
    // What is carried is not known: neither side need take anything soon.
    client.may_rest();
    server.may_rest();
    let end = l4::copy(&mut client, &mut server, IDLE).await;
    let bytes = worker.transferred(direction);
    bytes.sent.increment(end.sent);
    bytes.received.increment(end.received);
    if let Err(error) = end.result {
        tracing::debug!(%error, "a carried connection broke");
        // A break on one side must look like one on the other.
        client.break_off();
        server.break_off();
    }
}
