//! The receiving end of OTLP/gRPC.

use std::{net::SocketAddr, sync::Arc};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{AnyValue, KeyValue, any_value},
    trace::v1::{Span as WireSpan, span::SpanKind, status::StatusCode},
};
use tokio::net::TcpListener;
use tonic::{
    Request, Response, Status,
    transport::{Server, server::TcpIncoming},
};

use super::store::{Kind, Span, TraceId, Traces};

/// Largest message, in bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
/// Attributes that are kept of one span.
const MAX_ATTRIBUTES: usize = 32;
/// Longest text that is kept, in characters.
const MAX_TEXT: usize = 256;
/// Requests that one connection may have at work.
const CONCURRENCY: usize = 16;

/// Receives spans into a store.
#[derive(Debug)]
pub struct Receiver {
    traces: Arc<Traces>,
}

/// Listens on a free loopback port, and answers where, and what serves it until it is dropped.
///
/// # Errors
/// As the system says.
pub async fn serve(traces: Arc<Traces>) -> std::io::Result<(SocketAddr, impl Future<Output = Result<(), String>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let service = TraceServiceServer::new(Receiver { traces }).max_decoding_message_size(MAX_MESSAGE);
    let server = Server::builder().concurrency_limit_per_connection(CONCURRENCY).add_service(service);
    let serving = server.serve_with_incoming(TcpIncoming::from(listener));
    Ok((address, async { serving.await.map_err(|error| format!("the trace collector failed: {error}")) }))
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let (service, namespace) = (named(&attributes, "service.name"), named(&attributes, "service.namespace"));
            for wire in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                // A span without a proper trace id belongs nowhere.
                if let Ok(id) = <[u8; 16]>::try_from(wire.trace_id.as_slice()) {
                    self.traces.add(TraceId(id), span(wire, &service, &namespace));
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn span(wire: WireSpan, service: &str, namespace: &str) -> Span {
    let kind = match wire.kind() {
        SpanKind::Server | SpanKind::Consumer => Kind::Server,
        SpanKind::Client | SpanKind::Producer => Kind::Client,
        SpanKind::Internal | SpanKind::Unspecified => Kind::Internal,
    };
    Span {
        id: hex(&wire.span_id),
        parent: hex(&wire.parent_span_id),
        service: service.to_owned(),
        namespace: namespace.to_owned(),
        kind,
        start: wire.start_time_unix_nano,
        end: wire.end_time_unix_nano,
        failed: wire.status.is_some_and(|status| status.code() == StatusCode::Error),
        name: short(wire.name),
        attributes: wire.attributes.into_iter().take(MAX_ATTRIBUTES).map(|a| (short(a.key), text(a.value))).collect(),
    }
}

fn named(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == name);
    text(found.and_then(|attribute| attribute.value.clone()))
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => short(text),
        Some(any_value::Value::BoolValue(yes)) => yes.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::DoubleValue(number)) => number.to_string(),
        Some(_) => "(not shown)".to_owned(),
        None => String::new(),
    }
}

fn short(text: String) -> String {
    if text.len() <= MAX_TEXT { text } else { text.chars().take(MAX_TEXT).collect() }
}

fn hex(id: &[u8]) -> String {
    id.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use opentelemetry_proto::tonic::{
        collector::trace::v1::trace_service_client::TraceServiceClient,
        resource::v1::Resource,
        trace::v1::{ResourceSpans, ScopeSpans, Status as WireStatus},
    };
    use tokio::time::timeout;

    use super::*;

    fn attribute(key: &str, value: any_value::Value) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    #[tokio::test]
    async fn spans_arrive_over_the_wire() {
        let traces = Arc::new(Traces::new());
        let (address, serving) = serve(Arc::clone(&traces)).await.unwrap();
        tokio::spawn(serving);
        let good = WireSpan {
            trace_id: vec![7; 16],
            span_id: vec![1; 8],
            name: "x".repeat(1000),
            kind: SpanKind::Client.into(),
            start_time_unix_nano: 5,
            end_time_unix_nano: 9,
            attributes: vec![attribute("http.response.status_code", any_value::Value::IntValue(200)); 100],
            status: Some(WireStatus { code: StatusCode::Error.into(), ..WireStatus::default() }),
            ..WireSpan::default()
        };
        let bad = WireSpan { trace_id: vec![7; 3], ..good.clone() };
        let scope = ScopeSpans { spans: vec![bad, good], ..ScopeSpans::default() };
        let name = attribute("service.name", any_value::Value::StringValue("web".into()));
        let resource = Resource { attributes: vec![name], ..Resource::default() };
        let spans = ResourceSpans { resource: Some(resource), scope_spans: vec![scope], ..ResourceSpans::default() };
        let exporting = async {
            let mut client = TraceServiceClient::connect(format!("http://{address}")).await.unwrap();
            client.export(ExportTraceServiceRequest { resource_spans: vec![spans] }).await.unwrap();
        };
        timeout(Duration::from_secs(10), exporting).await.unwrap();
        let trace = traces.get(TraceId([7; 16])).unwrap();
        let [span] = trace.spans.as_slice() else { panic!("{trace:?}") };
        assert_eq!((span.service.as_str(), span.id.as_str(), span.kind), ("web", "0101010101010101", Kind::Client));
        assert_eq!((span.name.len(), span.attributes.len(), span.failed), (MAX_TEXT, MAX_ATTRIBUTES, true));
        assert_eq!(span.attributes[0].1, "200");
    }
}
