//! The client half: one request at a time on an upstream connection.

mod error;
mod exchange;

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use http_body::Body;
use tokio::task::JoinHandle;

use super::body::Incoming;
use super::buffer::give_back_map;
use super::conn::{BodyLimits, ConnCell, Duplex, Upload};
use super::parse::Limits;
use super::pump::BoxError;

pub use error::{ClientError, ClientErrorKind, Retry};

/// Limits of upstream connections; one value serves all connections of a pool.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Sizes of a response head.
    pub limits: Limits,
    /// From the end of the request to the end of the response's head.
    pub head_timeout: Duration,
    /// Progress of a response body.
    pub body: BodyLimits,
    /// Longest time in which the upstream accepts no byte of a request.
    pub write_timeout: Duration,
    /// How long the body of a request with `Expect: 100-continue` is held for the upstream's word.
    pub continue_timeout: Duration,
    /// Interim (1xx) responses to one request.
    pub max_interim: u8,
}

impl Default for ClientConfig {
    fn default() -> Self {
        let long = Duration::from_secs(300);
        Self {
            limits: Limits::default(),
            head_timeout: long,
            body: BodyLimits { idle: long, ..BodyLimits::default() },
            write_timeout: Duration::from_secs(60),
            continue_timeout: Duration::from_secs(1),
            max_interim: 16,
        }
    }
}

/// An upstream connection on which no request is under way.
pub struct Connection {
    conn: Rc<ConnCell>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("exchanges", &self.conn.state().exchanges).finish_non_exhaustive()
    }
}

impl Connection {
    /// A connection that was just established.
    pub fn new<IO: Duplex + 'static>(io: IO) -> Self {
        Self { conn: Rc::new(ConnCell::new(Box::new(io), Bytes::new(), Duration::MAX)) }
    }

    /// Has it served a request before? Then the upstream may be closing it just now.
    #[must_use]
    pub fn is_reused(&self) -> bool {
        self.conn.state().exchanges > 0
    }

    /// `Ready` when the idle connection can serve no request: the upstream closed it, or sent bytes that nobody asked
    /// for, which must not become the answer to the next request. For a pool that watches what it holds.
    pub fn poll_dead(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut core = self.conn.state();
        if core.eof || !core.rbuf.is_empty() {
            return Poll::Ready(());
        }
        core.poll_fill(cx).map(|_| ())
    }

    /// May a request be sent? To be asked right before [`send`]; what the runtime has not heard of yet is not seen.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.poll_dead(&mut Context::from_waker(Waker::noop())).is_pending()
    }
}

/// What a pool does with a connection that is free again.
pub(super) type OnIdle = Box<dyn FnOnce(Connection)>;

/// What is due when a response body has been received.
pub(super) struct ResponseEnd {
    keep_alive: bool,
    on_idle: OnIdle,
    /// The rest of the request, while it is being sent beside the response.
    _upload: Option<AbortOnDrop>,
}

impl ResponseEnd {
    /// The response has ended by its own framing: the connection is free, or closed if it cannot serve another.
    pub(super) fn finish(self, conn: Rc<ConnCell>) {
        if release(&conn, self.keep_alive) {
            (self.on_idle)(Connection { conn });
        }
    }
}

/// Can the connection serve another request? If not, closes it.
fn release(conn: &ConnCell, keep_alive: bool) -> bool {
    let mut core = conn.state();
    let reusable = keep_alive
        && core.upload == Upload::Done
        && core.failure.is_none()
        && !core.eof
        // A second response to one request must never meet another request.
        && core.rbuf.is_empty()
        && core.wbuf.is_empty();
    if !reusable {
        core.close();
    }
    reusable
}

/// A task that ends with its owner.
struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends `request` and waits for the head of its response.
///
/// `on_idle` gets the connection back when the response has ended by its own framing, the request was sent completely,
/// and nothing else arrived; otherwise the connection is closed. It may be called before this function returns, for a
/// response that came in one piece. What is not sent of the request when the response begins is sent beside it, and
/// given up when the response ends or is dropped. Interim responses are dropped; 100 starts a held body.
///
/// Must run inside a [`tokio::task::LocalSet`]; dropping the future closes the connection.
///
/// # Errors
/// [`ClientError`] says what broke and whether the request may be sent again. The connection is closed.
pub async fn send<B>(
    connection: Connection,
    request: Request<B>,
    config: &ClientConfig,
    on_idle: impl FnOnce(Connection) + 'static,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    send_with_interim(connection, request, config, on_idle, |_, _| {}).await
}

/// [`send`], with every interim response but 100 and 101 shown to `on_interim`.
///
/// # Errors
/// As [`send`].
pub async fn send_with_interim<B>(
    connection: Connection,
    request: Request<B>,
    config: &ClientConfig,
    on_idle: impl FnOnce(Connection) + 'static,
    on_interim: impl FnMut(StatusCode, HeaderMap),
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (head, body) = request.into_parts();
    let answered = exchange::Exchange::begin(connection, &head, body, config, on_interim)?.run(on_idle).await;
    give_back_map(head.headers);
    answered
}

/// [`send`], with the head lent: who sends it again needs no copy of it.
///
/// # Errors
/// As [`send`].
pub async fn send_parts<B>(
    connection: Connection,
    head: &Parts,
    body: B,
    config: &ClientConfig,
    on_idle: impl FnOnce(Connection) + 'static,
) -> Result<Response<Incoming>, ClientError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    exchange::Exchange::begin(connection, head, body, config, |_, _| {})?.run(on_idle).await
}
