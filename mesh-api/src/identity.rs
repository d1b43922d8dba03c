//! How a member gets its certificate and keeps it fresh. Floor 3: imports `grpc`, `tls`, `backoff`, `sys`.
//!
//! The private key is made here and never leaves memory. The last good certificate is kept through every outage of
//! the certificate authority, until it runs out by itself; trying goes on for as long as the process lives. Who was
//! away while the roots changed, or finds an authority that began anew, is helped by the file of roots: it is read
//! again whenever the authority cannot be talked to.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::timeout};
use tonic::transport::Channel;

use crate::{
    address::HostPort,
    backoff::Backoff,
    grpc, names, proto,
    proto::identity_client::IdentityClient,
    spiffe::{SpiffeId, TrustDomain},
    sys::Sys,
    tls::{BadCredentials, Credentials, Identity, Keeper, TrustBundle},
};

/// One call of the certificate authority takes at most this long.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Waits between tries grow from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A certificate is renewed after this share of its life, give or take a fifth: at four fifths at the latest.
const RENEW_AFTER: f64 = 0.66;
/// After the authority changed its issuer, members renew within this time, spread out.
const RENEW_SPREAD: Duration = Duration::from_secs(2);
/// Largest token file, in bytes.
const MAX_TOKEN: u64 = 16 * 1024;
/// Largest file of roots, in bytes.
const MAX_ROOTS: u64 = 1024 * 1024;

/// Where identity comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityConfig {
    /// Trust domain.
    pub trust_domain: String,
    /// Host (name or address) and port of the certificate authority; a name is resolved at each connection.
    pub ca: HostPort,
    /// File with the bootstrap token; read again for each request.
    pub token_file: PathBuf,
    /// PEM file with the roots to trust for the first contact, and whenever the authority cannot be talked to.
    pub roots_file: PathBuf,
    /// Wished validity in seconds; 0 leaves it to the authority.
    pub validity_seconds: u64,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            trust_domain: names::DEFAULT_TRUST_DOMAIN.into(),
            ca: SocketAddr::from(([127, 0, 0, 1], names::PORT_CA)).into(),
            token_file: "/var/run/secrets/mesh/token".into(),
            roots_file: "/var/run/secrets/mesh/roots.pem".into(),
            validity_seconds: 0,
        }
    }
}

/// Why there is no (new) certificate. Every one of them is tried again.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file is missing or unreadable.
    #[error("cannot read {path}: {error}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The trust domain or an identity is malformed.
    #[error("`{0}` is not a trust domain")]
    TrustDomain(String),
    /// The signing request could not be made.
    #[error("cannot make a signing request: {0}")]
    Request(#[from] rcgen::Error),
    /// The authority refused, or was not reached.
    #[error("the certificate authority: {}", .0.message())]
    Refused(#[from] tonic::Status),
    /// The authority did not answer in time.
    #[error("the certificate authority did not answer within {CALL_TIMEOUT:?}")]
    Timeout,
    /// The authority answered something unusable.
    #[error("the certificate authority's answer: {0}")]
    Answer(#[from] BadCredentials),
}

/// Keeps the credentials of this process.
pub struct Member {
    sys: Sys,
    config: IdentityConfig,
    domain: TrustDomain,
    client: IdentityClient<Channel>,
    keeper: Arc<Keeper>,
    ready: watch::Sender<bool>,
    /// What the file of roots held when it was last looked at.
    roots: Mutex<Vec<u8>>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Member {
    /// Trusts the roots of the configured file, and has no certificate yet.
    ///
    /// # Errors
    /// [`IdentityError`] where the roots cannot be read: without them there is nobody to ask.
    pub fn new(sys: Sys, config: IdentityConfig) -> Result<Self, IdentityError> {
        let wrong = |_| IdentityError::TrustDomain(config.trust_domain.clone());
        let domain: TrustDomain = config.trust_domain.parse().map_err(wrong)?;
        let path = config.roots_file.clone();
        let pem = std::fs::read(&path).map_err(|error| IdentityError::File { path, error })?;
        let trust = Arc::new(TrustBundle::from_pem(domain.clone(), &pem)?);
        let keeper = Keeper::new(Credentials { identity: None, trust });
        let authority = SpiffeId::workload(&domain, names::SYSTEM_NAMESPACE, names::CA_ACCOUNT).map_err(wrong)?;
        // The authority asks for no client certificate: who has none, or an expired one, must be able to ask.
        let client = IdentityClient::new(grpc::channel(&sys, &keeper, config.ca.clone(), authority));
        let (ready, _) = watch::channel(false);
        Ok(Self { sys, config, domain, client, keeper, ready, roots: Mutex::new(pem) })
    }

    /// Where the current credentials are.
    #[must_use]
    pub fn keeper(&self) -> Arc<Keeper> {
        Arc::clone(&self.keeper)
    }

    /// Becomes true with the first certificate.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.subscribe()
    }

    /// Gets certificates and follows the trust bundle for as long as the process lives.
    pub async fn run(self) {
        let (issuer, changes) = watch::channel(String::new());
        tokio::join!(self.follow_trust(issuer), self.renew(changes));
    }

    async fn renew(&self, mut issuer: watch::Receiver<String>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut rng = self.sys.entropy.rng();
        let mut acted_on = String::new();
        loop {
            match self.certify().await {
                Ok(signer) => {
                    backoff.reset();
                    self.ready.send_replace(true);
                    self.wait_for_renewal(&mut issuer, &signer, &mut acted_on).await;
                }
                Err(error) => {
                    self.look_at_roots().await;
                    let wait = backoff.next_wait(rng.next_u32());
                    tracing::warn!(%error, retry_in = ?wait, "no new certificate");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    /// Until about two thirds of the certificate's life are over, or the authority signs with another issuer than `signer`.
    async fn wait_for_renewal(&self, issuer: &mut watch::Receiver<String>, signer: &str, acted_on: &mut String) {
        let credentials = self.keeper.current();
        let Some(identity) = &credentials.identity else { return };
        // What is left, not the whole life: certificates are dated back, which counts where they live for seconds.
        let left = identity.not_after().duration_since(self.sys.clock.now()).unwrap_or_default();
        let wait = self.sys.entropy.jitter(left.mul_f64(RENEW_AFTER)).max(RETRY.0);
        // Each mark is acted on once: while the stream is behind, it names an older issuer than the certificate's.
        let other = issuer.wait_for(|now| !now.is_empty() && now != signer && now != acted_on);
        let changed = timeout(wait, other).await.ok().and_then(Result::ok).map(|now| now.clone());
        if let Some(now) = changed {
            *acted_on = now;
            let spread = f64::from(self.sys.entropy.rng().next_u32()) / f64::from(u32::MAX);
            tokio::time::sleep(RENEW_SPREAD.mul_f64(spread)).await;
        }
    }

    /// One certificate; answers the issuer's mark.
    async fn certify(&self) -> Result<String, IdentityError> {
        let file = |error| IdentityError::File { path: self.config.token_file.clone(), error };
        let token = read_bounded(&self.config.token_file, MAX_TOKEN).await.map_err(file)?;
        let token = String::from_utf8(token).map_err(|error| file(std::io::Error::other(error)))?;
        let key = rcgen::KeyPair::generate()?;
        let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
        let request = proto::CertifyRequest {
            token: token.trim().to_owned(),
            csr: csr.der().to_vec(),
            validity_seconds: self.config.validity_seconds,
        };
        let mut client = self.client.clone();
        let answer = timeout(CALL_TIMEOUT, client.certify(request)).await.map_err(|_| IdentityError::Timeout)??;
        let answer = answer.into_inner();
        let chain = answer.chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = Identity::new(chain, key)?;
        let wire = answer.trust.unwrap_or_default();
        let trust = self.own_bundle(&wire)?;
        // Whoever would be refused everywhere is better off with what it has.
        identity.check(&trust, UnixTime::since_unix_epoch(self.sys.clock.unix()))?;
        self.keeper.set_trust(trust);
        tracing::info!(identity = %identity.id(), serial = identity.serial(), issuer = identity.issuer(), "new certificate");
        self.keeper.set_identity(identity);
        Ok(wire.issuer)
    }

    /// A bundle that may replace the current one: readable, and of the own trust domain.
    fn own_bundle(&self, wire: &proto::TrustBundle) -> Result<TrustBundle, BadCredentials> {
        if wire.trust_domain != self.domain.as_str() {
            let (expected, found) = (self.domain.clone(), wire.trust_domain.clone());
            return Err(BadCredentials::Domain { expected, found });
        }
        TrustBundle::from_proto(wire)
    }

    /// Trusts what the file of roots holds, where somebody changed it since it was last looked at: the authority may have
    /// begun anew, or have changed its root while this member was away, and it cannot say so to who does not trust it.
    async fn look_at_roots(&self) {
        let Ok(pem) = read_bounded(&self.config.roots_file, MAX_ROOTS).await else { return };
        let changed = {
            let mut last = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
            let changed = *last != pem;
            last.clone_from(&pem);
            changed
        };
        if !changed {
            return;
        }
        match TrustBundle::from_pem(self.domain.clone(), &pem) {
            Ok(trust) => {
                tracing::warn!(file = %self.config.roots_file.display(), "the file of roots changed: what it holds is trusted now");
                self.keeper.set_trust(trust);
            }
            Err(error) => tracing::warn!(%error, "the file of roots changed, and holds none that can be used"),
        }
    }

    async fn follow_trust(&self, issuer: watch::Sender<String>) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut rng = self.sys.entropy.rng();
        loop {
            match self.follow_once(&issuer, &mut backoff).await {
                Ok(()) => tracing::debug!("the trust stream ended"),
                Err(error) => {
                    tracing::info!(%error, "the trust stream broke off");
                    self.look_at_roots().await;
                }
            }
            tokio::time::sleep(backoff.next_wait(rng.next_u32())).await;
        }
    }

    async fn follow_once(&self, issuer: &watch::Sender<String>, backoff: &mut Backoff) -> Result<(), IdentityError> {
        let mut client = self.client.clone();
        let opened = timeout(CALL_TIMEOUT, client.watch_trust(proto::WatchTrustRequest {})).await;
        let mut bundles = opened.map_err(|_| IdentityError::Timeout)??.into_inner();
        while let Some(bundle) = bundles.message().await? {
            self.keeper.set_trust(self.own_bundle(&bundle)?);
            issuer.send_replace(bundle.issuer);
            backoff.reset();
        }
        Ok(())
    }
}

async fn read_bounded(path: &std::path::Path, limit: u64) -> std::io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt;
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(limit + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > limit {
        return Err(std::io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(bytes)
}
