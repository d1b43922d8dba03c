//! What must hold of the HTTP/1 codec whatever bytes come. Beside the codec, because framing is nobody else's business; part of
//! `crate::fuzzing`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what does not hold is to be seen")]

mod chunked;
mod response;

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, Method, Version};

use super::decode::BodyDecoder;
use super::encode::{WireFraming, encode_request_head};
use super::framing::BodyLength;
use super::parse::{HeadScan, Limits, RequestHead, parse_request};
use super::reason::Reason;
use super::target::valid_authority;
use crate::fuzzing::arrivals;

pub use chunked::h1_chunked;
pub use response::h1_response;

/// Small enough that inputs come near them.
const TIGHT: Limits = Limits { max_head: 256, max_headers: 6, max_target: 48 };

type Parser<H> = fn(&mut BytesMut, &mut HeadScan, &Limits) -> Result<Option<H>, Reason>;

/// The first head of what arrives in these pieces, and the bytes behind it.
fn head<H>(parser: Parser<H>, pieces: &[&[u8]], limits: &Limits) -> Result<Option<(H, Vec<u8>)>, Reason> {
    let (mut buf, mut scan) = (BytesMut::new(), HeadScan::default());
    for (nth, piece) in pieces.iter().enumerate() {
        buf.extend_from_slice(piece);
        if let Some(head) = parser(&mut buf, &mut scan, limits)? {
            let rest = pieces.get(nth + 1..).unwrap_or_default().concat();
            return Ok(Some((head, [&buf[..], &rest].concat())));
        }
        assert!(buf.len() <= limits.max_head, "nothing more is waited for");
    }
    Ok(None)
}

/// The first head, however the bytes arrive.
fn however<H>(parser: Parser<H>, bytes: &[u8], limits: &Limits, same: fn(&H, &H)) -> Option<(H, Vec<u8>)> {
    let whole = head(parser, &[bytes], limits);
    for pieces in arrivals(bytes) {
        match (&whole, head(parser, &pieces, limits)) {
            (Ok(Some((whole, rest))), Ok(Some((cut, cut_rest)))) => {
                same(whole, &cut);
                assert_eq!(rest, &cut_rest);
            }
            (Ok(None), Ok(None)) | (Err(_), Err(_)) => {}
            // A first line that is too long is refused before it ends. Nothing could have come of it.
            (Ok(None), Err(_)) => {
                let ended = head(parser, &[bytes, b"\r\n\r\n"], limits);
                assert!(!matches!(ended, Ok(Some(_))), "refused in pieces, and taken whole");
            }
            (whole, cut) => {
                panic!(
                    "{:?} as a whole, {:?} in pieces",
                    whole.as_ref().map(Option::is_some),
                    cut.map(|cut| cut.is_some())
                )
            }
        }
    }
    whole.ok().flatten()
}

/// What the plainest reading of a head finds: its lines, and the values of each field by its name in lower case.
struct Plain<'a> {
    first: &'a [u8],
    fields: Vec<(Vec<u8>, &'a [u8])>,
}

impl<'a> Plain<'a> {
    fn read(head: &'a [u8]) -> Self {
        let mut lines = head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        let first = lines.by_ref().find(|line| !line.is_empty()).expect("a head has a first line");
        let fields = lines.take_while(|line| !line.is_empty()).map(|line| {
            let colon = line.iter().position(|b| *b == b':').expect("a field has a colon");
            (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii())
        });
        Self { first, fields: fields.collect() }
    }

    fn values(&self, name: &str) -> Vec<&'a [u8]> {
        self.fields.iter().filter(|(known, _)| known == name.as_bytes()).map(|(_, value)| *value).collect()
    }
}

/// What no two readers of a head that was accepted can differ about (RFC 9112 section 11).
fn strict(plain: &Plain<'_>, raw: &[u8], version: Version, headers: &HeaderMap, limits: &Limits) {
    assert!(raw.len() <= limits.max_head && plain.fields.len() <= limits.max_headers);
    assert!(raw.ends_with(b"\r\n\r\n") && !raw.contains(&0));
    for (at, byte) in raw.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(raw.get(at + 1), Some(&b'\n')),
            b'\n' => assert_eq!(raw[at - 1], b'\r'),
            _ => {}
        }
    }
    for (name, _) in &plain.fields {
        assert!(HeaderName::from_bytes(name).is_ok(), "not folded, and no space before the colon");
    }
    let encodings = plain.values("transfer-encoding");
    assert!(encodings.is_empty() || plain.values("content-length").is_empty(), "two lengths");
    assert!(encodings.is_empty() || version == Version::HTTP_11);
    assert!(encodings.iter().all(|value| value.eq_ignore_ascii_case(b"chunked")) && encodings.len() <= 1);
    // What is handed on has one length, and no other spelling of it.
    assert!(!headers.contains_key(TRANSFER_ENCODING));
    assert!(!headers.keys().any(|name| matches!(name.as_str(), "content_length" | "transfer_encoding")));
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().collect();
    assert!(lengths.len() <= 1);
    if let Some(length) = lengths.first() {
        let number: u64 = length.to_str().unwrap().parse().unwrap();
        assert_eq!(length.as_bytes(), number.to_string().as_bytes());
    }
}

fn stated(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH).map(|length| length.to_str().unwrap().parse().unwrap())
}

const fn wire_framing(body: BodyLength, stated: bool) -> WireFraming {
    match body {
        BodyLength::Empty if stated => WireFraming::StatedLength,
        BodyLength::Empty => WireFraming::None,
        BodyLength::Exact(length) => WireFraming::Length(length),
        BodyLength::Chunked => WireFraming::Chunked,
        BodyLength::UntilClose => WireFraming::UntilClose,
    }
}

/// Without the fields that concern one connection, or are written anew.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for own in ["connection", "keep-alive", "proxy-connection", "http2-settings", "te", "upgrade", "content-length"] {
        headers.remove(own);
    }
    headers
}

fn same_request(one: &RequestHead, other: &RequestHead) {
    assert_eq!((&one.method, &one.uri, one.version), (&other.method, &other.uri, other.version));
    assert_eq!((&one.headers, one.framing), (&other.headers, other.framing));
}

/// A request is read alike however it arrives and by whoever reads it, and what is read is what is passed on.
pub fn h1_request(bytes: &[u8]) {
    for limits in [Limits::default(), TIGHT] {
        let Some((head, rest)) = however(parse_request, bytes, &limits, same_request) else { continue };
        let raw = bytes.strip_suffix(&rest[..]).expect("what follows is left alone");
        let plain = Plain::read(raw);
        strict(&plain, raw, head.version, &head.headers, &limits);
        check_request(&head, &plain);
        by_httparse(&head, raw);
        passed_on(&head);
    }
    let messages = messages(&[bytes]);
    for pieces in arrivals(bytes) {
        assert_eq!(self::messages(&pieces), messages, "bodies and what follows them");
    }
}

fn check_request(head: &RequestHead, plain: &Plain<'_>) {
    let hosts: Vec<_> = head.headers.get_all(HOST).iter().collect();
    assert!(hosts.len() <= 1 && (hosts.len() == 1 || head.version == Version::HTTP_10));
    assert!(hosts.iter().all(|host| valid_authority(host.as_bytes())));
    assert!(plain.values("content-length").len() <= 1, "a request says its length once");
    match head.body() {
        BodyLength::Exact(length) => assert!(length > 0 && stated(&head.headers) == Some(length)),
        BodyLength::Empty => assert!(stated(&head.headers).is_none_or(|length| length == 0)),
        BodyLength::Chunked => assert_eq!(plain.values("transfer-encoding").len(), 1),
        BodyLength::UntilClose => panic!("no request ends with its connection"),
    }
    assert!(head.method != Method::CONNECT || head.body() == BodyLength::Empty);
    assert_eq!(head.framing.upgrade, head.method == Method::CONNECT || head.headers.contains_key(UPGRADE));
    assert!(head.uri.scheme().is_none() && head.uri.to_string().bytes().all(|b| (0x21..0x7f).contains(&b)));
    assert!(!head.uri.to_string().contains(['#', '\\']));
    assert!(plain.first.starts_with(head.method.as_str().as_bytes()));
}

/// Another parser, which is more lenient, reads the same.
fn by_httparse(head: &RequestHead, raw: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Request::new(&mut fields);
    let read = other.parse(raw).expect("the more lenient parser takes it");
    assert_eq!(read, httparse::Status::Complete(raw.len()));
    assert_eq!(
        (other.method, other.version),
        (Some(head.method.as_str()), Some(u8::from(head.version == Version::HTTP_11)))
    );
    if let Some(path) = other.path.filter(|path| path.starts_with('/')) {
        assert_eq!(head.uri.path_and_query().map(|target| target.as_str()), Some(path));
    }
    for (name, value) in end_to_end(&head.headers).iter().filter(|(name, _)| **name != HOST) {
        let same =
            |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name.as_str()) && field.value == value;
        assert!(other.headers.iter().any(|field| same(&field)), "{name}: {value:?}");
    }
}

/// What is written upstream is read there as it was here, and written again it is the same.
fn passed_on(head: &RequestHead) {
    if !head.headers.contains_key(HOST) {
        // It is passed on only to where a host is known.
        return;
    }
    let encode = |head: &RequestHead| {
        let (framing, upgrade) = (wire_framing(head.body(), false), head.headers.contains_key(UPGRADE));
        let mut wire = Vec::new();
        encode_request_head(&head.method, &head.uri, &head.headers, framing, upgrade, &mut wire).map(|()| wire)
    };
    let wire = encode(head).expect("what was read can be written");
    let mut buf = BytesMut::from(&wire[..]);
    let limits = Limits { max_head: 2 * Limits::default().max_head, max_headers: 110, ..Limits::default() };
    let again = parse_request(&mut buf, &mut HeadScan::default(), &limits).expect("and read").expect("as a whole");
    assert!(buf.is_empty());
    assert_eq!((&again.method, &again.uri, again.body()), (&head.method, &head.uri, head.body()));
    assert_eq!(end_to_end(&again.headers), end_to_end(&head.headers));
    assert_eq!(again.headers.get(UPGRADE), head.headers.get(UPGRADE));
    assert_eq!(again.framing.expects_continue, head.framing.expects_continue);
    assert!(head.version == Version::HTTP_10 || again.framing.trailers == head.framing.trailers);
    assert_eq!(encode(&again).expect("written again"), wire);
}

/// Requests of a connection, with their bodies, up to the first that is refused or not whole.
fn messages(pieces: &[&[u8]]) -> Vec<(String, Vec<u8>, Option<HeaderMap>)> {
    let (mut buf, mut pieces) = (BytesMut::new(), pieces.iter());
    let mut all = Vec::new();
    loop {
        let mut scan = HeadScan::default();
        let head = loop {
            match parse_request(&mut buf, &mut scan, &Limits::default()) {
                Ok(Some(head)) => break head,
                Ok(None) => {}
                Err(_) => return all,
            }
            let Some(piece) = pieces.next() else { return all };
            buf.extend_from_slice(piece);
        };
        let mut body = BodyDecoder::new(head.body());
        let (mut data, mut trailers, mut eof) = (Vec::new(), None, false);
        body.advance(&mut buf, eof);
        while !body.is_end() {
            match body.next(&mut buf, eof) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => data.extend_from_slice(&piece),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                },
                Some(Err(_)) => return all,
                None => {
                    assert!(!eof, "a body that ends too early is malformed");
                    match pieces.next() {
                        Some(piece) => buf.extend_from_slice(piece),
                        None => eof = true,
                    }
                    body.advance(&mut buf, eof);
                }
            }
        }
        all.push((format!("{} {}", head.method, head.uri), data, trailers));
    }
}
