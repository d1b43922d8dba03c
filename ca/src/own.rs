//! The authority's own certificate, from its own issuer. Floor 3: imports `issuer`.
//!
//! It is made anew when the issuer changes and at two thirds of its life; connections that are open stay so.

use std::{sync::Arc, time::Duration};

use mesh_api::{
    sys::Clock,
    tls::{BadCredentials, Credentials, Identity, Keeper},
};
use tokio::sync::watch;

use crate::{
    issuer::Issuing,
    pki::{LeafSpec, PkiError, PrivateKey, Serial, make_leaf},
    telemetry,
    time::Time,
};

/// How often the clock is looked at: it may jump, so one long sleep would not do.
const LOOK: Duration = Duration::from_secs(5);

/// Why there is no new certificate. The old one stays while it is valid.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// It cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// It cannot be used.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// The trust domain makes no identity.
    #[error("the authority's own identity: {0}")]
    Identity(#[from] mesh_api::spiffe::SpiffeError),
}

/// The authority's own certificate and when to make the next.
#[derive(Debug)]
pub struct Own {
    keeper: Arc<Keeper>,
    issuing: watch::Receiver<Arc<Issuing>>,
    clock: Clock,
    ttl: Duration,
    renew_at: Time,
}

impl Own {
    /// Makes the first one.
    ///
    /// # Errors
    /// [`OwnError`].
    pub fn start(issuing: watch::Receiver<Arc<Issuing>>, clock: Clock, ttl: Duration) -> Result<Self, OwnError> {
        let keeper = Keeper::new(Credentials::default());
        let mut own = Self { keeper, issuing, clock, ttl, renew_at: Time::default() };
        own.renew()?;
        Ok(own)
    }

    /// Where the current one is.
    #[must_use]
    pub fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&self.keeper)
    }

    fn renew(&mut self) -> Result<(), OwnError> {
        let issuing = Arc::clone(&self.issuing.borrow_and_update());
        let now = Time::from(self.clock.now());
        let key = PrivateKey::generate()?;
        let id = issuing.own_identity()?;
        let spec = LeafSpec {
            identity: &id,
            dns_names: &[],
            key: &key.public()?,
            serial: Serial::random()?,
            ttl: self.ttl,
            now,
        };
        let leaf = make_leaf(issuing.signer(), &spec)?;
        let mut chain = vec![leaf.der.clone()];
        chain.extend(issuing.chain().iter().cloned());
        self.keeper.set_identity(Identity::new(chain, key.to_der())?);
        self.renew_at = now.fraction_until(leaf.not_after, 2, 3);
        metrics::gauge!(telemetry::SERVER_EXPIRY).set(leaf.not_after.unix() as f64);
        tracing::info!(serial = %leaf.serial, not_after = %leaf.not_after, "the authority's own certificate is new");
        Ok(())
    }

    /// Renews until the issuer's driver ends.
    pub async fn run(mut self) {
        loop {
            let due = tokio::select! {
                changed = self.issuing.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                () = tokio::time::sleep(LOOK) => Time::from(self.clock.now()) >= self.renew_at,
            };
            if due && let Err(error) = self.renew() {
                tracing::error!(%error, retry_in = ?LOOK, "the authority's own certificate is not renewed");
                // Due until it works.
                self.renew_at = Time::default();
            }
        }
    }
}
