//! Whether and what to issue: verified caller, signing request, moment in; certificate out. Floor 3, pure.
//!
//! The identity follows from the caller, who follows from the token; so do DNS names, which only the control plane has
//! (the API server asks its webhooks by name). The request gives the key.

use std::time::Duration;

use mesh_api::{
    names,
    spiffe::{SpiffeError, SpiffeId},
};

use crate::{
    authn::Caller,
    issuer::Issuing,
    pki::{CsrError, KeyKind, Leaf, LeafSpec, MAX_LEAF_TTL, PkiError, Serial, make_leaf, parse_csr},
    time::Time,
};

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Where the caller has no wish.
    pub default_ttl: Duration,
    /// Shortest; shorter wishes become this.
    pub min_ttl: Duration,
    /// Longest; longer wishes become this. Never more than [`MAX_LEAF_TTL`].
    pub max_ttl: Duration,
}

impl Validity {
    /// From the wish of a caller, in seconds; 0 is no wish.
    #[must_use]
    pub fn of(&self, wished_seconds: u64) -> Duration {
        let wished = if wished_seconds == 0 { self.default_ttl } else { Duration::from_secs(wished_seconds) };
        wished.max(self.min_ttl).min(self.max_ttl).min(MAX_LEAF_TTL)
    }
}

/// A wish for a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// Who asks, verified.
    pub caller: &'a Caller,
    /// Signing request, DER.
    pub csr: &'a [u8],
    /// Wished validity; 0 is no wish.
    pub seconds: u64,
    /// Serial number to give.
    pub serial: Serial,
    /// Wall time.
    pub now: Time,
}

/// A certificate for a caller.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Who the holder is.
    pub identity: SpiffeId,
    /// The certificate.
    pub leaf: Leaf,
    /// Kind of its key.
    pub key: KeyKind,
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The signing request. The caller's fault.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The names of the caller make no identity.
    #[error("no identity can be made of the caller's names: {0}")]
    Identity(#[from] SpiffeError),
    /// This authority cannot sign at the moment. Worth a retry; its operator must act.
    #[error("nothing can be signed at the moment: {0}")]
    NotSigning(#[from] PkiError),
}

impl IssueError {
    /// Stable name in metrics and logs.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Csr(error) => error.reason(),
            Self::Identity(_) => "identity",
            Self::NotSigning(_) => "not_signing",
        }
    }
}

/// Issues a certificate.
///
/// # Errors
/// [`IssueError`].
pub fn issue(issuing: &Issuing, validity: &Validity, wish: &Wish<'_>) -> Result<Issued, IssueError> {
    let key = parse_csr(wish.csr)?;
    let identity = SpiffeId::workload(issuing.domain(), wish.caller.namespace(), wish.caller.account())?;
    let ttl = validity.of(wish.seconds);
    let dns_names = dns_names(wish.caller);
    let spec =
        LeafSpec { identity: &identity, dns_names: &dns_names, key: &key, serial: wish.serial, ttl, now: wish.now };
    let leaf = make_leaf(issuing.signer(), &spec)?;
    Ok(Issued { key: key.kind(), identity, leaf })
}

/// Names by which others than members know a caller: those of the Services before the controller, and nobody else's.
fn dns_names(caller: &Caller) -> Vec<String> {
    if (caller.namespace(), caller.account()) != (names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT) {
        return Vec::new();
    }
    let services = [names::WEBHOOK_SERVICE, names::CONTROLLER_ACCOUNT];
    let short = services.map(|service| format!("{service}.{}.svc", names::SYSTEM_NAMESPACE));
    short.into_iter().flat_map(|name| [name.clone(), format!("{name}.cluster.local")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_controller_has_dns_names() {
        let of = |namespace: &str, account: &str| dns_names(&Caller::new(namespace, account, "").unwrap());
        assert_eq!(
            of("mesh-system", "mesh-controller"),
            [
                "mesh-webhook.mesh-system.svc",
                "mesh-webhook.mesh-system.svc.cluster.local",
                "mesh-controller.mesh-system.svc",
                "mesh-controller.mesh-system.svc.cluster.local",
            ]
        );
        for (namespace, account) in
            [("mesh-system", "mesh-ca"), ("mesh-system", "default"), ("shop", "mesh-controller"), ("shop", "web")]
        {
            assert!(of(namespace, account).is_empty(), "{namespace}/{account}");
        }
    }

    #[test]
    fn i11_wishes_are_clamped() {
        let seconds = Duration::from_secs;
        let validity = Validity { default_ttl: seconds(3600), min_ttl: seconds(60), max_ttl: seconds(7200) };
        for (wish, expected) in [(0, 3600), (1, 60), (60, 60), (100, 100), (7200, 7200), (7201, 7200), (u64::MAX, 7200)]
        {
            assert_eq!(validity.of(wish), seconds(expected), "{wish}");
        }
        let lavish = Validity { max_ttl: seconds(u64::MAX), ..validity };
        assert_eq!(lavish.of(u64::MAX), MAX_LEAF_TTL);
    }
}
