//! Who asks, as far as that can be seen: connections, and the addresses that they come from.
//!
//! Nobody proves to be an API server. So that one who is none takes no more than its share from those who are, what an
//! address has in hand is bounded: API servers are few and open few connections. Behind one address may be several.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{AcquireError, Semaphore, SemaphorePermit},
    time::Instant,
};

use super::{MAX_AT_ONCE, MAX_REVIEW};

/// Bytes of bodies that one address has in hand.
const SOURCE_BYTES: usize = 8 * MAX_REVIEW;
/// Bytes of all bodies in hand.
const TOTAL_BYTES: usize = MAX_AT_ONCE * MAX_REVIEW;
/// A request counts for as much at least: it has a head.
const LEAST: u32 = 4 * 1024;
/// The first request comes within this time.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A connection without requests is kept this long: longer than API servers keep it (90 s), so that it is they who close it,
/// and no request meets a connection that is just being closed.
pub(super) const IDLE: Duration = Duration::from_secs(180);

/// What one address has in hand.
#[derive(Debug)]
pub struct Source {
    bytes: Semaphore,
    reviews: Semaphore,
}

impl Default for Source {
    fn default() -> Self {
        // Half of what there is room for: another's are answered meanwhile.
        Self { bytes: Semaphore::new(SOURCE_BYTES), reviews: Semaphore::new(MAX_AT_ONCE / 2) }
    }
}

/// Room for what all addresses have in hand.
pub(super) struct Room {
    bytes: Semaphore,
    reviews: Semaphore,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { bytes: Semaphore::new(TOTAL_BYTES), reviews: Semaphore::new(MAX_AT_ONCE) }
    }

    /// Waits until a review may be read and decided.
    pub(super) async fn review<'a>(&'a self, source: &'a Source) -> Result<[SemaphorePermit<'a>; 2], AcquireError> {
        Ok([source.reviews.acquire().await?, self.reviews.acquire().await?])
    }

    /// Waits until a request's body may be taken.
    pub(super) async fn body<'a>(&'a self, source: &'a Source) -> Result<Held<'a>, AcquireError> {
        let held = [source.bytes.acquire_many(LEAST).await?, self.bytes.acquire_many(LEAST).await?];
        Ok(Held { room: self, source, held })
    }
}

/// Bytes in hand, until it is dropped.
pub(super) struct Held<'a> {
    room: &'a Room,
    source: &'a Source,
    held: [SemaphorePermit<'a>; 2],
}

impl Held<'_> {
    /// Waits until as many more may be taken.
    pub(super) async fn more(&mut self, bytes: usize) -> Result<(), AcquireError> {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let [source, all] = &mut self.held;
        source.merge(self.source.bytes.acquire_many(bytes).await?);
        all.merge(self.room.bytes.acquire_many(bytes).await?);
        Ok(())
    }
}

/// One connection, and when it last did something.
#[derive(Debug)]
pub struct Caller {
    /// Where it comes from.
    pub source: Arc<Source>,
    begun: Instant,
    /// Requests that are there, whole or in part.
    open: AtomicUsize,
    /// Those of them that are whole, and being answered.
    whole: AtomicUsize,
    /// Requests there were.
    requests: AtomicU64,
    /// When the last one began or ended, in milliseconds since `begun`.
    last: AtomicU64,
}

impl Caller {
    /// A new connection.
    #[must_use]
    pub fn new(source: Arc<Source>) -> Self {
        let begun = Instant::now();
        Self { source, begun, open: 0.into(), whole: 0.into(), requests: 0.into(), last: 0.into() }
    }

    /// Counts a request from here until it is dropped.
    #[must_use]
    pub fn request(&self) -> Open<'_> {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Open { caller: self, whole: false }
    }

    /// Whether a request is being answered. One that is still coming in is not: it may never end.
    pub(super) fn is_busy(&self) -> bool {
        self.whole.load(Ordering::Relaxed) > 0
    }

    pub(super) fn since(&self) -> Instant {
        self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed))
    }

    fn touch(&self) {
        let passed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(passed, Ordering::Relaxed);
    }

    /// Until it is to be closed.
    pub(super) async fn over(&self) {
        loop {
            let patience = if self.requests.load(Ordering::Relaxed) == 0 { FIRST_REQUEST } else { IDLE };
            let until = self.since() + patience;
            if self.open.load(Ordering::Relaxed) == 0 && Instant::now() >= until {
                return;
            }
            tokio::time::sleep_until(until.max(Instant::now() + Duration::from_secs(1))).await;
        }
    }
}

/// A request that is there.
#[derive(Debug)]
pub struct Open<'a> {
    caller: &'a Caller,
    whole: bool,
}

impl Open<'_> {
    /// From here it is being answered.
    pub(super) fn is_whole(&mut self) {
        if !std::mem::replace(&mut self.whole, true) {
            self.caller.whole.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.caller.touch();
        self.caller.open.fetch_sub(1, Ordering::Relaxed);
        if self.whole {
            self.caller.whole.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
