//! Request targets and authorities (RFC 9112 §3.2, RFC 9110 §7.2): one strict reading of each.
//!
//! Dot segments, escapes and case are the business of the path normaliser above; here only what no URI may
//! contain is refused.

use std::net::Ipv6Addr;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Uri, Version};

use super::reason::Reason;

/// Bytes that may stand in a target: visible ASCII without what ends or splits a path elsewhere
/// (`#` begins a fragment, `\` is a path separator to some servers).
const TARGET: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0x21;
    while b < 0x7f {
        table[b] = !matches!(b as u8, b'#' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`');
        b += 1;
    }
    table
};

/// A target in normal form.
#[derive(Debug)]
pub(super) struct Target {
    /// Origin-form, `*`, or for `CONNECT` the authority.
    pub(super) uri: Uri,
    /// The authority that the target itself named; it replaces `Host` (RFC 9112 §3.2.2).
    pub(super) authority: Option<HeaderValue>,
}

/// Parses the target of a request.
pub(super) fn parse_target(raw: &Bytes, method: &Method, version: Version) -> Result<Target, Reason> {
    if *method == Method::CONNECT {
        return parse_connect(raw, version);
    }
    if raw.is_empty() || !raw.iter().all(|&b| TARGET[usize::from(b)]) {
        return Err(Reason::Target);
    }
    match raw[0] {
        b'/' => Ok(Target { uri: path(raw.clone())?, authority: None }),
        b'*' if raw.len() == 1 && *method == Method::OPTIONS => {
            Ok(Target { uri: path(Bytes::from_static(b"*"))?, authority: None })
        }
        _ => parse_absolute(raw, method),
    }
}

fn path(raw: Bytes) -> Result<Uri, Reason> {
    PathAndQuery::from_maybe_shared(raw).map(Uri::from).map_err(|_| Reason::Target)
}

/// `http://authority[/path][?query]`: the authority becomes `Host`, the rest the target.
fn parse_absolute(raw: &Bytes, method: &Method) -> Result<Target, Reason> {
    let scheme_end = raw.windows(3).take(6).position(|w| w == b"://").ok_or(Reason::Target)?;
    if !matches!(raw[..scheme_end].to_ascii_lowercase().as_slice(), b"http" | b"https") {
        return Err(Reason::Target);
    }
    let rest = raw.slice(scheme_end + 3..);
    let end = rest.iter().position(|&b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let host = rest.slice(..end);
    if !valid_authority(&host) {
        return Err(Reason::HostInvalid);
    }
    let uri = match rest.get(end) {
        Some(b'/') => path(rest.slice(end..))?,
        Some(_) => path([b"/", &rest[end..]].concat().into())?,
        None if *method == Method::OPTIONS => path(Bytes::from_static(b"*"))?,
        None => path(Bytes::from_static(b"/"))?,
    };
    let authority = HeaderValue::from_maybe_shared(host).map_err(|_| Reason::HostInvalid)?;
    Ok(Target { uri, authority: Some(authority) })
}

/// `CONNECT host:port HTTP/1.1`, nothing else.
fn parse_connect(raw: &Bytes, version: Version) -> Result<Target, Reason> {
    let has_port = raw.iter().rposition(|&b| b == b':').is_some_and(|colon| !raw[colon..].contains(&b']'));
    if version != Version::HTTP_11 || !has_port || !valid_authority(raw) {
        return Err(Reason::Connect);
    }
    let authority = Authority::from_maybe_shared(raw.clone()).map_err(|_| Reason::Connect)?;
    let value = HeaderValue::from_maybe_shared(raw.clone()).map_err(|_| Reason::Connect)?;
    Ok(Target { uri: Uri::from(authority), authority: Some(value) })
}

/// Is this exactly `host` or `host:port`? Names are letters, digits, `-`, `.`, `_`, `~`; IPv6 stands in brackets;
/// a port is 1 to 65535. No user information, lists, escapes or zones.
pub(super) fn valid_authority(raw: &[u8]) -> bool {
    if let [b'[', rest @ ..] = raw {
        let Some(end) = rest.iter().position(|&b| b == b']') else { return false };
        let (address, after) = rest.split_at(end);
        let is_address = std::str::from_utf8(address).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
        return is_address && valid_port_suffix(&after[1..]);
    }
    let end = raw.iter().position(|&b| b == b':').unwrap_or(raw.len());
    let (name, port) = raw.split_at(end);
    !name.is_empty()
        && name.len() <= 255
        && name.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
        && valid_port_suffix(port)
}

/// Empty, or `:` and a port number.
fn valid_port_suffix(raw: &[u8]) -> bool {
    match raw {
        [] => true,
        [b':', digits @ ..] => {
            (1..=5).contains(&digits.len())
                && digits.iter().all(u8::is_ascii_digit)
                && digits.iter().fold(0_u32, |n, d| n * 10 + u32::from(d - b'0')).wrapping_sub(1) < 65_535
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, raw: &str) -> Result<(String, Option<String>), Reason> {
        let method = method.parse().unwrap();
        parse_target(&Bytes::copy_from_slice(raw.as_bytes()), &method, Version::HTTP_11)
            .map(|t| (t.uri.to_string(), t.authority.map(|a| a.to_str().unwrap().to_owned())))
    }

    #[test]
    fn forms_have_one_normal_form() {
        let ok = |uri: &str, authority: Option<&str>| Ok((uri.to_owned(), authority.map(str::to_owned)));
        assert_eq!(parse("GET", "/a/b?c=d&e"), ok("/a/b?c=d&e", None));
        assert_eq!(parse("GET", "//x/y"), ok("//x/y", None));
        assert_eq!(parse("GET", "http://b:81/x?y"), ok("/x?y", Some("b:81")));
        assert_eq!(parse("GET", "HTTP://b"), ok("/", Some("b")));
        assert_eq!(parse("GET", "http://b?q"), ok("/?q", Some("b")));
        assert_eq!(parse("OPTIONS", "*"), ok("*", None));
        assert_eq!(parse("OPTIONS", "http://b"), ok("*", Some("b")));
        assert_eq!(parse("CONNECT", "b:443"), ok("b:443", Some("b:443")));
        assert_eq!(parse("CONNECT", "[::1]:443"), ok("[::1]:443", Some("[::1]:443")));
    }

    #[test]
    fn bad_targets_are_refused() {
        for raw in [
            "", "a", "!", "*", "/a b", "/a#b", "/\\a", "/\u{1}", "/é", "/\u{7f}", "ftp://a/", "://a/", "http:/a", "a:1",
        ] {
            assert_eq!(parse("GET", raw), Err(Reason::Target), "{raw:?}");
        }
        for raw in ["http://", "http:///x", "http://u@a/", "http://a:b/", "http://a,b/"] {
            assert_eq!(parse("GET", raw), Err(Reason::HostInvalid), "{raw:?}");
        }
        for raw in ["/", "http://t/", "*", "host", "[::1]", "u@h:1", "h:0", "h:65536", "h:", ":1", "h:1/"] {
            assert_eq!(parse("CONNECT", raw), Err(Reason::Connect), "{raw:?}");
        }
    }

    #[test]
    fn authorities_are_host_and_port() {
        for ok in ["a", "a.b-c_d", "A.ns.svc.", "a:1", "a:65535", "127.0.0.1:80", "[::1]", "[2001:db8::1]:443"] {
            assert!(valid_authority(ok.as_bytes()), "{ok}");
        }
        for bad in [
            "",
            "a, b",
            "a,b",
            "u@a",
            "a/b",
            "a b",
            "a:99999",
            "[::1",
            "[::1]x",
            "[fe80::1%25e]",
            "a:",
            "a:+1",
            "::1",
            "%61",
            "[]",
            "a:1:2",
        ] {
            assert!(!valid_authority(bad.as_bytes()), "{bad}");
        }
    }
}
