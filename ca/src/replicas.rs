//! What holds the replicas of the authority together: who leads, and that each hears at once of what the leader writes.
//! Floor 4: imports `cluster`, `leader`.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, watcher},
    },
};
use mesh_api::{names::CA_SECRET, supervise::Supervisor, sys::Sys};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_stream::StreamExt as _;

use crate::{cluster::Cluster, leader::Candidate};

/// The leader's farewell takes at most this long.
const FAREWELL: Duration = Duration::from_secs(3);

/// This replica among the others.
#[derive(Debug)]
pub struct Replicas {
    cluster: Cluster,
    wake: Arc<Notify>,
    leading: watch::Receiver<bool>,
    stop: watch::Sender<bool>,
    candidate: Supervisor,
}

impl Replicas {
    /// Begins to strive for the Lease.
    #[must_use]
    pub fn start(cluster: Cluster, sys: &Sys) -> Self {
        let wake = Arc::new(Notify::new());
        // In a pod that is its name.
        let host = std::env::var("HOSTNAME").unwrap_or_else(|_| CA_SECRET.to_owned());
        let candidate = Candidate::new(cluster.clone(), &host, sys.entropy.clone(), Arc::clone(&wake));
        let leading = candidate.leading();
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Supervisor::new();
        tasks.spawn("leader", candidate.run(stopped));
        Self { cluster, wake, leading, stop, candidate: tasks }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        self.cluster.clone()
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.clone()
    }

    /// Notified when something happened that is worth a look at the Secret.
    #[must_use]
    pub fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Completes where striving for the Lease ended, which it should not.
    pub async fn first_end(&mut self) -> mesh_api::supervise::TaskEnded {
        self.candidate.first_end().await
    }

    /// Gives the Lease back.
    pub async fn end(mut self) {
        self.stop.send_replace(true);
        // Whichever way it ended.
        let _ = timeout(FAREWELL, self.candidate.first_end()).await;
    }
}

/// Notifies `wake` whenever the Secret changes; only that it did comes over this watch, never what it holds. Runs for as
/// long as the process does.
pub async fn watch_secret(cluster: Cluster, wake: Arc<Notify>) {
    let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(cluster.client(), cluster.namespace());
    let only = watcher::Config::default().fields(&format!("metadata.name={CA_SECRET}"));
    let mut events = std::pin::pin!(watcher(secrets, only).default_backoff());
    while let Some(event) = events.next().await {
        match event {
            Ok(_) => wake.notify_one(),
            // It begins anew by itself; until then the Secret is read at regular times.
            Err(error) => tracing::warn!(%error, "the Secret cannot be watched; trying again"),
        }
    }
}
