//! Percentiles, and whether what was measured is as it should be. Pure.

use serde::Serialize;

use super::growth::Case;

/// A change at the largest number of services may cost so many times what it costs at the smallest, with as many proxies.
pub const GROWTH: f64 = 5.0;
/// A sidecar is ready within so many milliseconds.
pub const READY_MS: f64 = 100.0;

/// Of sorted values the one below which this share of them lies; nothing of none.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of a count"
)]
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.max(1) - 1).copied()
}

/// What a change costs the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Cost {
    /// Of a slice, until every proxy has acknowledged.
    Slice,
    /// Of a pod, likewise.
    Pod,
    /// With everything that is done now and then.
    All,
    /// Of a service that no proxy uses.
    Unused,
}

impl Cost {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Slice, Self::Pod, Self::All, Self::Unused];

    /// In a case, in microseconds.
    #[must_use]
    pub fn of(self, case: &Case) -> f64 {
        match self {
            Self::Slice => case.slice_us.median,
            Self::Pod => case.pod_us.median,
            Self::All => case.all_us,
            Self::Unused => case.unused_us,
        }
    }

    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Slice => "a slice changes",
            Self::Pod => "a pod changes",
            Self::All => "all counted",
            Self::Unused => "no proxy uses it",
        }
    }
}

/// How a cost has grown from the fewest services to the most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Growth {
    /// Proxies in both cases.
    pub proxies: usize,
    /// Services in the two cases.
    pub services: [usize; 2],
    /// Of what.
    pub cost: Cost,
    /// How many times as much.
    pub times: f64,
}

impl Growth {
    /// True where it is no more than it may be.
    #[must_use]
    pub fn kept(&self) -> bool {
        self.times <= GROWTH
    }
}

/// The growth of every cost for every number of proxies; none where there is one number of services only.
#[must_use]
pub fn growth(cases: &[Case]) -> Vec<Growth> {
    let mut all = Vec::new();
    let Some(least) = cases.iter().map(|case| case.services).min() else { return all };
    for small in cases.iter().filter(|case| case.services == least) {
        let same = cases.iter().filter(|case| case.proxies == small.proxies && case.services > least);
        let Some(large) = same.max_by_key(|case| case.services) else { continue };
        for cost in Cost::ALL {
            let times = cost.of(large) / cost.of(small);
            all.push(Growth { proxies: small.proxies, services: [small.services, large.services], cost, times });
        }
    }
    all
}

/// What is wrong, a line each; empty: nothing is.
#[must_use]
pub fn faults(cases: &[Case]) -> Vec<String> {
    let all = growth(cases);
    let bad = all.iter().filter(|growth| !growth.kept());
    let told = |growth: &Growth| {
        let ([few, many], proxies) = (growth.services, growth.proxies);
        let (times, what) = (growth.times, growth.cost.title());
        format!(
            "a change ({what}) costs the controller {times:.1} times as much at {many} services as at {few}, with {proxies} \
             proxies; it may cost {GROWTH} times as much: it grows with what did not change"
        )
    };
    bad.map(told).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::figures::Figure;

    pub(in super::super) fn case(services: usize, proxies: usize, us: f64) -> Case {
        let of = |median| Figure { median, min: median, max: median };
        Case {
            services,
            proxies,
            resident: 20_000_000,
            idle: 0.001,
            slice_ms: of(2.0),
            pod_ms: of(2.5),
            slice_us: of(us),
            pod_us: of(us),
            all_us: us,
            unused_us: 100.0,
            bytes: 2200.0,
            raw: Vec::new(),
        }
    }

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=1000).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), Some(500.0));
        assert_eq!(percentile(&values, 0.99), Some(990.0));
        assert_eq!(percentile(&values, 1.0), Some(1000.0));
        assert_eq!(percentile(&[7.0], 0.0), Some(7.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn growth_is_told_for_equal_numbers_of_proxies() {
        let cases = [case(100, 10, 1000.0), case(100, 100, 4000.0), case(1000, 10, 9000.0), case(10_000, 10, 5000.0)];
        let all = growth(&cases);
        assert_eq!(all.len(), Cost::ALL.len(), "there is no other with 100 proxies");
        assert_eq!((all[0].services, all[0].times), ([100, 10_000], 5.0));
        assert!(faults(&cases).is_empty());
        assert!(growth(&cases[..1]).is_empty() && growth(&[]).is_empty());
    }

    #[test]
    fn what_grows_too_much_is_a_fault() {
        let faults = faults(&[case(100, 10, 1000.0), case(10_000, 10, 5100.0)]);
        assert_eq!(faults.len(), 3, "what no proxy uses is as cheap as before");
        assert!(faults[0].contains("5.1 times as much at 10000 services as at 100, with 10 proxies"), "{}", faults[0]);
    }
}
