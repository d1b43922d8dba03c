//! Which replica leads, by a Lease. Floor 1: imports `cluster`, `telemetry`.
//!
//! Only the leader rotates and hands out the roots; everybody issues. What the leader writes is tied to versions, so a
//! second leader by mistake (clocks apart, a process that slept) does no harm.

use std::{sync::Arc, time::Duration};

use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use mesh_api::{backoff::Backoff, sys::Entropy};
use rand::Rng as _;
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use crate::{cluster::Cluster, telemetry};

/// Name of the Lease.
pub const LEASE: &str = "mesh-ca";
/// A leader that is gone is replaced after this time.
const DURATION: Duration = Duration::from_secs(10);
/// The lease is renewed this long before it runs out; clocks may be this far apart.
const GRACE: Duration = Duration::from_secs(4);
/// Who does not lead looks this often whether the lease was given back: its own library waits until it runs out.
const LOOK: Duration = Duration::from_secs(3);
/// Waits between tries grow from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// Giving the lease back takes at most this long.
const RELEASE: Duration = Duration::from_secs(2);

/// Strives for the Lease, and says how that goes.
#[derive(Debug)]
pub struct Candidate {
    cluster: Cluster,
    name: String,
    entropy: Entropy,
    leading: watch::Sender<bool>,
    changed: Arc<Notify>,
}

impl Candidate {
    /// One that leads nothing yet. `host` is part of the name that the Lease shows; `changed` is notified when it begins
    /// or ceases to lead.
    #[must_use]
    pub fn new(cluster: Cluster, host: &str, entropy: Entropy, changed: Arc<Notify>) -> Self {
        // Two processes of one host, or of one pod after the other, are two candidates.
        let name = format!("{host}-{:08x}", entropy.rng().next_u32());
        Self { cluster, name, entropy, leading: watch::Sender::new(false), changed }
    }

    /// Whether this replica leads.
    #[must_use]
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Strives until `stop` is true, then gives the lease back.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut rng = self.entropy.rng();
        // Whoever never leads says so as well.
        self.set(false);
        loop {
            let failed = tokio::select! {
                failed = self.strive(&mut backoff) => failed,
                _ = stop.wait_for(|stop| *stop) => break,
            };
            // Without renewal the lease runs out: better to leave it early than to hold it too long.
            self.set(false);
            let wait = backoff.next_wait(rng.next_u32());
            tracing::warn!(error = %failed, lease = LEASE, retry_in = ?wait, "whether this replica leads is not known");
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.resign().await;
    }

    /// Until something fails.
    async fn strive(&self, backoff: &mut Backoff) -> LeaseManagerError {
        loop {
            if let Err(error) = self.look(backoff).await {
                return error;
            }
        }
    }

    /// Takes the lease where it is free, and keeps it; where it is another's, comes back after a while.
    async fn look(&self, backoff: &mut Backoff) -> Result<(), LeaseManagerError> {
        let manager = self.manager().await?;
        loop {
            let changed = manager.changed();
            let leads = if *self.leading.borrow() {
                changed.await?
            } else {
                match timeout(LOOK, changed).await {
                    Ok(changed) => changed?,
                    // What was begun and cut off here is seen when the lease is read anew.
                    Err(_) => return Ok(()),
                }
            };
            backoff.reset();
            self.set(leads);
        }
    }

    async fn manager(&self) -> Result<LeaseManager, LeaseManagerError> {
        LeaseManagerBuilder::new(self.cluster.impatient_client(), LEASE)
            .with_namespace(self.cluster.namespace())
            .with_identity(self.name.as_str())
            // Each candidate has its own: that is how the API server tells them apart.
            .with_field_manager(self.name.as_str())
            .with_duration(DURATION.as_secs())
            .with_grace(GRACE.as_secs())
            .build()
            .await
    }

    fn set(&self, leads: bool) {
        metrics::gauge!(telemetry::LEADER).set(f64::from(u8::from(leads)));
        if self.leading.send_replace(leads) != leads {
            tracing::info!(leads, lease = LEASE, name = self.name, "leadership changed");
            self.changed.notify_one();
        }
    }

    /// So that the next one need not wait until the lease runs out.
    async fn resign(&self) {
        let led = *self.leading.borrow();
        self.set(false);
        if !led {
            return;
        }
        let released = timeout(RELEASE, async { self.manager().await?.release().await }).await;
        match released {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, lease = LEASE, "the lease was not given back; it runs out"),
            Err(_) => tracing::warn!(lease = LEASE, waited = ?RELEASE, "the lease was not given back; it runs out"),
        }
    }
}
