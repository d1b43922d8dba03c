//! A retry budget: retries may be a share of the requests of the last seconds, and a few each second besides, so that
//! retries cannot multiply an outage. Floor 0. One per service and worker; time is passed in.

use std::{cell::Cell, time::Instant};

/// Over how many seconds requests and retries are counted.
const WINDOW: usize = 10;

/// How much may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetSettings {
    /// Retries, in percent of the requests of the last ten seconds.
    pub percent: u32,
    /// Retries each second that are allowed in any case, so that services with little traffic have retries at all.
    pub min_per_second: u32,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self { percent: 20, min_per_second: 10 }
    }
}

/// Counts requests and retries.
#[derive(Debug)]
pub struct RetryBudget {
    settings: BudgetSettings,
    start: Instant,
    /// The second that is being counted, from `start`.
    second: Cell<u64>,
    /// What each of the last seconds saw; a second's place is its number modulo [`WINDOW`].
    seconds: [Cell<Counts>; WINDOW],
    /// The sum of `seconds`.
    sum: Cell<Counts>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl RetryBudget {
    /// A budget from which nothing was taken yet.
    #[must_use]
    pub fn new(settings: BudgetSettings, now: Instant) -> Self {
        Self {
            settings,
            start: now,
            second: Cell::new(0),
            seconds: std::array::from_fn(|_| Cell::default()),
            sum: Cell::default(),
        }
    }

    /// A request is sent for the first time.
    pub fn deposit(&self, now: Instant) {
        self.count(now, Counts { requests: 1, retries: 0 });
    }

    /// May a request be sent again? If so, it is counted.
    #[must_use]
    pub fn withdraw(&self, now: Instant) -> bool {
        let this_second = self.roll(now).get();
        let sum = self.sum.get();
        let share = sum.requests.saturating_mul(self.settings.percent.into()) / 100;
        let allowed = sum.retries < share || this_second.retries < self.settings.min_per_second.into();
        if allowed {
            self.count(now, Counts { requests: 0, retries: 1 });
        }
        allowed
    }

    fn count(&self, now: Instant, more: Counts) {
        for counts in [self.roll(now), &self.sum] {
            let old = counts.get();
            counts.set(Counts { requests: old.requests + more.requests, retries: old.retries + more.retries });
        }
    }

    /// Forgets seconds that are too long ago; gives the current one. A clock that goes back stands still.
    fn roll(&self, now: Instant) -> &Cell<Counts> {
        let second = now.saturating_duration_since(self.start).as_secs().max(self.second.get());
        let passed = usize::try_from(second - self.second.get()).unwrap_or(WINDOW).min(WINDOW);
        for gone in (0..passed).filter_map(|ago| second.checked_sub(u64::try_from(ago).unwrap_or(0))) {
            let old = self.place(gone).take();
            let sum = self.sum.get();
            self.sum.set(Counts { requests: sum.requests - old.requests, retries: sum.retries - old.retries });
        }
        self.second.set(second);
        self.place(second)
    }

    fn place(&self, second: u64) -> &Cell<Counts> {
        let at = usize::try_from(second % WINDOW as u64).unwrap_or(0);
        self.seconds.get(at).unwrap_or(&self.sum)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn settings(percent: u32, min_per_second: u32) -> BudgetSettings {
        BudgetSettings { percent, min_per_second }
    }

    #[test]
    fn g29_a_full_outage_is_not_multiplied() {
        let start = Instant::now();
        let budget = RetryBudget::new(settings(20, 0), start);
        let mut retries = 0;
        for i in 0..60_000 {
            let now = start + Duration::from_millis(i);
            budget.deposit(now);
            // Each try fails, each retry is asked for again.
            while budget.withdraw(now) {
                retries += 1;
            }
        }
        assert!((11_000..=12_000).contains(&retries), "{retries}");
    }

    #[test]
    fn little_traffic_may_retry() {
        let start = Instant::now();
        let budget = RetryBudget::new(settings(20, 2), start);
        for second in 0..30 {
            let now = start + Duration::from_secs(second);
            budget.deposit(now);
            assert!(budget.withdraw(now) && budget.withdraw(now));
            assert!(!budget.withdraw(now));
        }
    }

    #[test]
    fn requests_are_forgotten() {
        let start = Instant::now();
        let budget = RetryBudget::new(settings(20, 0), start);
        for _ in 0..100 {
            budget.deposit(start);
        }
        assert!(budget.withdraw(start + Duration::from_millis(9_900)));
        assert!(!budget.withdraw(start + Duration::from_secs(10)));
        assert!(!budget.withdraw(start + Duration::from_secs(10_000)));
        // A clock that goes back.
        budget.deposit(start);
        assert!(!budget.withdraw(start));
    }

    proptest! {
        #[test]
        fn never_more_than_allowed(
            steps in proptest::collection::vec((0_u64..3000, any::<bool>()), 1..300),
            percent in 0_u32..150,
            min in 0_u32..5,
        ) {
            let start = Instant::now();
            let budget = RetryBudget::new(settings(percent, min), start);
            let (mut elapsed, mut log) = (0, Vec::new());
            for (wait, retry) in steps {
                elapsed += wait;
                let now = start + Duration::from_millis(elapsed);
                let second = elapsed / 1000;
                let recent = |retries: bool| {
                    log.iter().filter(|(at, is)| *is == retries && at + 10 > second).count() as u64
                };
                if retry {
                    let here = log.iter().filter(|(at, is)| *is && *at == second).count() as u64;
                    let wanted = recent(true) < recent(false) * u64::from(percent) / 100 || here < u64::from(min);
                    prop_assert_eq!(budget.withdraw(now), wanted);
                    if wanted {
                        log.push((second, true));
                    }
                } else {
                    budget.deposit(now);
                    log.push((second, false));
                }
            }
        }
    }
}
