//! What a run prints. Floor 0.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// The longest time that is told apart, in microseconds.
const LONGEST: u64 = 60_000_000;
/// Errors of which the text is kept.
const TEXTS: usize = 3;

/// The outcome of a run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Requests that were answered as they should be (or handshakes, or messages).
    pub requests: u64,
    /// Those that were not.
    pub errors: u64,
    /// What the first of these were.
    pub error_texts: Vec<String>,
    /// Bytes of bodies.
    pub bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// Latencies in microseconds: median, 99th and 99.9th of a hundred, longest.
    pub p50_us: u64,
    /// As above.
    pub p99_us: u64,
    /// As above.
    pub p999_us: u64,
    /// As above.
    pub max_us: u64,
}

/// Counts while a run goes on.
#[derive(Debug)]
pub struct Counts {
    latencies: Histogram<u32>,
    report: Report,
    began: Instant,
}

impl Counts {
    /// None so far.
    pub fn new() -> anyhow::Result<Self> {
        let latencies = Histogram::new_with_bounds(1, LONGEST, 3)?;
        Ok(Self { latencies, report: Report::default(), began: Instant::now() })
    }

    /// An answer with so many bytes of body.
    pub fn good(&mut self, took: Duration, bytes: u64) {
        self.report.requests += 1;
        self.report.bytes += bytes;
        self.latencies.saturating_record(u64::try_from(took.as_micros()).unwrap_or(LONGEST));
    }

    /// No answer, or a wrong one.
    pub fn bad(&mut self, error: &dyn std::fmt::Display) {
        self.report.errors += 1;
        if self.report.error_texts.len() < TEXTS {
            self.report.error_texts.push(error.to_string());
        }
    }

    /// The sum.
    pub fn report(mut self) -> Report {
        self.report.seconds = self.began.elapsed().as_secs_f64();
        self.report.p50_us = self.latencies.value_at_quantile(0.5);
        self.report.p99_us = self.latencies.value_at_quantile(0.99);
        self.report.p999_us = self.latencies.value_at_quantile(0.999);
        self.report.max_us = self.latencies.max();
        self.report
    }
}
