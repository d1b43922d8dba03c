//! SPIFFE identities, parsed once and strictly into typed values. Floor 0.
//!
//! Source: the SPIFFE-ID standard, sections 2.1 to 2.4. Where it lets an implementation choose, this one refuses:
//! upper case in a trust domain, percent encoding, empty or dotted segments, more than 2048 bytes.

use std::{fmt, str::FromStr, sync::Arc};

/// Longest identity that is accepted, in bytes (SPIFFE-ID section 2.3).
pub const MAX_ID: usize = 2048;
/// Longest trust domain, in bytes.
pub const MAX_TRUST_DOMAIN: usize = 255;

/// Why a text is not an identity. It is the presenter's fault; trying again is no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Longer than [`MAX_ID`] or [`MAX_TRUST_DOMAIN`].
    #[error("longer than allowed")]
    TooLong,
    /// Does not start with `spiffe://`.
    #[error("does not start with spiffe://")]
    Scheme,
    /// The trust domain is empty or has other than lower-case letters, digits, `.`, `-`, `_`.
    #[error("the trust domain is empty or holds a character other than a-z, 0-9, '.', '-', '_'")]
    TrustDomain,
    /// There is no path, or a segment is empty, `.`, `..` or has a forbidden character.
    #[error("the path is missing or has an empty, relative or ill-formed segment")]
    Path,
    /// Well-formed, but not `/ns/NAMESPACE/sa/ACCOUNT`.
    #[error("the path is not /ns/NAMESPACE/sa/ACCOUNT")]
    Shape,
}

/// A trust domain: the name of one root of trust.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The domain as text, without scheme.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_TRUST_DOMAIN {
            return Err(SpiffeError::TooLong);
        }
        let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || !text.bytes().all(good) {
            return Err(SpiffeError::TrustDomain);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A workload identity. Cheap to clone; equality is equality of the whole text.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    domain_end: usize,
}

const SCHEME: &str = "spiffe://";

impl SpiffeId {
    /// The identity of a service account: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    ///
    /// # Errors
    /// Where a part holds a character that no segment may have.
    pub fn workload(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, SpiffeError> {
        if namespace.contains('/') || account.contains('/') {
            return Err(SpiffeError::Path);
        }
        format!("{SCHEME}{domain}/ns/{namespace}/sa/{account}").parse()
    }

    /// The whole identity as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain as text.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        self.text.get(SCHEME.len()..self.domain_end).unwrap_or_default()
    }

    /// The path, with its leading `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.domain_end..).unwrap_or_default()
    }

    /// Namespace and service account, where the path has the mesh's shape.
    ///
    /// # Errors
    /// [`SpiffeError::Shape`] for every other path.
    pub fn namespace_account(&self) -> Result<(&str, &str), SpiffeError> {
        let mut parts = self.path().split('/').skip(1);
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => Ok((namespace, account)),
            _ => Err(SpiffeError::Shape),
        }
    }

    /// The namespace, where the path has the mesh's shape.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        self.namespace_account().ok().map(|(namespace, _)| namespace)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_ID {
            return Err(SpiffeError::TooLong);
        }
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let slash = rest.find('/').ok_or(SpiffeError::Path)?;
        let (domain, path) = rest.split_at(slash);
        domain.parse::<TrustDomain>()?;
        if !path.split('/').skip(1).all(good_segment) {
            return Err(SpiffeError::Path);
        }
        Ok(Self { text: text.into(), domain_end: SCHEME.len() + slash })
    }
}

fn good_segment(segment: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(good)
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts() {
        let id: SpiffeId = "spiffe://td/ns/shop/sa/web".parse().unwrap();
        assert_eq!((id.trust_domain(), id.path()), ("td", "/ns/shop/sa/web"));
        assert_eq!(id.namespace_account(), Ok(("shop", "web")));
        let made = SpiffeId::workload(&"td".parse().unwrap(), "shop", "web").unwrap();
        assert_eq!(made, id);
        assert!(SpiffeId::workload(&"td".parse().unwrap(), "shop/sa/admin", "web").is_err());
    }

    #[test]
    fn refused() {
        let long = format!("spiffe://td/{}", "a".repeat(MAX_ID));
        for text in [
            "https://td/x",
            "spiffe://",
            "spiffe:///x",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://TD/x",
            "SPIFFE://td/x",
            "spiffe://td/x?q",
            "spiffe://td/x#f",
            "spiffe://td:1/x",
            "spiffe://u@td/x",
            "spiffe://td/%2e%2e/x",
            "spiffe://td//x",
            "spiffe://td/./x",
            "spiffe://td/../x",
            "spiffe://td/x/",
            "spiffe://td/a b",
            "spiffe://td/é",
            "spiffe://td/sa\0",
            "",
            &long,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?}");
        }
        let longest = format!("spiffe://td/{}", "a".repeat(MAX_ID - 12));
        assert_eq!(longest.len(), MAX_ID);
        assert!(longest.parse::<SpiffeId>().is_ok());
    }
}
