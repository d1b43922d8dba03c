//! Certificates: roots, issuers, leaves, and signing requests. Floor 1, pure: every moment and every random number is
//! passed in, nothing is read or written.
//!
//! What a leaf looks like is decided here and nowhere else; see [`leaf`]. Nothing of a signing request gets into a
//! certificate but its public key.

mod authority;
mod csr;
mod key;
mod leaf;

pub use authority::{AuthorityCert, AuthoritySpec, SigningAuthority, make_issuer, make_root};
pub use csr::{CsrError, MAX_CSR, parse_csr};
pub use key::{KeyKind, PrivateKey, PublicKey};
pub use leaf::{Leaf, LeafSpec, make_leaf};

use std::{fmt, time::Duration};

use rcgen::{CertificateParams, SerialNumber};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::time::Time;

/// Certificates start this long before they are made, so that a verifier whose clock is late accepts them.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// Longest validity of a leaf, counted from now.
pub const MAX_LEAF_TTL: Duration = Duration::from_secs(24 * 3600);

/// Why a certificate or key cannot be used or made. None of them is mended by trying again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PkiError {
    /// Not a certificate, or one with bytes behind its end.
    #[error("this is not an X.509 certificate: {0}")]
    NotACertificate(String),
    /// PEM without what it should hold.
    #[error("no {0} in PEM form was found")]
    NoPem(&'static str),
    /// Not a private key of a kind that can sign certificates.
    #[error("this is not a private key that can sign certificates (PKCS #8, SEC 1 or PKCS #1; EC, Ed25519 or RSA)")]
    NotAKey,
    /// The certificate must not sign others.
    #[error("the certificate `{0}` is not a certificate authority: basicConstraints lacks CA:TRUE")]
    NotAnAuthority(String),
    /// The certificate must not sign others.
    #[error("the certificate `{0}` may not sign certificates: its keyUsage lacks keyCertSign")]
    NoCertSign(String),
    /// Key and certificate do not belong together.
    #[error("the private key does not belong to the certificate `{0}`")]
    KeyMismatch(String),
    /// Its time is over.
    #[error("the certificate `{name}` expired at {not_after}")]
    Expired {
        /// Subject.
        name: String,
        /// Last second of validity.
        not_after: Time,
    },
    /// Its time has not come: the clock of this machine or of the one that made it is wrong.
    #[error("the certificate `{name}` is not valid before {not_before}: check the clock of this machine")]
    NotYetValid {
        /// Subject.
        name: String,
        /// First second of validity.
        not_before: Time,
    },
    /// No root in the bundle signed the chain.
    #[error("the certificate `{0}` was not signed by any of the certificates above it")]
    BrokenChain(String),
    /// It is well-formed, but members would refuse what it signs.
    #[error("members would refuse what `{name}` signs: {reason}")]
    Unusable {
        /// Subject.
        name: String,
        /// What a member would say.
        reason: String,
    },
    /// The crypto library refused.
    #[error("the crypto library failed: {0}")]
    Crypto(String),
}

impl From<rcgen::Error> for PkiError {
    fn from(error: rcgen::Error) -> Self {
        Self::Crypto(error.to_string())
    }
}

/// A serial number: positive, 16 bytes, 126 of its bits random (RFC 5280 section 4.1.2.2; CA/B asks for 64).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Serial([u8; 16]);

impl Serial {
    /// From random bytes.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        // The top bit off keeps it positive, the next one on keeps its length, so that it is never zero.
        bytes[0] = bytes[0] & 0x7f | 0x40;
        Self(bytes)
    }

    /// A new one.
    ///
    /// # Errors
    /// Where the system gives no randomness.
    pub fn random() -> Result<Self, PkiError> {
        let mut bytes = [0; 16];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PkiError::Crypto("no randomness".into()))?;
        Ok(Self::from_random(bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

/// The certificates of a PEM text, in order; other sections are skipped.
///
/// # Errors
/// [`PkiError::NoPem`] where there is none, or the text is broken.
pub fn certs_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        _ => Err(PkiError::NoPem("certificate")),
    }
}

/// Certificates as PEM, one after the other.
#[must_use]
pub fn certs_to_pem<'a>(certs: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    certs.into_iter().map(|der| pem("CERTIFICATE", der)).collect()
}

/// RFC 7468 text.
fn pem(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let bytes = [group.first(), group.get(1), group.get(2)].map(|byte| u32::from(byte.copied().unwrap_or(0)));
            let bits = bytes[0] << 16 | bytes[1] << 8 | bytes[2];
            for place in 0..4 {
                let sextet = (bits >> (18 - 6 * place) & 63) as usize;
                out.push(if place <= group.len() { ALPHABET[sextet] as char } else { '=' });
            }
        }
        out.push('\n');
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Parameters of a certificate without a name, that starts [`BACKDATE`] before `now`, but not before `earliest`.
fn params(serial: Serial, now: Time, earliest: Time, not_after: Time) -> CertificateParams {
    // The date type of the library cannot be named from here, only made.
    let date = |time: Time| rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(time.unix());
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.not_before = date(now.minus(BACKDATE).max(earliest));
    params.not_after = date(not_after);
    params.use_authority_key_identifier_extension = true;
    params
}

#[cfg(test)]
mod tests;
