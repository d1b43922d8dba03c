//! Waiting for the next request head.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::Server;
use crate::l7::h1::parse::{HeadScan, RequestHead, parse_request};
use crate::l7::h1::reason::Reason;

/// Why no head came.
pub(super) enum NoHead {
    /// The connection ended, or may be ended, between requests.
    Quiet,
    Bad(Reason),
    Failed(io::Error),
}

/// Since when the current wait counts; a wait that is over at once takes no time.
#[derive(Default)]
struct Since {
    idle: Option<Instant>,
    head: Option<Instant>,
}

impl<D: Future<Output = ()>> Server<'_, D> {
    /// Reads until a head is complete, within the time and size limits.
    pub(super) async fn read_head(&mut self) -> Result<RequestHead, NoHead> {
        let mut scan = HeadScan::default();
        let mut since = Since::default();
        self.conn.state().read_timer.stop();
        poll_fn(|cx| self.poll_head(&mut scan, &mut since, cx)).await
    }

    fn poll_head(
        &mut self,
        scan: &mut HeadScan,
        since: &mut Since,
        cx: &mut Context<'_>,
    ) -> Poll<Result<RequestHead, NoHead>> {
        loop {
            let mut core = self.conn.state();
            if !core.rbuf.is_empty() {
                match parse_request(&mut core.rbuf, scan, &self.config.limits) {
                    Ok(Some(head)) => return Poll::Ready(Ok(head)),
                    Ok(None) => {}
                    Err(reason) => return Poll::Ready(Err(NoHead::Bad(reason))),
                }
            }
            let idle = core.rbuf.is_empty() && scan.is_untouched();
            match core.poll_fill(cx) {
                Poll::Ready(Ok(0)) if idle => return Poll::Ready(Err(NoHead::Quiet)),
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(NoHead::Bad(Reason::Truncated))),
                Poll::Ready(Ok(_)) => {}
                // A client that resets an idle connection is nobody's failure.
                Poll::Ready(Err(_)) if idle => return Poll::Ready(Err(NoHead::Quiet)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(NoHead::Failed(error))),
                Poll::Pending => {
                    drop(core);
                    return self.poll_wait(idle, since, cx).map(Err);
                }
            }
        }
    }

    /// Nothing to read: is there still time?
    fn poll_wait(&mut self, idle: bool, since: &mut Since, cx: &mut Context<'_>) -> Poll<NoHead> {
        if idle && self.drain.poll_fired(cx).is_ready() {
            return Poll::Ready(NoHead::Quiet);
        }
        let deadline = if idle {
            let limit = if self.requests == 0 { self.config.head_timeout } else { self.config.idle_timeout };
            *since.idle.get_or_insert_with(Instant::now) + limit
        } else {
            *since.head.get_or_insert_with(Instant::now) + self.config.head_timeout
        };
        ready!(self.conn.state().read_timer.poll_until(cx, deadline));
        Poll::Ready(if idle { NoHead::Quiet } else { NoHead::Bad(Reason::HeadTimeout) })
    }
}
