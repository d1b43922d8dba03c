//! Every metric of the controller, once: for the page itself, for its reference, and as handles for those who count.
//! Floor 0.

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder, SharedString};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::problem::Severity;

/// One metric, for the page and for its reference.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Labels.
    pub labels: &'static str,
    /// Meaning.
    pub meaning: &'static str,
}

macro_rules! metrics {
    ($($name:literal $kind:literal [$labels:literal] $meaning:literal;)*) => {
        /// Every metric of the controller.
        pub const METRICS: &[Metric] =
            &[$(Metric { name: $name, kind: $kind, labels: $labels, meaning: $meaning }),*];
    };
}

metrics! {
    "mesh_controller_build_info" "gauge" ["version"] "1; the version is in the label.";
    "mesh_controller_synced" "gauge" [""] "1 once all that was there at the start is known; before that nobody is answered.";
    "mesh_controller_objects" "gauge" ["kind"] "Objects of the kinds that the mesh reads.";
    "mesh_controller_problems" "gauge" ["severity (error, warning)"] "Things that are wrong with objects or manifests now.";
    "mesh_controller_source_events_total" "counter" [""] "Objects that came, changed or went.";
    "mesh_controller_commit_duration_seconds" "histogram" [""] "From a batch of events to the last stream that was told to look.";
    "mesh_controller_dirty_topics_total" "counter" [""] "Topics that a change may have changed.";
    "mesh_controller_streams" "gauge" [""] "Streams of proxies that are open.";
    "mesh_controller_streams_ended_total" "counter" ["reason (closed, refused, slow, protocol, failed)"] "Streams that ended.";
    "mesh_controller_subscriptions" "gauge" [""] "Keys that proxies watch, of all streams together.";
    "mesh_controller_messages_total" "counter" ["kind (full, delta, inbound, current, not_found)"] "Messages to proxies.";
    "mesh_controller_acks_total" "counter" [""] "Versions that proxies took over.";
    "mesh_controller_nacks_total" "counter" [""] "Versions that proxies refused: a proxy keeps what it had.";
    "mesh_controller_resolve_duration_seconds" "histogram" [""] "To work out one answer.";
    "mesh_controller_watch_served" "gauge" ["kind"] "1 where the cluster has the kind, 0 where it has not; only with the source `kubernetes`, as all that follows.";
    "mesh_controller_watch_up" "gauge" ["kind"] "1 while the watch of the kind is up. Without it the last known state stays in force.";
    "mesh_controller_watch_lists_total" "counter" ["kind"] "Times that all objects of the kind were asked for.";
    "mesh_controller_watch_errors_total" "counter" ["kind"] "Lists and watches that failed.";
    "mesh_controller_discovery_errors_total" "counter" [""] "Times that the API server did not say which kinds it has.";
    "mesh_controller_leader" "gauge" [""] "1 while this replica is the leader.";
    "mesh_controller_status_writes_total" "counter" ["result (written, conflict, failed)"] "Statuses of objects that were written. A conflict is tried again with what is there then.";
    "mesh_controller_snapshots_shared_total" "counter" [""] "Answers that another stream had worked out already.";
    "mesh_controller_admissions_total" "counter" ["webhook (inject, validate), result (injected, unchanged, left, allowed, refused, failed)"] "Reviews of API servers that were answered; failed: that could not be.";
    "mesh_controller_admission_duration_seconds" "histogram" [""] "From the head of a review to its answer.";
}

/// Bounds of the buckets of durations, in seconds.
const BUCKETS: [f64; 14] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

const META: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// The proxy closed it, or went away.
    Closed,
    /// The proxy may not have what it asked for.
    Refused,
    /// The proxy did not read.
    Slow,
    /// The proxy said what it must not say.
    Protocol,
    /// This process failed.
    Failed,
}

/// Kinds of messages to proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A whole destination.
    Full,
    /// Changed endpoints.
    Delta,
    /// An inbound policy.
    Inbound,
    /// What the proxy has is right.
    Current,
    /// There is nothing.
    NotFound,
}

/// A webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Webhook {
    /// Pods get their sidecar.
    Inject,
    /// Objects of the mesh's own kinds are checked.
    Validate,
}

/// How a review ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// With a sidecar.
    Injected,
    /// Let in as it is: nothing was to be done.
    Unchanged,
    /// Let in as it is: it is not for the mesh.
    Left,
    /// Let in: nothing is wrong.
    Allowed,
    /// Not let in.
    Refused,
    /// Without an answer.
    Failed,
}

const ADMISSIONS: [&str; 6] = ["injected", "unchanged", "left", "allowed", "refused", "failed"];

/// What became of a status that was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWrite {
    /// It was.
    Written,
    /// Somebody else wrote the object meanwhile.
    Conflict,
    /// It was not.
    Failed,
}

/// Handles of the watch of one kind.
#[derive(Clone)]
pub struct WatchMetrics {
    /// `mesh_controller_watch_served`.
    pub served: Gauge,
    /// `mesh_controller_watch_up`.
    pub up: Gauge,
    /// `mesh_controller_watch_lists_total`.
    pub lists: Counter,
    /// `mesh_controller_watch_errors_total`.
    pub errors: Counter,
}

impl std::fmt::Debug for WatchMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WatchMetrics").finish_non_exhaustive()
    }
}

/// Handles, resolved once. The recorder is this process's part's own, so that several parts of a mesh can run in one
/// process.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    ended: [Counter; 5],
    messages: [Counter; 5],
    admissions: [[Counter; 6]; 2],
    problems: [Gauge; 2],
    status_writes: [Counter; 3],
    /// `mesh_controller_discovery_errors_total`.
    pub discovery_errors: Counter,
    /// `mesh_controller_leader`.
    pub leader: Gauge,
    /// `mesh_controller_synced`.
    pub synced: Gauge,
    /// `mesh_controller_source_events_total`.
    pub source_events: Counter,
    /// `mesh_controller_commit_duration_seconds`.
    pub commit_duration: Histogram,
    /// `mesh_controller_dirty_topics_total`.
    pub dirty_topics: Counter,
    /// `mesh_controller_streams`.
    pub streams: Gauge,
    /// `mesh_controller_subscriptions`.
    pub subscriptions: Gauge,
    /// `mesh_controller_acks_total`.
    pub acks: Counter,
    /// `mesh_controller_nacks_total`.
    pub nacks: Counter,
    /// `mesh_controller_resolve_duration_seconds`.
    pub resolve_duration: Histogram,
    /// `mesh_controller_snapshots_shared_total`.
    pub snapshots_shared: Counter,
    /// `mesh_controller_admission_duration_seconds`.
    pub admission_duration: Histogram,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// All at zero.
    ///
    /// # Errors
    /// Where the buckets are refused, which a test rules out.
    pub fn new() -> Result<Self, BuildError> {
        let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)?;
        let recorder = builder.build_recorder();
        for metric in METRICS {
            let (name, meaning) = (KeyName::from_const_str(metric.name), SharedString::const_str(metric.meaning));
            match metric.kind {
                "counter" => recorder.describe_counter(name, None, meaning),
                "gauge" => recorder.describe_gauge(name, None, meaning),
                _ => recorder.describe_histogram(name, None, meaning),
            }
        }
        let counter = |name| recorder.register_counter(&Key::from_static_name(name), &META);
        let gauge = |name| recorder.register_gauge(&Key::from_static_name(name), &META);
        let histogram = |name| recorder.register_histogram(&Key::from_static_name(name), &META);
        let labelled = |name: &'static str, label: &'static str, value: &'static str| {
            Key::from_parts(name, vec![Label::from_static_parts(label, value)])
        };
        let ended = ["closed", "refused", "slow", "protocol", "failed"].map(|reason| {
            recorder.register_counter(&labelled("mesh_controller_streams_ended_total", "reason", reason), &META)
        });
        let messages = ["full", "delta", "inbound", "current", "not_found"]
            .map(|kind| recorder.register_counter(&labelled("mesh_controller_messages_total", "kind", kind), &META));
        let admissions = ["inject", "validate"].map(|webhook| {
            ADMISSIONS.map(|result| {
                let labels =
                    vec![Label::from_static_parts("webhook", webhook), Label::from_static_parts("result", result)];
                recorder.register_counter(&Key::from_parts("mesh_controller_admissions_total", labels), &META)
            })
        });
        let problems = ["error", "warning"].map(|severity| {
            recorder.register_gauge(&labelled("mesh_controller_problems", "severity", severity), &META)
        });
        let status_writes = ["written", "conflict", "failed"].map(|result| {
            recorder.register_counter(&labelled("mesh_controller_status_writes_total", "result", result), &META)
        });
        let build = labelled("mesh_controller_build_info", "version", env!("CARGO_PKG_VERSION"));
        recorder.register_gauge(&build, &META).set(1.0);
        Ok(Self {
            synced: gauge("mesh_controller_synced"),
            source_events: counter("mesh_controller_source_events_total"),
            commit_duration: histogram("mesh_controller_commit_duration_seconds"),
            dirty_topics: counter("mesh_controller_dirty_topics_total"),
            streams: gauge("mesh_controller_streams"),
            subscriptions: gauge("mesh_controller_subscriptions"),
            acks: counter("mesh_controller_acks_total"),
            nacks: counter("mesh_controller_nacks_total"),
            resolve_duration: histogram("mesh_controller_resolve_duration_seconds"),
            snapshots_shared: counter("mesh_controller_snapshots_shared_total"),
            admission_duration: histogram("mesh_controller_admission_duration_seconds"),
            discovery_errors: counter("mesh_controller_discovery_errors_total"),
            leader: gauge("mesh_controller_leader"),
            ended,
            messages,
            admissions,
            problems,
            status_writes,
            recorder,
        })
    }

    /// The page of metrics.
    #[must_use]
    pub fn handle(&self) -> PrometheusHandle {
        self.recorder.handle()
    }

    /// `mesh_controller_streams_ended_total`.
    pub fn ended(&self, reason: StreamEnd) -> &Counter {
        let [closed, refused, slow, protocol, failed] = &self.ended;
        match reason {
            StreamEnd::Closed => closed,
            StreamEnd::Refused => refused,
            StreamEnd::Slow => slow,
            StreamEnd::Protocol => protocol,
            StreamEnd::Failed => failed,
        }
    }

    /// `mesh_controller_messages_total`.
    pub fn messages(&self, kind: MessageKind) -> &Counter {
        let [full, delta, inbound, current, not_found] = &self.messages;
        match kind {
            MessageKind::Full => full,
            MessageKind::Delta => delta,
            MessageKind::Inbound => inbound,
            MessageKind::Current => current,
            MessageKind::NotFound => not_found,
        }
    }

    /// `mesh_controller_admissions_total`.
    pub fn admissions(&self, webhook: Webhook, result: Admission) -> &Counter {
        let [inject, validate] = &self.admissions;
        let [injected, unchanged, left, allowed, refused, failed] = match webhook {
            Webhook::Inject => inject,
            Webhook::Validate => validate,
        };
        match result {
            Admission::Injected => injected,
            Admission::Unchanged => unchanged,
            Admission::Left => left,
            Admission::Allowed => allowed,
            Admission::Refused => refused,
            Admission::Failed => failed,
        }
    }

    /// `mesh_controller_problems`.
    pub fn problems(&self, severity: Severity) -> &Gauge {
        let [error, warning] = &self.problems;
        match severity {
            Severity::Error => error,
            Severity::Warning => warning,
        }
    }

    /// `mesh_controller_status_writes_total`.
    pub fn status_writes(&self, result: StatusWrite) -> &Counter {
        let [written, conflict, failed] = &self.status_writes;
        match result {
            StatusWrite::Written => written,
            StatusWrite::Conflict => conflict,
            StatusWrite::Failed => failed,
        }
    }

    /// Handles of the watch of a kind; the kinds are those that the mesh reads, so the label is bounded.
    #[must_use]
    pub fn watch(&self, kind: &'static str) -> WatchMetrics {
        let key = |name: &'static str| Key::from_parts(name, vec![Label::from_static_parts("kind", kind)]);
        WatchMetrics {
            served: self.recorder.register_gauge(&key("mesh_controller_watch_served"), &META),
            up: self.recorder.register_gauge(&key("mesh_controller_watch_up"), &META),
            lists: self.recorder.register_counter(&key("mesh_controller_watch_lists_total"), &META),
            errors: self.recorder.register_counter(&key("mesh_controller_watch_errors_total"), &META),
        }
    }

    /// `mesh_controller_objects`. The kinds are those that the mesh reads, so the label is bounded.
    pub fn set_objects(&self, kind: &'static str, count: usize) {
        let key = Key::from_parts("mesh_controller_objects", vec![Label::from_static_parts("kind", kind)]);
        self.recorder.register_gauge(&key, &META).set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_of_the_table_is_on_the_page() {
        let telemetry = Telemetry::new().unwrap();
        telemetry.set_objects("Service", 3);
        telemetry.watch("Service").errors.increment(1);
        telemetry.commit_duration.record(0.1);
        telemetry.resolve_duration.record(0.1);
        telemetry.admission_duration.record(0.1);
        let page = telemetry.handle().render();
        for metric in METRICS {
            assert!(page.contains(&format!("# TYPE {} {}", metric.name, metric.kind)), "{} {page}", metric.name);
            assert!(page.contains(&format!("# HELP {} ", metric.name)), "{}", metric.name);
        }
        let told = page.lines().filter(|line| line.starts_with("# TYPE")).count();
        assert_eq!(told, METRICS.len());
    }
}
