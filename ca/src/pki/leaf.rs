//! Leaves: the certificates of workloads (SPIFFE X509-SVID sections 2 to 5).
//!
//! Exactly one URI SAN, which is the identity; DNS SANs beside it where the spec says so, by which members know nobody
//! (X509-SVID section 2); and nothing else that names: the subject is empty, so nothing of the request can leak into it
//! (the SAN is critical then, RFC 5280 section 4.2.1.6). keyUsage digitalSignature, critical; extendedKeyUsage server
//! and client; basicConstraints without CA; subject and authority key identifiers.

use std::time::Duration;

use mesh_api::spiffe::SpiffeId;
use rcgen::{ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};
use rustls_pki_types::CertificateDer;

use super::{MAX_LEAF_TTL, PkiError, PublicKey, Serial, SigningAuthority, params};
use crate::time::Time;

/// What a leaf says.
#[derive(Debug)]
pub struct LeafSpec<'a> {
    /// Its one identity.
    pub identity: &'a SpiffeId,
    /// DNS names, for those who know it by name only.
    pub dns_names: &'a [String],
    /// Its key.
    pub key: &'a PublicKey,
    /// Its serial number.
    pub serial: Serial,
    /// Validity from `now`, at most [`MAX_LEAF_TTL`], never beyond the issuer's.
    pub ttl: Duration,
    /// Wall time.
    pub now: Time,
}

/// A signed leaf.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// Its serial number.
    pub serial: Serial,
    /// First second of validity.
    pub not_before: Time,
    /// Last second of validity.
    pub not_after: Time,
}

/// Signs a leaf.
///
/// # Errors
/// [`PkiError::Expired`] and [`PkiError::NotYetValid`] where the issuer is not valid now: an authority whose clock is
/// outside its own validity signs nothing. Otherwise where the crypto library fails.
pub fn make_leaf(issuer: &SigningAuthority, spec: &LeafSpec<'_>) -> Result<Leaf, PkiError> {
    issuer.cert().check_time(spec.now)?;
    let not_after = spec.now.plus(spec.ttl.min(MAX_LEAF_TTL)).min(issuer.cert().not_after());
    let not_before = spec.now.minus(super::BACKDATE).max(issuer.cert().not_before());
    let mut params = params(spec.serial, spec.now, not_before, not_after);
    let uri = spec.identity.as_str().try_into().map_err(|error| PkiError::Crypto(format!("{error}")))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    for name in spec.dns_names {
        let name = name.as_str().try_into().map_err(|error| PkiError::Crypto(format!("{error}")))?;
        params.subject_alt_names.push(SanType::DnsName(name));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.is_ca = IsCa::ExplicitNoCa;
    let signed = params.signed_by(&spec.key.info, issuer.issuer())?;
    Ok(Leaf { der: signed.into(), serial: spec.serial, not_before, not_after })
}
