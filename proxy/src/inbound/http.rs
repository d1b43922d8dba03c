//! Inbound requests: normal form, authorization, to the application.

use std::rc::Rc;

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version, header::UPGRADE, request::Parts};
use mesh_api::{model::Protocol, names};
use tokio::time::Instant;

use super::{Arrival, policy::PortState};
use crate::{
    exchange::{Account, Pending, Tracked},
    fault::{Code, Fault, is_grpc},
    l7::{body::Body, give_back_map},
    normal::{
        self,
        headers::{self, MESH_ORIG_PROTO, MESH_UPGRADE},
    },
    telemetry::metrics::RequestMetrics,
    tracing_context,
    tunnel::{self, Afterwards, Asked},
    upstream::{SendError, Upstream, is_repeatable},
    worker::Worker,
};

static CLIENT_ID: HeaderName = HeaderName::from_static(names::HEADER_CLIENT_ID);

/// What all requests of one connection have in common.
pub(super) struct Context {
    worker: Rc<Worker>,
    arrival: Arrival,
    state: Rc<PortState>,
    app: Rc<Upstream>,
    /// The caller is a sidecar: its headers of the mesh are its own.
    meshed: bool,
    /// The caller's identity, ready for the application.
    client_id: Option<HeaderValue>,
    /// What its connection carries in the end.
    afterwards: Rc<Afterwards>,
    /// By protocol: `http1`, `http2`, `grpc`.
    metrics: [Rc<RequestMetrics>; 3],
}

impl Context {
    pub(super) fn new(
        worker: &Rc<Worker>,
        arrival: Arrival,
        state: Rc<PortState>,
        app: Rc<Upstream>,
        meshed: bool,
    ) -> Rc<Self> {
        let text = arrival.identity.as_ref().map(|identity| identity.as_str());
        let client_id = text.and_then(|text| HeaderValue::from_str(text).ok());
        let metrics = ["http1", "http2", "grpc"]
            .map(|protocol| RequestMetrics::new(&worker.telemetry, arrival.edge(worker, protocol)));
        Rc::new(Self {
            worker: Rc::clone(worker),
            arrival,
            state,
            app,
            meshed,
            client_id,
            metrics,
            afterwards: Rc::default(),
        })
    }

    /// Carries what comes after the requests.
    pub(super) async fn afterwards(&self) {
        self.afterwards.carry().await;
    }

    fn metrics(&self, grpc: bool, version: Version) -> Rc<RequestMetrics> {
        let [http1, http2, with_grpc] = &self.metrics;
        Rc::clone(match (grpc, version) {
            (true, _) => with_grpc,
            (false, Version::HTTP_2) => http2,
            (false, _) => http1,
        })
    }
}

/// What the caller's sidecar said about the request, which nobody else may.
struct Said {
    version: Version,
    upgrade: Option<HeaderValue>,
}

impl Said {
    /// What is read is taken out where every request has it: so nothing of the mesh is left to be looked for afterwards.
    fn take(context: &Context, parts: &mut Parts) -> Self {
        if !context.meshed {
            return Self { version: parts.version, upgrade: None };
        }
        let http2 = parts.headers.remove(&MESH_ORIG_PROTO).is_some_and(|proto| proto.as_bytes() == b"h2");
        let version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
        // A peer that is known is not therefore trusted: it may not ask for what callers may not.
        let upgrade = parts.headers.get(&MESH_UPGRADE).filter(|_| parts.method == Method::GET);
        Self { version, upgrade: upgrade.filter(|protocol| !tunnel::is_http2(protocol)).cloned() }
    }
}

/// Handles one request for the application.
pub(super) async fn handle(context: Rc<Context>, request: Request<Body>) -> Response<Tracked> {
    let start = Instant::now();
    let (mut parts, mut body) = request.into_parts();
    let grpc = is_grpc(&parts.headers);
    let said = Said::take(&context, &mut parts);
    let asked = tunnel::asked(&parts, &mut body, &context.afterwards);
    let account = Account::begin(context.metrics(grpc, said.version), start);
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_reserved(&mut parts.headers);
    let normal = match normal::normalise(&mut parts) {
        Ok(normal) => normal,
        Err(refusal) => {
            let fault = Fault::new(Code::BadRequest, refusal.as_str());
            return refuse(&context, Pending::new(account), &fault, grpc);
        }
    };
    let peer = || context.arrival.peer.to_string();
    let trail = tracing_context::begin(&context.worker, &mut parts, |parts| normal.view(parts).host, peer);
    let account = Account { trail, ..account };
    if let Err(fault) = context.state.authorize(&context.arrival, Some(&normal.view(&parts))) {
        tracing::info!(peer = %context.arrival.peer, identity = ?context.arrival.identity, reason = fault.detail, policy = ?fault.object, "a request was refused");
        return refuse(&context, Pending::new(account), &fault, grpc);
    }
    if let Some(client_id) = &context.client_id {
        parts.headers.insert(CLIENT_ID.clone(), client_id.clone());
    }
    let pending = Pending::new(account);
    match forward(&context, parts, body, said, asked).await {
        Ok(response) => pending.respond(response, None),
        Err(fault) => refuse(&context, pending, &fault, grpc),
    }
}

fn refuse(context: &Context, mut pending: Pending, fault: &Fault, grpc: bool) -> Response<Tracked> {
    context.worker.inbound_refusals.record(fault);
    pending.note(|account| account.refused = Some(fault.code));
    pending.respond(fault.response(grpc, context.meshed, Body::Text), None)
}

async fn forward(
    context: &Context,
    mut parts: Parts,
    body: Body,
    said: Said,
    asked: Option<Asked>,
) -> Result<Response<Body>, Fault> {
    let upgrading = said.upgrade.is_some() || asked.is_some();
    parts.version = if upgrading { Version::HTTP_11 } else { version(context, &said) };
    let (body, tunnel) = match (&said.upgrade, &asked) {
        (Some(protocol), _) => {
            parts.headers.insert(UPGRADE, protocol.clone());
            (Body::Empty, Some(body))
        }
        (None, Some(asked)) => (asked.prepare(&mut parts, false), None),
        (None, None) => (body, None),
    };
    let mut response = send(context, &mut parts, body).await?;
    give_back_map(parts.headers);
    let upgrade = response.headers().get(UPGRADE).cloned();
    headers::strip_hop_by_hop(response.headers_mut());
    headers::strip_reserved(response.headers_mut());
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let (true, Some(upgrade)) = (switched, upgrade) {
        response.headers_mut().insert(UPGRADE, upgrade);
    }
    match (tunnel, asked) {
        (Some(tunnel), _) if switched => tunnel::agree(response, tunnel),
        (_, Some(asked)) => asked.complete(response, false),
        _ => Ok(response),
    }
}

/// Sends to the application. What it did not look at, for it ended the connection just then, is sent on another one.
async fn send(context: &Context, parts: &mut Parts, body: Body) -> Result<Response<Body>, Fault> {
    let error = match once(context, parts, body).await {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    match error.body {
        Some(body) if error.unprocessed && parts.version == Version::HTTP_2 => {
            // Rare, and large: on the heap.
            Box::pin(once(context, parts, *body)).await.map_err(|error| error.fault)
        }
        _ => Err(error.fault),
    }
}

async fn once(context: &Context, parts: &mut Parts, body: Body) -> Result<Response<Body>, SendError> {
    let repeatable = is_repeatable(&parts.method, &body);
    let sent = async {
        let ready = context.app.ready(parts.version, repeatable).await?;
        ready.send(parts, body).await
    };
    sent.await.inspect_err(|error| {
        tracing::debug!(app = %context.app.address(), cause = error.cause, "the application did not answer");
    })
}

/// What the application is spoken to in: what its port is declared to speak, else what the caller speaks.
fn version(context: &Context, said: &Said) -> Version {
    match context.state.protocol() {
        Protocol::Http1 => Version::HTTP_11,
        Protocol::Http2 | Protocol::Grpc => Version::HTTP_2,
        _ => said.version,
    }
}
