//! Spans, and their export as OTLP over gRPC: batched, bounded, never in a request's way.

use std::time::{Duration, SystemTime};

use ::metrics::Counter;
use mesh_api::{backoff::Backoff, names, sys::Sys};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    resource::v1::Resource as WireResource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan, Status, span::SpanKind, status::StatusCode},
};
use rand::Rng as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tonic::transport::{Channel, Endpoint};

use super::Telemetry;

/// Spans sent at once.
const BATCH: usize = 512;
/// A batch that is not full waits this long for more.
const LINGER: Duration = Duration::from_millis(500);
/// One export takes at most this long.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which side of the hop the span tells about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The inbound side.
    Server,
    /// The outbound side.
    Client,
}

/// One finished span.
#[derive(Clone, Debug)]
pub struct Span {
    /// Trace.
    pub trace_id: [u8; 16],
    /// Span.
    pub span_id: [u8; 8],
    /// Parent; zero where it begins the trace.
    pub parent_id: [u8; 8],
    /// Side.
    pub kind: Kind,
    /// `METHOD` or `METHOD route`: low cardinality.
    pub name: String,
    /// Begin.
    pub start: SystemTime,
    /// End.
    pub end: SystemTime,
    /// Attributes, in OpenTelemetry's semantic names.
    pub attributes: Vec<(&'static str, Value)>,
    /// True where it failed.
    pub failed: bool,
}

/// A value of an attribute.
#[derive(Clone, Debug)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Exports spans until the proxy has dropped its end of the queue, then what is left.
pub async fn export(
    mut queue: mpsc::Receiver<Span>,
    endpoint: String,
    resource: Resource,
    dropped: Counter,
    sys: &Sys,
) {
    let Ok(endpoint) = Endpoint::from_shared(endpoint) else { return };
    let channel = endpoint.connect_timeout(EXPORT_TIMEOUT).timeout(EXPORT_TIMEOUT).connect_lazy();
    let mut client = TraceServiceClient::new(channel);
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(30));
    let mut rng = sys.entropy.rng();
    let mut batch = Vec::with_capacity(BATCH);
    while !batch.is_empty() || queue.recv_many(&mut batch, BATCH).await > 0 {
        let _ = timeout(LINGER, fill(&mut queue, &mut batch)).await;
        let count = batch.len() as u64;
        let request = request(std::mem::take(&mut batch), &resource);
        match send(&mut client, request).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                dropped.increment(count);
                tracing::debug!(%error, spans = count, "spans were not exported");
                if ends_within(&mut queue, &mut batch, backoff.next_wait(rng.next_u32())).await {
                    dropped.increment(batch.len() as u64);
                    return;
                }
            }
        }
    }
}

/// Waits, and keeps what comes meanwhile; true as soon as nothing more will come: who ends does not wait for a collector
/// that is not there.
async fn ends_within(queue: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>, wait: Duration) -> bool {
    let end = Instant::now() + wait;
    while batch.len() < BATCH {
        match timeout_at(end, queue.recv()).await {
            Ok(Some(span)) => batch.push(span),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
    sleep_until(end).await;
    false
}

async fn fill(queue: &mut mpsc::Receiver<Span>, batch: &mut Vec<Span>) {
    while batch.len() < BATCH {
        match queue.recv().await {
            Some(span) => batch.push(span),
            None => return,
        }
    }
}

async fn send(client: &mut TraceServiceClient<Channel>, request: ExportTraceServiceRequest) -> Result<(), String> {
    match timeout(EXPORT_TIMEOUT, client.export(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(status.message().to_owned()),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// Whose spans they are.
#[derive(Clone, Debug)]
pub struct Resource(WireResource);

impl Resource {
    /// The workload that the proxy stands beside.
    #[must_use]
    pub fn of(telemetry: &Telemetry) -> Self {
        let attributes = vec![
            attribute("service.name", Value::Text(telemetry.workload.to_string())),
            attribute("service.namespace", Value::Text(telemetry.namespace.to_string())),
            attribute("service.instance.id", Value::Text(telemetry.instance.to_string())),
            attribute("telemetry.sdk.name", Value::Text("mesh".to_owned())),
        ];
        Self(WireResource { attributes, ..WireResource::default() })
    }
}

fn request(batch: Vec<Span>, resource: &Resource) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: names::GROUP.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let spans =
        ScopeSpans { scope: Some(scope), spans: batch.into_iter().map(wire).collect(), ..ScopeSpans::default() };
    let spans =
        ResourceSpans { resource: Some(resource.0.clone()), scope_spans: vec![spans], ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![spans] }
}

fn wire(span: Span) -> WireSpan {
    let kind = match span.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
    };
    let parent = if span.parent_id == [0; 8] { Vec::new() } else { span.parent_id.to_vec() };
    let code = if span.failed { StatusCode::Error } else { StatusCode::Unset };
    WireSpan {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: parent,
        name: span.name,
        kind: kind.into(),
        start_time_unix_nano: nanos(span.start),
        end_time_unix_nano: nanos(span.end),
        attributes: span.attributes.into_iter().map(|(name, value)| attribute(name, value)).collect(),
        status: Some(Status { code: code.into(), ..Status::default() }),
        ..WireSpan::default()
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(name: &'static str, value: Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text),
        Value::Number(number) => any_value::Value::IntValue(number),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span() -> Span {
        Span {
            trace_id: [1; 16],
            span_id: [2; 8],
            parent_id: [0; 8],
            kind: Kind::Client,
            name: "GET".to_owned(),
            start: SystemTime::UNIX_EPOCH,
            end: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            failed: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_ends_does_not_wait_for_a_collector_that_is_not_there() {
        let (sender, mut queue) = mpsc::channel(BATCH * 2);
        let mut batch = Vec::new();
        let wait = Duration::from_secs(30);
        sender.send(span()).await.unwrap();
        let begun = Instant::now();
        assert!(!ends_within(&mut queue, &mut batch, wait).await);
        assert_eq!((begun.elapsed(), batch.len()), (wait, 1), "what came meanwhile is kept");
        for _ in 0..=BATCH {
            sender.send(span()).await.unwrap();
        }
        let begun = Instant::now();
        assert!(!ends_within(&mut queue, &mut batch, wait).await);
        assert_eq!((begun.elapsed(), batch.len()), (wait, BATCH), "no more than is sent at once");
        batch.clear();
        drop(sender);
        let begun = Instant::now();
        assert!(ends_within(&mut queue, &mut batch, wait).await);
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
