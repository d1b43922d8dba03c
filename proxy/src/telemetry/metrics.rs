//! Every metric of the proxy, and the handles that the request path holds.

use std::{cell::OnceCell, rc::Rc, sync::Arc, time::Duration};

use ::metrics::{Counter, Histogram, KeyName, Label, Recorder, SharedString};
use http::StatusCode;

use super::Telemetry;
use crate::fault::{Code, Fault};

/// One metric, for the page itself and for its reference.
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

const REQUEST_LABELS: &str =
    "direction, source, source_namespace, destination, destination_namespace, route, protocol, tls, peer";

/// Every metric of the proxy.
pub const METRICS: &[Metric] = &[
    Metric {
        name: "mesh_requests_total",
        kind: "counter",
        labels: "those of mesh_request_duration_seconds, and status (2xx, ..., refused, error, canceled)",
        meaning: "Requests that ended, by the class of their status. What the mesh answered itself, here or at the peer, is refused; a gRPC status other than 0 is error.",
    },
    Metric {
        name: "mesh_request_duration_seconds",
        kind: "histogram",
        labels: REQUEST_LABELS,
        meaning: "From a request's head to its response's end.",
    },
    Metric {
        name: "mesh_refusals_total",
        kind: "counter",
        labels: "direction, code, object",
        meaning: "What the proxy refused or failed itself, by code and by the object behind it.",
    },
    Metric {
        name: "mesh_connections_total",
        kind: "counter",
        labels: "those of mesh_request_duration_seconds; protocol is http1, http2 or tcp",
        meaning: "Connections accepted, by what they turned out to be. Outbound ones of HTTP have no peer of their own: each request finds its endpoint.",
    },
    Metric { name: "mesh_connections_open", kind: "gauge", labels: "direction", meaning: "Connections open now." },
    Metric {
        name: "mesh_transferred_bytes_total",
        kind: "counter",
        labels: "direction, way (sent: towards the server, received: from it)",
        meaning: "Bytes of connections that are not HTTP.",
    },
    Metric {
        name: "mesh_tls_handshakes_total",
        kind: "counter",
        labels: "side (client, server), result (ok, refused, failed)",
        meaning: "Handshakes between sidecars; refused means that an identity was not accepted.",
    },
    Metric {
        name: "mesh_retries_total",
        kind: "counter",
        labels: "reason (unprocessed, connection-lost)",
        meaning: "Requests that were tried once more: the first try cannot have been worked on, or its connection broke \
                  before it was answered and the request does no harm twice.",
    },
    Metric {
        name: "mesh_certificate_expiry_timestamp_seconds",
        kind: "gauge",
        labels: "",
        meaning: "When the own certificate runs out, in seconds since 1970.",
    },
    Metric {
        name: "mesh_discovery_connected",
        kind: "gauge",
        labels: "",
        meaning: "1 while the discovery stream is up. Without it the last known state stays in force.",
    },
    Metric {
        name: "mesh_discovery_updates_total",
        kind: "counter",
        labels: "kind (destination, delta, inbound, not_found, current, refused)",
        meaning: "Messages of the controller, by what they brought.",
    },
    Metric {
        name: "mesh_bad_requests_total",
        kind: "counter",
        labels: "direction, reason",
        meaning: "Requests that the HTTP/1 codec or the normaliser refused.",
    },
    Metric {
        name: "mesh_spans_dropped_total",
        kind: "counter",
        labels: "",
        meaning: "Spans that could not be exported in time.",
    },
    Metric {
        name: "mesh_access_lines_dropped_total",
        kind: "counter",
        labels: "",
        meaning: "Access lines that could not be written in time.",
    },
    Metric { name: "mesh_build_info", kind: "gauge", labels: "version", meaning: "1; the label tells the version." },
];

impl Metric {
    pub(super) fn describe(&self, recorder: &impl Recorder) {
        let (name, meaning) = (KeyName::from_const_str(self.name), SharedString::const_str(self.meaning));
        match self.kind {
            "counter" => recorder.describe_counter(name, None, meaning),
            "gauge" => recorder.describe_gauge(name, None, meaning),
            _ => recorder.describe_histogram(name, None, meaning),
        }
    }
}

/// Which way a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the application.
    Outbound,
    /// To the application.
    Inbound,
}

impl Direction {
    /// For labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What all requests of one edge have in common.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Which way.
    pub direction: Direction,
    /// Calling workload or service account.
    pub source: Arc<str>,
    /// Its namespace.
    pub source_namespace: Arc<str>,
    /// Called service or workload.
    pub destination: Arc<str>,
    /// Its namespace.
    pub destination_namespace: Arc<str>,
    /// Route, as `NAMESPACE/NAME/RULE`; empty where none was involved.
    pub route: Arc<str>,
    /// `http1`, `http2`, `grpc`.
    pub protocol: &'static str,
    /// Verified identity of the peer; `None`: no mutual TLS.
    pub peer: Option<Arc<str>>,
}

impl Edge {
    /// Counts one connection of this edge.
    pub fn count_connection(&self, telemetry: &Telemetry) {
        telemetry.counter("mesh_connections_total", self.labels()).increment(1);
    }

    fn labels(&self) -> Vec<Label> {
        let text = |value: &Arc<str>| SharedString::from_shared(Arc::clone(value));
        vec![
            Label::from_static_parts("direction", self.direction.as_str()),
            Label::new("source", text(&self.source)),
            Label::new("source_namespace", text(&self.source_namespace)),
            Label::new("destination", text(&self.destination)),
            Label::new("destination_namespace", text(&self.destination_namespace)),
            Label::new("route", text(&self.route)),
            Label::from_static_parts("protocol", self.protocol),
            Label::from_static_parts("tls", if self.peer.is_some() { "mutual" } else { "none" }),
            Label::new("peer", self.peer.as_ref().map_or(SharedString::const_str(""), text)),
        ]
    }
}

/// How a request ended, for its counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With this status.
    Status(StatusCode),
    /// Answered by the mesh itself, here or at the peer.
    Refused(StatusCode),
    /// Broken off by the upstream, or with a gRPC status other than 0.
    Error,
    /// Broken off by the caller.
    Canceled,
}

const CLASSES: [&str; 8] = ["1xx", "2xx", "3xx", "4xx", "5xx", "error", "canceled", "refused"];

/// Handles of one edge; a class's counter is made with its first request.
#[derive(Debug)]
pub struct RequestMetrics {
    telemetry: Arc<Telemetry>,
    edge: Edge,
    classes: [OnceCell<Counter>; CLASSES.len()],
    duration: OnceCell<Histogram>,
}

impl RequestMetrics {
    /// For one edge.
    #[must_use]
    pub fn new(telemetry: &Arc<Telemetry>, edge: Edge) -> Rc<Self> {
        let telemetry = Arc::clone(telemetry);
        Rc::new(Self { telemetry, edge, classes: Default::default(), duration: OnceCell::new() })
    }

    /// What the requests have in common.
    #[must_use]
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Telemetry of the proxy.
    #[must_use]
    pub fn telemetry(&self) -> &Arc<Telemetry> {
        &self.telemetry
    }

    /// Counts one request.
    pub fn record(&self, outcome: Outcome, took: Duration) {
        let class = match outcome {
            Outcome::Status(status) => usize::from(status.as_u16() / 100).clamp(1, 5) - 1,
            Outcome::Error => 5,
            Outcome::Canceled => 6,
            Outcome::Refused(_) => 7,
        };
        if let (Some(cell), Some(name)) = (self.classes.get(class), CLASSES.get(class)) {
            let counter = cell.get_or_init(|| {
                let mut labels = self.edge.labels();
                labels.push(Label::from_static_parts("status", name));
                self.telemetry.counter("mesh_requests_total", labels)
            });
            counter.increment(1);
        }
        let duration =
            self.duration.get_or_init(|| self.telemetry.histogram("mesh_request_duration_seconds", self.edge.labels()));
        duration.record(took.as_secs_f64());
    }
}

/// Counters of refusals without an object, resolved once; those with an object are resolved when they happen, which
/// the cap on series bounds.
#[derive(Debug)]
pub struct RefusalMetrics {
    telemetry: Arc<Telemetry>,
    direction: Direction,
    codes: [OnceCell<Counter>; Code::ALL.len()],
    last: std::cell::RefCell<Option<(Code, Arc<str>, Counter)>>,
}

impl RefusalMetrics {
    /// For one direction.
    #[must_use]
    pub fn new(telemetry: &Arc<Telemetry>, direction: Direction) -> Self {
        let telemetry = Arc::clone(telemetry);
        Self { telemetry, direction, codes: Default::default(), last: std::cell::RefCell::default() }
    }

    /// Counts one.
    pub fn record(&self, fault: &Fault) {
        match &fault.object {
            None => {
                if let Some(cell) = self.codes.get(fault.code as usize) {
                    cell.get_or_init(|| self.resolve(fault.code, "".into())).increment(1);
                }
            }
            Some(object) => {
                let mut last = self.last.borrow_mut();
                if let Some((code, name, counter)) = last.as_ref()
                    && *code == fault.code
                    && name == object
                {
                    counter.increment(1);
                    return;
                }
                let counter = self.resolve(fault.code, Arc::clone(object));
                counter.increment(1);
                *last = Some((fault.code, Arc::clone(object), counter));
            }
        }
    }

    fn resolve(&self, code: Code, object: Arc<str>) -> Counter {
        let labels = vec![
            Label::from_static_parts("direction", self.direction.as_str()),
            Label::from_static_parts("code", code.as_str()),
            Label::new("object", SharedString::from_shared(object)),
        ];
        self.telemetry.counter("mesh_refusals_total", labels)
    }
}
