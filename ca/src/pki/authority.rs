//! Authorities: roots, which members trust, and issuers, which sign leaves.

use std::{fmt, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, PrivateKey, Serial, params};
use crate::time::Time;

/// Longest common name (RFC 5280 appendix A, ub-common-name).
const MAX_COMMON_NAME: usize = 64;

/// A certificate that may sign others, and what of it matters.
#[derive(Clone)]
pub struct AuthorityCert {
    der: CertificateDer<'static>,
    name: String,
    not_before: Time,
    not_after: Time,
    public_key: Vec<u8>,
    fingerprint: String,
}

impl AuthorityCert {
    /// Reads a certificate and checks that it may sign others.
    ///
    /// # Errors
    /// [`PkiError::NotACertificate`], [`PkiError::NotAnAuthority`], [`PkiError::NoCertSign`].
    pub fn parse(der: CertificateDer<'static>) -> Result<Self, PkiError> {
        let cert = x509(&der)?;
        let name = cert.subject().to_string();
        let constraints = cert.basic_constraints().ok().flatten();
        if !constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(PkiError::NotAnAuthority(name));
        }
        if !cert.key_usage().ok().flatten().is_some_and(|usage| usage.value.key_cert_sign()) {
            return Err(PkiError::NoCertSign(name));
        }
        let moment = |seconds: i64| Time::from_unix(u64::try_from(seconds).unwrap_or(0));
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        Ok(Self {
            not_before: moment(cert.validity().not_before.timestamp()),
            not_after: moment(cert.validity().not_after.timestamp()),
            public_key: cert.public_key().raw.to_vec(),
            fingerprint: digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            name,
            der,
        })
    }

    /// The certificate.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Its subject, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// First second of validity.
    #[must_use]
    pub fn not_before(&self) -> Time {
        self.not_before
    }

    /// Last second of validity.
    #[must_use]
    pub fn not_after(&self) -> Time {
        self.not_after
    }

    /// SHA-256 of the certificate in hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Checks that `now` is within the validity.
    ///
    /// # Errors
    /// [`PkiError::Expired`], [`PkiError::NotYetValid`].
    pub fn check_time(&self, now: Time) -> Result<(), PkiError> {
        if now > self.not_after {
            return Err(PkiError::Expired { name: self.name.clone(), not_after: self.not_after });
        }
        if now < self.not_before {
            return Err(PkiError::NotYetValid { name: self.name.clone(), not_before: self.not_before });
        }
        Ok(())
    }

    /// True where `other` signed this certificate: names and signature fit.
    #[must_use]
    pub fn signed_by(&self, other: &Self) -> bool {
        let (Ok(this), Ok(other)) = (x509(&self.der), x509(&other.der)) else { return false };
        this.issuer().as_raw() == other.subject().as_raw() && this.verify_signature(Some(other.public_key())).is_ok()
    }
}

impl fmt::Debug for AuthorityCert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuthorityCert({}, until {}, sha256 {})", self.name, self.not_after, self.fingerprint)
    }
}

fn x509<'a>(der: &'a CertificateDer<'static>) -> Result<X509Certificate<'a>, PkiError> {
    match X509Certificate::from_der(der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(PkiError::NotACertificate("there are bytes behind its end".into())),
        Err(error) => Err(PkiError::NotACertificate(error.to_string())),
    }
}

/// A certificate together with its private key: it can sign.
pub struct SigningAuthority {
    cert: AuthorityCert,
    issuer: Issuer<'static, KeyPair>,
}

impl SigningAuthority {
    /// Brings certificate and key together.
    ///
    /// # Errors
    /// [`PkiError::KeyMismatch`].
    pub fn new(cert: AuthorityCert, key: PrivateKey) -> Result<Self, PkiError> {
        if key.public_der() != cert.public_key {
            return Err(PkiError::KeyMismatch(cert.name));
        }
        let issuer = Issuer::from_ca_cert_der(&cert.der, key.into_pair())?;
        Ok(Self { cert, issuer })
    }

    /// The certificate.
    #[must_use]
    pub fn cert(&self) -> &AuthorityCert {
        &self.cert
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }
}

impl fmt::Debug for SigningAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningAuthority").field("cert", &self.cert).field("key", &"[redacted]").finish()
    }
}

/// What a new root or issuer says.
#[derive(Clone, Copy, Debug)]
pub struct AuthoritySpec<'a> {
    /// Trust domain, for the name that people see.
    pub trust_domain: &'a str,
    /// Counts up with every new one; part of the name.
    pub generation: u64,
    /// Validity from `now`.
    pub lifetime: Duration,
    /// Serial number.
    pub serial: Serial,
    /// Wall time.
    pub now: Time,
}

impl AuthoritySpec<'_> {
    /// `path_len`: how many authorities may stand below.
    fn params(&self, what: &str, path_len: u8, earliest: Time, latest: Time) -> CertificateParams {
        let not_after = self.now.plus(self.lifetime).min(latest);
        let mut params = params(self.serial, self.now, earliest, not_after);
        let name = format!("mesh {what} {} {}", self.generation, self.trust_domain);
        let name: String = name.chars().take(MAX_COMMON_NAME).collect();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}

/// A self-signed root that may have issuers below it, and no authorities below those.
///
/// # Errors
/// Where the crypto library fails.
pub fn make_root(spec: &AuthoritySpec<'_>, key: &PrivateKey) -> Result<AuthorityCert, PkiError> {
    let params = spec.params("root", 1, Time::default(), Time::MAX);
    AuthorityCert::parse(params.self_signed(key.pair())?.into())
}

/// An issuer below `root`, that may sign leaves only. It never outlives the root.
///
/// # Errors
/// [`PkiError::Expired`], [`PkiError::NotYetValid`] for a root that is not valid now; where the crypto library fails.
pub fn make_issuer(
    spec: &AuthoritySpec<'_>,
    key: &PrivateKey,
    root: &SigningAuthority,
) -> Result<AuthorityCert, PkiError> {
    root.cert.check_time(spec.now)?;
    let params = spec.params("issuer", 0, root.cert.not_before, root.cert.not_after);
    AuthorityCert::parse(params.signed_by(key.pair(), &root.issuer)?.into())
}
