//! What signs: where it comes from and how it changes. Floor 2: imports `pki`, `files`, `cluster`.
//!
//! [`Issuing`] is what holds at one moment. It comes from a [`keyring::Keyring`], roots and issuers that this authority
//! makes and rotates itself, kept in a folder ([`Store`]) or in a Kubernetes Secret ([`SecretStore`]); or from
//! [`Supplied`] files that somebody else makes and replaces. [`Driver`] drives any of them and hands every new
//! [`Issuing`] to whoever watches.

mod driver;
pub mod keyring;
pub mod rotation;
mod secret;
mod store;
mod supplied;

pub use driver::{Control, Driver, IssuerError, OrderError, Source};
pub use secret::{ANNOTATION_OUTCOME, ANNOTATION_ROTATE, SecretError, SecretStore};
pub use store::{Store, StoreError};
pub use supplied::{Supplied, SuppliedError, SuppliedFiles};

use std::sync::Arc;

use mesh_api::{
    names::{CA_ACCOUNT, SYSTEM_NAMESPACE},
    spiffe::{SpiffeError, SpiffeId, TrustDomain},
    tls::{TrustBundle, Usage, verify_peer},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Serialize;

use crate::{
    pki::{self, AuthorityCert, LeafSpec, PkiError, PrivateKey, Serial, SigningAuthority},
    time::Time,
};

/// Name of the file in the state folder with every trusted root (PEM), for members' first contact.
pub const TRUST_FILE: &str = "trust.pem";

/// What signs leaves, and what members should trust, at one moment.
#[derive(Clone, Debug)]
pub struct Issuing {
    domain: TrustDomain,
    signer: Arc<SigningAuthority>,
    /// From the signer up, without roots.
    chain: Vec<CertificateDer<'static>>,
    roots: Vec<AuthorityCert>,
    report: Report,
}

/// Where roots and issuers stand, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `own` or `supplied`.
    pub source: &'static str,
    /// Where a change of root stands.
    pub phase: &'static str,
    /// When the next step is due; `None` where somebody else decides.
    pub next_step: Option<String>,
    /// What signs leaves.
    pub issuer: Line,
    /// What is trusted.
    pub roots: Vec<Line>,
}

/// A root or an issuer in a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Counts up with each one; `None` where somebody else makes them.
    pub generation: Option<u64>,
    /// Subject.
    pub name: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// SHA-256 in hexadecimal.
    pub fingerprint: String,
    /// True for the root above the issuer, and for the issuer.
    pub signing: bool,
}

impl Line {
    fn of(cert: &AuthorityCert, generation: Option<u64>, signing: bool) -> Self {
        Self {
            generation,
            name: cert.name().to_owned(),
            not_before: cert.not_before().to_string(),
            not_after: cert.not_after().to_string(),
            fingerprint: cert.fingerprint().to_owned(),
            signing,
        }
    }
}

impl Issuing {
    /// Checks that what is put together here makes certificates that members accept, with the code that members run.
    fn checked(self, now: Time) -> Result<Self, PkiError> {
        let name = || self.signer.cert().name().to_owned();
        self.signer.cert().check_time(now)?;
        let roots = self.roots.iter().map(|root| root.der().clone()).collect();
        let bundle = TrustBundle::new(self.domain.clone(), roots).map_err(|_| PkiError::NoPem("root"))?;
        let key = PrivateKey::generate()?;
        let identity = self.own_identity().map_err(|error| PkiError::Crypto(error.to_string()))?;
        let spec = LeafSpec {
            identity: &identity,
            dns_names: &[],
            key: &key.public()?,
            serial: Serial::random()?,
            ttl: pki::MAX_LEAF_TTL,
            now,
        };
        let trial = pki::make_leaf(&self.signer, &spec)?;
        let moment = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.unix()));
        match verify_peer(&bundle, &trial.der, &self.chain, Usage::Server, moment) {
            Ok(_) => Ok(self),
            Err(error) => Err(PkiError::Unusable { name: name(), reason: error.to_string() }),
        }
    }

    /// What signs.
    #[must_use]
    pub fn signer(&self) -> &SigningAuthority {
        &self.signer
    }

    /// Certificates between a leaf and its root, in the order in which TLS wants them.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Every root to trust now.
    #[must_use]
    pub fn roots(&self) -> &[AuthorityCert] {
        &self.roots
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// Changes when the signing issuer does.
    #[must_use]
    pub fn mark(&self) -> &str {
        self.signer.cert().fingerprint()
    }

    /// Where things stand.
    #[must_use]
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// The roots as PEM.
    #[must_use]
    pub fn trust_pem(&self) -> String {
        pki::certs_to_pem(self.roots.iter().map(AuthorityCert::der))
    }

    /// The roots as they travel.
    #[must_use]
    pub fn bundle(&self) -> mesh_api::proto::TrustBundle {
        mesh_api::proto::TrustBundle {
            trust_domain: self.domain.to_string(),
            roots: self.roots.iter().map(|root| root.der().to_vec()).collect(),
            issuer: self.mark().to_owned(),
        }
    }

    /// Who this authority itself is.
    ///
    /// # Errors
    /// Where the trust domain makes the identity too long.
    pub fn own_identity(&self) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::workload(&self.domain, SYSTEM_NAMESPACE, CA_ACCOUNT)
    }
}
