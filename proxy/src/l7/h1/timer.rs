//! A deadline that costs nothing while it is not near: the runtime's timer is touched only when a wait begins
//! that would end before the timer does, or when the timer fires early.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// The farthest deadline: waits without a limit of their own end here.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// A reusable timer for one waiter at a time.
#[derive(Default)]
pub(super) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: Option<Instant>,
}

impl LazyTimer {
    /// The wait is over; the next `poll_wait` starts a new one. Returns how long the ended wait took so far.
    pub(super) fn stop(&mut self) -> Option<Instant> {
        self.waiting.take()
    }

    /// `Ready` once `limit` has passed since the first call after [`LazyTimer::stop`].
    pub(super) fn poll_wait(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let since = *self.waiting.get_or_insert_with(Instant::now);
        self.poll_until(cx, since + limit.min(FAR))
    }

    /// `Ready` once `deadline` has passed.
    pub(super) fn poll_until(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            // Never early: a timer that fired for an older, shorter wait is set again.
            if sleep.deadline() >= deadline || Instant::now() >= deadline {
                // The next wait sets it anew.
                self.sleep = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test(start_paused = true)]
    async fn a_short_wait_after_a_long_one_ends_in_time() {
        let mut timer = LazyTimer::default();
        let start = Instant::now();
        poll_fn(|cx| {
            assert!(timer.poll_wait(cx, Duration::from_secs(60)).is_pending());
            Poll::Ready(())
        })
        .await;
        timer.stop();
        poll_fn(|cx| timer.poll_wait(cx, Duration::from_secs(2))).await;
        assert_eq!(start.elapsed().as_secs(), 2);
        timer.stop();
        poll_fn(|cx| timer.poll_wait(cx, Duration::from_secs(5))).await;
        assert_eq!(start.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_wait_after_a_short_one_is_not_cut() {
        let mut timer = LazyTimer::default();
        poll_fn(|cx| {
            assert!(timer.poll_wait(cx, Duration::from_secs(1)).is_pending());
            Poll::Ready(())
        })
        .await;
        timer.stop();
        let start = Instant::now();
        poll_fn(|cx| timer.poll_wait(cx, Duration::from_secs(9))).await;
        assert_eq!(start.elapsed().as_secs(), 9);
    }
}
