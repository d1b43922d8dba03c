//! What the proxy tells about its work: metrics, spans, access lines. Floor 1: imports `config` and `fault`.
//!
//! Labels are resolved when configuration changes or a connection is accepted, never for a request: the request path
//! holds handles. All label sets together have a cap.

pub mod metrics;
pub mod spans;

use std::{collections::HashSet, sync::Arc};

use ::metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use self::{metrics::METRICS, spans::Span};
use crate::config::Config;

/// Bounds of the buckets of durations, in seconds.
const DURATION_BUCKETS: [f64; 18] = [
    0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
];
/// Spans that may wait to be exported.
const SPAN_QUEUE: usize = 4096;
/// Access lines that may wait to be written.
const ACCESS_QUEUE: usize = 4096;

/// Everything telemetry, shared by all threads of one proxy.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    /// Every series there is. Locked when a label set is resolved, which no request does.
    series: Mutex<HashSet<Key>>,
    max_series: usize,
    spans: Option<mpsc::Sender<Span>>,
    spans_dropped: Counter,
    access: Option<mpsc::Sender<String>>,
    access_dropped: Counter,
    /// Share of the traces begun here that is recorded.
    pub trace_ratio: f64,
    /// What the workload is an instance of, for labels and spans; the workload itself where nothing else is told.
    pub workload: Arc<str>,
    /// The workload itself.
    pub instance: Arc<str>,
    /// Its namespace.
    pub namespace: Arc<str>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("workload", &self.workload).finish_non_exhaustive()
    }
}

/// The ends that the control thread drains.
#[derive(Debug)]
pub struct Drains {
    /// Spans to export.
    pub spans: Option<mpsc::Receiver<Span>>,
    /// Lines to write.
    pub access: Option<mpsc::Receiver<String>>,
}

impl Telemetry {
    /// For one proxy.
    ///
    /// # Errors
    /// Where the buckets are refused, which a test rules out.
    pub fn new(config: &Config) -> Result<(Arc<Self>, Drains), metrics_exporter_prometheus::BuildError> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &DURATION_BUCKETS)?
            .build_recorder();
        for metric in METRICS {
            metric.describe(&recorder);
        }
        let (spans, span_drain) = channel(!config.telemetry.otlp_endpoint.is_empty(), SPAN_QUEUE);
        let (access, access_drain) = channel(config.telemetry.access_log, ACCESS_QUEUE);
        let plain = |name: &'static str| recorder.register_counter(&Key::from_name(name), &META);
        let telemetry = Self {
            spans_dropped: plain("mesh_spans_dropped_total"),
            access_dropped: plain("mesh_access_lines_dropped_total"),
            series: Mutex::default(),
            max_series: config.telemetry.max_series,
            spans,
            access,
            trace_ratio: config.telemetry.trace_ratio,
            workload: if config.owner.is_empty() { &config.workload } else { &config.owner }.as_str().into(),
            instance: config.workload.as_str().into(),
            namespace: config.namespace.as_str().into(),
            recorder,
        };
        let version = vec![Label::new("version", env!("CARGO_PKG_VERSION"))];
        telemetry.gauge("mesh_build_info", version).set(1.0);
        Ok((Arc::new(telemetry), Drains { spans: span_drain, access: access_drain }))
    }

    /// The page of metrics.
    #[must_use]
    pub fn handle(&self) -> PrometheusHandle {
        self.recorder.handle()
    }

    /// Resolves a counter. Once for a label set, not for a request.
    pub fn counter(&self, name: &'static str, labels: Vec<Label>) -> Counter {
        self.recorder.register_counter(&self.key(name, labels), &META)
    }

    /// Resolves a gauge. Once for a label set, not for a request.
    pub fn gauge(&self, name: &'static str, labels: Vec<Label>) -> Gauge {
        self.recorder.register_gauge(&self.key(name, labels), &META)
    }

    /// Resolves a histogram. Once for a label set, not for a request.
    pub fn histogram(&self, name: &'static str, labels: Vec<Label>) -> Histogram {
        self.recorder.register_histogram(&self.key(name, labels), &META)
    }

    /// Beyond the cap every value is counted as `other`: the number of series must not be for others to choose.
    fn key(&self, name: &'static str, labels: Vec<Label>) -> Key {
        let key = Key::from_parts(name, labels);
        let mut series = self.series.lock();
        if series.contains(&key) {
            return key;
        }
        if series.len() < self.max_series {
            series.insert(key.clone());
            return key;
        }
        let other = key.labels().map(|label| Label::new(label.key().to_owned(), "other"));
        Key::from_parts(name, other.collect::<Vec<_>>())
    }

    /// True where spans are exported at all.
    #[must_use]
    pub fn traces(&self) -> bool {
        self.spans.is_some()
    }

    /// Exports a span, or drops and counts it where the exporter is behind.
    pub fn record(&self, span: Span) {
        if self.spans.as_ref().is_some_and(|spans| spans.try_send(span).is_err()) {
            self.spans_dropped.increment(1);
        }
    }

    /// Counter of spans that could not be exported.
    pub fn spans_dropped(&self) -> Counter {
        self.spans_dropped.clone()
    }

    /// True where access lines are written.
    #[must_use]
    pub fn logs_access(&self) -> bool {
        self.access.is_some()
    }

    /// Writes an access line, or drops and counts it where the reader of standard output is behind.
    pub fn log_access(&self, line: String) {
        if self.access.as_ref().is_some_and(|access| access.try_send(line).is_err()) {
            self.access_dropped.increment(1);
        }
    }
}

static META: Metadata<'static> = Metadata::new("mesh_proxy", Level::INFO, None);

fn channel<T>(wanted: bool, bound: usize) -> (Option<mpsc::Sender<T>>, Option<mpsc::Receiver<T>>) {
    if !wanted {
        return (None, None);
    }
    let (sender, receiver) = mpsc::channel(bound);
    (Some(sender), Some(receiver))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_share_the_name_of_their_owner() {
        let mut config = Config { workload: "web-1".into(), ..Config::default() };
        let names = |config: &Config| {
            let (telemetry, _drains) = Telemetry::new(config).unwrap();
            (telemetry.workload.to_string(), telemetry.instance.to_string())
        };
        assert_eq!(names(&config), ("web-1".into(), "web-1".into()));
        config.owner = "web".into();
        assert_eq!(names(&config), ("web".into(), "web-1".into()));
    }

    #[test]
    fn series_are_capped() {
        let mut config = Config::default();
        config.telemetry.max_series = 5;
        let (telemetry, _drains) = Telemetry::new(&config).unwrap();
        for n in 0..100 {
            telemetry.counter("mesh_requests_total", vec![Label::new("peer", n.to_string())]).increment(1);
        }
        let page = telemetry.handle().render();
        assert!(page.lines().filter(|line| line.starts_with("mesh_requests_total")).count() <= 6, "{page}");
        assert!(page.contains("peer=\"other\""), "{page}");
    }
}
