//! What the admin server shows beside the common paths. Floor 5: imports `serve`, `status`.

use std::sync::Arc;

use http::{Method, StatusCode};
use mesh_api::admin::{AdminRequest, AdminResponse, Answer, Mount, json};
use tokio::sync::watch;

use crate::{serve::Hub, status::ProblemView};

/// The controller's pages.
#[derive(Debug)]
pub struct Pages {
    hub: Arc<Hub>,
    certified: watch::Receiver<bool>,
}

impl Pages {
    /// Reads from `hub`; `certified` becomes true with the first certificate.
    #[must_use]
    pub fn new(hub: Arc<Hub>, certified: watch::Receiver<bool>) -> Self {
        Self { hub, certified }
    }

    fn page(&self, request: &AdminRequest) -> Option<AdminResponse> {
        if request.method != Method::GET {
            return None;
        }
        Some(match request.path.as_str() {
            "/status" => json(StatusCode::OK, &self.hub.overview()),
            "/proxies" => json(StatusCode::OK, &self.hub.proxies()),
            "/problems" => {
                let problems: Vec<ProblemView> = self.hub.problems().iter().map(ProblemView::from).collect();
                json(StatusCode::OK, &problems)
            }
            _ => return None,
        })
    }
}

impl Mount for Pages {
    fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a> {
        Box::pin(std::future::ready(self.page(request)))
    }

    fn index(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("/status", "objects, proxies and problems in numbers"),
            ("/proxies", "who is connected, since when, and what each runs"),
            ("/problems", "what is wrong in manifests and with objects"),
        ]
    }

    fn not_ready(&self) -> Option<String> {
        if !*self.certified.borrow() {
            return Some("there is no certificate yet; is the certificate authority there?".into());
        }
        let synced = *self.hub.synced().borrow();
        (!synced).then(|| "the sources have not been read completely yet; /problems says why".into())
    }
}
