//! The webhooks of a controller in a cluster: their server and what it needs.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use mesh_api::{
    supervise::{Supervisor, TaskEnded},
    sys::{Clock, Listener, Sys},
    tls::{self, ClientAuth, Keeper},
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use super::{AppError, listen};
use crate::{
    cluster::Clients,
    config::Config,
    inject::Settings,
    telemetry::Telemetry,
    webhook::{self, Known, KubeNamespaces, Webhook},
};

/// What TLS offers, best first. API servers take HTTP/1.1.
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// Answers wait this long for the cluster's version; then native sidecars are taken to be there.
const VERSION: Duration = Duration::from_secs(5);

/// They answer for as long as API servers may still be sent here, and a bit.
const DRAIN: Duration = Duration::from_secs(5);

/// Webhooks that listen.
pub(super) struct Webhooks {
    listener: Listener,
    address: SocketAddr,
}

/// What the rest of the controller lends them.
pub(super) struct Ground {
    pub(super) clock: Clock,
    pub(super) clients: Clients,
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
        let (listener, address) = listen(sys, address).await?;
        Ok(Some(Self { listener, address }))
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts everything: what runs for ever in `tasks`, the server by itself.
    pub(super) fn run(self, config: &Config, ground: Ground, tasks: &mut Supervisor) -> Result<Serving, AppError> {
        let Ground { clock, clients, keeper, mut certified, leader, telemetry } = ground;
        let (known, mut version) = watch::channel(None);
        tasks.spawn("cluster version", webhook::follow_version(clients.call.clone(), known));
        let (located, addresses) = watch::channel(None);
        let client = clients.call.clone();
        tasks.spawn("control plane's addresses", webhook::follow_addresses(client, config.inject.clone(), located));
        let namespaces = Arc::new(KubeNamespaces::new(clients.call.clone()));
        tasks.spawn("webhook trust", webhook::keep_bundle(clients, keeper.clone(), leader));
        let trust_domain = config.identity.trust_domain.clone();
        let domain = trust_domain.parse()?;
        let settings = Settings { config: config.inject.clone(), trust_domain, addresses: None };
        let known = Known { version: version.clone(), addresses };
        let hooks = Webhook::new(settings, domain, namespaces, known, telemetry);
        let tls = tls::server_config(&keeper, clock, ClientAuth::None, &ALPN)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let listener = self.listener;
        let mut server = Supervisor::new();
        server.spawn_fallible("webhooks", async move {
            // Before there is a certificate, every handshake would fail: the kernel keeps the connections until then.
            if certified.wait_for(|certified| *certified).await.is_err() {
                return Ok::<(), io::Error>(());
            }
            // Who does not know it in time answers as for a cluster of today.
            let _ = timeout(VERSION, version.wait_for(Option::is_some)).await;
            let stopped = async {
                let _ = stopped.await;
            };
            webhook::serve(listener, tls, hooks, stopped).await
        });
        Ok(Serving(Some((server, stop))))
    }
}

/// A server of webhooks, or none.
#[derive(Default)]
pub(super) struct Serving(Option<(Supervisor, oneshot::Sender<()>)>);

impl Serving {
    /// Completes where the server ends by itself.
    pub(super) async fn first_end(&mut self) -> TaskEnded {
        match &mut self.0 {
            Some((server, _)) => server.first_end().await,
            None => std::future::pending().await,
        }
    }

    /// Ends it, after those who are still sent here were answered.
    pub(super) async fn stop(self) {
        if let Some((mut server, stop)) = self.0 {
            let _ = stop.send(());
            let _ = timeout(DRAIN, server.first_end()).await;
        }
    }
}
