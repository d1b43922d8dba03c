//! What a process proves itself with and whom it trusts, and the place where the current ones are kept.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, TrustAnchor, UnixTime, pem::PemObject},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::verify::{Usage, identity_of, verify_peer};
use crate::{
    proto,
    spiffe::{SpiffeId, TrustDomain},
};

/// Credentials that cannot be used. What was there before stays.
#[derive(Debug, thiserror::Error)]
pub enum BadCredentials {
    /// No certificate, or one that cannot be read.
    #[error("the certificate chain is empty or not readable")]
    Chain,
    /// The chain's leaf is no SPIFFE certificate.
    #[error("the certificate is not a SPIFFE certificate: {0}")]
    Identity(#[from] super::PeerRefused),
    /// The key is not usable, or is not the certificate's.
    #[error("the private key does not fit the certificate: {0}")]
    Key(rustls::Error),
    /// The certificate is one, but nobody who trusts this bundle would take it.
    #[error("the certificate does not hold under the trust bundle: {0}")]
    Untrusted(super::PeerRefused),
    /// The bundle is another trust domain's.
    #[error("the trust bundle is for `{found}`, expected was `{expected}`")]
    Domain {
        /// The own trust domain.
        expected: TrustDomain,
        /// The bundle's.
        found: String,
    },
    /// A root cannot be read, or there is none.
    #[error("the trust bundle has no readable root for trust domain `{0}`")]
    Roots(String),
}

/// A certificate, its key, and what the certificate says.
pub struct Identity {
    id: SpiffeId,
    certified_key: Arc<CertifiedKey>,
    not_before: SystemTime,
    not_after: SystemTime,
    serial: String,
    issuer: String,
}

impl Identity {
    /// From a chain (leaf first, DER) and the leaf's key.
    ///
    /// # Errors
    /// [`BadCredentials`].
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, BadCredentials> {
        let leaf = chain.first().ok_or(BadCredentials::Chain)?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| BadCredentials::Chain)?;
        let id = identity_of(leaf)?;
        let time = |stamp: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stamp).unwrap_or(0));
        let not_before = time(parsed.validity().not_before.timestamp());
        let not_after = time(parsed.validity().not_after.timestamp());
        let serial = parsed.raw_serial_as_string();
        let issuer = parsed.issuer().to_string();
        let certified_key = CertifiedKey::from_der(chain, key, &super::provider()).map_err(BadCredentials::Key)?;
        Ok(Self { id, certified_key: Arc::new(certified_key), not_before, not_after, serial, issuer })
    }

    /// Whether a member that trusts `trust` would take it now.
    ///
    /// # Errors
    /// [`BadCredentials::Untrusted`].
    pub fn check(&self, trust: &TrustBundle, now: UnixTime) -> Result<(), BadCredentials> {
        let (leaf, intermediates) = self.certified_key.cert.split_first().ok_or(BadCredentials::Chain)?;
        let found = verify_peer(trust, leaf, intermediates, Usage::Client, now);
        found.map(drop).map_err(BadCredentials::Untrusted)
    }

    /// Who this is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Chain and key, as rustls wants them.
    #[must_use]
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }

    /// First moment of its validity.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Last moment of its validity.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Serial number, in hexadecimal.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Distinguished name of the issuer.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("id", &self.id).field("serial", &self.serial).finish_non_exhaustive()
    }
}

/// Roots to trust, by trust domain and never pooled: a root speaks for its own domain only.
#[derive(Clone, Default)]
pub struct TrustBundle {
    domains: BTreeMap<TrustDomain, Domain>,
}

#[derive(Clone)]
struct Domain {
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// A bundle of one domain.
    ///
    /// # Errors
    /// [`BadCredentials::Roots`] where there is no root, or one cannot be read.
    pub fn new(domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, BadCredentials> {
        let mut bundle = Self::default();
        bundle.insert(domain, roots)?;
        Ok(bundle)
    }

    /// Adds a domain, or replaces its roots.
    ///
    /// # Errors
    /// [`BadCredentials::Roots`]; the bundle stays as it was.
    pub fn insert(&mut self, domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<(), BadCredentials> {
        let unreadable = || BadCredentials::Roots(domain.to_string());
        let anchors: Result<Vec<_>, _> =
            roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).map(|anchor| anchor.to_owned())).collect();
        let anchors = anchors.map_err(|_| unreadable())?;
        if anchors.is_empty() {
            return Err(unreadable());
        }
        self.domains.insert(domain, Domain { roots, anchors });
        Ok(())
    }

    /// From PEM, for one domain.
    ///
    /// # Errors
    /// [`BadCredentials::Roots`].
    pub fn from_pem(domain: TrustDomain, pem: &[u8]) -> Result<Self, BadCredentials> {
        let roots: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
        let roots = roots.map_err(|_| BadCredentials::Roots(domain.to_string()))?;
        Self::new(domain, roots)
    }

    /// From the wire.
    ///
    /// # Errors
    /// [`BadCredentials::Roots`].
    pub fn from_proto(wire: &proto::TrustBundle) -> Result<Self, BadCredentials> {
        let wrong = |_| BadCredentials::Roots(wire.trust_domain.clone());
        let domain = wire.trust_domain.parse().map_err(wrong)?;
        Self::new(domain, wire.roots.iter().map(|der| CertificateDer::from(der.clone())).collect())
    }

    /// Trust anchors of a domain; none where it is not trusted.
    #[must_use]
    pub fn anchors(&self, domain: &str) -> &[TrustAnchor<'static>] {
        let found = self.domains.iter().find(|(name, _)| name.as_str() == domain);
        found.map(|(_, domain)| domain.anchors.as_slice()).unwrap_or_default()
    }

    /// Every root with its domain.
    pub fn roots(&self) -> impl Iterator<Item = (&TrustDomain, &CertificateDer<'static>)> {
        self.domains.iter().flat_map(|(name, domain)| domain.roots.iter().map(move |root| (name, root)))
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.domains.iter().map(|(name, domain)| (name, domain.roots.len()))).finish()
    }
}

/// What holds at one moment.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Own certificate; `None` before the first was issued, and for a client without one.
    pub identity: Option<Arc<Identity>>,
    /// Whom to trust.
    pub trust: Arc<TrustBundle>,
}

/// Keeps the current credentials. Reading takes no lock.
#[derive(Debug, Default)]
pub struct Keeper {
    current: ArcSwap<Credentials>,
}

impl Keeper {
    /// Keeps these.
    #[must_use]
    pub fn new(credentials: Credentials) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(credentials) })
    }

    /// The current ones.
    #[must_use]
    pub fn current(&self) -> Arc<Credentials> {
        self.current.load_full()
    }

    /// Takes effect with the next handshake.
    pub fn set_identity(&self, identity: Identity) {
        let identity = Some(Arc::new(identity));
        self.current.rcu(|old| Credentials { identity: identity.clone(), trust: Arc::clone(&old.trust) });
    }

    /// Takes effect with the next handshake.
    pub fn set_trust(&self, trust: TrustBundle) {
        let trust = Arc::new(trust);
        self.current.rcu(|old| Credentials { identity: old.identity.clone(), trust: Arc::clone(&trust) });
    }
}
