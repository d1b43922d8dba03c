//! How much is served: so many at once, so many waiting, so many for each caller in a time. Floor 0.
//!
//! Pure where it decides; time is passed in.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// One bucket: tokens come back one in `refill`, at most `burst` are kept. Kept as the moment at which it is full again
/// (the generic cell rate algorithm), so that an idle bucket is one that can be forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub fn full(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now);
        let spent = full_at.duration_since(now);
        let allowed = rate.refill.saturating_mul(rate.burst.saturating_sub(1));
        if spent > allowed {
            return Err(spent - allowed);
        }
        self.full_at = full_at + rate.refill;
        Ok(())
    }
}

/// Speed and size of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// A token comes back in this time.
    pub refill: Duration,
    /// Tokens that are kept.
    pub burst: u32,
}

/// A bucket for each caller; at most so many callers at once.
#[derive(Debug)]
pub struct PerCaller {
    rate: Rate,
    capacity: usize,
    hasher: RandomState,
    table: Mutex<Table>,
}

#[derive(Debug)]
struct Table {
    /// By hash of the caller, with a key of this process: callers cannot choose to collide.
    buckets: HashMap<u64, Bucket>,
    swept: Option<Instant>,
}

impl PerCaller {
    /// Buckets of this rate for `capacity` callers.
    #[must_use]
    pub fn new(rate: Rate, capacity: usize) -> Self {
        let table = Table { buckets: HashMap::new(), swept: None };
        Self { rate, capacity, hasher: RandomState::new(), table: Mutex::new(table) }
    }

    /// Takes a token of a caller.
    ///
    /// # Errors
    /// How long the caller should wait. Where every bucket is in use, a new caller waits as well.
    pub fn take(&self, caller: impl Hash, now: Instant) -> Result<(), Duration> {
        let key = self.hasher.hash_one(caller);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if !table.buckets.contains_key(&key) && table.buckets.len() >= self.capacity {
            table.sweep(self.rate, now);
            if table.buckets.len() >= self.capacity {
                return Err(self.rate.refill);
            }
        }
        table.buckets.entry(key).or_insert_with(|| Bucket::full(now)).take(self.rate, now)
    }

    /// Callers that are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).buckets.len()
    }

    /// True where none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Table {
    /// Forgets full buckets, at most once in the time in which one token comes back: the work is spread over calls.
    fn sweep(&mut self, rate: Rate, now: Instant) {
        if self.swept.is_none_or(|swept| now.duration_since(swept) >= rate.refill) {
            self.swept = Some(now);
            self.buckets.retain(|_, bucket| bucket.full_at > now);
        }
    }
}

/// Lets so many in at once, in order of arrival, and so many wait.
#[derive(Debug)]
pub struct Gate {
    slots: Semaphore,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// Too many are waiting already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many calls are waiting")]
pub struct Full;

impl Gate {
    /// `slots` at once, `max_waiting` waiting.
    #[must_use]
    pub fn new(slots: usize, max_waiting: usize) -> Self {
        Self { slots: Semaphore::new(slots.min(Semaphore::MAX_PERMITS)), waiting: AtomicUsize::new(0), max_waiting }
    }

    /// Waits for a slot. Whoever gives up waiting (drops this) leaves nothing behind.
    ///
    /// # Errors
    /// [`Full`].
    pub async fn enter(&self) -> Result<SemaphorePermit<'_>, Full> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Ok(slot);
        }
        let _place = Place::take(&self.waiting, self.max_waiting).ok_or(Full)?;
        self.slots.acquire().await.map_err(|_| Full)
    }
}

/// One of a bounded number of places in a line, given back when dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize, places: usize) -> Option<Self> {
        let free = |taken: usize| (taken < places).then_some(taken + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Self(taken))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { refill: Duration::from_secs(1), burst: 5 };

    #[tokio::test(start_paused = true)]
    async fn i15_one_caller_is_held_to_its_rate_and_others_are_not() {
        let limits = PerCaller::new(RATE, 100);
        let began = Instant::now();
        let mut served = 0;
        for _ in 0..6000 {
            served += usize::from(limits.take("greedy", Instant::now()).is_ok());
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        assert_eq!(began.elapsed(), Duration::from_secs(60));
        assert!((60..=66).contains(&served), "{served}");
        assert!(limits.take("modest", Instant::now()).is_ok());
        let wait = std::iter::repeat_with(|| limits.take("greedy", Instant::now())).find_map(Result::err).unwrap();
        assert!(wait <= Duration::from_secs(1));
        tokio::time::advance(wait).await;
        assert!(limits.take("greedy", Instant::now()).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn i15_the_table_is_bounded_and_forgets_the_idle() {
        let limits = PerCaller::new(RATE, 100);
        for caller in 0..100 {
            assert!(limits.take(caller, Instant::now()).is_ok());
        }
        assert!(limits.take(100, Instant::now()).is_err(), "no place, and nobody loses theirs");
        assert!(limits.take(5, Instant::now()).is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(limits.take(100, Instant::now()).is_ok());
        assert_eq!(limits.len(), 2, "who came twice is not idle yet");
        for caller in 200..10_000 {
            let _ = limits.take(caller, Instant::now());
        }
        assert_eq!(limits.len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn i14_so_many_at_once_so_many_waiting() {
        let gate = Gate::new(2, 3);
        let (first, _second) = (gate.enter().await.unwrap(), gate.enter().await.unwrap());
        let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(gate.enter())).collect();
        for one in &mut waiting {
            assert!(tokio::time::timeout(Duration::from_millis(1), one).await.is_err());
        }
        assert_eq!(gate.enter().await.unwrap_err(), Full);
        // Whoever gives up makes room.
        waiting.pop();
        let mut late = Box::pin(gate.enter());
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut late).await.is_err());
        // In order of arrival.
        drop(first);
        let third = waiting.remove(0).await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), &mut late).await.is_err());
        drop(third);
        drop(waiting.remove(0).await.unwrap());
        drop(late.await.unwrap());
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn i21_ten_thousand_who_give_up_leave_nothing() {
        let gate = Gate::new(1, 10_000);
        let held = gate.enter().await.unwrap();
        for _ in 0..10_000 {
            assert!(tokio::time::timeout(Duration::ZERO, gate.enter()).await.is_err());
        }
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
        drop(held);
        assert!(gate.enter().await.is_ok());
    }
}
