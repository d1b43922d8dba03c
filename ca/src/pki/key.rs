//! Keys: private ones, which never show themselves, and the kinds of public ones that get a certificate.

use std::fmt;

use rcgen::{KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};

use super::PkiError;

/// A private key that signs. It has no text form but the one of [`PrivateKey::to_pem`], which only files get.
pub struct PrivateKey(KeyPair);

impl PrivateKey {
    /// A new ECDSA P-256 key.
    ///
    /// # Errors
    /// Where the crypto library fails.
    pub fn generate() -> Result<Self, PkiError> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?))
    }

    /// The first private key of a PEM text: PKCS #8, SEC 1 or PKCS #1.
    ///
    /// # Errors
    /// [`PkiError::NoPem`], [`PkiError::NotAKey`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, PkiError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| PkiError::NoPem("private key"))?;
        KeyPair::try_from(&der).map(Self).map_err(|_| PkiError::NotAKey)
    }

    /// PKCS #8 as PEM. For a file of mode 0600 and nothing else.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// The key for a TLS configuration.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.0.serialize_der().into())
    }

    /// The public half, as a certificate carries it (SubjectPublicKeyInfo, DER).
    #[must_use]
    pub fn public_der(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }

    /// The public half as the subject of a leaf.
    ///
    /// # Errors
    /// Where the key is of a kind that gets no certificate.
    pub fn public(&self) -> Result<PublicKey, PkiError> {
        let kind = if self.0.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            KeyKind::P256
        } else if self.0.is_compatible(&rcgen::PKCS_ECDSA_P384_SHA384) {
            KeyKind::P384
        } else if self.0.is_compatible(&rcgen::PKCS_ED25519) {
            KeyKind::Ed25519
        } else {
            return Err(PkiError::NotAKey);
        };
        Ok(PublicKey { kind, info: SubjectPublicKeyInfo::from_der(&self.public_der())? })
    }

    pub(super) fn into_pair(self) -> KeyPair {
        self.0
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey([redacted])")
    }
}

/// Kinds of keys that get a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA, 2048 to 4096 bits.
    Rsa,
}

impl KeyKind {
    /// Name in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
        }
    }
}

/// A public key whose owner has proved that it holds the private one.
#[derive(Debug)]
pub struct PublicKey {
    pub(super) kind: KeyKind,
    pub(super) info: SubjectPublicKeyInfo,
}

impl PublicKey {
    /// What kind of key it is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }
}
