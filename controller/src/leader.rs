//! Which of the controller's replicas is the leader: the holder of a Lease. Floor 3: imports `telemetry`.
//!
//! Serving needs no leader; writing does, where several writers would only repeat or undo one another. A replica that
//! cannot renew its lease stops being the leader before another one can become it.

use std::{sync::Arc, time::Duration};

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use mesh_api::{backoff::Backoff, sys::Sys};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::telemetry::Telemetry;

/// Between two tries to take part.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(10);
/// Giving the lease back takes at most this long; after that it runs out by itself.
const RELEASE: Duration = Duration::from_secs(2);

/// How the leader is found.
pub struct Options {
    /// To the API server. Its calls must have a deadline that is shorter than a third of `duration`.
    pub client: Client,
    /// Name of the Lease,
    pub lease: String,
    /// and its namespace.
    pub namespace: String,
    /// Name of this replica; no two may have the same.
    pub identity: String,
    /// How long a lease holds that is not renewed, in whole seconds.
    pub duration: Duration,
    /// Randomness.
    pub sys: Sys,
    /// Where to count.
    pub telemetry: Arc<Telemetry>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("lease", &self.lease).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Takes part in the election until `stop`, and says in `leader` how it stands.
pub async fn campaign(options: Options, leader: watch::Sender<bool>, stop: CancellationToken) {
    let mut backoff = Backoff::new(SHORTEST, LONGEST);
    loop {
        // Not cut off by `stop`: then it gives the lease back.
        let error = take_part(&options, &leader, &stop, &mut backoff).await;
        set(&options, &leader, false);
        let Some(error) = error else { return };
        let wait = options.sys.entropy.jitter(backoff.next_wait(u32::MAX));
        tracing::warn!(%error, ?wait, lease = options.lease, "the lease cannot be looked at; another replica may lead");
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Until something fails: then it is not known who leads, and what is known of the lease is learnt anew. `None`: it was
/// told to stop, and gave the lease back.
async fn take_part(
    options: &Options,
    leader: &watch::Sender<bool>,
    stop: &CancellationToken,
    backoff: &mut Backoff,
) -> Option<LeaseManagerError> {
    let manager = tokio::select! {
        () = stop.cancelled() => return None,
        built = build(options) => match built {
            Ok(manager) => manager,
            Err(error) => return Some(error),
        },
    };
    loop {
        let changed = tokio::select! {
            () = stop.cancelled() => {
                set(options, leader, false);
                let _ = timeout(RELEASE, manager.release()).await;
                return None;
            }
            changed = manager.changed() => changed,
        };
        match changed {
            Ok(leads) => {
                backoff.reset();
                set(options, leader, leads);
            }
            Err(error) => return Some(error),
        }
    }
}

async fn build(options: &Options) -> Result<LeaseManager, LeaseManagerError> {
    let seconds = options.duration.as_secs().max(3);
    LeaseManagerBuilder::new(options.client.clone(), &options.lease)
        .with_namespace(&options.namespace)
        .with_identity(&options.identity)
        .with_duration(seconds)
        .with_grace(seconds / 3)
        .build()
        .await
}

fn set(options: &Options, leader: &watch::Sender<bool>, leads: bool) {
    if leader.send_if_modified(|was| std::mem::replace(was, leads) != leads) {
        options.telemetry.leader.set(if leads { 1.0 } else { 0.0 });
        tracing::info!(identity = options.identity, lease = options.lease, leads, "leadership changed");
    }
}
