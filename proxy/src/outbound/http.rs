//! Outbound requests: normal form, route, endpoint, filters, send; once more where the first try cannot have been
//! worked on.

use std::{cell::Cell, net::SocketAddr, pin::pin, rc::Rc, sync::Arc, time::Duration};

use ::http::{HeaderValue, Request, Response, StatusCode, Version, header::UPGRADE, request::Parts};
use mesh_api::{model::Protocol, spiffe::SpiffeId};
use tokio::time::{Instant, timeout_at};

use super::destination::{Backend, Compiled, Destination};
use crate::{
    balance::{Outcome, Pick},
    exchange::{Account, Pending, Tracked, Trail},
    fault::{Code, Fault, is_grpc},
    l7::{body::Body, give_back_map},
    normal::{
        self,
        headers::{self, MESH_ORIG_PROTO},
    },
    routing::{AnswerCause, Decision, Forward},
    tracing_context,
    tunnel::{self, Afterwards, Asked},
    upstream::{Ready, SendError, Upstream, is_repeatable},
    worker::Worker,
};

/// Endpoints tried for one request.
const TRIES: usize = 3;
/// The same while they cannot be reached, and say so at once: when a Deployment shrinks, most of those that are known go at
/// the same moment. It costs nobody anything: what is not there does no work.
const TRIES_GONE: usize = 10;
/// How long a request may have taken for that.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Handles one request of the application.
pub(super) async fn handle(
    worker: Rc<Worker>,
    destination: Rc<Destination>,
    afterwards: Rc<Afterwards>,
    request: Request<Body>,
) -> Response<Tracked> {
    let compiled = destination.current();
    let start = Instant::now();
    let (mut parts, mut body) = request.into_parts();
    let caller = Caller { grpc: is_grpc(&parts.headers), version: parts.version };
    let asked = tunnel::asked(&parts, &mut body, &afterwards);
    headers::strip_hop_by_hop(&mut parts.headers);
    headers::strip_reserved(&mut parts.headers);
    let normal = match normal::normalise(&mut parts) {
        Ok(normal) => normal,
        Err(refusal) => {
            let fault = Fault::new(Code::BadRequest, refusal.as_str());
            return refuse(&worker, &compiled, &caller, fault, start);
        }
    };
    let forward = match compiled.router.decide(&normal.view(&parts), worker.random()) {
        Decision::Forward(forward) => forward,
        Decision::Answer(answer) => {
            let (code, detail) = match answer.cause {
                AnswerCause::NoRoute => (Code::NoRoute, "no route matches the request"),
                AnswerCause::NoBackend => (Code::RuleFailed, "the rule has no usable backend"),
                AnswerCause::Filter => (Code::RuleFailed, "the rule has a filter that cannot be used"),
            };
            let object = answer.rule.map(|rule| Arc::clone(&rule.label));
            let fault = Fault { status: Some(answer.status), ..Fault::by(code, detail, object) };
            return refuse(&worker, &compiled, &caller, fault, start);
        }
    };
    let Some(backend) = compiled.backends.get(forward.backend) else {
        let fault = Fault::new(Code::RuleFailed, "the rule has no usable backend");
        return refuse(&worker, &compiled, &caller, fault, start);
    };
    let trail = tracing_context::begin(&worker, &mut parts, |parts| normal.view(parts).host, String::new);
    forward.change_request(&mut parts.headers);
    let attempt = Attempt { worker: &worker, backend, forward, caller: &caller, start, tried: Cell::new(0) };
    let deadline = attempt.deadline();
    let mut waiting = Waiting { attempt: &attempt, trail, over: false };
    match attempt.run(parts, body, asked, deadline).await {
        Ok(Answered { mut response, pick }) => {
            forward.change_response(response.headers_mut());
            if let Some(trail) = waiting.trail.as_mut() {
                trail.peer = pick.endpoint().address.to_string();
            }
            let account = waiting.over(pick.payload().identity());
            let account = Account { pick: Some(pick), ..account };
            Pending::new(account).respond(response, deadline)
        }
        Err(fault) => {
            worker.outbound_refusals.record(&fault);
            let account = Account { refused: Some(fault.code), ..waiting.over(backend.usual_peer().as_ref()) };
            Pending::new(account).respond(fault.response(caller.grpc, true, Body::Text), None)
        }
    }
}

/// How the application speaks.
struct Caller {
    grpc: bool,
    version: Version,
}

impl Caller {
    fn protocol(&self) -> &'static str {
        match (self.grpc, self.version) {
            (true, _) => "grpc",
            (false, Version::HTTP_2) => "http2",
            (false, _) => "http1",
        }
    }
}

/// An answer before any backend was chosen: counted for the destination itself.
fn refuse(
    worker: &Rc<Worker>,
    compiled: &Compiled,
    caller: &Caller,
    fault: Fault,
    start: Instant,
) -> Response<Tracked> {
    worker.outbound_refusals.record(&fault);
    let metrics = compiled.unrouted(worker, caller.protocol());
    let account = Account { refused: Some(fault.code), ..Account::begin(metrics, start) };
    Pending::new(account).respond(fault.response(caller.grpc, true, Body::Text), None)
}

/// A request that has no response yet. Dropped like that, the caller gave it up: that is counted as well.
struct Waiting<'a> {
    attempt: &'a Attempt<'a>,
    trail: Option<Box<Trail>>,
    over: bool,
}

impl Waiting<'_> {
    fn over(&mut self, peer: Option<&SpiffeId>) -> Account {
        self.over = true;
        let Attempt { worker, backend, forward, caller, start, .. } = self.attempt;
        let metrics = backend.metrics(worker, forward.rule.map(|rule| &rule.label), caller.protocol(), peer);
        Account { trail: self.trail.take(), ..Account::begin(metrics, *start) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.over {
            let peer = self.attempt.backend.usual_peer();
            drop(Pending::new(self.over(peer.as_ref())));
        }
    }
}

struct Answered {
    response: Response<Body>,
    pick: Pick<Upstream>,
}

/// Why an endpoint gave no answer, and what that says about another try.
struct Failed {
    fault: Fault,
    unprocessed: bool,
    lost: bool,
    body: Option<Body>,
    endpoint: Option<SocketAddr>,
}

impl From<Fault> for Failed {
    /// All that may be tried has been.
    fn from(fault: Fault) -> Self {
        Self { fault, unprocessed: false, lost: false, body: None, endpoint: None }
    }
}

/// One request on its way to one backend.
struct Attempt<'a> {
    worker: &'a Rc<Worker>,
    backend: &'a Backend,
    forward: Forward<'a>,
    caller: &'a Caller,
    start: Instant,
    tried: Cell<usize>,
}

impl Attempt<'_> {
    /// True where another endpoint may be tried after a failure of this kind.
    fn may_go_on(&self, code: Code) -> bool {
        let tried = self.tried.get();
        let others = || TRIES_GONE.min(self.backend.balancer.borrow().ready());
        tried < TRIES || code == Code::ConnectFailed && tried < others() && self.start.elapsed() < AT_ONCE
    }

    fn deadline(&self) -> Option<Instant> {
        let rule = self.forward.rule?;
        let limits = [rule.request_timeout, rule.backend_timeout];
        limits.into_iter().flatten().min().map(|limit| self.start + limit)
    }

    async fn run(
        &self,
        parts: Parts,
        body: Body,
        asked: Option<Asked>,
        deadline: Option<Instant>,
    ) -> Result<Answered, Fault> {
        let mut answered = {
            let mut sending = pin!(self.send(parts, body, asked.as_ref()));
            match deadline {
                // Without a deadline no timer is set: the transports below have theirs.
                None => sending.as_mut().await?,
                Some(deadline) => {
                    let answered = timeout_at(deadline, sending.as_mut()).await;
                    answered.map_err(|_| Fault::new(Code::Timeout, "the route's deadline passed"))??
                }
            }
        };
        let meshed = self.clean(&mut answered);
        if let Some(asked) = asked {
            answered.response = asked.complete(answered.response, meshed)?;
        }
        Ok(answered)
    }

    /// Sends; once more, to another endpoint where there is one, what cannot have been worked on, or may be twice.
    async fn send(&self, mut parts: Parts, body: Body, asked: Option<&Asked>) -> Result<Answered, Fault> {
        let repeatable = is_repeatable(&parts.method, &body);
        let mut failed = match self.once(&mut parts, body, asked, None, repeatable).await {
            Ok(answered) => {
                give_back_map(parts.headers);
                return Ok(answered);
            }
            Err(failed) => failed,
        };
        let mut first = true;
        while asked.is_none() && self.may_go_on(failed.fault.code) {
            let retries = match failed.unprocessed {
                true => &self.worker.retries,
                // It may be this request that breaks connections: not more than once.
                false if failed.lost && repeatable && first => &self.worker.retries_lost,
                false => break,
            };
            first = false;
            let Some(body) = failed.body.take() else { break };
            retries.increment(1);
            // Rare, and large: on the heap.
            failed = match Box::pin(self.once(&mut parts, body, None, failed.endpoint, repeatable)).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
        }
        Err(failed.fault)
    }

    /// Sends to one endpoint that takes the request.
    async fn once(
        &self,
        parts: &mut Parts,
        body: Body,
        asked: Option<&Asked>,
        excluded: Option<SocketAddr>,
        repeatable: bool,
    ) -> Result<Answered, Failed> {
        parts.version = if asked.is_some() { Version::HTTP_11 } else { self.version() };
        let (ready, pick) = self.ready(parts.version, repeatable, excluded).await?;
        let meshed = pick.payload().identity().is_some();
        if meshed {
            let proto = if self.caller.version == Version::HTTP_2 { "h2" } else { "h1" };
            parts.headers.insert(&MESH_ORIG_PROTO, HeaderValue::from_static(proto));
        } else if self.tried.get() > 1 {
            // An endpoint that was tried before may have been a member.
            parts.headers.remove(&MESH_ORIG_PROTO);
        }
        let body = asked.map_or(body, |asked| asked.prepare(parts, meshed));
        match ready.send(parts, body).await {
            Ok(response) => Ok(Answered { response, pick }),
            Err(mut error) => Err(Failed {
                unprocessed: error.unprocessed,
                lost: error.lost,
                body: error.body.take().map(|body| *body),
                endpoint: Some(pick.endpoint().address),
                fault: self.failed(error, pick),
            }),
        }
    }

    /// An endpoint that takes one request at once; on failure another one. The body has not been touched.
    async fn ready(
        &self,
        version: Version,
        repeatable: bool,
        mut excluded: Option<SocketAddr>,
    ) -> Result<(Ready, Pick<Upstream>), Fault> {
        loop {
            let Some(pick) = self.choose(excluded) else {
                return Err(Fault::new(Code::NoEndpoints, "the destination has no ready endpoint"));
            };
            self.tried.update(|tried| tried + 1);
            match pick.payload().ready(version, repeatable).await {
                Ok(ready) => return Ok((ready, pick)),
                Err(error) => {
                    excluded = Some(pick.endpoint().address);
                    let fault = self.failed(error, pick);
                    if !self.may_go_on(fault.code) {
                        return Err(fault);
                    }
                    self.worker.retries.increment(1);
                }
            }
        }
    }

    fn choose(&self, excluded: Option<SocketAddr>) -> Option<Pick<Upstream>> {
        let balancer = self.backend.balancer.borrow();
        match excluded {
            // The first try is made as the request comes: asking the clock again would cost more than the choice.
            None => balancer.pick(self.start.into_std()),
            Some(excluded) => {
                let now = Instant::now().into_std();
                // Where there is no other, the same one may have come back.
                balancer.pick_excluding(excluded, now).or_else(|| balancer.pick(now))
            }
        }
    }

    fn failed(&self, error: SendError, pick: Pick<Upstream>) -> Fault {
        let (endpoint, code) = (pick.endpoint().address, error.fault.code);
        tracing::debug!(%endpoint, code = code.as_str(), cause = error.cause, "a request to an endpoint failed");
        let outcome = match code {
            Code::ConnectFailed | Code::PeerRefused => Outcome::Unreachable,
            Code::BadRequest | Code::Overloaded => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        pick.finish(outcome, Instant::now().into_std());
        error.fault
    }

    /// To an endpoint outside the mesh: what its port is declared to speak, else what the application speaks.
    fn version(&self) -> Version {
        match self.backend.protocol {
            Protocol::Http2 | Protocol::Grpc => Version::HTTP_2,
            Protocol::Http1 => Version::HTTP_11,
            _ if self.caller.version == Version::HTTP_2 => Version::HTTP_2,
            _ => Version::HTTP_11,
        }
    }

    /// Only a sidecar that proved itself may set the mesh's own headers; true where this one did.
    fn clean(&self, answered: &mut Answered) -> bool {
        let meshed = answered.pick.payload().identity().is_some();
        let response = &mut answered.response;
        let upgrade = response.headers().get(UPGRADE).cloned();
        headers::strip_hop_by_hop(response.headers_mut());
        if !meshed {
            headers::strip_reserved(response.headers_mut());
        }
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(upgrade)) = (response.status(), upgrade) {
            response.headers_mut().insert(UPGRADE, upgrade);
        }
        meshed
    }
}
