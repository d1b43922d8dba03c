//! The proxy's pages on the admin server. Floor 6.

use std::sync::Arc;

use http::{Method, StatusCode};
use mesh_api::{
    admin::{self, AdminRequest, Answer, Mount},
    probe,
    tls::Keeper,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    config::Config,
    discovery::{Connection, Discovery, State},
    phase::Phase,
    probe::Probes,
};

/// What the pages show.
pub struct ProxyAdmin {
    /// Configuration in force.
    pub config: Arc<Config>,
    /// Own certificate and roots.
    pub keeper: Arc<Keeper>,
    /// What is known of the mesh.
    pub discovery: Discovery,
    /// The stream to the controller.
    pub connection: Connection,
    /// True once every worker listens.
    pub listening: watch::Receiver<bool>,
    /// What a kubelet asks of the application.
    pub probes: Probes,
    /// How far the proxy is in stopping.
    pub phase: watch::Receiver<Phase>,
}

impl ProxyAdmin {
    fn identity(&self) -> Value {
        let credentials = self.keeper.current();
        let roots = credentials.trust.roots().count();
        match &credentials.identity {
            None => json!({ "roots": roots }),
            Some(identity) => json!({
                "id": identity.id().as_str(),
                "serial": identity.serial(),
                "issuer": identity.issuer(),
                "not_after_unix": identity.not_after().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs(),
                "roots": roots,
            }),
        }
    }

    async fn page(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "config": shown(&self.config),
            "identity": self.identity(),
            "discovery": { "connected": self.connection.is_up(), "held": self.discovery.dump().await },
        })
    }
}

/// The configuration as anybody may see it: whoever knows the path of a hook can have it carried out.
fn shown(config: &Config) -> Value {
    let mut shown = json!(config);
    if let Some(probes) = shown.pointer_mut("/admin/probes") {
        *probes = config.admin.probes.iter().map(|probe| json!(probe.shown())).collect();
    }
    shown
}

impl Mount for ProxyAdmin {
    fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a> {
        Box::pin(async move {
            match (&request.method, request.path.as_str()) {
                (&Method::GET, "/config") => Some(admin::json(StatusCode::OK, &self.page().await)),
                (&Method::GET, path) if path.starts_with(probe::PREFIX) => {
                    self.probes.answer(path, request.local.ip()).await
                }
                _ => None,
            }
        })
    }

    /// Kubelets ask for probes; what is known of the mesh is not everybody's.
    fn is_open(&self, path: &str) -> bool {
        path.starts_with(probe::PREFIX)
    }

    fn index(&self) -> Vec<(&'static str, &'static str)> {
        let mut pages = vec![("/config", "configuration, identity and everything known of the mesh, as JSON")];
        if !self.config.admin.probes.is_empty() {
            pages.push((probe::PREFIX, "TOKEN/CONTAINER/PROBE: health of the application, for kubelets"));
        }
        pages
    }

    fn not_ready(&self) -> Option<String> {
        if *self.phase.borrow() != Phase::Serving {
            return Some("the proxy is draining".into());
        }
        if self.keeper.current().identity.is_none() {
            return Some("no certificate yet".into());
        }
        if !*self.listening.borrow() {
            return Some("not listening yet".into());
        }
        match &*self.discovery.inbound().borrow() {
            State::Known(_) => None,
            State::Waiting => Some("no policy yet".into()),
            State::Missing(reason) => Some(format!("the controller does not know this workload: {reason}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_no_token() {
        let at = "/probe/5e6f1a0c/web/pre-stop".to_owned();
        let probe = probe::Probe { at, port: 80, seconds: 1, https: None, http: None };
        let mut config = Config::default();
        config.admin.probes.push(probe);
        let shown = shown(&config);
        assert_eq!(shown["admin"]["probes"][0]["at"], "/probe/…/web/pre-stop");
        assert!(!shown.to_string().contains("5e6f1a0c"));
    }

    #[test]
    fn headers_of_probes_are_not_shown() {
        let get =
            probe::Get { path: "/health".into(), headers: vec![("Authorization".into(), "Bearer s3cret".into())] };
        let at = "/probe/5e6f1a0c/web/livez".into();
        let mut config = Config::default();
        config.admin.probes.push(probe::Probe { at, port: 8443, seconds: 1, https: Some(get), http: None });
        let shown = shown(&config).to_string();
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("Authorization") && shown.contains("/health"), "{shown}");
    }
}
