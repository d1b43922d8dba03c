//! Whether a certificate proves a SPIFFE identity: pure.
//!
//! Path validation is webpki's (RFC 5280). On top of it come the rules of the X509-SVID standard that a general
//! library does not know: exactly one URI SAN and it a SPIFFE ID of the domain whose root signed, a leaf that cannot
//! sign, key usage and extended key usage that say so.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::TrustBundle;
use crate::spiffe::{SpiffeError, SpiffeId};

/// Longest chain that is looked at, without the leaf.
pub const MAX_INTERMEDIATES: usize = 4;
/// Largest certificate that is looked at, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;
/// Longest validity of a leaf: twice the longest that the mesh's own authority issues.
pub const MAX_VALIDITY: Duration = Duration::from_secs(2 * 24 * 3600);

/// In which role the peer shows its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It connected.
    Client,
    /// It was connected to.
    Server,
}

/// Why a peer is not let in. It is the peer's fault (or its issuer's); trying again is no use before that changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRefused {
    /// It showed no certificate.
    #[error("the peer showed no certificate")]
    NoCertificate,
    /// It offered no ALPN of the mesh.
    #[error("the peer offered no protocol of the mesh")]
    NoAlpn,
    /// Its certificate ran out.
    #[error("the peer's certificate has expired")]
    Expired,
    /// Its certificate is not valid yet: one of the two clocks is wrong.
    #[error("the peer's certificate is not valid yet; compare the clocks")]
    NotYetValid,
    /// No root of its trust domain signed it.
    #[error("the peer's certificate is not signed by a root of its trust domain")]
    UnknownIssuer,
    /// It has no URI SAN, or more than one.
    #[error("the peer's certificate has {0} URI names, exactly one is allowed")]
    UriNames(usize),
    /// Its URI SAN is no SPIFFE ID.
    #[error("the peer's identity is malformed: {0}")]
    Malformed(#[from] SpiffeError),
    /// It is a SPIFFE certificate, but the mesh accepts none of this shape.
    #[error("the peer's certificate is not a leaf of the mesh: {0}")]
    Shape(&'static str),
    /// The chain is too long or a certificate too large.
    #[error("the peer's certificate chain is too large")]
    TooLarge,
    /// It is somebody else than the one that was asked for.
    #[error("the peer is {found}, expected was {expected}")]
    WrongIdentity {
        /// Whom discovery named.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// Any other fault that path validation found.
    #[error("the peer's certificate is not valid: {0}")]
    Invalid(String),
}

/// Who the peer is.
///
/// # Errors
/// [`PeerRefused`], the first reason found.
pub fn verify_peer(
    trust: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    usage: Usage,
    now: UnixTime,
) -> Result<SpiffeId, PeerRefused> {
    if intermediates.len() > MAX_INTERMEDIATES
        || leaf.len() > MAX_CERTIFICATE
        || intermediates.iter().any(|certificate| certificate.len() > MAX_CERTIFICATE)
    {
        return Err(PeerRefused::TooLarge);
    }
    let id = identity_of(leaf)?;
    let anchors = trust.anchors(id.trust_domain());
    if anchors.is_empty() {
        return Err(PeerRefused::UnknownIssuer);
    }
    let certificate = EndEntityCert::try_from(leaf).map_err(path_error)?;
    let eku = match usage {
        Usage::Client => KeyUsage::client_auth(),
        Usage::Server => KeyUsage::server_auth(),
    };
    let algorithms = super::provider().signature_verification_algorithms.all;
    let path =
        certificate.verify_for_usage(algorithms, anchors, intermediates, now, eku, None, None).map_err(path_error)?;
    if !path.intermediate_certificates().all(|issuer| may_sign(&issuer.der())) {
        return Err(PeerRefused::Shape("its issuer's key usage lacks keyCertSign"));
    }
    Ok(id)
}

/// RFC 5280 section 6.1.4 (n), which webpki leaves out; X509-SVID section 4.3 wants the extension to be there.
fn may_sign(issuer: &CertificateDer<'_>) -> bool {
    let Ok((_, issuer)) = X509Certificate::from_der(issuer) else { return false };
    matches!(issuer.key_usage(), Ok(Some(usage)) if usage.value.key_cert_sign())
}

/// The one SPIFFE ID in a certificate of the right shape. Signatures and validity are not looked at.
///
/// # Errors
/// [`PeerRefused`], the first reason found.
pub(super) fn identity_of(leaf: &CertificateDer<'_>) -> Result<SpiffeId, PeerRefused> {
    let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|_| PeerRefused::Shape("it cannot be parsed"))?;
    if !rest.is_empty() {
        return Err(PeerRefused::Shape("bytes follow it"));
    }
    check_shape(&certificate)?;
    let names = certificate.subject_alternative_name().map_err(|_| PeerRefused::Shape("its names cannot be read"))?;
    let all = names.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    // A name that is not text would not be counted below, and could hide a second identity from this reader only.
    if all.iter().any(|name| matches!(name, GeneralName::Invalid(..))) {
        return Err(PeerRefused::Shape("one of its names cannot be read"));
    }
    let uris: Vec<&str> = all
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    match uris.as_slice() {
        [one] => Ok(one.parse()?),
        other => Err(PeerRefused::UriNames(other.len())),
    }
}

/// X509-SVID sections 4.1 to 4.4.
fn check_shape(certificate: &X509Certificate<'_>) -> Result<(), PeerRefused> {
    if certificate.is_ca() {
        return Err(PeerRefused::Shape("it is a certificate authority's"));
    }
    let usage = certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::KeyUsage(usage) => Some((extension.critical, usage)),
        _ => None,
    });
    let (critical, usage) = usage.ok_or(PeerRefused::Shape("it has no key usage"))?;
    if !critical {
        return Err(PeerRefused::Shape("its key usage is not critical"));
    }
    if !usage.digital_signature() {
        return Err(PeerRefused::Shape("its key usage lacks digitalSignature"));
    }
    if usage.key_cert_sign() || usage.crl_sign() {
        return Err(PeerRefused::Shape("its key may sign certificates or lists"));
    }
    let extended =
        certificate.extended_key_usage().map_err(|_| PeerRefused::Shape("its extended key usage is twice there"))?;
    if !extended.is_some_and(|extended| extended.value.server_auth && extended.value.client_auth) {
        return Err(PeerRefused::Shape("its extended key usage lacks serverAuth or clientAuth"));
    }
    let validity = certificate.validity();
    let seconds = validity.not_after.timestamp().saturating_sub(validity.not_before.timestamp());
    if u64::try_from(seconds).map_or(true, |seconds| seconds > MAX_VALIDITY.as_secs()) {
        return Err(PeerRefused::Shape("it is valid for too long"));
    }
    Ok(())
}

fn path_error(error: webpki::Error) -> PeerRefused {
    match error {
        webpki::Error::CertExpired { .. } => PeerRefused::Expired,
        webpki::Error::CertNotValidYet { .. } => PeerRefused::NotYetValid,
        webpki::Error::UnknownIssuer => PeerRefused::UnknownIssuer,
        other => PeerRefused::Invalid(other.to_string()),
    }
}
