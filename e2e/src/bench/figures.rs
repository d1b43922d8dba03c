//! From runs to figures: medians with their spread, and ratios that are formed within each repetition. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::trial::{HAPROXY_L4, HAPROXY_L7, Sample};

/// The middle of several values, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figure {
    /// The middle one; the mean of the two in the middle where they are even in number.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Figure {
    /// Of some values; nothing of none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let upper = *values.get(middle)?;
        let lower = if values.len().is_multiple_of(2) { *values.get(middle - 1)? } else { upper };
        Some(Self { median: f64::midpoint(lower, upper), min, max })
    }
}

/// What a run can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Requests (handshakes, messages) each second.
    Rate,
    /// Megabytes each second.
    Bandwidth,
    /// Processor time of both proxies for a request, in microseconds.
    Cost,
    /// Processor time of both proxies for a megabyte, in microseconds.
    CostOfMegabyte,
    /// Median latency, in microseconds.
    Median,
    /// 99th of a hundred latencies.
    Late,
}

/// One run's value.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
pub fn value(sample: &Sample, measure: Measure) -> f64 {
    let load = &sample.load;
    let cost = (sample.outbound.total_ns + sample.inbound.total_ns) as f64 / 1e3;
    let megabytes = load.bytes as f64 / 1e6;
    match measure {
        Measure::Rate => load.requests as f64 / load.seconds,
        Measure::Bandwidth => megabytes / load.seconds,
        Measure::Cost => cost / load.requests as f64,
        Measure::CostOfMegabyte => cost / megabytes,
        Measure::Median => load.p50_us as f64,
        Measure::Late => load.p99_us as f64,
    }
}

/// A ratio that results have.
#[derive(Clone, Copy, Debug)]
pub struct Ratio {
    /// Its key.
    pub name: &'static str,
    /// Of which kind of load.
    pub trial: &'static str,
    /// Of what.
    pub measure: Measure,
    /// To which chain.
    pub base: &'static str,
    /// True where what the direct way takes is taken off both first.
    pub added: bool,
    /// What the mesh is to reach, and whether less is better.
    pub target: Option<(f64, bool)>,
}

const fn ratio(name: &'static str, trial: &'static str, measure: Measure, base: &'static str) -> Ratio {
    Ratio { name, trial, measure, base, added: false, target: None }
}

impl Ratio {
    const fn at_most(self, target: f64) -> Self {
        Self { target: Some((target, true)), ..self }
    }

    const fn at_least(self, target: f64) -> Self {
        Self { target: Some((target, false)), ..self }
    }

    const fn added(self) -> Self {
        Self { added: true, ..self }
    }

    /// True where a figure keeps the target.
    #[must_use]
    pub fn kept(&self, figure: f64) -> Option<bool> {
        self.target.map(|(target, less)| if less { figure <= target } else { figure >= target })
    }
}

/// All ratios.
pub const RATIOS: [Ratio; 17] = [
    ratio("h1_100b_cpu", "h1_100b", Measure::Cost, HAPROXY_L7).at_most(0.65),
    ratio("h1_100b_rps", "h1_100b", Measure::Rate, HAPROXY_L7).at_least(1.5),
    ratio("h1_10k_rps", "h1_10k", Measure::Rate, HAPROXY_L7).at_least(1.7),
    ratio("h1_10k_cpu", "h1_10k", Measure::Cost, HAPROXY_L7),
    ratio("h2_rps", "h2", Measure::Rate, HAPROXY_L7).at_least(1.0),
    ratio("h2_cpu", "h2", Measure::Cost, HAPROXY_L7),
    ratio("grpc_rps", "grpc", Measure::Rate, HAPROXY_L7),
    ratio("grpc_stream_rps", "grpc_stream", Measure::Rate, HAPROXY_L7),
    ratio("h1_close_rps", "h1_close", Measure::Rate, HAPROXY_L7),
    ratio("h1_bulk", "h1_bulk", Measure::Bandwidth, HAPROXY_L7),
    ratio("tcp_bulk", "tcp_bulk", Measure::Bandwidth, HAPROXY_L4).at_least(1.6),
    ratio("tcp_bulk_cpu", "tcp_bulk", Measure::CostOfMegabyte, HAPROXY_L4),
    ratio("tcp_conn", "tcp_conn", Measure::Rate, HAPROXY_L4).at_least(6.0),
    ratio("handshakes", "handshakes", Measure::Rate, HAPROXY_L7).at_least(3.5),
    ratio("lat_p50", "open", Measure::Median, HAPROXY_L7).added().at_most(0.75),
    ratio("lat_p99", "open", Measure::Late, HAPROXY_L7).added().at_most(0.6),
    ratio("lat_cpu", "open", Measure::Cost, HAPROXY_L7).at_most(0.7),
];

/// Values by kind of load and chain.
#[must_use]
pub fn figures(samples: &[Sample], measure: Measure) -> BTreeMap<(String, String), Figure> {
    let mut values: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for sample in samples {
        values.entry((sample.trial.clone(), sample.chain.clone())).or_default().push(value(sample, measure));
    }
    values.into_iter().filter_map(|(key, values)| Some((key, Figure::of(values)?))).collect()
}

/// One ratio of every chain to its base.
#[must_use]
pub fn ratios(samples: &[Sample], ratio: &Ratio) -> BTreeMap<String, Figure> {
    let of = |chain: &str, repetition: usize| {
        let mut found = samples
            .iter()
            .filter(|sample| sample.trial == ratio.trial && sample.chain == chain && sample.repetition == repetition);
        found.next().map(|sample| value(sample, ratio.measure))
    };
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for sample in samples.iter().filter(|sample| sample.trial == ratio.trial && sample.chain != "direct") {
        let off = if ratio.added { of("direct", sample.repetition) } else { Some(0.0) };
        let (Some(base), Some(off)) = (of(ratio.base, sample.repetition), off) else { continue };
        let quotient = (value(sample, ratio.measure) - off) / (base - off);
        if quotient.is_finite() {
            values.entry(sample.chain.clone()).or_default().push(quotient);
        }
    }
    values.into_iter().filter_map(|(chain, values)| Some((chain, Figure::of(values)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{cost::Cost, trial::Load};

    fn sample(trial: &str, chain: &str, repetition: usize, requests: u64, p50_us: u64) -> Sample {
        Sample {
            trial: trial.into(),
            chain: chain.into(),
            repetition,
            load: Load { requests, bytes: requests * 100, seconds: 2.0, p50_us, ..Load::default() },
            outbound: Cost { total_ns: 1_000_000, ..Cost::default() },
            inbound: Cost { total_ns: 3_000_000, ..Cost::default() },
            resident: [0, 0],
        }
    }

    #[test]
    fn the_median_and_its_spread() {
        let figure = Figure::of(vec![3.0, 1.0, 2.0]).unwrap();
        assert_eq!(figure, Figure { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Figure::of(vec![1.0, 2.0]).unwrap().median, 1.5);
        assert_eq!(Figure::of(Vec::new()), None);
    }

    #[test]
    fn a_run_has_a_rate_and_a_cost() {
        let one = sample("h1_100b", "mesh", 0, 1000, 0);
        assert_eq!(value(&one, Measure::Rate), 500.0);
        assert_eq!(value(&one, Measure::Cost), 4.0);
        assert_eq!(value(&one, Measure::Bandwidth), 0.05);
    }

    #[test]
    fn ratios_are_formed_within_a_repetition() {
        // The machine is half as fast in the second: the ratio is the same.
        let samples = [
            sample("h1_100b", "haproxy-l7", 0, 1000, 0),
            sample("h1_100b", "mesh", 0, 2000, 0),
            sample("h1_100b", "haproxy-l7", 1, 500, 0),
            sample("h1_100b", "mesh", 1, 1000, 0),
            sample("h1_100b", "direct", 1, 9000, 0),
        ];
        let rate = ratios(&samples, &RATIOS[1]);
        assert_eq!(rate["mesh"], Figure { median: 2.0, min: 2.0, max: 2.0 });
        assert!(!rate.contains_key("direct"));
        assert_eq!(RATIOS[1].kept(2.0), Some(true));
        assert_eq!(RATIOS[0].kept(0.66), Some(false));
    }

    #[test]
    fn what_is_added_is_compared_without_the_way_itself() {
        let p50 = |chain, p50_us| sample("open", chain, 0, 1000, p50_us);
        let samples = [p50("direct", 100), p50("haproxy-l7", 300), p50("mesh", 200)];
        let added = RATIOS.iter().find(|ratio| ratio.name == "lat_p50").unwrap();
        assert_eq!(ratios(&samples, added)["mesh"].median, 0.5);
        assert!(ratios(&samples[1..], added).is_empty());
    }
}
