//! The end of an exchange and of a connection: draining, lingering, refusing.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, timeout};

use super::{After, BadRequest, ServeError, Server};
use crate::l7::h1::buffer::give_back;
use crate::l7::h1::conn::BodyLimits;
use crate::l7::h1::encode::{WireFraming, encode_response_head};
use crate::l7::h1::reason::Reason;

/// Bytes that a refused client may still send while it reads its answer.
const LINGER_MAX: usize = 1024 * 1024;

impl<D: Future<Output = ()>> Server<'_, D> {
    /// Decides what follows a complete response; reads and drops what is left of the request if that is little.
    pub(super) async fn after_response(&mut self, close: bool) -> Result<After, ServeError> {
        let unread = {
            let mut core = self.conn.state();
            let unread = !core.body.is_received();
            core.revoke_body();
            unread || core.failure.is_some()
        };
        if close {
            let quiet = !unread && self.conn.state().rbuf.is_empty();
            return Ok(if quiet { After::Close } else { After::Linger });
        }
        if unread && !self.drain_body().await {
            return Ok(After::Linger);
        }
        Ok(After::Next)
    }

    /// Reads the rest of a request body within the limits; says whether its end was found.
    async fn drain_body(&self) -> bool {
        let time = self.config.drain_time;
        let start = Instant::now();
        let mut left = self.config.drain_max;
        // One budget of waiting for the whole body: what arrives earns no further time.
        self.conn.state().limit_body(BodyLimits { idle: time, min_rate: Some(u32::MAX), grace: time });
        poll_fn(|cx| {
            loop {
                match ready!(self.conn.state().poll_body(cx)) {
                    None => return Poll::Ready(true),
                    Some(Err(_)) => return Poll::Ready(false),
                    Some(Ok(frame)) => {
                        let len = frame.data_ref().map_or(0, |data| data.len() as u64);
                        left = left.saturating_sub(len);
                        if left == 0 || start.elapsed() > time {
                            return Poll::Ready(false);
                        }
                    }
                }
            }
        })
        .await
    }

    /// Writes everything that is queued.
    pub(super) async fn flush(&self) -> Result<(), ServeError> {
        poll_fn(|cx| self.conn.state().poll_flush(cx)).await.map_err(ServeError::Io)
    }

    /// Ends a connection on which nothing is under way.
    pub(super) async fn shut(&self) -> Result<(), ServeError> {
        // Whether the client hears of it is not our failure any more.
        let _ = timeout(self.config.drain_time, poll_fn(|cx| self.conn.state().poll_shutdown(cx))).await;
        Ok(())
    }

    /// Ends our side, then reads and drops what the client is still sending, so that the answer is not destroyed by a
    /// reset before it is read.
    pub(super) async fn linger(&self) -> Result<(), ServeError> {
        let mut left = LINGER_MAX;
        let quiet = async {
            poll_fn(|cx| self.conn.state().poll_shutdown(cx)).await?;
            poll_fn(|cx| self.poll_discard(&mut left, cx)).await
        };
        // However it ends, the connection is closed.
        let _ = timeout(self.config.drain_time, quiet).await;
        Ok(())
    }

    fn poll_discard(&self, left: &mut usize, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut core = self.conn.state();
        loop {
            core.rbuf.clear();
            give_back(&mut core.rbuf);
            let n = ready!(core.poll_fill(cx))?;
            *left = left.saturating_sub(n);
            if n == 0 || *left == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Counts a refused request.
    pub(super) fn report(&self, reason: Reason) -> ServeError {
        if let Some(hook) = &self.config.on_bad_request {
            hook(&BadRequest { status: reason.status(), reason });
        }
        ServeError::BadRequest(reason)
    }

    /// Answers a request that the service will not answer, and ends the connection.
    pub(super) async fn refuse(&self, reason: Reason) -> Result<(), ServeError> {
        let error = self.report(reason);
        {
            let mut core = self.conn.state();
            core.revoke_body();
            core.answered = true;
            let text = reason.as_str();
            let mut headers = http::HeaderMap::with_capacity(1);
            headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
            let out = core.wbuf.tail();
            encode_response_head(reason.status(), &headers, WireFraming::Length(text.len() as u64 + 1), true, out);
            out.extend_from_slice(text.as_bytes());
            out.push(b'\n');
        }
        self.flush().await?;
        self.linger().await?;
        Err(error)
    }
}
