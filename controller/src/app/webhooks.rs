//! The webhooks of a controller in a cluster: their server and what it needs.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use kube::Client;
use mesh_api::{
    supervise::Supervisor,
    sys::{Clock, Listener, Sys},
    tls::{self, ClientAuth, Keeper},
};
use tokio::{sync::watch, time::timeout};

use super::{AppError, listen};
use crate::{
    config::Config,
    inject::Settings,
    telemetry::Telemetry,
    webhook::{self, KubeNamespaces, Webhook},
};

/// What TLS offers, best first. API servers take HTTP/1.1.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Answers wait this long for the cluster's version; then native sidecars are taken to be there.
const VERSION: Duration = Duration::from_secs(5);

/// Webhooks that listen.
pub(super) struct Webhooks {
    listener: Listener,
    address: SocketAddr,
    client: Client,
}

/// What the rest of the controller lends them.
pub(super) struct Ground {
    pub(super) clock: Clock,
    pub(super) keeper: Arc<Keeper>,
    pub(super) certified: watch::Receiver<bool>,
    /// True while this replica is the one that writes.
    pub(super) leader: watch::Receiver<bool>,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Webhooks {
    /// Listens, where webhooks are wanted.
    pub(super) async fn start(config: &Config, sys: &Sys) -> Result<Option<Self>, AppError> {
        let Some(address) = config.webhook.listen else { return Ok(None) };
        let client = Client::try_default().await.map_err(|error| AppError::Cluster(error.to_string()))?;
        let (listener, address) = listen(sys, address).await?;
        Ok(Some(Self { listener, address, client }))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts everything: what runs for ever in `tasks`, what ends after `stopped` in `server`.
    pub(super) fn run(
        self,
        config: &Config,
        ground: Ground,
        tasks: &mut Supervisor,
        server: &mut Supervisor,
        stopped: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), AppError> {
        let Ground { clock, keeper, mut certified, leader, telemetry } = ground;
        let (known, version) = watch::channel(None);
        tasks.spawn("cluster version", webhook::follow_version(self.client.clone(), known));
        tasks.spawn("webhook trust", webhook::keep_bundle(self.client.clone(), keeper.clone(), leader));
        let trust_domain = config.identity.trust_domain.clone();
        let domain = trust_domain.parse()?;
        let settings = Settings { config: config.inject.clone(), trust_domain };
        let namespaces = Arc::new(KubeNamespaces::new(self.client));
        let hooks = Webhook::new(settings, domain, namespaces, version.clone(), telemetry);
        let tls = tls::server_config(&keeper, clock, ClientAuth::None, &ALPN)?;
        let listener = self.listener;
        server.spawn_fallible("webhooks", async move {
            // Before there is a certificate, every handshake would fail: the kernel keeps the connections until then.
            if certified.wait_for(|certified| *certified).await.is_err() {
                return Ok::<(), io::Error>(());
            }
            let mut version = version;
            // Who does not know it in time answers as for a cluster of today.
            let _ = timeout(VERSION, version.wait_for(Option::is_some)).await;
            webhook::serve(listener, tls, hooks, stopped).await
        });
        Ok(())
    }
}
