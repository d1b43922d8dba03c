//! What the admin server shows and takes beside the common paths. Floor 4: imports `issuer`.

use std::sync::Arc;

use http::{Method, StatusCode};
use mesh_api::{
    admin::{AdminRequest, AdminResponse, Answer, Mount, json, text},
    sys::Clock,
    tls::Keeper,
};
use tokio::sync::watch;

use crate::issuer::{Control, Issuing, rotation::Order};

/// The authority's pages.
#[derive(Debug)]
pub struct Pages {
    issuing: watch::Receiver<Arc<Issuing>>,
    control: Control,
    own: Arc<Keeper>,
    clock: Clock,
    /// Orders are taken: the admin server is reached from this machine only.
    orders: bool,
}

impl Pages {
    /// `own` holds the authority's own certificate. With `orders`, rotations can be ordered: only for a server on a loopback address.
    #[must_use]
    pub fn new(
        issuing: watch::Receiver<Arc<Issuing>>,
        control: Control,
        own: Arc<Keeper>,
        clock: Clock,
        orders: bool,
    ) -> Self {
        Self { issuing, control, own, clock, orders }
    }

    async fn respond(&self, request: &AdminRequest) -> Option<AdminResponse> {
        let get = request.method == Method::GET;
        Some(match request.path.as_str() {
            "/trust" if get => text(StatusCode::OK, self.issuing.borrow().trust_pem()),
            "/issuers" if get => json(StatusCode::OK, self.issuing.borrow().report()),
            "/rotate/issuer" => self.order(request, Order::RotateIssuer).await,
            "/rotate/root" => self.order(request, Order::RotateRoot).await,
            _ => return None,
        })
    }

    async fn order(&self, request: &AdminRequest, order: Order) -> AdminResponse {
        if request.method != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "this changes something: POST it\n");
        }
        if !self.orders {
            let why = "rotations are ordered on a loopback address only; `admin` is configured to another one\n";
            return text(StatusCode::FORBIDDEN, why);
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
        let now = self.clock.now();
        if let Err(error) = self.issuing.borrow().signer().cert().check_time(now.into()) {
            return Some(error.to_string());
        }
        let credentials = self.own.current();
        let valid = credentials.identity.as_ref().is_some_and(|identity| now <= identity.not_after());
        (!valid).then(|| "the authority's own certificate has expired: members cannot connect".to_owned())
    }
}
