//! Heads: delimiting them in a growing buffer and parsing the first line (RFC 9112 §2 to §5).
//!
//! Pure and strict: CR LF ends every line, one space separates the parts of a request line, nothing is folded,
//! nothing is repaired. Values share the read buffer.

use bytes::{Buf, Bytes, BytesMut};
use http::header::HOST;
use http::{HeaderMap, Method, StatusCode, Uri, Version};

use super::fields::{Seen, parse_fields};
use super::framing::{RequestFraming, request_framing};
use super::reason::Reason;
use super::scan::find_lf;
use super::target::{parse_target, valid_authority};

/// What a head may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, first line and final empty line included.
    pub max_head: usize,
    /// Field lines of a head.
    pub max_headers: usize,
    /// Bytes of a request target.
    pub max_target: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_head: 64 * 1024, max_headers: 100, max_target: 32 * 1024 }
    }
}

/// Empty lines tolerated before a request line (RFC 9112 §2.2 asks for at least one).
const LEADING_LINES_MAX: u8 = 2;
/// Longer than any registered method.
const METHOD_MAX: usize = 32;

/// How far a growing buffer has been looked at, so that slow bytes do not cost quadratic time.
#[derive(Debug, Default, Clone, Copy)]
pub struct HeadScan {
    scanned: usize,
    line: usize,
    leading: u8,
}

impl HeadScan {
    /// Is nothing of a head there yet but empty lines?
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.leading == 0 && self.scanned == 0
    }

    /// The length of the head at the front of `buf` once it is complete.
    fn find_end(&mut self, buf: &[u8], limits: &Limits) -> Result<Option<usize>, Reason> {
        while let Some(offset) = find_lf(buf.get(self.scanned..).unwrap_or_default()) {
            let lf = self.scanned + offset;
            if lf == self.line || buf.get(lf - 1) != Some(&b'\r') {
                return Err(Reason::LineEnding);
            }
            if lf >= limits.max_head {
                return Err(too_large(buf, limits));
            }
            self.scanned = lf + 1;
            if lf == self.line + 1 {
                return Ok(Some(self.scanned));
            }
            self.line = self.scanned;
        }
        self.scanned = buf.len();
        if buf.len() >= limits.max_head || (self.line == 0 && buf.len() > limits.max_target + METHOD_MAX + 16) {
            return Err(too_large(buf, limits));
        }
        Ok(None)
    }

    /// Drops empty lines before the first line.
    fn skip_leading_lines(&mut self, buf: &mut BytesMut) -> Result<(), Reason> {
        while self.line == 0 && buf.starts_with(b"\r\n") {
            self.leading += 1;
            if self.leading > LEADING_LINES_MAX {
                return Err(Reason::LeadingJunk);
            }
            buf.advance(2);
            self.scanned = 0;
        }
        Ok(())
    }
}

/// Whose fault it is that a head exceeds the limit: the target's, if the first line alone does.
fn too_large(buf: &[u8], limits: &Limits) -> Reason {
    let first_line = find_lf(buf).unwrap_or(buf.len());
    if first_line > limits.max_target {
        if buf.iter().take(METHOD_MAX + 1).any(|&b| b == b' ') { Reason::TargetTooLong } else { Reason::RequestLine }
    } else {
        Reason::HeadTooLarge
    }
}

/// A request head in normal form: what the service is given and what goes upstream.
#[derive(Debug)]
pub struct RequestHead {
    /// The method, case kept.
    pub method: Method,
    /// Origin-form, `*`, or for `CONNECT` the authority.
    pub uri: Uri,
    /// 1.0 or 1.1.
    pub version: Version,
    /// The fields; `host` is the one authority, framing fields are normalised.
    pub headers: HeaderMap,
    pub(super) framing: RequestFraming,
}

impl RequestHead {
    /// How the body is delimited.
    #[must_use]
    pub const fn body(&self) -> super::framing::BodyLength {
        self.framing.body
    }

    /// May another request follow on the connection, as far as the client is concerned?
    #[must_use]
    pub const fn keep_alive(&self) -> bool {
        self.framing.keep_alive
    }
}

/// Parses one request head from the front of `buf`; `None` while it is incomplete.
///
/// # Errors
/// The bytes are not a request that everybody reads alike, or a limit is exceeded.
pub fn parse_request(buf: &mut BytesMut, scan: &mut HeadScan, limits: &Limits) -> Result<Option<RequestHead>, Reason> {
    scan.skip_leading_lines(buf)?;
    let Some(end) = scan.find_end(buf, limits)? else { return Ok(None) };
    *scan = HeadScan::default();
    let head = buf.split_to(end).freeze();
    let line_end = find_lf(&head).ok_or(Reason::RequestLine)?;
    let (method, target, version) = parse_request_line(&head.slice(..line_end.saturating_sub(1)), limits)?;
    let target = parse_target(&target, &method, version)?;
    let (mut headers, seen) = parse_fields(&head, line_end + 1, limits.max_headers)?;
    normalise_host(&mut headers, seen, version, target.authority)?;
    let framing = request_framing(&method, version, &mut headers, seen)?;
    Ok(Some(RequestHead { method, uri: target.uri, version, headers, framing }))
}

fn parse_request_line(line: &Bytes, limits: &Limits) -> Result<(Method, Bytes, Version), Reason> {
    let space = line.iter().position(|&b| b == b' ').ok_or(Reason::RequestLine)?;
    let method = &line[..space];
    if method.len() > METHOD_MAX && method.iter().all(u8::is_ascii_alphanumeric) {
        return Err(Reason::MethodTooLong);
    }
    let is_method = !method.is_empty() && method.len() <= METHOD_MAX;
    let method = is_method.then(|| Method::from_bytes(method).ok()).flatten().ok_or(Reason::Method)?;
    // "SP target SP HTTP/x.y"
    let version_at = line.len().checked_sub(8).filter(|&at| at >= space + 2).ok_or(Reason::RequestLine)?;
    let version = parse_version(&line[version_at..]).map_err(|reason| match reason {
        Reason::UnsupportedVersion if method.as_str() == "PRI" => Reason::Preface,
        other => other,
    })?;
    if line[version_at - 1] != b' ' {
        return Err(Reason::RequestLine);
    }
    let target = line.slice(space + 1..version_at - 1);
    if target.len() > limits.max_target {
        return Err(Reason::TargetTooLong);
    }
    Ok((method, target, version))
}

fn parse_version(raw: &[u8]) -> Result<Version, Reason> {
    match raw {
        b"HTTP/1.1" => Ok(Version::HTTP_11),
        b"HTTP/1.0" => Ok(Version::HTTP_10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Reason::UnsupportedVersion),
        _ => Err(Reason::Version),
    }
}

/// One `Host`, well-formed, required in 1.1, replaced by what the target named (RFC 9112 §3.2).
fn normalise_host(
    headers: &mut HeaderMap,
    seen: Seen,
    version: Version,
    named: Option<http::HeaderValue>,
) -> Result<(), Reason> {
    match seen.host {
        0 if version == Version::HTTP_11 => return Err(Reason::HostMissing),
        0 => {}
        1 => {
            if !headers.get(HOST).is_some_and(|host| valid_authority(host.as_bytes())) {
                return Err(Reason::HostInvalid);
            }
        }
        _ => return Err(Reason::HostRepeated),
    }
    if let Some(authority) = named {
        headers.insert(HOST, authority);
    }
    Ok(())
}

/// A response head. Its framing depends on the request and is decided by the connection.
#[derive(Debug)]
pub struct ResponseHead {
    /// 100 to 599.
    pub status: StatusCode,
    /// 1.0 or 1.1.
    pub version: Version,
    /// The fields as received.
    pub headers: HeaderMap,
    pub(super) seen: Seen,
}

/// Parses one response head, final or interim, from the front of `buf`; `None` while it is incomplete.
///
/// # Errors
/// The bytes are not a well-formed response head, or a limit is exceeded.
pub fn parse_response(
    buf: &mut BytesMut,
    scan: &mut HeadScan,
    limits: &Limits,
) -> Result<Option<ResponseHead>, Reason> {
    // The status line has no target that could be too long.
    let limits = Limits { max_target: limits.max_head, ..*limits };
    let Some(end) = scan.find_end(buf, &limits)? else { return Ok(None) };
    *scan = HeadScan::default();
    let head = buf.split_to(end).freeze();
    let line_end = find_lf(&head).ok_or(Reason::StatusLine)?;
    let (version, status) = parse_status_line(&head[..line_end.saturating_sub(1)])?;
    let (headers, seen) = parse_fields(&head, line_end + 1, limits.max_headers)?;
    Ok(Some(ResponseHead { status, version, headers, seen }))
}

/// `HTTP/1.x SP 3DIGIT [SP reason]`; the reason is checked and forgotten.
fn parse_status_line(line: &[u8]) -> Result<(Version, StatusCode), Reason> {
    let (version, rest) = line.split_at_checked(8).ok_or(Reason::StatusLine)?;
    let version = parse_version(version)?;
    let [b' ', a, b, c, rest @ ..] = rest else { return Err(Reason::StatusLine) };
    let code = [*a, *b, *c];
    let text = matches!(rest, [] | [b' ', ..]) && rest.iter().all(|b| matches!(b, b'\t' | 0x20..=0x7e | 0x80..));
    if !text || !matches!(a, b'1'..=b'5') {
        return Err(Reason::StatusLine);
    }
    StatusCode::from_bytes(&code).map(|status| (version, status)).map_err(|_| Reason::StatusLine)
}

#[cfg(test)]
mod tests;
