//! Header fields that must not cross a hop: connection-specific ones (RFC 9110 §7.6.1) and those that claim what only
//! the mesh may say.
//!
//! Order of use: strip, judge, set. What the mesh sets comes after both functions and is out of `Connection`'s reach.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};
use mesh_api::names::{self, is_reserved_header};

// Names that every message is asked for: made once, and not of a text each time.

/// Why the mesh itself answered.
pub static MESH_ERROR: HeaderName = HeaderName::from_static(names::HEADER_ERROR);
/// What the application of the caller spoke.
pub static MESH_ORIG_PROTO: HeaderName = HeaderName::from_static(names::HEADER_ORIG_PROTO);
/// Between two sidecars, in place of `upgrade`.
pub static MESH_UPGRADE: HeaderName = HeaderName::from_static("mesh-upgrade");
/// How a call ended.
pub static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What `Connection` said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// The sender closes after this message.
    pub close: bool,
    /// The sender asks to keep the connection (HTTP/1.0).
    pub keep_alive: bool,
    /// The protocol to switch to, where `Connection` confirms it. Never `h2c`: nobody may switch behind the proxy.
    pub upgrade: Option<HeaderValue>,
}

/// Fields that `Connection` may not remove: framing, what says who asks, and what traces.
const KEPT: [&str; 16] = [
    "host",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "trailer",
    "te",
    "authorization",
    "cookie",
    "set-cookie",
    "forwarded",
    "traceparent",
    "tracestate",
    "b3",
    "via",
    "max-forwards",
];

/// Removes all connection-specific fields. `Upgrade` is taken out too and handed to the caller, who alone may put it
/// and `Connection` back. Of `TE` only `trailers` stays, which gRPC needs.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) -> Hop {
    let mut hop = Hop::default();
    // Most messages have none of them: looking at each name once is less than looking for each of these.
    if !headers.keys().any(|name| is_hop_by_hop(name.as_str())) {
        return hop;
    }
    let mut named_upgrade = false;
    if headers.contains_key(CONNECTION) {
        let mut listed = false;
        for option in headers.get_all(CONNECTION).iter().flat_map(options) {
            match option {
                o if o.eq_ignore_ascii_case(b"close") => hop.close = true,
                o if o.eq_ignore_ascii_case(b"keep-alive") => hop.keep_alive = true,
                o if o.eq_ignore_ascii_case(b"upgrade") => named_upgrade = true,
                _ => listed = true,
            }
        }
        if listed {
            remove_listed(headers);
        }
        headers.remove(CONNECTION);
    }
    if let Some(protocol) = headers.remove(UPGRADE) {
        let is_h2c = options(&protocol).any(|one| one.eq_ignore_ascii_case(b"h2c"));
        hop.upgrade = Some(protocol).filter(|_| named_upgrade && !is_h2c);
    }
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    headers.remove(&HTTP2_SETTINGS);
    if headers.contains_key(TE) {
        let trailers = headers.get_all(TE).iter().flat_map(options).any(|one| one.eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
    hop
}

/// True for the names that [`strip_hop_by_hop`] looks for.
fn is_hop_by_hop(name: &str) -> bool {
    match name.len() {
        2 => name == "te",
        7 => name == "upgrade",
        10 => name == "connection" || name == "keep-alive",
        14 => name == "http2-settings",
        16 => name == "proxy-connection",
        _ => false,
    }
}

/// The elements of a comma-separated list.
fn options(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|option| !option.is_empty())
}

/// Removes what `Connection` lists by name.
fn remove_listed(headers: &mut HeaderMap) {
    let values: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    for option in values.iter().flat_map(options) {
        let Ok(name) = HeaderName::from_bytes(option) else { continue };
        let text = name.as_str();
        let kept = KEPT.contains(&text) || text.starts_with("x-forwarded-") || text.starts_with("x-b3-");
        if !kept && !is_reserved_header(text) {
            headers.remove(name);
        }
    }
}

/// Removes every field that only the mesh may set, in every spelling, and those by which a peer could claim an identity
/// or a path that was not judged. Gives how many names were removed.
pub fn strip_reserved(headers: &mut HeaderMap) -> usize {
    if !headers.keys().any(|name| is_claim(name.as_str())) {
        return 0;
    }
    let names: Vec<HeaderName> = headers.keys().filter(|name| is_claim(name.as_str())).cloned().collect();
    for name in &names {
        headers.remove(name);
    }
    names.len()
}

/// Removes from trailers what only the mesh may set, and what would mean something to a recipient that merges them with
/// the head: framing, routing and connection-specific fields (RFC 9110 §6.5.1).
pub fn clean_trailers(trailers: &mut HeaderMap) {
    static NEVER: [HeaderName; 7] = [CONTENT_LENGTH, TRANSFER_ENCODING, HOST, CONNECTION, TE, TRAILER, UPGRADE];
    for name in NEVER.iter().chain([&KEEP_ALIVE, &PROXY_CONNECTION]) {
        trailers.remove(name);
    }
    strip_reserved(trailers);
}

/// Joins what a caller of HTTP/2 may have sent in crumbs: HTTP/1 knows one line only (RFC 9113 §8.2.3).
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Values that were valid each are valid together.
    if let Ok(mut joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        joined.set_sensitive(true);
        headers.insert(COOKIE, joined);
    }
}

/// `_` for `-`: some applications cannot tell them apart (CGI).
fn is_claim(name: &str) -> bool {
    const CLAIMS: [&[u8]; 4] =
        [b"x-forwarded-client-cert", b"x-envoy-original-path", b"content_length", b"transfer_encoding"];
    let same = |claim: &[u8]| {
        claim.len() == name.len()
            && name.bytes().zip(claim).all(|(have, want)| have == *want || (have == b'_' && *want == b'-'))
    };
    match name.as_bytes().first() {
        Some(b'm') => is_reserved_header(name),
        Some(b'x' | b'c' | b't') => CLAIMS.into_iter().any(same),
        _ => false,
    }
}
