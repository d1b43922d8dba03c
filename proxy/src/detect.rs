//! What a connection speaks, from its first bytes. Floor 1: imports `mesh_api` only.
//!
//! Pure: the caller reads, with a deadline, and asks again with more bytes. The answer never depends on how the bytes
//! were cut. What is not plainly HTTP or TLS is [`Detected::Opaque`]; on a port whose policies look at requests that
//! means refusal, so it is no way around them.

mod hello;
#[cfg(test)]
mod tests;

/// Bytes after which there is always an answer; a caller needs no larger buffer.
pub const MAX_PREFIX: usize = 64 * 1024;
/// Longest method that is taken for one, in bytes.
const MAX_METHOD: usize = 32;
/// What an HTTP/2 client with prior knowledge sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// Could still be several things.
    NeedMore,
    /// HTTP/1: a request line. Whether it is a good one the codec decides.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2Preface,
    /// TLS: a whole ClientHello.
    Tls(ClientHello),
    /// Anything else.
    Opaque,
}

/// What a ClientHello says that decides where the connection goes. Nothing of it is verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The name that is asked for, lower case, without a dot at the end (RFC 6066 §3).
    pub server_name: Option<Box<str>>,
    /// Offers [`mesh_api::names::ALPN_MESH_HTTP`]: the peer is a sidecar.
    pub mesh_http: bool,
    /// Offers [`mesh_api::names::ALPN_MESH_TCP`]: the peer is a sidecar.
    pub mesh_tcp: bool,
}

impl ClientHello {
    /// True where the peer is a sidecar and the connection is to be terminated here.
    #[must_use]
    pub fn is_mesh(&self) -> bool {
        self.mesh_http || self.mesh_tcp
    }
}

/// Looks at all bytes that have come so far.
#[must_use]
pub fn detect(bytes: &[u8]) -> Detected {
    let answer = match bytes {
        [] => Detected::NeedMore,
        [hello::HANDSHAKE, ..] => hello::detect(bytes),
        _ => detect_http(bytes),
    };
    // The answer for the longest prefix is final, so that more bytes do not change it.
    if answer == Detected::NeedMore && bytes.len() >= MAX_PREFIX { Detected::Opaque } else { answer }
}

fn detect_http(bytes: &[u8]) -> Detected {
    if PREFACE.starts_with(bytes.get(..PREFACE.len()).unwrap_or(bytes)) {
        return if bytes.len() >= PREFACE.len() { Detected::Http2Preface } else { Detected::NeedMore };
    }
    // Up to two empty lines may come before a request line (RFC 9112 §2.2).
    let mut line = bytes;
    for _ in 0..2 {
        match line {
            [b'\r', b'\n', rest @ ..] => line = rest,
            [] | [b'\r'] => return Detected::NeedMore,
            _ => break,
        }
    }
    detect_request_line(line)
}

/// `METHOD SP TARGET SP HTTP/1.`; sooner where no other protocol begins like that.
fn detect_request_line(line: &[u8]) -> Detected {
    let method_len = line.iter().take(MAX_METHOD + 1).take_while(|b| is_token(**b)).count();
    let (method, rest) = line.split_at_checked(method_len).unwrap_or((line, &[]));
    if method_len > MAX_METHOD || method.is_empty() && !line.is_empty() {
        return Detected::Opaque;
    }
    let target = match rest {
        [] => return Detected::NeedMore,
        [b' ', target @ ..] => target,
        _ => return Detected::Opaque,
    };
    // `CONNECT`, `OPTIONS` and names nobody registered begin messages of other protocols too: NATS, RTSP, SIP.
    const PLAIN: [&[u8]; 7] = [b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"PATCH", b"TRACE"];
    const BEGINNINGS: [&[u8]; 3] = [b"/", b"http://", b"https://"];
    if PLAIN.contains(&method) && BEGINNINGS.iter().any(|beginning| target.starts_with(beginning)) {
        return Detected::Http1;
    }
    // A request line has no control characters: the first one ends it.
    let Some(end) = target.iter().position(|b| *b < 0x20 || *b == 0x7f) else { return Detected::NeedMore };
    let (target, after) = target.split_at(end);
    let version = target.iter().rposition(|b| *b == b' ').and_then(|space| target.get(space + 1..));
    let is_line = matches!(after.first(), Some(b'\r' | b'\n'));
    if is_line && version.is_some_and(|version| version.starts_with(b"HTTP/1.")) {
        Detected::Http1
    } else {
        Detected::Opaque
    }
}

/// RFC 9110 §5.6.2.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}
