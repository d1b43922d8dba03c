//! Join tokens: JWTs (RFC 7519) signed with Ed25519 by a key that only this authority and its operator hold.
//!
//! For meshes without Kubernetes, where the operator says who may be whom. The algorithm is pinned, so a token cannot
//! choose how it is verified (RFC 8725 section 3.1), and headers that point to other keys are refused.

use std::{fmt, net::IpAddr, path::Path, time::Duration};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use mesh_api::names::CA_AUDIENCE;
use rcgen::PublicKeyData;
use rustls_pki_types::{PrivateKeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};

use super::{Authenticating, Authenticator, AuthnError, Caller, MAX_TOKEN};
use crate::{
    files::{self, FileError, Readers, Secret},
    time::Time,
};

/// Longest life of a token.
pub const MAX_TOKEN_TTL: Duration = Duration::from_secs(366 * 24 * 3600);
/// A token may be this far from the future: the clock of the machine that made it may be early.
const SKEW: Duration = Duration::from_secs(60);

/// Longest id of a token, in bytes; those made here have half of it.
const MAX_ID: usize = 64;

/// Why the key of join tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JoinKeyError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content.
    #[error("{0} does not hold an Ed25519 private key (PKCS #8, PEM); remove it to have a new one made")]
    NotAKey(String),
    /// The crypto library.
    #[error("the crypto library failed: {0}")]
    Crypto(String),
}

/// Why no token is made. The caller's to mend.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// A name is no DNS label.
    #[error("namespace, account and workload must be DNS labels: lower-case letters, digits and '-', at most 63")]
    Names,
    /// A life of nothing, or of more than [`MAX_TOKEN_TTL`].
    #[error("a token lives between one second and {} days", MAX_TOKEN_TTL.as_secs() / 86_400)]
    Ttl,
    /// The crypto library.
    #[error("the crypto library failed: {0}")]
    Crypto(String),
}

/// What a token says.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    /// `NAMESPACE/ACCOUNT`.
    sub: String,
    aud: String,
    iat: u64,
    exp: u64,
    jti: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
}

/// Makes and verifies join tokens.
pub struct JoinTokens {
    signing: EncodingKey,
    verifying: DecodingKey,
    key_id: String,
    validation: Validation,
}

impl fmt::Debug for JoinTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinTokens(key {}, [redacted])", self.key_id)
    }
}

impl JoinTokens {
    /// With the key of a file (PKCS #8, PEM, mode 0600).
    ///
    /// # Errors
    /// [`JoinKeyError`]: not there, open to others, not a key.
    pub fn open(path: &Path) -> Result<Self, JoinKeyError> {
        let secret = files::read_secret(path, Readers::Owner)?;
        Self::from_pem(&secret).ok_or_else(|| JoinKeyError::NotAKey(path.display().to_string()))
    }

    /// As [`JoinTokens::open`], with a new key where there is none. Where two processes do so at once, both get the
    /// same key.
    ///
    /// # Errors
    /// [`JoinKeyError`].
    pub fn open_or_create(path: &Path) -> Result<Self, JoinKeyError> {
        match Self::open(path) {
            Err(JoinKeyError::File(error)) if error.is_missing() => {}
            other => return other,
        }
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519)
            .map_err(|error| JoinKeyError::Crypto(error.to_string()))?;
        match files::write_new_secret(path, &Secret::from(key.serialize_pem())) {
            Err(error) if !error.is_taken() => Err(error.into()),
            _ => Self::open(path),
        }
    }

    fn from_pem(secret: &Secret) -> Option<Self> {
        let der = PrivateKeyDer::from_pem_slice(secret.expose()).ok()?;
        let pair = rcgen::KeyPair::from_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).ok()?;
        let public = pair.der_bytes();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public);
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_audience(&[CA_AUDIENCE]);
        validation.set_required_spec_claims(&["exp", "sub", "aud"]);
        // Times are checked here, by the clock of the seam.
        validation.validate_exp = false;
        Some(Self {
            signing: EncodingKey::from_ed_der(der.secret_der()),
            verifying: DecodingKey::from_ed_der(public),
            key_id: digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
            validation,
        })
    }

    /// A token that lets its holder be `namespace`/`account` for `ttl`. It can be used as often as its holder needs a
    /// certificate.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn mint(&self, namespace: &str, account: &str, ttl: Duration, now: Time) -> Result<String, MintError> {
        self.mint_for(namespace, account, None, ttl, now)
    }

    /// As [`JoinTokens::mint`], for one instance: limits are kept for each of these instead of for each token.
    ///
    /// # Errors
    /// [`MintError`].
    pub fn mint_for(
        &self,
        namespace: &str,
        account: &str,
        workload: Option<&str>,
        ttl: Duration,
        now: Time,
    ) -> Result<String, MintError> {
        if !workload.is_none_or(super::is_dns_label) || Caller::new(namespace, account, "").is_err() {
            return Err(MintError::Names);
        }
        if ttl < Duration::from_secs(1) || ttl > MAX_TOKEN_TTL {
            return Err(MintError::Ttl);
        }
        let mut id = [0_u8; 16];
        aws_lc_rs::rand::fill(&mut id).map_err(|_| MintError::Crypto("no randomness".into()))?;
        let claims = Claims {
            sub: format!("{namespace}/{account}"),
            aud: CA_AUDIENCE.into(),
            iat: now.unix(),
            exp: now.plus(ttl).unix(),
            jti: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            workload: workload.map(Into::into),
        };
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.key_id.clone());
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(|error| MintError::Crypto(error.to_string()))
    }

    /// Who the holder of a token is.
    ///
    /// # Errors
    /// [`AuthnError`].
    pub fn verify(&self, token: &str, now: Time) -> Result<Caller, AuthnError> {
        if token.is_empty() {
            return Err(AuthnError::Missing);
        }
        if token.len() > MAX_TOKEN {
            return Err(AuthnError::TooLong);
        }
        self.check_header(token)?;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &self.validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => AuthnError::Signature,
                ErrorKind::InvalidAudience => AuthnError::Audience,
                _ => AuthnError::Malformed,
            })?
            .claims;
        check_times(&claims, now)?;
        if claims.jti.is_empty() || claims.jti.len() > MAX_ID {
            return Err(AuthnError::Malformed);
        }
        let (namespace, account) = claims.sub.split_once('/').ok_or(AuthnError::Names)?;
        if !claims.workload.as_deref().is_none_or(super::is_dns_label) {
            return Err(AuthnError::Names);
        }
        Caller::new(namespace, account, claims.workload.as_deref().unwrap_or(&claims.jti))
    }

    /// Before anything is verified: only a header that this authority would have written gets further.
    fn check_header(&self, token: &str) -> Result<(), AuthnError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthnError::Malformed)?;
        let mut ours = Header::new(Algorithm::EdDSA);
        ours.kid = Some(self.key_id.clone());
        if header == ours {
            return Ok(());
        }
        let foreign_key = header.alg != ours.alg || header.kid != ours.kid;
        Err(if foreign_key { AuthnError::Signature } else { AuthnError::Malformed })
    }
}

fn check_times(claims: &Claims, now: Time) -> Result<(), AuthnError> {
    if now.unix() >= claims.exp {
        return Err(AuthnError::Expired);
    }
    if claims.iat > now.plus(SKEW).unix() {
        return Err(AuthnError::NotYetValid);
    }
    match claims.exp.checked_sub(claims.iat) {
        Some(life) if life <= MAX_TOKEN_TTL.as_secs() => Ok(()),
        _ => Err(AuthnError::Malformed),
    }
}

impl Authenticator for JoinTokens {
    fn authenticate<'a>(&'a self, token: &'a str, _peer: Option<IpAddr>, now: Time) -> Authenticating<'a> {
        Box::pin(std::future::ready(self.verify(token, now)))
    }
}

#[cfg(test)]
mod tests;
