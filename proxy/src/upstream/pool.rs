//! HTTP/1.1 connections to one address, kept for the next request.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    time::Duration,
};

use http::{Response, request::Parts};
use tokio::time::Instant;

use super::{Dialer, SendError, dial, is_repeatable};
use crate::{
    fault::Code,
    l7::{
        body::Body,
        h1::{self, BodyLimits, ClientConfig, ClientErrorKind, Connection, Retry},
    },
    normal::headers::join_cookies,
};

/// Idle connections kept.
const MAX_IDLE: usize = 128;
/// An idle connection is closed after this time: sooner than most servers close theirs.
const IDLE: Duration = Duration::from_secs(4);
/// A request that must not be sent twice uses a kept connection only where it was used within this time: then the
/// server is not just about to close it.
const FRESH: Duration = Duration::from_millis(500);
/// For a server that was seen to close connections sooner, half of their age then; nothing where they were younger than
/// this.
const HASTY: Duration = Duration::from_millis(50);
/// That is remembered for so long.
const MEMORY: Duration = Duration::from_secs(60);
/// How long a server may be silent, or take no bytes. Long polls and event streams are silent for hours, and rightly so:
/// that nobody waits any more is known from the caller, that the server has vanished from TCP. This is for what both
/// have forgotten.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);
/// Connections at once, used and idle.
const MAX_CONNECTIONS: usize = 10_000;

pub(super) struct Pool {
    dialer: Rc<Dialer>,
    address: SocketAddr,
    config: ClientConfig,
    /// The most recently used last.
    idle: RefCell<Vec<(Connection, Instant)>>,
    open: Cell<usize>,
    /// What was lately the shortest time after which the server closed a kept connection, and when that was seen.
    closed_after: Cell<Option<(Duration, Instant)>>,
    sweeping: Cell<bool>,
}

/// A connection for one request.
pub struct Ready {
    pool: Rc<Pool>,
    connection: Connection,
    /// For how long it was kept, where it was.
    kept: Option<Duration>,
}

impl Ready {
    pub(super) async fn send(self, head: &mut Parts, body: Body) -> Result<Response<Body>, SendError> {
        let Self { pool, connection, kept } = self;
        join_cookies(&mut head.headers);
        // Only on a kept connection can the server close just when it is used (RFC 9112 section 9.3.1): once more then,
        // on a new one, but only what may be sent twice.
        let again = kept.is_some() && is_repeatable(&head.method, &body);
        let sent = pool.send_on(connection, head, body).await;
        if let (Err(error), Some(age)) = (&sent, kept)
            && error.retry() != Retry::Never
        {
            pool.closed_after(age, Instant::now());
        }
        match sent {
            Err(error) if again && error.retry() != Retry::Never => {
                let connection = pool.connect().await?;
                // Rare, and large: on the heap.
                Box::pin(pool.send_on(connection, head, Body::Empty)).await.map_err(|error| failed(&error))
            }
            result => result.map_err(|error| failed(&error)),
        }
    }
}

/// Counts one connection for as long as it is used or kept.
struct Counted(Rc<Pool>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

impl Pool {
    pub(super) fn new(dialer: &Rc<Dialer>, address: SocketAddr) -> Rc<Self> {
        Rc::new(Self {
            dialer: Rc::clone(dialer),
            address,
            config: ClientConfig {
                head_timeout: PATIENCE,
                body: BodyLimits { idle: PATIENCE, ..BodyLimits::default() },
                write_timeout: PATIENCE,
                ..ClientConfig::default()
            },
            idle: RefCell::default(),
            open: Cell::new(0),
            closed_after: Cell::new(None),
            sweeping: Cell::new(false),
        })
    }

    /// A connection for one request. A kept one may be closed by its server just when it is used: what must not be sent
    /// twice gets one that was used a moment ago, or a new one.
    pub(super) async fn ready(self: &Rc<Self>, repeatable: bool) -> Result<Ready, SendError> {
        let (connection, kept) = match self.take(repeatable) {
            Some((connection, age)) => (connection, Some(age)),
            None => (self.connect().await?, None),
        };
        Ok(Ready { pool: Rc::clone(self), connection, kept })
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        if self.open.get() >= MAX_CONNECTIONS {
            return Err(SendError::new(Code::Overloaded, "too many connections to this endpoint", true, "limit"));
        }
        dial::plain(&self.dialer, self.address).await.map(Connection::new)
    }

    async fn send_on(
        self: &Rc<Self>,
        connection: Connection,
        head: &Parts,
        body: Body,
    ) -> Result<Response<Body>, h1::ClientError> {
        self.open.set(self.open.get() + 1);
        let counted = Counted(Rc::clone(self));
        let response = h1::send_parts(connection, head, body, &self.config, move |connection| {
            let Counted(pool) = &counted;
            pool.put(connection);
        });
        Ok(response.await?.map(Body::H1))
    }

    /// A connection, and for how long it was kept.
    fn take(&self, repeatable: bool) -> Option<(Connection, Duration)> {
        let mut idle = self.idle.borrow_mut();
        let now = Instant::now();
        while let Some((connection, since)) = idle.pop() {
            let age = now.duration_since(since);
            if age >= IDLE {
                continue;
            }
            if !connection.is_alive() {
                self.closed_after(age, now);
                continue;
            }
            if repeatable || age < self.fresh(now) {
                return Some((connection, age));
            }
            idle.push((connection, since));
            return None;
        }
        None
    }

    /// How young a kept connection must be for what must not be sent twice.
    fn fresh(&self, now: Instant) -> Duration {
        match self.closed_after.get() {
            Some((age, seen)) if now.duration_since(seen) < MEMORY => {
                if age < HASTY {
                    Duration::ZERO
                } else {
                    FRESH.min(age / 2)
                }
            }
            _ => FRESH,
        }
    }

    /// The server closed a connection that was kept for at most `age`.
    fn closed_after(&self, age: Duration, now: Instant) {
        let shortest = match self.closed_after.get() {
            Some((known, seen)) if now.duration_since(seen) < MEMORY => known.min(age),
            _ => age,
        };
        if age <= FRESH * 2 {
            self.closed_after.set(Some((shortest, now)));
        }
    }

    fn put(self: &Rc<Self>, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            return;
        }
        idle.push((connection, Instant::now()));
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(Rc::downgrade(self)));
        }
    }
}

/// Closes what has been idle for too long, until nothing is idle.
async fn sweep(pool: std::rc::Weak<Pool>) {
    loop {
        tokio::time::sleep(IDLE / 2).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        let mut idle = pool.idle.borrow_mut();
        idle.retain(|(connection, since)| now.duration_since(*since) < IDLE && connection.is_alive());
        if idle.is_empty() {
            *idle = Vec::new();
            pool.sweeping.set(false);
            return;
        }
    }
}

/// What the caller is told, and whether another endpoint may be tried.
fn failed(error: &h1::ClientError) -> SendError {
    let unprocessed = error.retry() == Retry::Always;
    let (code, detail) = match error.kind() {
        _ if unprocessed => (Code::ConnectFailed, "the server closed the connection before it took the request"),
        ClientErrorKind::HeadTimeout | ClientErrorKind::WriteTimeout => {
            (Code::Timeout, "the server did not answer in time")
        }
        ClientErrorKind::BadResponse(_) => (Code::BadResponse, "the server's answer is not valid HTTP"),
        ClientErrorKind::Unwritable | ClientErrorKind::RequestBody(_) | ClientErrorKind::RequestLength => {
            (Code::BadRequest, "the request broke off or cannot be sent on")
        }
        _ => (Code::UpstreamReset, "the server closed the connection before it answered"),
    };
    SendError::new(code, detail, unprocessed, error)
}
