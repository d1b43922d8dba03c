//! The admission webhooks: `POST /inject` gives pods their sidecar, `POST /validate` refuses objects of the mesh's own kinds
//! that would not be obeyed. Floor 4: imports `inject`, `translate`, `source`, `telemetry`.
//!
//! What is answered is decided by pure functions over a decoded review; the code around them only bounds: size, time and
//! number of everything, because the port takes requests from whoever reaches it. An API server proves nothing about
//! itself here, so an answer tells nothing that is not in the request, or public configuration.

mod addresses;
mod bundle;
mod caller;
mod mutate;
mod namespaces;
mod review;
mod server;
mod validate;
mod version;

pub use self::{
    addresses::{find_addresses, follow_addresses},
    bundle::keep_bundle,
    caller::{Caller, Open, Source},
    mutate::{inject, is_new_pod},
    namespaces::{Found, KubeNamespaces, Lookup, NamespaceLookup, StaticNamespaces},
    review::{Answer, BadReview, Request, read_review},
    server::serve,
    validate::validate,
    version::follow_version,
};

use std::{pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Body;
use mesh_api::spiffe::TrustDomain;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use self::caller::{Held, Room};
use crate::{
    inject::{Addresses, Settings, Version},
    telemetry::{Admission, Telemetry, Webhook as Hook},
};

/// Largest review, in bytes; a review holds an object, which etcd keeps below 1.5 MiB, and its earlier state.
pub const MAX_REVIEW: usize = 3 * 1024 * 1024;
/// Reviews that are decided at once; others wait within their deadline.
const MAX_AT_ONCE: usize = 32;
/// From the head of a request to its answer. An API server gives up after `timeoutSeconds`: at most 30, 10 by default.
const DEADLINE: Duration = Duration::from_secs(8);
/// A body has come within this time: API servers have it whole before they send it.
const BODY: Duration = Duration::from_secs(2);

/// An answer over HTTP.
pub type HttpAnswer = http::Response<Full<Bytes>>;

/// What is asked of a cluster again and again, as it is known now.
#[derive(Clone, Debug)]
pub struct Known {
    /// The cluster's version.
    pub version: watch::Receiver<Option<Version>>,
    /// Where the control plane is.
    pub addresses: watch::Receiver<Option<Addresses>>,
}

/// What answers reviews.
pub struct Webhook {
    settings: Settings,
    trust_domain: TrustDomain,
    namespaces: Arc<dyn NamespaceLookup>,
    known: Known,
    telemetry: Arc<Telemetry>,
    room: Room,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Webhook {
    /// Answers by these settings.
    #[must_use]
    pub fn new(
        settings: Settings,
        trust_domain: TrustDomain,
        namespaces: Arc<dyn NamespaceLookup>,
        known: Known,
        telemetry: Arc<Telemetry>,
    ) -> Arc<Self> {
        Arc::new(Self { settings, trust_domain, namespaces, known, telemetry, room: Room::new() })
    }

    /// Answers one request.
    pub async fn answer<B>(&self, caller: &Caller, request: http::Request<B>) -> HttpAnswer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut open = caller.request();
        let hook = match (request.method(), request.uri().path()) {
            (&Method::GET, "/live") => return plain(StatusCode::OK, "live\n"),
            (&Method::POST, "/inject") => Hook::Inject,
            (&Method::POST, "/validate") => Hook::Validate,
            (_, "/live" | "/inject" | "/validate") => {
                return plain(StatusCode::METHOD_NOT_ALLOWED, "POST /inject, POST /validate or GET /live\n");
            }
            _ => return plain(StatusCode::NOT_FOUND, "there is /inject, /validate and /live\n"),
        };
        let begun = Instant::now();
        let answered = timeout_at(begun + DEADLINE, self.admit(&caller.source, &mut open, hook, request)).await;
        let answered = answered.unwrap_or_else(|_| {
            let message = format!("no answer within {}s", DEADLINE.as_secs());
            Err(Refusal { status: StatusCode::REQUEST_TIMEOUT, message })
        });
        self.telemetry.admission_duration.record(begun.elapsed());
        let (outcome, response) = match answered {
            Ok((outcome, body)) => (outcome, json(body)),
            Err(refusal) => {
                tracing::warn!(
                    status = refusal.status.as_u16(),
                    reason = refusal.message,
                    "an admission review is not answered"
                );
                (Admission::Failed, plain(refusal.status, refusal.message + "\n"))
            }
        };
        self.telemetry.admissions(hook, outcome).increment(1);
        response
    }

    async fn admit<B>(
        &self,
        source: &Source,
        open: &mut Open<'_>,
        hook: Hook,
        request: http::Request<B>,
    ) -> Result<(Admission, Bytes), Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if kind != Some("application/json") {
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "a review is application/json"));
        }
        // The room to decide is taken by whole reviews only: who sends one slowly keeps no other waiting.
        let (body, held) = timeout(BODY, self.body(source, request.into_body())).await.unwrap_or_else(|_| {
            let message = format!("the body did not come within {}s", BODY.as_secs());
            Err(Refusal { status: StatusCode::REQUEST_TIMEOUT, message })
        })?;
        open.is_whole();
        let _room = self.room.review(source).await.map_err(|_| Refusal::stopping())?;
        let request = read_review(&body)?;
        drop((body, held));
        let (outcome, answer) = match hook {
            Hook::Inject if !is_new_pod(&request)? => (Admission::Left, Answer::default()),
            Hook::Inject => {
                let found = self.namespaces.find(&request.namespace).await;
                let version = *self.known.version.borrow();
                let addresses = self.known.addresses.borrow().clone();
                inject(&request, &found, &Settings { addresses, ..self.settings.clone() }, version)?
            }
            Hook::Validate => validate(&request, &self.trust_domain)?,
        };
        Ok((outcome, answer.encode(&request.uid)))
    }

    async fn body<'a, B>(&'a self, source: &'a Source, body: B) -> Result<(Vec<u8>, Held<'a>), Refusal>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut held = self.room.body(source).await.map_err(|_| Refusal::stopping())?;
        let (mut body, mut read) = (pin!(Limited::new(body, MAX_REVIEW)), Vec::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    let message = format!("a review has at most {MAX_REVIEW} bytes");
                    return Refusal { status: StatusCode::PAYLOAD_TOO_LARGE, message };
                }
                Refusal { status: StatusCode::BAD_REQUEST, message: format!("the body broke off: {error}") }
            })?;
            let Ok(data) = frame.into_data() else { continue };
            held.more(data.len()).await.map_err(|_| Refusal::stopping())?;
            read.extend_from_slice(&data);
        }
        Ok((read, held))
    }
}

/// Why a review is not answered.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, message: &str) -> Self {
        Self { status, message: message.to_owned() }
    }

    fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the webhook stops")
    }
}

impl From<BadReview> for Refusal {
    fn from(bad: BadReview) -> Self {
        let status = if bad.is_transient() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::BAD_REQUEST };
        Self { status, message: bad.to_string() }
    }
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> HttpAnswer {
    respond(status, "text/plain; charset=utf-8", text.into())
}

fn json(body: Bytes) -> HttpAnswer {
    respond(StatusCode::OK, "application/json", body)
}

fn respond(status: StatusCode, kind: &'static str, body: Bytes) -> HttpAnswer {
    let mut response = http::Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests;
