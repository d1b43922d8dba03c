//! Patterns of routes and policies, compiled once: host, path, header field, query parameter.
//!
//! A pattern that cannot be compiled is a mistake that the controller refuses; where one arrives all the same, the
//! user of this module decides which way to fail.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh_api::{
    model::{
        Name,
        route::{PathMatch, ValueMatch, ValuePattern},
    },
    pattern::{self, PatternError},
};
use regex::{Regex, bytes::Regex as BytesRegex};

use crate::normal::rule_path;

/// Why a pattern can match nothing. It is the author's fault, and the controller's that it came this far.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// A path that no request in normal form can have.
    #[error("no request can have the path `{0}`")]
    Path(Name),
    /// A regular expression that does not compile.
    #[error("the pattern `{pattern}` cannot be used: {why}")]
    Pattern {
        /// The expression.
        pattern: Name,
        /// What is wrong with it.
        why: PatternError,
    },
    /// No name of a header field.
    #[error("`{0}` is no name of a header field")]
    HeaderName(Name),
    /// No value of a header field.
    #[error("`{0}` is no value of a header field")]
    HeaderValue(Name),
    /// A header field that is not a route's to change.
    #[error("the header field `{0}` belongs to the mesh or to the connection and cannot be changed")]
    HeaderOwner(Name),
    /// No method.
    #[error("`{0}` is no method")]
    Method(Name),
    /// A match that leads to a rule that is not there.
    #[error("a match leads to rule {0}, which is missing")]
    Rule(usize),
    /// A backend that is not among the destination's.
    #[error("backend {0} is not described")]
    Backend(String),
}

/// A host name, or all names under one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// Every name.
    Any,
    /// This name.
    Exact(Box<str>),
    /// One label or more in front of this text, which begins with a dot.
    Under(Box<str>),
}

impl HostPattern {
    /// From `*`, `*.NAME` or `NAME`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match text.strip_prefix('*') {
            Some("") => Self::Any,
            Some(rest) if rest.starts_with('.') => Self::Under(rest.into()),
            _ => Self::Exact(text.into()),
        }
    }

    /// `host` is in normal form.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *host,
            Self::Under(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
        }
    }
}

/// A path, held against [`crate::normal::RequestView::path`].
#[derive(Clone, Debug)]
pub enum PathPattern {
    /// The whole path.
    Exact(Box<str>),
    /// Leading segments, without a slash at the end; empty for every path.
    Prefix(Box<str>),
    /// The whole path.
    Regex(Regex),
}

impl PathPattern {
    /// Compiles a match.
    ///
    /// # Errors
    /// [`Unusable`]: no request can fit.
    pub fn new(from: &PathMatch) -> Result<Self, Unusable> {
        let normal = |text: &Name| rule_path(text).ok_or_else(|| Unusable::Path(text.clone()));
        Ok(match from {
            PathMatch::Exact(text) => Self::Exact(normal(text)?.into()),
            PathMatch::Prefix(text) => Self::Prefix(normal(text)?.trim_end_matches('/').into()),
            PathMatch::Regex(text) => Self::Regex(compile(text)?),
        })
    }

    /// True where `path` fits.
    #[must_use]
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *path,
            Self::Prefix(prefix) => has_prefix(path, prefix),
            Self::Regex(regex) => regex.is_match(path),
        }
    }

    /// As [`Self::matches`], and an exact path fits with a slash at its end as well: for what must not slip through.
    #[must_use]
    pub fn matches_broadly(&self, path: &str) -> bool {
        self.matches(path) || matches!(self, Self::Exact(text) if path.strip_suffix('/') == Some(text))
    }
}

/// Whole leading segments.
fn has_prefix(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn compile(text: &Name) -> Result<Regex, Unusable> {
    pattern::compile(text).map_err(|why| Unusable::Pattern { pattern: text.clone(), why })
}

/// A method.
///
/// # Errors
/// [`Unusable::Method`].
pub fn method(name: &Name) -> Result<Method, Unusable> {
    Method::from_bytes(name.as_bytes()).map_err(|_| Unusable::Method(name.clone()))
}

/// The value of a header field or a query parameter.
#[derive(Clone, Debug)]
enum ValueText {
    Exact(Box<[u8]>),
    Regex(Regex),
}

impl ValueText {
    fn new(from: &ValuePattern) -> Result<Self, Unusable> {
        Ok(match from {
            ValuePattern::Exact(text) => Self::Exact(text.as_bytes().into()),
            ValuePattern::Regex(text) => Self::Regex(compile(text)?),
        })
    }

    /// `None` where the value cannot be judged: an expression is about text, and this is none.
    fn matches(&self, value: &[u8]) -> Option<bool> {
        match self {
            Self::Exact(text) => Some(**text == *value),
            Self::Regex(regex) => std::str::from_utf8(value).ok().map(|text| regex.is_match(text)),
        }
    }
}

/// A header field.
#[derive(Clone, Debug)]
pub struct FieldPattern {
    name: HeaderName,
    value: ValueText,
}

impl FieldPattern {
    /// Compiles a match.
    ///
    /// # Errors
    /// [`Unusable`]: no request can fit.
    pub fn new(from: &ValueMatch) -> Result<Self, Unusable> {
        let name = HeaderName::from_bytes(from.name.as_bytes());
        let name = name.map_err(|_| Unusable::HeaderName(from.name.clone()))?;
        Ok(Self { name, value: ValueText::new(&from.value)? })
    }

    /// Several lines of one name count as one value, joined by commas (RFC 9110 §5.3). `None` where the value cannot
    /// be judged.
    #[must_use]
    pub fn matches(&self, headers: &HeaderMap) -> Option<bool> {
        let mut values = headers.get_all(&self.name).iter();
        let Some(first) = values.next() else { return Some(false) };
        if values.next().is_none() {
            return self.value.matches(first.as_bytes());
        }
        let values = || headers.get_all(&self.name).iter();
        match &self.value {
            ValueText::Exact(text) => Some(is_joined(values(), text)),
            // Rare: an expression needs the value in one piece.
            ValueText::Regex(_) => {
                let lines: Vec<&[u8]> = values().map(HeaderValue::as_bytes).collect();
                self.value.matches(&lines.join(&b","[..]))
            }
        }
    }

    /// As [`Self::matches`], and each line and each element of a list fits on its own as well: for what must not slip
    /// through by being said twice.
    #[must_use]
    pub fn matches_broadly(&self, headers: &HeaderMap) -> Option<bool> {
        let whole = self.matches(headers)?;
        if whole {
            return Some(true);
        }
        for line in headers.get_all(&self.name).iter().map(HeaderValue::as_bytes) {
            let mut elements = line.split(|b| *b == b',').map(<[u8]>::trim_ascii);
            if self.value.matches(line)? || elements.any(|element| self.value.matches(element) == Some(true)) {
                return Some(true);
            }
        }
        Some(false)
    }
}

/// True where `values`, joined by commas, are `text`.
fn is_joined<'a>(values: impl Iterator<Item = &'a HeaderValue>, text: &[u8]) -> bool {
    let mut rest = text;
    for (index, value) in values.enumerate() {
        let after = if index == 0 { Some(rest) } else { rest.strip_prefix(b",") };
        match after.and_then(|rest| rest.strip_prefix(value.as_bytes())) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    rest.is_empty()
}

/// A query parameter.
#[derive(Clone, Debug)]
pub struct QueryPattern {
    name: Box<[u8]>,
    value: QueryText,
}

#[derive(Clone, Debug)]
enum QueryText {
    Exact(Box<[u8]>),
    Regex(BytesRegex),
}

impl QueryPattern {
    /// Compiles a match.
    ///
    /// # Errors
    /// [`Unusable`]: no request can fit.
    pub fn new(from: &ValueMatch) -> Result<Self, Unusable> {
        let value = match ValueText::new(&from.value)? {
            ValueText::Exact(text) => QueryText::Exact(text),
            ValueText::Regex(regex) => QueryText::Regex(over_bytes(&regex)?),
        };
        Ok(Self { name: from.name.as_bytes().into(), value })
    }

    /// True where the first parameter of this name has this value, both decoded as forms are (`+` is a space).
    #[must_use]
    pub fn matches(&self, query: Option<&str>) -> bool {
        let pairs = query.unwrap_or_default().split('&');
        let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let first = pairs.find(|(name, _)| decoded(name).eq(self.name.iter().copied()));
        let Some((_, value)) = first else { return false };
        match &self.value {
            QueryText::Exact(text) => decoded(value).eq(text.iter().copied()),
            QueryText::Regex(regex) if !value.contains(['%', '+']) => regex.is_match(value.as_bytes()),
            // Rare: an expression needs the value in one piece.
            QueryText::Regex(regex) => regex.is_match(&decoded(value).collect::<Vec<u8>>()),
        }
    }
}

/// The same expression over bytes: a decoded value need not be UTF-8.
fn over_bytes(regex: &Regex) -> Result<BytesRegex, Unusable> {
    BytesRegex::new(regex.as_str()).map_err(|why| Unusable::Pattern { pattern: regex.as_str().into(), why: why.into() })
}

/// The bytes that a form-encoded text stands for; what is no escape stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        rest = after;
        match (first, rest) {
            (b'+', _) => Some(b' '),
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    rest = after;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            },
            _ => Some(*first),
        }
    })
}
