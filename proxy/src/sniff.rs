//! Who speaks first on a connection, and what: reads the first bytes, decides by `detect`. Floor 5.

use std::{future::Future, pin::pin, rc::Rc, time::Duration};

use bytes::{Bytes, BytesMut};
use mesh_api::sys::Stream;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{sleep, timeout},
};

use crate::{
    detect::{Detected, detect},
    telemetry::metrics::Direction,
    worker::Worker,
};

/// Bytes read at once.
const READ: usize = 4 * 1024;
/// Most clients that speak first do so within this time; before it the server is not bothered with a connection.
pub const GRACE: Duration = Duration::from_millis(5);
/// Sidecars greet at once, but making their keys takes a moment: longer for callers from elsewhere.
pub const GRACE_INBOUND: Duration = Duration::from_millis(50);
/// A caller from elsewhere that has not said what it wants for this long is not waited for any more.
pub const SILENCE: Duration = Duration::from_secs(10);
/// The own application may keep a connection for later use.
pub const SILENCE_OWN: Duration = Duration::from_secs(3600);
/// Where the server cannot be reached, a client that is silent may still speak for this long.
const LAST_CHANCE: Duration = Duration::from_secs(1);
/// First byte of a TLS record with a handshake (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What was seen. Bytes that were read are in it and belong in front of the rest.
pub enum Seen<S = std::convert::Infallible> {
    /// The client left without a word.
    Closed,
    /// HTTP/1.
    Http1(Bytes),
    /// HTTP/2 with prior knowledge.
    Http2(Bytes),
    /// TLS of a sidecar.
    Mesh(Bytes),
    /// The application's own TLS.
    Tls(Bytes),
    /// Something else; or silence.
    Opaque(Bytes),
    /// The server spoke first: the connection to it, and what it said.
    Server(Box<S>, Bytes),
}

impl<S> Seen<S> {
    fn of(detected: &Detected, prefix: BytesMut) -> Self {
        let prefix = prefix.freeze();
        match detected {
            Detected::Http1 => Self::Http1(prefix),
            Detected::Http2Preface => Self::Http2(prefix),
            Detected::Tls(hello) if hello.is_mesh() => Self::Mesh(prefix),
            Detected::Tls(_) => Self::Tls(prefix),
            Detected::Opaque | Detected::NeedMore => Self::Opaque(prefix),
        }
    }
}

/// What the client says, where it must speak first. Silence for too long is a close.
pub async fn client_side<S>(stream: &mut Stream) -> Seen<S> {
    timeout(SILENCE, listen(stream, &mut BytesMut::new())).await.unwrap_or(Seen::Closed)
}

/// Which HTTP the client speaks on a port that is declared as HTTP. What is neither is left to the HTTP/1 codec, which
/// refuses it with the right words.
pub async fn http_version<S>(stream: &mut Stream, patience: Duration) -> Seen<S> {
    let seen = timeout(patience, listen(stream, &mut BytesMut::new())).await.unwrap_or(Seen::Closed);
    match seen {
        Seen::Mesh(prefix) | Seen::Tls(prefix) | Seen::Opaque(prefix) => Seen::Http1(prefix),
        seen => seen,
    }
}

/// What either side says first. Both are watched: the server is connected to (`dial`) while the client is silent, at once
/// where it is known to speak first. What becomes of the server while nobody has spoken becomes of the client: both see
/// what they would see without a proxy between them. Where nobody has said enough within `patience`, the connection is
/// to be closed.
pub async fn either_side<S, E>(
    stream: &mut Stream,
    grace: Duration,
    patience: Duration,
    dial: impl Future<Output = Result<S, E>>,
) -> Seen<S>
where
    S: AsyncReadable,
{
    let mut prefix = BytesMut::new();
    let first = {
        let server = async {
            sleep(grace).await;
            server_side(dial).await
        };
        let mut server = pin!(server);
        let mut client = pin!(listen(stream, &mut prefix));
        let either = async {
            tokio::select! {
                biased;
                seen = &mut client => First::Client(seen),
                end = &mut server => match end {
                    // One that speaks HTTP can be told why.
                    First::Unreached => {
                        timeout(LAST_CHANCE, client).await.map_or(First::Unreached, First::Client)
                    }
                    end => end,
                },
            }
        };
        timeout(patience, either).await
    };
    match first {
        Ok(First::Client(seen)) => seen,
        Ok(First::Server(upstream, first)) if prefix.is_empty() => Seen::Server(Box::new(upstream), first),
        // Both spoke at once: what the client said goes to the server as it is. Half of a greeting of TLS must not be
        // taken for something else because the server was faster.
        Ok(First::Server(..)) if prefix.first() != Some(&TLS_HANDSHAKE) => Seen::Opaque(prefix.freeze()),
        // Where the server ends a connection on which nobody has said anything, its client sees just that.
        Ok(First::Ended) if prefix.is_empty() => Seen::Closed,
        Ok(First::Unreached) if prefix.is_empty() => {
            stream.reset_on_drop();
            Seen::Closed
        }
        Ok(_) => timeout(patience.min(SILENCE), listen(stream, &mut prefix)).await.unwrap_or(Seen::Closed),
        Err(_) => Seen::Closed,
    }
}

/// Who was first, and with what.
enum First<S> {
    Client(Seen<S>),
    Server(S, Bytes),
    /// The server closed without a word.
    Ended,
    /// The server was not reached, or broke off.
    Unreached,
}

/// A connection that can be read from.
pub trait AsyncReadable {
    /// The reader.
    type Reader: AsyncRead + Unpin;
    /// To read from it.
    fn reader(&mut self) -> &mut Self::Reader;
}

async fn server_side<S: AsyncReadable, E>(dial: impl Future<Output = Result<S, E>>) -> First<S> {
    let Ok(mut upstream) = dial.await else { return First::Unreached };
    let mut first = BytesMut::with_capacity(READ);
    match upstream.reader().read_buf(&mut first).await {
        Ok(0) => First::Ended,
        Ok(_) => First::Server(upstream, first.freeze()),
        Err(_) => First::Unreached,
    }
}

async fn listen<S>(stream: &mut Stream, prefix: &mut BytesMut) -> Seen<S> {
    loop {
        prefix.reserve(READ);
        match stream.read_buf(prefix).await {
            Ok(0) if prefix.is_empty() => return Seen::Closed,
            Ok(0) => return Seen::Opaque(prefix.split().freeze()),
            Err(_) => return Seen::Closed,
            Ok(_) => match detect(prefix) {
                Detected::NeedMore => {}
                detected => return Seen::of(&detected, prefix.split()),
            },
        }
    }
}

/// Counts a connection as open.
pub struct Open {
    worker: Rc<Worker>,
    at: usize,
}

impl Open {
    /// Until it is dropped.
    #[must_use]
    pub fn count(worker: &Rc<Worker>, direction: Direction) -> Self {
        let at = match direction {
            Direction::Inbound => 0,
            Direction::Outbound => 1,
        };
        if let Some(gauge) = worker.open.get(at) {
            gauge.increment(1.0);
        }
        Self { worker: Rc::clone(worker), at }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(gauge) = self.worker.open.get(self.at) {
            gauge.decrement(1.0);
        }
    }
}
