//! Signing requests (PKCS #10, RFC 2986): the public key and the proof that the sender holds the private one.
//!
//! Only the frame, the key and the signature are read. Subject and attributes are stepped over unparsed, so whatever a
//! request asks for (CA:TRUE, ten years, ten thousand names) is neither granted nor costs anything.

use rcgen::SubjectPublicKeyInfo as KeyInfo;
use x509_parser::{
    asn1_rs::{Any, BitString, Class, FromDer, Oid, Tag},
    oid_registry::{
        OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA256WITHRSA,
        OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA, OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384,
        OID_SIG_ED25519,
    },
    prelude::{AlgorithmIdentifier, SubjectPublicKeyInfo},
    public_key::PublicKey as AnyKey,
    verify::verify_signature,
};

use super::{KeyKind, PublicKey};

/// Longest request that is looked at, in bytes: the longest keys that there are need half of it. It is held for whoever
/// sends one, before anything is known of who that is.
pub const MAX_CSR: usize = 16 * 1024;
/// RSA moduli that are accepted, in bytes: 2048 to 4096 bits. Longer ones cost the verifier, shorter ones nobody.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Why a request gets no certificate. It is the sender's fault; sending it again is no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`MAX_CSR`].
    #[error("the signing request is longer than {MAX_CSR} bytes")]
    TooLong,
    /// Not PKCS #10 in DER.
    #[error("the signing request is not PKCS #10 in DER form")]
    Malformed,
    /// A key that gets no certificate.
    #[error(
        "the key of the signing request is of no accepted kind: use ECDSA P-256 or P-384, Ed25519, RSA 2048 to 4096"
    )]
    KeyKind,
    /// A signature algorithm that does not fit the key or is too weak.
    #[error("the signing request is signed with an algorithm that is not accepted: use SHA-256 or stronger")]
    Algorithm,
    /// The sender does not hold the private key.
    #[error("the signature of the signing request does not fit its key")]
    Signature,
}

impl CsrError {
    /// Stable name in metrics and logs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::TooLong => "csr_too_long",
            Self::Malformed => "csr_malformed",
            Self::KeyKind => "csr_key_kind",
            Self::Algorithm => "csr_algorithm",
            Self::Signature => "csr_signature",
        }
    }
}

/// Reads a request and verifies its signature. The kind of key is judged before any cryptography runs.
///
/// # Errors
/// [`CsrError`].
pub fn parse_csr(der: &[u8]) -> Result<PublicKey, CsrError> {
    if der.len() > MAX_CSR {
        return Err(CsrError::TooLong);
    }
    let frame = Frame::read(der)?;
    let kind = key_kind(&frame.key)?;
    if !accepted(kind, &frame.algorithm.algorithm) {
        return Err(CsrError::Algorithm);
    }
    verify_signature(&frame.key, &frame.algorithm, &frame.signature, frame.signed).map_err(|_| CsrError::Signature)?;
    let info = KeyInfo::from_der(frame.key.raw).map_err(|_| CsrError::KeyKind)?;
    Ok(PublicKey { kind, info })
}

/// The parts of a request that count.
struct Frame<'a> {
    signed: &'a [u8],
    key: SubjectPublicKeyInfo<'a>,
    algorithm: AlgorithmIdentifier<'a>,
    signature: BitString<'a>,
}

impl<'a> Frame<'a> {
    fn read(der: &'a [u8]) -> Result<Self, CsrError> {
        let (rest, whole) = element(der, Tag::Sequence)?;
        nothing_left(rest)?;
        let (rest, info) = element(whole, Tag::Sequence)?;
        let signed = whole.get(..whole.len() - rest.len()).ok_or(CsrError::Malformed)?;
        // What follows is not signed, and the library reads it generously: first its frame.
        let (after, algorithm) = element(rest, Tag::Sequence)?;
        let (parameters, _) = element(algorithm, Tag::Oid)?;
        if !parameters.is_empty() {
            let (rest, null) = element(parameters, Tag::Null)?;
            nothing_left(rest).and(nothing_left(null))?;
        }
        let (_, algorithm) = AlgorithmIdentifier::from_der(rest).map_err(|_| CsrError::Malformed)?;
        nothing_left(element(after, Tag::BitString)?.0)?;
        let (_, signature) = BitString::from_der(after).map_err(|_| CsrError::Malformed)?;

        let (rest, version) = element(info, Tag::Integer)?;
        let (rest, _subject) = element(rest, Tag::Sequence)?;
        let (_attributes, key) = SubjectPublicKeyInfo::from_der(rest).map_err(|_| CsrError::Malformed)?;
        if version != [0] || signature.unused_bits != 0 {
            return Err(CsrError::Malformed);
        }
        Ok(Self { signed, key, algorithm, signature })
    }
}

/// One element of the wanted kind: what follows it, and its content.
fn element(der: &[u8], tag: Tag) -> Result<(&[u8], &[u8]), CsrError> {
    let (rest, any) = Any::from_der(der).map_err(|_| CsrError::Malformed)?;
    let header = &any.header;
    if header.class() != Class::Universal || header.tag() != tag || header.constructed() != (tag == Tag::Sequence) {
        return Err(CsrError::Malformed);
    }
    Ok((rest, any.data))
}

fn nothing_left(rest: &[u8]) -> Result<(), CsrError> {
    if rest.is_empty() { Ok(()) } else { Err(CsrError::Malformed) }
}

fn key_kind(key: &SubjectPublicKeyInfo<'_>) -> Result<KeyKind, CsrError> {
    let algorithm = &key.algorithm.algorithm;
    let parameters = key.algorithm.parameters.as_ref();
    if *algorithm == OID_SIG_ED25519 {
        return Ok(KeyKind::Ed25519);
    }
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let curve = parameters.and_then(|any| any.as_oid().ok()).ok_or(CsrError::KeyKind)?;
        return match curve {
            curve if curve == OID_EC_P256 => Ok(KeyKind::P256),
            curve if curve == OID_NIST_EC_P384 => Ok(KeyKind::P384),
            _ => Err(CsrError::KeyKind),
        };
    }
    if *algorithm != OID_PKCS1_RSAENCRYPTION {
        return Err(CsrError::KeyKind);
    }
    let Ok(AnyKey::RSA(rsa)) = key.parsed() else { return Err(CsrError::KeyKind) };
    let modulus = significant(rsa.modulus);
    let exponent = rsa.try_exponent().map_err(|_| CsrError::KeyKind)?;
    // A modulus of n bytes whose top bit is off is shorter than 8n bits.
    let full = modulus.first().is_some_and(|top| top & 0x80 != 0);
    let good = full && RSA_BYTES.contains(&modulus.len()) && exponent & 1 == 1 && (65_537..1 << 33).contains(&exponent);
    if good { Ok(KeyKind::Rsa) } else { Err(CsrError::KeyKind) }
}

/// A big-endian number without leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// True where a key of this kind may have signed with this algorithm. SHA-1 and RSA-PSS are not accepted.
fn accepted(kind: KeyKind, algorithm: &Oid<'_>) -> bool {
    match kind {
        KeyKind::P256 | KeyKind::P384 => {
            *algorithm == OID_SIG_ECDSA_WITH_SHA256 || *algorithm == OID_SIG_ECDSA_WITH_SHA384
        }
        KeyKind::Ed25519 => *algorithm == OID_SIG_ED25519,
        KeyKind::Rsa => {
            *algorithm == OID_PKCS1_SHA256WITHRSA
                || *algorithm == OID_PKCS1_SHA384WITHRSA
                || *algorithm == OID_PKCS1_SHA512WITHRSA
        }
    }
}
