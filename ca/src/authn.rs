//! Who asks for a certificate. Floor 1: imports `cluster`, `files`, `limit`.
//!
//! An [`Authenticator`] turns a token into a [`Caller`]; nothing else in a request says who the caller is. Signed join
//! tokens ([`JoinTokens`]) are one way, for meshes without Kubernetes; asking Kubernetes about a service-account token
//! ([`Review`]) is the other.

mod join;
mod review;

pub use join::{JoinKeyError, JoinTokens, MAX_TOKEN_TTL, MintError};
pub use review::{Demands, Review};

use std::{net::IpAddr, pin::Pin, time::Duration};

use mesh_api::model::is_dns_subdomain;

use crate::time::Time;

/// Longest token that is looked at, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// A caller whose token was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    namespace: String,
    account: String,
    instance: String,
}

impl Caller {
    /// A caller of this namespace and service account, as Kubernetes names them. `instance` tells holders of the same account
    /// apart (a pod, a token): limits are kept for each.
    ///
    /// # Errors
    /// [`AuthnError::Names`] where the namespace is no DNS label, or the account no DNS subdomain (RFC 1123).
    pub fn new(namespace: &str, account: &str, instance: &str) -> Result<Self, AuthnError> {
        if !is_dns_label(namespace) || !is_dns_subdomain(account) {
            return Err(AuthnError::Names);
        }
        Ok(Self { namespace: namespace.into(), account: account.into(), instance: instance.into() })
    }

    /// Namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Service account.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// What tells holders of the same account apart.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }
}

/// Why a caller is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthnError {
    /// There is no token.
    #[error("there is no token")]
    Missing,
    /// Longer than [`MAX_TOKEN`].
    #[error("the token is longer than {MAX_TOKEN} bytes")]
    TooLong,
    /// Not a token of the kind that is expected here.
    #[error("the token is malformed, or of another kind than is expected here")]
    Malformed,
    /// Not signed by the key that makes tokens here.
    #[error("the token is not signed by this authority's key")]
    Signature,
    /// Its time is over.
    #[error("the token has expired; get a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is from the future; compare the clocks")]
    NotYetValid,
    /// Made for another audience.
    #[error("the token is made for another audience than `{}`", mesh_api::names::CA_AUDIENCE)]
    Audience,
    /// Genuine, but not for a service account with usable names.
    #[error("the token is not of a service account whose namespace is a DNS label and whose name a DNS subdomain")]
    Names,
    /// Whoever decides says no.
    #[error("Kubernetes does not accept the token")]
    Rejected,
    /// Genuine, but nobody knows whose.
    #[error("the token is not bound to a pod; mount a projected one (serviceAccountToken)")]
    Unbound,
    /// The pod that the token is bound to is not there any more, is over, or runs as another account.
    #[error("the pod that the token is bound to is gone, or is over")]
    Pod,
    /// The call comes from elsewhere than the pod that the token is bound to.
    #[error("the call does not come from the address of the pod that the token is bound to")]
    Address,
    /// Nobody knows the address of the pod yet. Worth a retry.
    #[error("Kubernetes does not know the address of the pod yet; try again")]
    AddressUnknown,
    /// Too many tokens are tried from one address. Worth a retry after this time.
    #[error("too many tokens are tried from this address; try again in {0:?}")]
    TooOften(Duration),
    /// Whoever decides cannot be asked now. Worth a retry.
    #[error("tokens cannot be checked at the moment; try again")]
    Unavailable,
}

impl AuthnError {
    /// Stable name in metrics and logs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Signature => "token_signature",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience => "token_audience",
            Self::Names => "token_names",
            Self::Rejected => "token_rejected",
            Self::Unbound => "token_unbound",
            Self::Pod => "token_pod",
            Self::Address => "token_address",
            Self::AddressUnknown => "token_address_unknown",
            Self::TooOften(_) => "token_rate",
            Self::Unavailable => "token_check_unavailable",
        }
    }
}

/// The answer of an [`Authenticator`].
pub type Authenticating<'a> = Pin<Box<dyn Future<Output = Result<Caller, AuthnError>> + Send + 'a>>;

/// Knows callers by their tokens. The server sets the deadline and limits how many calls run at once.
pub trait Authenticator: Send + Sync + 'static {
    /// Who the holder of `token` is, that calls from `peer`. `now` is wall time.
    fn authenticate<'a>(&'a self, token: &'a str, peer: Option<IpAddr>, now: Time) -> Authenticating<'a>;
}

/// RFC 1123 section 2.1.
pub(crate) fn is_dns_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i07_names_are_what_kubernetes_lets_through() {
        for name in ["a", "a-b", "9", &"x".repeat(63)] {
            assert!(Caller::new(name, name, "").is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a/b", "..", "a_b", "é", "a\0", "a:b", " ", &"x".repeat(64)] {
            assert_eq!(Caller::new(name, "a", "").unwrap_err(), AuthnError::Names, "{name:?}");
        }
        for name in ["a.b", "team.web-1", &"x".repeat(253)] {
            assert!(Caller::new("a", name, "").is_ok(), "{name}");
        }
        for name in
            ["", "-a", "a-", "A", "a/b", ".", "..", "a..b", ".a", "a.", "a_b", "é", "a\0", "a:b", " ", &"x".repeat(254)]
        {
            assert_eq!(Caller::new("a", name, "").unwrap_err(), AuthnError::Names, "{name:?}");
        }
    }
}
