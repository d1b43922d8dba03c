//! Writing heads. Framing and connection fields are the codec's own: whatever a message carries under those names
//! is not written.

use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TE, UPGRADE};
use http::{Method, StatusCode, Uri};

use super::framing::accepts_trailers;
use super::scan::decimal;

/// How the body of an outgoing message is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireFraming {
    /// No body and no framing field.
    None,
    /// No body, but the length that it would have may be stated as the headers say it (`HEAD`, 304).
    StatedLength,
    /// `content-length`.
    Length(u64),
    /// `transfer-encoding: chunked`.
    Chunked,
    /// The end of the connection ends the body.
    UntilClose,
}

/// What a response says about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Persistence {
    /// Nothing: an HTTP/1.1 connection stays open.
    Default,
    /// `connection: close`.
    Close,
    /// `connection: keep-alive`, for HTTP/1.0.
    KeepAlive,
    /// `connection: upgrade`, with the message's own `upgrade`.
    Upgrade,
}

/// A message that has no HTTP/1 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request target or host cannot be written in HTTP/1")]
pub struct Unwritable;

/// Appends one field line.
#[inline]
pub(super) fn field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a decimal number.
fn number(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Fields that the codec writes itself, or that concern the other connection.
fn is_own_field(name: &[u8]) -> bool {
    matches!(
        name,
        b"connection"
            | b"content-length"
            | b"transfer-encoding"
            | b"keep-alive"
            | b"proxy-connection"
            | b"upgrade"
            | b"http2-settings"
            | b"te"
            | b"host"
    )
}

fn fields(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        let name = name.as_str().as_bytes();
        if !is_own_field(name) {
            field(name, value.as_bytes(), out);
        }
    }
}

fn framing_field(framing: WireFraming, headers: &HeaderMap, out: &mut Vec<u8>) {
    let length = match framing {
        WireFraming::None | WireFraming::UntilClose => None,
        WireFraming::Chunked => return out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        WireFraming::Length(length) => Some(length),
        WireFraming::StatedLength => headers.get(CONTENT_LENGTH).and_then(|value| decimal(value.as_bytes())),
    };
    if let Some(length) = length {
        out.extend_from_slice(b"content-length: ");
        number(length, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a request head, always HTTP/1.1, `host` first. With `upgrade` the message's `upgrade` field is written.
///
/// # Errors
/// [`Unwritable`] if the target has a byte that would change the request line, or `CONNECT` has no authority.
/// Nothing is appended then.
pub fn encode_request_head(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    framing: WireFraming,
    upgrade: bool,
    out: &mut Vec<u8>,
) -> Result<(), Unwritable> {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let target =
        if *method == Method::CONNECT { authority } else { uri.path_and_query().map_or("/", |pq| pq.as_str()) };
    let host = headers.get(HOST).map_or(authority.as_bytes(), |host| host.as_bytes());
    if target.is_empty() || !target.bytes().all(|b| matches!(b, 0x21..=0x7e)) {
        return Err(Unwritable);
    }
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    field(b"host", host, out);
    fields(headers, out);
    framing_field(framing, headers, out);
    let upgrade = if upgrade { headers.get(UPGRADE) } else { None };
    let trailers = headers.contains_key(TE) && accepts_trailers(headers);
    if trailers {
        out.extend_from_slice(b"te: trailers\r\n");
    }
    match (upgrade, trailers) {
        (Some(_), true) => out.extend_from_slice(b"connection: upgrade, te\r\n"),
        (Some(_), false) => out.extend_from_slice(b"connection: upgrade\r\n"),
        (None, true) => out.extend_from_slice(b"connection: te\r\n"),
        (None, false) => {}
    }
    if let Some(protocols) = upgrade {
        field(b"upgrade", protocols.as_bytes(), out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a response head, always HTTP/1.1, without a reason phrase of the message's own.
pub fn encode_response_head(
    status: StatusCode,
    headers: &HeaderMap,
    framing: WireFraming,
    close: bool,
    out: &mut Vec<u8>,
) {
    let persistence = if close { Persistence::Close } else { Persistence::Default };
    response_head(status, headers, framing, persistence, out);
}

/// Appends a response head.
pub(super) fn response_head(
    status: StatusCode,
    headers: &HeaderMap,
    framing: WireFraming,
    persistence: Persistence,
    out: &mut Vec<u8>,
) {
    status_line(status, out);
    fields(headers, out);
    framing_field(framing, headers, out);
    match persistence {
        Persistence::Default => {}
        Persistence::Close => out.extend_from_slice(b"connection: close\r\n"),
        Persistence::KeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        Persistence::Upgrade => {
            out.extend_from_slice(b"connection: upgrade\r\n");
            for protocols in headers.get_all(UPGRADE) {
                field(b"upgrade", protocols.as_bytes(), out);
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(status: StatusCode, out: &mut Vec<u8>) {
    let common: Option<&[u8]> = match status.as_u16() {
        101 => Some(b"HTTP/1.1 101 Switching Protocols\r\n"),
        200 => Some(b"HTTP/1.1 200 OK\r\n"),
        201 => Some(b"HTTP/1.1 201 Created\r\n"),
        204 => Some(b"HTTP/1.1 204 No Content\r\n"),
        302 => Some(b"HTTP/1.1 302 Found\r\n"),
        304 => Some(b"HTTP/1.1 304 Not Modified\r\n"),
        400 => Some(b"HTTP/1.1 400 Bad Request\r\n"),
        403 => Some(b"HTTP/1.1 403 Forbidden\r\n"),
        404 => Some(b"HTTP/1.1 404 Not Found\r\n"),
        500 => Some(b"HTTP/1.1 500 Internal Server Error\r\n"),
        502 => Some(b"HTTP/1.1 502 Bad Gateway\r\n"),
        503 => Some(b"HTTP/1.1 503 Service Unavailable\r\n"),
        504 => Some(b"HTTP/1.1 504 Gateway Timeout\r\n"),
        _ => None,
    };
    if let Some(line) = common {
        out.extend_from_slice(line);
    } else {
        out.extend_from_slice(b"HTTP/1.1 ");
        out.extend_from_slice(status.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()))
            .collect::<Vec<(http::HeaderName, _)>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut map, (n, v)| {
                map.append(n, v);
                map
            })
    }

    #[test]
    fn framing_and_connection_fields_are_the_codecs_own() {
        let map = headers(&[
            ("x-a", "1"),
            ("host", "h"),
            ("content-length", "9"),
            ("transfer-encoding", "gzip"),
            ("connection", "x-a"),
            ("keep-alive", "1"),
            ("upgrade", "foo"),
            ("te", "trailers, gzip"),
            ("x-a", "2"),
        ]);
        let mut out = Vec::new();
        let uri = "/p?q".parse().unwrap();
        encode_request_head(&Method::POST, &uri, &map, WireFraming::Length(5), false, &mut out).unwrap();
        let expected = "POST /p?q HTTP/1.1\r\nhost: h\r\nx-a: 1\r\nx-a: 2\r\ncontent-length: 5\r\n\
                        te: trailers\r\nconnection: te\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn upgrades_name_their_protocol() {
        let map = headers(&[("host", "h"), ("upgrade", "websocket")]);
        let mut out = Vec::new();
        encode_request_head(&Method::GET, &"/".parse().unwrap(), &map, WireFraming::None, true, &mut out).unwrap();
        let expected = "GET / HTTP/1.1\r\nhost: h\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn what_would_change_the_request_line_is_not_written() {
        let mut out = Vec::new();
        for (method, uri) in [(Method::GET, "/é"), (Method::CONNECT, "/")] {
            let uri = uri.parse().unwrap();
            let refused = encode_request_head(&method, &uri, &HeaderMap::new(), WireFraming::None, false, &mut out);
            assert_eq!(refused, Err(Unwritable));
        }
        assert!(out.is_empty());
    }

    #[test]
    fn responses_of_every_framing() {
        let map = headers(&[("content-length", "7"), ("x", "y")]);
        for (framing, line) in [
            (WireFraming::None, ""),
            (WireFraming::UntilClose, ""),
            (WireFraming::StatedLength, "content-length: 7\r\n"),
            (WireFraming::Length(0), "content-length: 0\r\n"),
            (WireFraming::Length(18_446), "content-length: 18446\r\n"),
            (WireFraming::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut out = Vec::new();
            encode_response_head(StatusCode::OK, &map, framing, true, &mut out);
            let expected = format!("HTTP/1.1 200 OK\r\nx: y\r\n{line}connection: close\r\n\r\n");
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn every_status_has_a_status_line() {
        for code in 100..600_u16 {
            let status = StatusCode::from_u16(code).unwrap();
            let mut out = Vec::new();
            status_line(status, &mut out);
            let expected = format!("HTTP/1.1 {code} {}\r\n", status.canonical_reason().unwrap_or(""));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
