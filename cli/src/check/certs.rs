//! Reads and compares certificates, as the API server would. Pure. Floor 0 of `check`: imports `facts`, `verdict`.

use std::fmt;

use k8s_openapi::jiff::Timestamp;
use mesh_api::names::{SYSTEM_NAMESPACE, TRUST_CONFIG_MAP, TRUST_KEY};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    facts::{Authority, Facts},
    verdict::Verdict,
};

/// Certificates renew themselves after two thirds of their life; one that is older than this share of it did not, in
/// sixths.
const OVERDUE_SIXTHS: i64 = 5;

/// What of a certificate matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cert {
    /// Subject; empty for leaves of the mesh.
    pub subject: String,
    /// First second of validity.
    pub not_before: Timestamp,
    /// Last second of validity.
    pub not_after: Timestamp,
}

impl Cert {
    /// Reads DER; none where it is not a certificate.
    #[must_use]
    pub fn parse(der: &[u8]) -> Option<Self> {
        let (_, cert) = X509Certificate::from_der(der).ok()?;
        Some(Self {
            subject: cert.subject().to_string(),
            not_before: Timestamp::from_second(cert.validity().not_before.timestamp()).ok()?,
            not_after: Timestamp::from_second(cert.validity().not_after.timestamp()).ok()?,
        })
    }

    /// As a page of the authority tells it; none where it does not tell times.
    #[must_use]
    pub fn told(authority: &Authority) -> Option<Self> {
        Some(Self {
            subject: authority.name.clone(),
            not_before: authority.not_before.parse().ok()?,
            not_after: authority.not_after.parse().ok()?,
        })
    }

    /// True where it should have been renewed long ago.
    #[must_use]
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let life = self.not_after.as_second() - self.not_before.as_second();
        let lived = now.as_second() - self.not_before.as_second();
        lived.saturating_mul(6) > life.saturating_mul(OVERDUE_SIXTHS)
    }

    /// What is wrong with its time; none where it is valid.
    #[must_use]
    pub fn untimely(&self, now: Timestamp) -> Option<String> {
        if now > self.not_after {
            return Some(format!("expired {}", self.not_after));
        }
        (now < self.not_before).then(|| format!("is not valid before {}", self.not_before))
    }
}

impl fmt::Display for Cert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (until {})", self.subject, self.not_after)
    }
}

/// The certificates of a PEM file, in DER; what is no certificate is left out.
#[must_use]
pub fn pem(pem: &[u8]) -> Vec<Vec<u8>> {
    CertificateDer::pem_slice_iter(pem).filter_map(Result::ok).map(|der| der.to_vec()).collect()
}

/// Whether a client that trusts `roots` takes `chain` (the leaf first) for the server `name`, at `now`.
///
/// # Errors
/// Why not, for people.
pub fn accepts(roots: &[Vec<u8>], chain: &[Vec<u8>], name: &str, now: Timestamp) -> Result<(), String> {
    let roots: Vec<CertificateDer<'_>> = roots.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors: Vec<_> = roots.iter().filter_map(|root| webpki::anchor_from_trusted_cert(root).ok()).collect();
    let Some((leaf, between)) = chain.split_first() else { return Err("there is none".into()) };
    let leaf_der = CertificateDer::from(leaf.as_slice());
    let between: Vec<CertificateDer<'_>> = between.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let leaf = webpki::EndEntityCert::try_from(&leaf_der).map_err(|error| said(&error))?;
    let algorithms = mesh_api::tls::provider().signature_verification_algorithms.all;
    let seconds = u64::try_from(now.as_second()).unwrap_or(0);
    let moment = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let usage = webpki::KeyUsage::server_auth();
    leaf.verify_for_usage(algorithms, &anchors, &between, moment, usage, None, None).map_err(|error| said(&error))?;
    let server = ServerName::try_from(name).map_err(|error| error.to_string())?;
    leaf.verify_is_valid_for_subject_name(&server).map_err(|error| said(&error))
}

fn said(error: &webpki::Error) -> String {
    match error {
        webpki::Error::UnknownIssuer => "none of the trusted roots signed it".into(),
        webpki::Error::CertExpired { .. } => "it has expired".into(),
        webpki::Error::CertNotValidYet { .. } => "it is not valid yet".into(),
        webpki::Error::CertNotValidForName(_) => "it is made for another name".into(),
        other => other.to_string(),
    }
}

/// The roots that the authority says are to be trusted: of its own page, else of the bundle that it wrote beside itself.
///
/// # Errors
/// The verdict of a check that cannot be held without them.
pub fn authority_roots(facts: &Facts) -> Result<Vec<Vec<u8>>, Verdict> {
    let pages = facts.replicas.iter().filter_map(|replica| replica.ca.as_ref());
    if let Some(page) = pages.into_iter().find_map(|pages| pages.trust.as_ref().ok()) {
        return Ok(pem(page.as_bytes()));
    }
    let bundles = facts.trust.as_ref().map_err(|missing| missing.verdict())?;
    let own = bundles.iter().find(|bundle| {
        bundle.metadata.namespace.as_deref() == Some(SYSTEM_NAMESPACE)
            && bundle.metadata.name.as_deref() == Some(TRUST_CONFIG_MAP)
    });
    let text = own.and_then(|bundle| bundle.data.as_ref()).and_then(|data| data.get(TRUST_KEY));
    text.map(|text| pem(text.as_bytes())).ok_or_else(|| {
        Verdict::skipped("the authority's roots are not known: it does not answer, and wrote no trust bundle")
    })
}
