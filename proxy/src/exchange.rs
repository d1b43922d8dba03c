//! One request's account: from its head to its response's end, whatever ends it. Floor 5: imports `telemetry`, `l7`,
//! `balance`, `upstream`.
//!
//! The account travels inside the response's body. When the body ends, breaks or is dropped, the account is closed:
//! metrics, the balancer's measurement, spans and the access line all come from this one place.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::SystemTime,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::{
    balance::{self, Pick},
    fault::Code,
    l7::body::{Body, BodyError},
    normal::headers::{GRPC_STATUS, MESH_ERROR},
    telemetry::{
        metrics::{Direction, Outcome, RequestMetrics},
        spans::{Kind, Span, Value},
    },
    upstream::Upstream,
};

/// What is measured of one request.
pub struct Account {
    /// Handles of its edge.
    pub metrics: Rc<RequestMetrics>,
    /// When its head was there.
    pub start: Instant,
    /// The choice of its endpoint, where one was tried: told how it went, and over when this is.
    pub pick: Option<Pick<Upstream>>,
    /// For its span and access line; `None` where neither is wanted.
    pub trail: Option<Box<Trail>>,
    /// Its status, once there is a response.
    pub status: StatusCode,
    /// A gRPC status other than 0 in its headers or trailers.
    pub grpc_failed: bool,
    /// The mesh itself answered, here or at the peer; nobody else may say so.
    pub by_mesh: bool,
    /// Why the proxy answered, where it did.
    pub refused: Option<Code>,
}

/// What a span and an access line tell beyond the metrics.
#[derive(Clone, Debug)]
pub struct Trail {
    /// Trace, span and parent; `None`: no span is recorded.
    pub ids: Option<([u8; 16], [u8; 8], [u8; 8])>,
    /// Wall time of the start.
    pub start: SystemTime,
    /// Method.
    pub method: Method,
    /// Path without query, cut to a bound.
    pub path: String,
    /// Host.
    pub host: String,
    /// The other side of the connection: endpoint or caller.
    pub peer: String,
}

/// Longest path in a span or an access line, in bytes.
pub const MAX_PATH: usize = 1024;

impl Account {
    /// Of a request whose head was there at `start`.
    #[must_use]
    pub fn begin(metrics: Rc<RequestMetrics>, start: Instant) -> Self {
        Self {
            metrics,
            start,
            pick: None,
            trail: None,
            status: StatusCode::OK,
            grpc_failed: false,
            by_mesh: false,
            refused: None,
        }
    }

    fn close(mut self, outcome: Outcome) {
        let took = self.start.elapsed();
        self.pick = None;
        self.metrics.record(outcome, took);
        if let Some(trail) = self.trail.take() {
            let result = self.result(outcome);
            let telemetry = self.metrics.telemetry();
            if telemetry.logs_access() {
                telemetry.log_access(self.access_line(&trail, &result, took.as_micros()));
            }
            if let Some((trace_id, span_id, parent_id)) = trail.ids {
                let failed = matches!(outcome, Outcome::Error) || self.status.is_server_error();
                telemetry.record(self.span(*trail, (trace_id, span_id, parent_id), took, failed));
            }
        }
    }

    fn result(&self, outcome: Outcome) -> String {
        match (self.refused, outcome) {
            (Some(code), _) => code.as_str().to_owned(),
            (None, Outcome::Status(status) | Outcome::Refused(status)) => status.as_str().to_owned(),
            (None, Outcome::Error) => "error".to_owned(),
            (None, Outcome::Canceled) => "canceled".to_owned(),
        }
    }

    fn access_line(&self, trail: &Trail, result: &str, micros: u128) -> String {
        let edge = self.metrics.edge();
        let since = trail.start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mut line = serde_json::json!({
            "time": since.as_secs_f64(),
            "direction": edge.direction.as_str(),
            "method": trail.method.as_str(),
            "host": trail.host,
            "path": trail.path,
            "status": self.status.as_u16(),
            "result": result,
            "duration_us": u64::try_from(micros).unwrap_or(u64::MAX),
            "peer": trail.peer,
            "identity": edge.peer.as_deref().unwrap_or_default(),
            "destination": format!("{}/{}", edge.destination_namespace, edge.destination),
            "route": &*edge.route,
        });
        if let (Some((trace, _, _)), Some(fields)) = (trail.ids, line.as_object_mut()) {
            fields.insert(
                "trace_id".to_owned(),
                trace.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
            );
        }
        line.to_string()
    }

    fn span(&self, trail: Trail, ids: ([u8; 16], [u8; 8], [u8; 8]), took: std::time::Duration, failed: bool) -> Span {
        let edge = self.metrics.edge();
        let text = |value: &str| Value::Text(value.to_owned());
        let name =
            if edge.route.is_empty() { trail.method.to_string() } else { format!("{} {}", trail.method, edge.route) };
        let mut attributes = vec![
            ("http.request.method", text(trail.method.as_str())),
            ("url.path", Value::Text(trail.path)),
            ("server.address", Value::Text(trail.host)),
            ("network.peer.address", Value::Text(trail.peer)),
            ("http.response.status_code", Value::Number(i64::from(self.status.as_u16()))),
            ("mesh.direction", text(edge.direction.as_str())),
            ("mesh.source", Value::Text(format!("{}/{}", edge.source_namespace, edge.source))),
            ("mesh.destination", Value::Text(format!("{}/{}", edge.destination_namespace, edge.destination))),
        ];
        if let Some(peer) = &edge.peer {
            attributes.push(("mesh.peer.identity", text(peer)));
        }
        if let Some(code) = self.refused {
            attributes.push(("error.type", text(code.as_str())));
        }
        let kind = match edge.direction {
            Direction::Inbound => Kind::Server,
            Direction::Outbound => Kind::Client,
        };
        let (trace_id, span_id, parent_id) = ids;
        Span {
            trace_id,
            span_id,
            parent_id,
            kind,
            name,
            start: trail.start,
            end: trail.start + took,
            attributes,
            failed,
        }
    }
}

/// The account of a request that has no response yet. Dropped like that, the caller gave the request up.
pub struct Pending(Option<Account>);

impl Pending {
    /// Begins to wait.
    #[must_use]
    pub fn new(account: Account) -> Self {
        Self(Some(account))
    }

    /// What came to be known meanwhile.
    pub fn note(&mut self, note: impl FnOnce(&mut Account)) {
        if let Some(account) = self.0.as_mut() {
            note(account);
        }
    }

    /// There is a response, which takes the account over; its status and a gRPC status in its headers are read from it.
    #[must_use]
    pub fn respond(mut self, response: Response<Body>, deadline: Option<Instant>) -> Response<Tracked> {
        let mut account = self.0.take();
        if let Some(account) = account.as_mut() {
            account.status = response.status();
            let grpc_status = response.headers().get(&GRPC_STATUS);
            account.grpc_failed = grpc_status.is_some_and(|status| status.as_bytes() != b"0");
            account.by_mesh = response.headers().contains_key(&MESH_ERROR);
            if let Some(pick) = account.pick.as_mut() {
                // What follows the head may take as long as it likes: that is no latency.
                let ok = !is_unreachable(response.status(), grpc_status);
                let outcome = if ok { balance::Outcome::Answered } else { balance::Outcome::Failed };
                pick.record(outcome, Instant::now().into_std());
            }
        }
        let deadline = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline)));
        response.map(|body| Tracked { body, account, deadline })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(account) = self.0.take() {
            account.close(Outcome::Canceled);
        }
    }
}

/// A response's body with the account of its request, and its deadline.
pub struct Tracked {
    body: Body,
    account: Option<Account>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Tracked {
    fn close(&mut self, outcome: Outcome) {
        if let Some(account) = self.account.take() {
            account.close(outcome);
        }
    }

    fn outcome(&self) -> Outcome {
        match &self.account {
            Some(account) if account.by_mesh => Outcome::Refused(account.status),
            Some(account) if account.grpc_failed => Outcome::Error,
            Some(account) => Outcome::Status(account.status),
            None => Outcome::Canceled,
        }
    }
}

/// Tells about the endpoint rather than about the request: an application's own 500 does not.
fn is_unreachable(status: StatusCode, grpc_status: Option<&HeaderValue>) -> bool {
    // UNAVAILABLE, in the head where the answer is nothing else.
    grpc_status.is_some_and(|status| status.as_bytes() == b"14")
        || matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

fn grpc_failed(fields: &HeaderMap) -> bool {
    fields.get(&GRPC_STATUS).is_some_and(|status| status.as_bytes() != b"0")
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => {
                let late = self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
                if !late {
                    return Poll::Pending;
                }
                self.close(Outcome::Error);
                Poll::Ready(Some(Err(BodyError::Deadline)))
            }
            Poll::Ready(None) => {
                let outcome = self.outcome();
                self.close(outcome);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.close(Outcome::Error);
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(trailers), Some(account)) = (frame.trailers_ref(), self.account.as_mut()) {
                    account.grpc_failed |= grpc_failed(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // An HTTP server does not poll a body that says it is at its end.
        let outcome = if self.body.is_end_stream() { self.outcome() } else { Outcome::Canceled };
        self.close(outcome);
    }
}
