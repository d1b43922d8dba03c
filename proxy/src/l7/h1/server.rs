//! The server half: serves one downstream connection, one request after the other.

mod exchange;
mod finish;
mod head;

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;

use self::head::NoHead;
use super::body::Incoming;
use super::conn::{BodyLimits, ConnCell, Duplex};
use super::parse::Limits;
use super::pump::BoxError;
use super::reason::Reason;

/// A request that the codec refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRequest {
    /// What the client is told, unless a response had already begun.
    pub status: StatusCode,
    /// Why.
    pub reason: Reason,
}

/// Called once for each refused request; must not block.
pub type BadRequestHook = Arc<dyn Fn(&BadRequest) + Send + Sync>;

/// Limits of downstream connections; one value serves all connections of a listener.
#[derive(Clone)]
pub struct ServerConfig {
    /// Sizes of a head.
    pub limits: Limits,
    /// From the first byte of a head to its last, and from accept to the first byte.
    pub head_timeout: Duration,
    /// Between a response and the next request.
    pub idle_timeout: Duration,
    /// Progress of a request body.
    pub body: BodyLimits,
    /// Longest time in which the client accepts no byte of a response.
    pub write_timeout: Duration,
    /// Bytes of an unread request body that are read and dropped to save the connection.
    pub drain_max: u64,
    /// Longest time that dropping an unread body, or letting a refused client read its answer, may take.
    pub drain_time: Duration,
    /// How often a client that ended its side of the connection while it waits is looked after. Whether it ended only
    /// that, and still reads, or is gone, nobody can tell until it is sent something. The first time, where no response
    /// has begun, that is a `100 Continue`, which every client of HTTP/1.1 must be able to skip (RFC 9110 §15.2).
    pub half_closed_check: Duration,
    /// Hears of each refused request.
    pub on_bad_request: Option<BadRequestHook>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            head_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            body: BodyLimits::default(),
            write_timeout: Duration::from_secs(60),
            drain_max: 64 * 1024,
            drain_time: Duration::from_secs(1),
            half_closed_check: Duration::from_secs(1),
            on_bad_request: None,
        }
    }
}

impl std::fmt::Debug for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConfig").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Why a connection ended other than by agreement. It is closed; nothing is left to do but count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The client sent what the codec refused; it was told so if no response had begun.
    #[error("bad request: {0}")]
    BadRequest(Reason),
    /// The client went away during a request.
    #[error("the client closed the connection during a request")]
    ClientGone,
    /// The connection failed, or the client accepted nothing of a response in time (`TimedOut`).
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
    /// The service's response body failed; the response was cut without a proper end.
    #[error("the response body failed: {0}")]
    ResponseBody(#[source] BoxError),
    /// The service's response body had another length than it said; the response was cut.
    #[error("the response body did not have its stated length")]
    ResponseLength,
}

/// Serves one connection until it ends. Requests are answered in order, one at a time; `prefix` is what was read from
/// `io` before. When `drain` completes, an idle connection closes at once and one in use after the response under way,
/// which then says `Connection: close`.
///
/// Must run inside a [`tokio::task::LocalSet`]; dropping the future closes the connection.
///
/// # Errors
/// See [`ServeError`]. An orderly end, idle time-out included, is `Ok`.
pub async fn serve<IO, S, F, B>(
    io: IO,
    prefix: Bytes,
    service: S,
    config: &ServerConfig,
    drain: impl Future<Output = ()>,
) -> Result<(), ServeError>
where
    IO: Duplex + 'static,
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let conn = Rc::new(ConnCell::new(Box::new(io), prefix, config.write_timeout));
    let mut server = Server { conn, config, drain: Drain { future: pin!(drain), done: false }, requests: 0 };
    loop {
        let head = match server.read_head().await {
            Ok(head) => head,
            Err(NoHead::Quiet) => return server.shut().await,
            Err(NoHead::Bad(reason)) => return server.refuse(reason).await,
            Err(NoHead::Failed(error)) => return Err(ServeError::Io(error)),
        };
        server.requests = server.requests.saturating_add(1);
        // On the heap, for as long as it takes: most connections wait for their next request.
        match Box::pin(server.exchange(head, &service)).await? {
            After::Next => {}
            After::Close => return server.shut().await,
            After::Linger => return server.linger().await,
            After::Refuse(reason) => return server.refuse(reason).await,
            After::Upgraded => return Ok(()),
        }
    }
}

/// What follows an exchange.
enum After {
    /// Another request may come.
    Next,
    /// Everything was read: close.
    Close,
    /// The client may still be sending: let it read the answer before the connection is reset.
    Linger,
    /// Answer for the service, and close.
    Refuse(Reason),
    /// The connection belongs to a tunnel now.
    Upgraded,
}

struct Server<'a, D> {
    conn: Rc<ConnCell>,
    config: &'a ServerConfig,
    drain: Drain<'a, D>,
    requests: u64,
}

impl<D> Drop for Server<'_, D> {
    fn drop(&mut self) {
        // Bodies that outlive the connection must not keep its socket.
        if let Some(mut core) = self.conn.try_state() {
            core.close();
        }
    }
}

/// The drain signal, which may be polled after it fired.
struct Drain<'a, D> {
    future: Pin<&'a mut D>,
    done: bool,
}

impl<D: Future<Output = ()>> Drain<'_, D> {
    fn poll_fired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.done = self.done || self.future.as_mut().poll(cx).is_ready();
        if self.done { Poll::Ready(()) } else { Poll::Pending }
    }
}
