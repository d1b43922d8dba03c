//! What the admin server shows and takes beside the common paths. Floor 4: imports `issuer`.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::{Method, StatusCode};
use mesh_api::{
    admin::{AdminRequest, AdminResponse, Answer, Mount, json, text},
    sys::Clock,
    tls::Keeper,
};
use serde::Serialize;
use tokio::sync::watch;

use crate::issuer::{Control, Issuing, Report, rotation::Order};

/// The authority's pages. They are there before the authority is: it may have to wait for the API server.
#[derive(Debug)]
pub struct Pages {
    parts: OnceLock<Parts>,
    /// What it waits for until then.
    waiting: Mutex<String>,
}

/// What the pages show, once it is there.
#[derive(Debug)]
pub struct Parts {
    /// What signs and what is trusted.
    pub issuing: watch::Receiver<Arc<Issuing>>,
    /// Takes orders.
    pub control: Control,
    /// Holds the authority's own certificate.
    pub own: Arc<Keeper>,
    /// Wall time.
    pub clock: Clock,
    /// Whether this replica leads; `None` where there is only one.
    pub leading: Option<watch::Receiver<bool>>,
}

/// Before there is anything to sign with.
const EARLY: &str = "there is nothing to sign with yet; /ready says what is waited for\n";

impl Default for Pages {
    fn default() -> Self {
        Self { parts: OnceLock::new(), waiting: Mutex::new("the authority has only begun".to_owned()) }
    }
}

impl Pages {
    /// The authority is there.
    pub fn open(&self, parts: Parts) {
        // The first ones stay: there is one authority.
        let _ = self.parts.set(parts);
    }

    /// The authority waits for this.
    pub fn wait_for(&self, what: impl Into<String>) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    async fn respond(&self, request: &AdminRequest) -> Option<AdminResponse> {
        let get = request.method == Method::GET;
        let known = match request.path.as_str() {
            "/trust" | "/issuers" => get,
            "/rotate/issuer" | "/rotate/root" => true,
            _ => false,
        };
        if !known {
            return None;
        }
        let Some(parts) = self.parts.get() else { return Some(text(StatusCode::SERVICE_UNAVAILABLE, EARLY)) };
        Some(match request.path.as_str() {
            "/trust" => text(StatusCode::OK, parts.issuing.borrow().trust_pem()),
            "/issuers" => json(StatusCode::OK, &parts.state()),
            "/rotate/issuer" => parts.order(request, Order::RotateIssuer).await,
            _ => parts.order(request, Order::RotateRoot).await,
        })
    }
}

/// Where things stand, for people.
#[derive(Serialize)]
struct State<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Whether this replica leads; left out where there is only one.
    #[serde(skip_serializing_if = "Option::is_none")]
    leading: Option<bool>,
}

impl Parts {
    fn state(&self) -> serde_json::Value {
        let leading = self.leading.as_ref().map(|leading| *leading.borrow());
        serde_json::to_value(State { report: self.issuing.borrow().report(), leading }).unwrap_or_default()
    }

    async fn order(&self, request: &AdminRequest, order: Order) -> AdminResponse {
        if request.method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "this changes something: POST it\n");
        }
        tracing::info!(?order, "rotation ordered");
        match self.control.order(order).await {
            Ok(report) => json(StatusCode::OK, &report),
            Err(error) => {
                let status = if error.is_conflict() { StatusCode::CONFLICT } else { StatusCode::INTERNAL_SERVER_ERROR };
                text(status, format!("{error}\n"))
            }
        }
    }

    fn not_ready(&self) -> Option<String> {
        let now = self.clock.now();
        if let Err(error) = self.issuing.borrow().signer().cert().check_time(now.into()) {
            return Some(error.to_string());
        }
        let credentials = self.own.current();
        let valid = credentials.identity.as_ref().is_some_and(|identity| now <= identity.not_after());
        (!valid).then(|| "the authority's own certificate has expired: members cannot connect".to_owned())
    }
}

impl Mount for Pages {
    fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a> {
        Box::pin(self.respond(request))
    }

    fn index(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("/trust", "the roots to trust, PEM"),
            ("/issuers", "roots and issuer, when they end, and where a change of root stands"),
            ("/rotate/issuer", "POST: sign with a new issuer from now on"),
            ("/rotate/root", "POST: announce a new root; the rest follows by time"),
        ]
    }

    fn not_ready(&self) -> Option<String> {
        match self.parts.get() {
            Some(parts) => parts.not_ready(),
            None => Some(self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        }
    }
}
