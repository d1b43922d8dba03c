//! The one normaliser: what policy judges, what routing matches and what goes upstream is the same request.
//! Floor 0 of the deciding modules: imports `mesh_api` only.
//!
//! [`normalise`] runs once per request, before everything else. It refuses what two servers could read differently
//! and rewrites the little that has exactly one meaning. After it
//!
//! - the URI is an origin-form path and query, `*`, or for `CONNECT` an authority;
//! - `Host` is there once, lower case, without a dot at its end (absent only in HTTP/1.0 and for `OPTIONS *`);
//! - no path segment is `.` or `..`, however it is spelt, and no escape hides a `/`, a `\` or a NUL;
//! - every escape is well-formed, and unreserved characters are not escaped (RFC 3986 §6.2.2.2).
//!
//! Rules about paths are not held against the text on the wire but against [`RequestView::path`]: decoded once, without
//! `;` parameters and without empty segments, because servers differ in all three. The wire keeps them.
//!
//! [`headers`] removes what must not cross a hop.

pub mod headers;
mod host;
mod path;
#[cfg(test)]
mod tests;

use std::fmt;

use http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery},
};

pub use path::rule_path;

/// Why a request is refused. It is the sender's fault; sending the same again is no use. Answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A method that differs from a registered one only in case: some servers take it for that one.
    MethodCase,
    /// A target that is neither a path nor `OPTIONS *`, or holds a character that no target may have.
    Target,
    /// A target with a fragment.
    Fragment,
    /// A scheme other than `http` and `https`.
    Scheme,
    /// `%` without two hexadecimal digits.
    Escape,
    /// Escapes that do not spell UTF-8.
    NotUtf8,
    /// `\`, or an escaped `/` or `\`: a separator to some servers, a letter to others.
    Separator,
    /// An escaped NUL.
    Nul,
    /// A segment that means `.` or `..`.
    DotSegment,
    /// A segment of nothing but parameters in the middle of a path.
    EmptySegment,
    /// `CONNECT` with anything but `host:port`.
    Connect,
    /// No host where one is required.
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// Not `host` or `host:port`.
    HostInvalid,
    /// `Host` and `:authority` name different hosts.
    HostConflict,
}

impl Refusal {
    /// Stable code, for the error header, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MethodCase => "method-case",
            Self::Target => "target",
            Self::Fragment => "target-fragment",
            Self::Scheme => "target-scheme",
            Self::Escape => "path-escape",
            Self::NotUtf8 => "path-not-utf8",
            Self::Separator => "path-separator",
            Self::Nul => "path-nul",
            Self::DotSegment => "path-dot-segment",
            Self::EmptySegment => "path-empty-segment",
            Self::Connect => "connect-target",
            Self::HostMissing => "host-missing",
            Self::HostRepeated => "host-repeated",
            Self::HostInvalid => "host-invalid",
            Self::HostConflict => "host-conflict",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for Refusal {}

/// What is known of a request that was normalised; with its head it gives a [`RequestView`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Normal {
    /// The path to match, where it is not the one in the URI.
    matching: Option<Box<str>>,
    /// Bytes of `Host` before the port; 0 where there is no host.
    host_len: usize,
    /// False for `CONNECT` and `OPTIONS *`.
    has_path: bool,
}

/// What rules are held against.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    /// Method, case-sensitive.
    pub method: &'a Method,
    /// Host name: lower case, without port and final dot.
    pub host: Option<&'a str>,
    /// Path to match: decoded once (but for control characters and `%`), without parameters, empty segments merged.
    /// `None` for `CONNECT` and `OPTIONS *`.
    pub path: Option<&'a str>,
    /// Query, as on the wire, without `?`.
    pub query: Option<&'a str>,
    /// Header fields.
    pub headers: &'a HeaderMap,
}

impl Normal {
    /// The view of `parts`, which must be the ones that were normalised.
    #[must_use]
    pub fn view<'a>(&'a self, parts: &'a Parts) -> RequestView<'a> {
        let host = if self.host_len == 0 { None } else { parts.headers.get(HOST) };
        let host = host.and_then(|value| value.to_str().ok()).and_then(|text| text.get(..self.host_len));
        let path = self.has_path.then(|| self.matching.as_deref().unwrap_or_else(|| parts.uri.path()));
        RequestView { method: &parts.method, host, path, query: parts.uri.query(), headers: &parts.headers }
    }
}

/// Brings the head of a request into its normal form.
///
/// # Errors
/// [`Refusal`]; `parts` may then be half done and must not be used.
pub fn normalise(parts: &mut Parts) -> Result<Normal, Refusal> {
    check_method(&parts.method)?;
    if parts.method == Method::CONNECT && parts.uri.scheme().is_none() {
        return connect(parts);
    }
    if parts.uri.scheme_str().is_some_and(|scheme| scheme != "http" && scheme != "https") {
        return Err(Refusal::Scheme);
    }
    if parts.uri.path_and_query().is_some_and(|target| target.as_str() == "*") {
        let allowed = parts.method == Method::OPTIONS;
        if !allowed {
            return Err(Refusal::Target);
        }
        let host_len = set_host(parts, true)?;
        drop_authority(parts, None)?;
        return Ok(Normal { matching: None, host_len, has_path: false });
    }
    let path::Checked { wire, matching } = path::check(parts.uri.path(), parts.uri.query())?;
    let host_len = set_host(parts, false)?;
    drop_authority(parts, wire)?;
    Ok(Normal { matching, host_len, has_path: true })
}

/// Checks the raw bytes of a request target for what [`http::Uri`] would drop or take: a codec calls it before parsing.
///
/// # Errors
/// [`Refusal::Fragment`], [`Refusal::Separator`] or [`Refusal::Target`].
pub fn check_raw_target(target: &[u8]) -> Result<(), Refusal> {
    path::check_bytes(target)
}

/// Methods are case-sensitive (RFC 9110 §9.1), but not to every server: `get` would pass a rule about `GET`.
fn check_method(method: &Method) -> Result<(), Refusal> {
    const REGISTERED: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::TRACE,
        Method::CONNECT,
    ];
    if !method.as_str().bytes().any(|b| b.is_ascii_lowercase()) {
        return Ok(());
    }
    if REGISTERED.iter().any(|known| known.as_str().eq_ignore_ascii_case(method.as_str())) {
        return Err(Refusal::MethodCase);
    }
    Ok(())
}

/// `CONNECT host:port` (RFC 9110 §9.3.6).
fn connect(parts: &mut Parts) -> Result<Normal, Refusal> {
    let is_authority = parts.uri.path_and_query().is_none();
    let authority = parts.uri.authority().filter(|_| is_authority).ok_or(Refusal::Connect)?;
    let checked = host::check(authority.as_str().as_bytes()).map_err(|_| Refusal::Connect)?;
    if !checked.has_port {
        return Err(Refusal::Connect);
    }
    let text = host::normal(authority.as_str(), &checked).into_owned();
    match one_host(&parts.headers)? {
        Some(value) if !host::same(value.as_bytes(), &text) => return Err(Refusal::HostConflict),
        _ => put_host(&mut parts.headers, &text)?,
    }
    parts.uri = Authority::try_from(text).map(Uri::from).map_err(|_| Refusal::Connect)?;
    Ok(Normal { matching: None, host_len: checked.host_len, has_path: false })
}

/// Makes `Host` the one place of the host; gives the length of its name.
fn set_host(parts: &mut Parts, may_be_empty: bool) -> Result<usize, Refusal> {
    let header = one_host(&parts.headers)?;
    let Some(authority) = parts.uri.authority() else {
        return match header {
            None if parts.version == Version::HTTP_10 || parts.version == Version::HTTP_09 => Ok(0),
            None => Err(Refusal::HostMissing),
            Some(value) if value.is_empty() && may_be_empty => Ok(0),
            Some(value) => {
                let checked = host::check(value.as_bytes())?;
                if checked.rewrite {
                    let text = value.to_str().map_err(|_| Refusal::HostInvalid)?;
                    let text = host::normal(text, &checked).into_owned();
                    put_host(&mut parts.headers, &text)?;
                }
                Ok(checked.host_len)
            }
        };
    };
    let checked = host::check(authority.as_str().as_bytes())?;
    let text = host::normal(authority.as_str(), &checked);
    // HTTP/1: the target wins (RFC 9112 §3.2.2). HTTP/2: both must name the same (RFC 9113 §8.3.1).
    let conflict = parts.version >= Version::HTTP_2 && header.is_some_and(|value| !host::same(value.as_bytes(), &text));
    if conflict {
        return Err(Refusal::HostConflict);
    }
    if header.is_none_or(|value| value.as_bytes() != text.as_bytes()) {
        let text = text.into_owned();
        put_host(&mut parts.headers, &text)?;
    }
    Ok(checked.host_len)
}

fn one_host(headers: &HeaderMap) -> Result<Option<&HeaderValue>, Refusal> {
    let mut values = headers.get_all(HOST).iter();
    let first = values.next();
    if values.next().is_some() { Err(Refusal::HostRepeated) } else { Ok(first) }
}

fn put_host(headers: &mut HeaderMap, text: &str) -> Result<(), Refusal> {
    let value = HeaderValue::from_str(text).map_err(|_| Refusal::HostInvalid)?;
    headers.insert(HOST, value);
    Ok(())
}

/// Leaves path and query in the URI, the path as `wire` says; does nothing where nothing is to do.
fn drop_authority(parts: &mut Parts, wire: Option<String>) -> Result<(), Refusal> {
    // HTTP/2 and absolute targets may come without a path. It is `/` (RFC 9110 section 4.2.3), and is so to `path`; who is sent
    // the target as it came would read something else, or nothing.
    let target = parts.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let wire = wire.or_else(|| target.starts_with('?').then(|| format!("/{target}")));
    let is_origin = parts.uri.scheme().is_none() && parts.uri.authority().is_none();
    if is_origin && wire.is_none() {
        return Ok(());
    }
    let target = match wire {
        Some(text) => PathAndQuery::from_maybe_shared(bytes::Bytes::from(text)).map_err(|_| Refusal::Target)?,
        None => match std::mem::take(&mut parts.uri).into_parts().path_and_query {
            // The empty one says that it is `/`, too.
            Some(target) if target.as_str() != "/" => target,
            _ => PathAndQuery::from_static("/"),
        },
    };
    parts.uri = Uri::from(target);
    Ok(())
}
