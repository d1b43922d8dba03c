//! Waits between tries: exponential, jittered, bounded. Floor 0.

use std::time::Duration;

/// Grows from `base` to `limit` by doubling; each wait is jittered by up to a half so that many waiters spread out.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    base: Duration,
    limit: Duration,
    tries: u32,
}

impl Backoff {
    /// Starts at `base`, ends at `limit`.
    #[must_use]
    pub fn new(base: Duration, limit: Duration) -> Self {
        Self { base, limit, tries: 0 }
    }

    /// How long to wait before the next try; `random` decides where between half and whole.
    pub fn next_wait(&mut self, random: u32) -> Duration {
        let whole = self.base.saturating_mul(1u32 << self.tries.min(16)).min(self.limit);
        self.tries = self.tries.saturating_add(1);
        whole.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
    }

    /// A try succeeded: begin again from `base`.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_never_to_nothing() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(backoff.next_wait(u32::MAX), Duration::from_millis(100));
        assert_eq!(backoff.next_wait(0), Duration::from_millis(100));
        for _ in 0..100 {
            let wait = backoff.next_wait(u32::MAX);
            assert!(wait <= Duration::from_secs(5) && wait > Duration::ZERO);
        }
        backoff.reset();
        assert_eq!(backoff.next_wait(u32::MAX), Duration::from_millis(100));
    }
}
