//! The gRPC service `mesh.v1.Identity`. Floor 4: imports `issue`, `authn`, `limit`, `issuer`.
//!
//! Thin: a call passes the gate, is authenticated, counted against its holder's rate, and issued, all within one
//! deadline. Every issuance and every refusal is an audit line and a metric.

mod audit;
mod bounded;
mod trust;

pub use bounded::{Link, Placed, Watch, bounded};

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mesh_api::{
    proto::{
        CertifyRequest, CertifyResponse, WatchTrustRequest,
        identity_server::{Identity, IdentityServer},
    },
    sys::Clock,
};
use tokio::{sync::watch, time::Instant};
use tonic::{Request, Response, Status};

use crate::{
    authn::{Authenticator, AuthnError, Caller, MAX_TOKEN},
    config::Limits,
    issue::{IssueError, Issued, Validity, Wish, issue},
    issuer::Issuing,
    limit::{Full, Gate, PerCaller, Rate},
    pki::{CsrError, MAX_CSR, PkiError, Serial},
    telemetry,
    time::Time,
};
use audit::Audit;
use trust::{Following, Watchers};

/// Largest request that is decoded: a token and a signing request at their limits, and a little.
const MAX_REQUEST: usize = MAX_TOKEN + MAX_CSR + 1024;
/// How long a caller should stay away where it cannot be told better.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The service.
pub struct Service {
    authenticator: Arc<dyn Authenticator>,
    issuing: watch::Receiver<Arc<Issuing>>,
    validity: Validity,
    clock: Clock,
    deadline: Duration,
    gate: Gate,
    rates: PerCaller,
    watchers: Watchers,
    audit: Audit,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("validity", &self.validity).finish_non_exhaustive()
    }
}

/// Why a call is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Caller(#[from] AuthnError),
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("this holder of {0} asks too often; try again in {1:?}")]
    Rate(String, Duration),
    #[error("too many members ask at once; try again in {RETRY_AFTER:?}")]
    Busy,
    #[error("not answered within {0:?}; try again")]
    Late(Duration),
}

impl From<Full> for Refused {
    fn from(Full: Full) -> Self {
        Self::Busy
    }
}

impl From<PkiError> for Refused {
    fn from(error: PkiError) -> Self {
        Self::Issue(IssueError::NotSigning(error))
    }
}

impl Refused {
    /// Stable name in metrics and logs.
    fn reason(&self) -> &'static str {
        match self {
            Self::Caller(error) => error.reason(),
            Self::Issue(error) => error.reason(),
            Self::Rate(..) => "rate",
            Self::Busy => "busy",
            Self::Late(_) => "deadline",
        }
    }

    fn status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::Caller(AuthnError::TooLong) | Self::Issue(IssueError::Csr(_)) => Status::invalid_argument(text),
            Self::Caller(AuthnError::Names | AuthnError::Unbound | AuthnError::Address)
            | Self::Issue(IssueError::Identity(_)) => Status::permission_denied(text),
            Self::Caller(AuthnError::Unavailable | AuthnError::AddressUnknown)
            | Self::Issue(IssueError::NotSigning(_)) => Status::unavailable(text),
            Self::Caller(AuthnError::TooOften(wait)) => exhausted(text, *wait),
            Self::Caller(_) => Status::unauthenticated(text),
            Self::Rate(_, wait) => exhausted(text, *wait),
            Self::Busy => exhausted(text, RETRY_AFTER),
            Self::Late(_) => Status::deadline_exceeded(text),
        }
    }
}

/// Says when to come back, in the way gRPC's own retries understand (gRFC A6).
fn exhausted(text: String, wait: Duration) -> Status {
    let mut status = Status::resource_exhausted(text);
    if let Ok(millis) = wait.as_millis().max(1).to_string().parse() {
        status.metadata_mut().insert("grpc-retry-pushback-ms", millis);
    }
    status
}

impl Service {
    /// A service that signs with what `issuing` holds at each moment.
    #[must_use]
    pub fn new(
        authenticator: Arc<dyn Authenticator>,
        issuing: watch::Receiver<Arc<Issuing>>,
        validity: Validity,
        clock: Clock,
        limits: &Limits,
    ) -> Self {
        let rate = Rate { refill: limits.refill, burst: limits.burst };
        Self {
            authenticator,
            watchers: Watchers::new(limits.watchers),
            issuing,
            validity,
            clock,
            deadline: limits.deadline,
            gate: Gate::new(limits.concurrent, limits.waiting),
            rates: PerCaller::new(rate, limits.holders),
            audit: Audit::default(),
        }
    }

    /// The service for tonic, with its limits.
    #[must_use]
    pub fn into_server(self) -> IdentityServer<Self> {
        IdentityServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }

    /// A certificate, and what it was signed with; `caller` is filled in as soon as it is known.
    async fn certify_within(
        &self,
        request: &CertifyRequest,
        peer: Option<SocketAddr>,
        caller: &mut Option<Caller>,
    ) -> Result<(Issued, Arc<Issuing>), Refused> {
        // What is too long is not worth a place in the line.
        if request.csr.len() > MAX_CSR {
            return Err(IssueError::Csr(CsrError::TooLong).into());
        }
        if request.token.len() > MAX_TOKEN {
            return Err(AuthnError::TooLong.into());
        }
        let _slot = self.gate.enter().await?;
        let now = Time::from(self.clock.now());
        let known = self.authenticator.authenticate(&request.token, peer.map(|peer| peer.ip()), now).await?;
        let known = caller.insert(known);
        let holder = (known.namespace(), known.account(), known.instance());
        if let Err(wait) = self.rates.take(holder, Instant::now()) {
            return Err(Refused::Rate(format!("{}/{}", known.namespace(), known.account()), wait));
        }
        let issuing = Arc::clone(&self.issuing.borrow());
        let serial = Serial::random()?;
        let now = Time::from(self.clock.now());
        let wish = Wish { caller: known, csr: &request.csr, seconds: request.validity_seconds, serial, now };
        let issued = issue(&issuing, &self.validity, &wish)?;
        Ok((issued, issuing))
    }
}

#[tonic::async_trait]
impl Identity for Service {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let began = Instant::now();
        let link = request.extensions().get::<Link>();
        let (peer, _busy) = (link.map(|link| link.peer.address), link.map(Link::call));
        let request = request.into_inner();
        let mut caller = None;
        metrics::gauge!(telemetry::CALLS).increment(1.0);
        let _call = Leaving;
        let certifying = self.certify_within(&request, peer, &mut caller);
        let outcome = match tokio::time::timeout(self.deadline, certifying).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refused::Late(self.deadline)),
        };
        metrics::histogram!(telemetry::DURATION).record(began.elapsed());
        match outcome {
            Ok((issued, issuing)) => {
                self.audit.issued(&issued, caller.as_ref(), peer);
                let mut chain = vec![issued.leaf.der.to_vec()];
                chain.extend(issuing.chain().iter().map(|cert| cert.to_vec()));
                let identity = issued.identity.to_string();
                Ok(Response::new(CertifyResponse { chain, trust: Some(issuing.bundle()), identity }))
            }
            Err(refused) => {
                self.audit.refused(refused.reason(), &refused, caller.as_ref(), peer);
                Err(refused.status())
            }
        }
    }

    type WatchTrustStream = Following;

    async fn watch_trust(&self, request: Request<WatchTrustRequest>) -> Result<Response<Following>, Status> {
        match self.watchers.follow(self.issuing.clone(), request.extensions().get()) {
            Some(following) => Ok(Response::new(following)),
            None => Err(exhausted("too many members follow the trust bundle already".into(), RETRY_AFTER * 10)),
        }
    }
}

/// A call that ends, whichever way: answered, refused, or given up by its caller.
struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        metrics::gauge!(telemetry::CALLS).decrement(1.0);
    }
}

#[cfg(test)]
mod tests;
