//! Where a message ends and what happens to its connection (RFC 9112 §6, §9; RFC 9110 §7.8, §10.1.1).
//!
//! Pure: reads and normalises a header map. After it, `content-length` is absent or one plain number,
//! `transfer-encoding` is absent, and `upgrade` is there only if an upgrade was properly asked for.

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HeaderMap, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::{Method, StatusCode, Version};

use super::fields::Seen;
use super::reason::Reason;
use super::scan::{decimal, list, trim_ows};

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body.
    Empty,
    /// Exactly so many bytes, at least one.
    Exact(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Everything until the connection ends; responses only.
    UntilClose,
}

/// What a request head says beyond its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestFraming {
    pub(super) body: BodyLength,
    /// The client allows another request on the connection.
    pub(super) keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// The request asks for an upgrade, or is a `CONNECT`.
    pub(super) upgrade: bool,
    /// The client takes trailers (`TE: trailers`).
    pub(super) trailers: bool,
}

/// What a response head says beyond its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResponseFraming {
    pub(super) body: BodyLength,
    pub(super) keep_alive: bool,
}

/// Decides the framing of a request and normalises its headers.
pub(super) fn request_framing(
    method: &Method,
    version: Version,
    headers: &mut HeaderMap,
    seen: Seen,
) -> Result<RequestFraming, Reason> {
    let http10 = version == Version::HTTP_10;
    let body = body_length(http10, headers, seen, false)?.unwrap_or(BodyLength::Empty);
    let connect = *method == Method::CONNECT;
    if connect && body != BodyLength::Empty {
        return Err(Reason::Connect);
    }
    let expects_continue = expects_continue(http10, headers, seen, body)?;
    let mut keep_alive = keep_alive(http10, headers, seen);
    if http10 && seen.content_length == 0 && !matches!(*method, Method::GET | Method::HEAD) {
        // Whether bytes follow that the client takes for a body cannot be told: they must not become a request.
        keep_alive = false;
    }
    let upgrade = seen.upgrade && retain_upgrade(http10 || connect || body != BodyLength::Empty, headers, seen);
    let trailers = !http10 && seen.te && accepts_trailers(headers);
    Ok(RequestFraming { body, keep_alive, expects_continue, upgrade: upgrade || connect, trailers })
}

/// Decides the framing of a final response to `method` and normalises its headers.
pub(super) fn response_framing(
    method: &Method,
    status: StatusCode,
    version: Version,
    headers: &mut HeaderMap,
    seen: Seen,
) -> Result<ResponseFraming, Reason> {
    let http10 = version == Version::HTTP_10;
    let keep_alive = keep_alive(http10, headers, seen);
    // A malformed length is refused even where it would not be used.
    let length = body_length(http10, headers, seen, true)?;
    if is_bodyless(method, status) {
        if !may_state_length(method, status) {
            headers.remove(CONTENT_LENGTH);
        }
        return Ok(ResponseFraming { body: BodyLength::Empty, keep_alive });
    }
    let body = length.unwrap_or(BodyLength::UntilClose);
    Ok(ResponseFraming { body, keep_alive: keep_alive && body != BodyLength::UntilClose })
}

/// Has a response with this status to this method no body, whatever its headers say (RFC 9112 §6.3)?
pub(super) fn is_bodyless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (*method == Method::CONNECT && status.is_success())
}

/// May a response without a body carry a `content-length`, that of the body it stands for (RFC 9110 §8.6)?
pub(super) fn may_state_length(method: &Method, status: StatusCode) -> bool {
    (*method == Method::HEAD && !status.is_informational() && status != StatusCode::NO_CONTENT)
        || status == StatusCode::NOT_MODIFIED
}

/// The length from `transfer-encoding` or `content-length`; `None` without either. Exactly one of them may say it.
fn body_length(
    http10: bool,
    headers: &mut HeaderMap,
    seen: Seen,
    is_response: bool,
) -> Result<Option<BodyLength>, Reason> {
    if seen.transfer_encoding > 0 {
        if seen.content_length > 0 {
            return Err(Reason::LengthAndEncoding);
        }
        if http10 {
            return Err(Reason::EncodingOnHttp10);
        }
        let chunked = seen.transfer_encoding == 1
            && headers.remove(TRANSFER_ENCODING).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"chunked"));
        return if chunked { Ok(Some(BodyLength::Chunked)) } else { Err(Reason::TransferEncoding) };
    }
    if seen.content_length == 0 {
        return Ok(None);
    }
    let value = headers.get(CONTENT_LENGTH).ok_or(Reason::ContentLength)?;
    if seen.content_length > 1 {
        // Responses may repeat themselves (RFC 9110 §8.6); in a request it is an attack until proven otherwise.
        let first = value.as_bytes();
        if !is_response || headers.get_all(CONTENT_LENGTH).iter().any(|other| other.as_bytes() != first) {
            return Err(Reason::ContentLength);
        }
    }
    let length = decimal(value.as_bytes()).ok_or(Reason::ContentLength)?;
    let plain = !matches!(value.as_bytes(), [b'0', _, ..]);
    if seen.content_length > 1 || !plain {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Some(if length == 0 { BodyLength::Empty } else { BodyLength::Exact(length) }))
}

/// Does `Connection` list this option?
pub(super) fn has_option(headers: &HeaderMap, option: &[u8]) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| list(value.as_bytes()).any(|o| o.eq_ignore_ascii_case(option)))
}

/// Does this map ask for trailers in the answer (`te: trailers`)?
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(TE)
        .iter()
        .any(|value| list(value.as_bytes()).any(|coding| coding.eq_ignore_ascii_case(b"trailers")))
}

fn keep_alive(http10: bool, headers: &HeaderMap, seen: Seen) -> bool {
    if !seen.connection {
        return !http10;
    }
    !has_option(headers, b"close") && (!http10 || has_option(headers, b"keep-alive"))
}

/// `Expect: 100-continue` means something only in HTTP/1.1 and only with a body.
fn expects_continue(http10: bool, headers: &mut HeaderMap, seen: Seen, body: BodyLength) -> Result<bool, Reason> {
    if seen.expect == 0 {
        return Ok(false);
    }
    let known = headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if !known || seen.expect > 1 {
        return Err(Reason::Expect);
    }
    let waits = !http10 && body != BodyLength::Empty;
    if !waits {
        headers.remove(EXPECT);
    }
    Ok(waits)
}

/// Keeps `Upgrade` if it was properly asked for and leads elsewhere than to HTTP/2, which is chosen by other means
/// here (RFC 9113 §3.1); says whether anything was kept.
fn retain_upgrade(unfit: bool, headers: &mut HeaderMap, seen: Seen) -> bool {
    let asked = !unfit && seen.connection && has_option(headers, b"upgrade");
    headers.remove("http2-settings");
    let mut kept: Vec<u8> = Vec::new();
    if asked {
        for value in headers.get_all(UPGRADE) {
            for protocol in list(value.as_bytes()).filter(|p| !is_http2(p)) {
                if !kept.is_empty() {
                    kept.extend_from_slice(b", ");
                }
                kept.extend_from_slice(protocol);
            }
        }
    }
    match HeaderValue::from_maybe_shared(bytes::Bytes::from(kept)) {
        Ok(value) if !value.is_empty() => headers.insert(UPGRADE, value).is_some(),
        _ => {
            headers.remove(UPGRADE);
            false
        }
    }
}

fn is_http2(protocol: &[u8]) -> bool {
    let name = protocol.split(|&b| b == b'/').next().unwrap_or_default();
    let name = trim_ows(name);
    name.eq_ignore_ascii_case(b"h2c")
        || name.eq_ignore_ascii_case(b"h2")
        || (name.eq_ignore_ascii_case(b"http") && protocol.ends_with(b"2.0"))
}
