//! Heads of messages between two sidecars, to bytes and back. Pure. Nothing is remembered from one to the next: no state that
//! two sides could disagree on, and nothing of one caller that another could guess by length.
//!
//! ```text
//! request    method  target  field*        method  code, or 0 and a text
//! response   status (16)  field*           field   code of the name, or 0 and a text; then the value, a text
//! trailers   field*                        text    length (LEB128), bytes
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

/// Most fields of one head: as many as a caller of HTTP/2 may send, whose list of 64 KiB counts 32 bytes more for each than it has
/// (RFC 9113 section 6.5.2), and those of the mesh.
const MAX_FIELDS: usize = 2048 + 64;

/// Why a block is no head. The stream is reset; the connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// It ends in the middle.
    #[error("a head that ends in the middle")]
    Short,
    /// A code that stands for nothing.
    #[error("an unknown code in a head")]
    Code,
    /// A method, a target, a status or a field that cannot be one.
    #[error("an invalid part of a head")]
    Invalid,
    /// More fields than are taken.
    #[error("too many fields in a head")]
    TooMany,
}

/// Methods by code, from 1. Never changed but at the end: both sides have it.
const METHODS: [Method; 8] = [
    Method::GET,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::HEAD,
    Method::OPTIONS,
    Method::PATCH,
    Method::CONNECT,
];

/// Names by code, from 1. Never changed but at the end: both sides have it.
static NAMES: [HeaderName; 46] = [
    header::HOST,
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::EXPECT,
    header::FORWARDED,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::ORIGIN,
    header::RANGE,
    header::REFERER,
    header::SERVER,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::VARY,
    header::VIA,
    header::ACCEPT_RANGES,
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::STRICT_TRANSPORT_SECURITY,
    header::X_CONTENT_TYPE_OPTIONS,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("mesh-orig-proto"),
];

/// The same as texts.
const TEXTS: [&str; 46] = [
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expires",
    "expect",
    "forwarded",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "last-modified",
    "location",
    "origin",
    "range",
    "referer",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "vary",
    "via",
    "accept-ranges",
    "access-control-allow-origin",
    "strict-transport-security",
    "x-content-type-options",
    "x-request-id",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "traceparent",
    "tracestate",
    "grpc-status",
    "grpc-message",
    "grpc-timeout",
    "grpc-encoding",
    "grpc-accept-encoding",
    "mesh-orig-proto",
];

/// Appends the head of a request. `length` is that of its body, where it is known; said only where `fields` do not.
pub fn put_request(out: &mut BytesMut, method: &Method, target: &[u8], fields: &HeaderMap, length: Option<u64>) {
    match METHODS.iter().position(|known| known == method) {
        Some(at) => out.put_u8(code(at)),
        None => {
            out.put_u8(0);
            put_text(out, method.as_str().as_bytes());
        }
    }
    put_text(out, target);
    put_fields(out, fields);
    if let Some(length) = length.filter(|_| !fields.contains_key(header::CONTENT_LENGTH)) {
        put_name(out, &header::CONTENT_LENGTH);
        put_text(out, HeaderValue::from(length).as_bytes());
    }
}

/// Appends the head of an answer.
pub fn put_response(out: &mut BytesMut, status: StatusCode, fields: &HeaderMap) {
    out.put_u16(status.as_u16());
    put_fields(out, fields);
}

/// Appends fields: trailers are nothing else.
pub fn put_fields(out: &mut BytesMut, fields: &HeaderMap) {
    for (name, value) in fields {
        put_name(out, name);
        put_text(out, value.as_bytes());
    }
}

fn put_name(out: &mut BytesMut, name: &HeaderName) {
    match name_code(name) {
        Some(code) => out.put_u8(code),
        None => {
            out.put_u8(0);
            put_text(out, name.as_str().as_bytes());
        }
    }
}

/// Reads the head of a request: method, target, fields.
///
/// # Errors
/// [`FieldsError`].
pub fn take_request(mut block: Bytes, fields: &mut HeaderMap) -> Result<(Method, Bytes), FieldsError> {
    let method = match take_byte(&mut block)? {
        0 => Method::from_bytes(&take_text(&mut block)?).map_err(|_| FieldsError::Invalid)?,
        code => METHODS.get(usize::from(code) - 1).cloned().ok_or(FieldsError::Code)?,
    };
    let target = take_text(&mut block)?;
    take_fields(block, fields)?;
    Ok((method, target))
}

/// Reads the head of an answer.
///
/// # Errors
/// [`FieldsError`].
pub fn take_response(mut block: Bytes, fields: &mut HeaderMap) -> Result<StatusCode, FieldsError> {
    let status = u16::from_be_bytes([take_byte(&mut block)?, take_byte(&mut block)?]);
    let status = StatusCode::from_u16(status).map_err(|_| FieldsError::Invalid)?;
    take_fields(block, fields)?;
    Ok(status)
}

/// Reads fields until the block ends; values are slices of it.
///
/// # Errors
/// [`FieldsError`].
pub fn take_fields(mut block: Bytes, fields: &mut HeaderMap) -> Result<(), FieldsError> {
    for _ in 0..MAX_FIELDS {
        if block.is_empty() {
            return Ok(());
        }
        let name = match take_byte(&mut block)? {
            0 => unknown_name(&take_text(&mut block)?)?,
            code => NAMES.get(usize::from(code) - 1).cloned().ok_or(FieldsError::Code)?,
        };
        let value = HeaderValue::from_maybe_shared(take_text(&mut block)?).map_err(|_| FieldsError::Invalid)?;
        fields.try_append(name, value).map_err(|_| FieldsError::TooMany)?;
    }
    if block.is_empty() { Ok(()) } else { Err(FieldsError::TooMany) }
}

/// The length that a head says its body has; said once from here on. One that is no number, or another each time, could be read in
/// two ways.
///
/// # Errors
/// [`FieldsError::Invalid`].
pub fn body_length(fields: &mut HeaderMap) -> Result<Option<u64>, FieldsError> {
    let mut said = fields.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = said.next() else { return Ok(None) };
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = length.to_str().ok().filter(|_| digits).and_then(|text| text.parse().ok());
    let number = number.ok_or(FieldsError::Invalid)?;
    match said.next() {
        None => {}
        Some(second) if second == length && said.all(|other| other == length) => {
            let once = length.clone();
            fields.insert(header::CONTENT_LENGTH, once);
        }
        Some(_) => return Err(FieldsError::Invalid),
    }
    Ok(Some(number))
}

/// Fields of a connection mean nothing on a stream, and much to a server of HTTP/1 that they were passed on to (RFC 9113
/// section 8.2.2).
fn unknown_name(text: &[u8]) -> Result<HeaderName, FieldsError> {
    let name = HeaderName::from_bytes(text).map_err(|_| FieldsError::Invalid)?;
    match name.as_str() {
        "transfer-encoding" | "connection" | "keep-alive" | "proxy-connection" | "upgrade" => Err(FieldsError::Invalid),
        _ => Ok(name),
    }
}

fn code(at: usize) -> u8 {
    u8::try_from(at + 1).unwrap_or(0)
}

/// Places for codes: by a hash of the name, the next free one where that is taken.
const PLACES: usize = 256;
static CODES: [u8; PLACES] = codes();

const fn place(name: &[u8]) -> usize {
    if name.is_empty() {
        return 0;
    }
    let (first, last) = (name[0] as usize, name[name.len() - 1] as usize);
    let middle = name[name.len() / 2] as usize;
    (name.len() * 37 + first * 5 + middle * 11 + last * 3) % PLACES
}

const fn codes() -> [u8; PLACES] {
    let mut codes = [0; PLACES];
    let mut at = 0;
    while at < TEXTS.len() {
        let mut place = place(TEXTS[at].as_bytes());
        while codes[place] != 0 {
            place = (place + 1) % PLACES;
        }
        // Fewer than 255.
        codes[place] = at as u8 + 1;
        at += 1;
    }
    codes
}

fn name_code(name: &HeaderName) -> Option<u8> {
    let text = name.as_str();
    let mut place = place(text.as_bytes());
    loop {
        // There are free places: this ends.
        let code = *CODES.get(place)?;
        if *TEXTS.get(usize::from(code).checked_sub(1)?)? == text {
            return Some(code);
        }
        place = (place + 1) % PLACES;
    }
}

fn put_text(out: &mut BytesMut, text: &[u8]) {
    let mut length = text.len();
    while length >= 0x80 {
        out.put_u8((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.put_u8(length as u8);
    out.extend_from_slice(text);
}

fn take_byte(block: &mut Bytes) -> Result<u8, FieldsError> {
    if block.is_empty() { Err(FieldsError::Short) } else { Ok(block.get_u8()) }
}

fn take_text(block: &mut Bytes) -> Result<Bytes, FieldsError> {
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = take_byte(block)?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
        // No text is longer than a block: three bytes say that much.
        if shift > 14 {
            return Err(FieldsError::Invalid);
        }
    }
    if block.len() < length { Err(FieldsError::Short) } else { Ok(block.split_to(length)) }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn fields() -> impl Strategy<Value = HeaderMap> {
        let name = prop_oneof![
            (0..NAMES.len()).prop_map(|at| NAMES[at].clone()),
            "[a-z][a-z0-9-]{0,40}".prop_map(|text| HeaderName::from_bytes(text.as_bytes()).unwrap()),
        ];
        let value = vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..0xff], 0..200);
        vec((name, value.prop_map(|bytes| HeaderValue::from_bytes(&bytes).unwrap())), 0..20).prop_map(|all| {
            all.into_iter().fold(HeaderMap::new(), |mut map, (name, value)| {
                map.append(name, value);
                map
            })
        })
    }

    proptest! {
        #[test]
        fn requests_come_back(fields in fields(), method in "[A-Z]{1,12}", target in "/[a-z/?&=%0-9]{0,300}") {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let mut out = BytesMut::new();
            put_request(&mut out, &method, target.as_bytes(), &fields, None);
            let mut read = HeaderMap::new();
            let (again, path) = take_request(out.freeze(), &mut read).unwrap();
            prop_assert_eq!((again, &path[..]), (method, target.as_bytes()));
            prop_assert_eq!(read, fields);
        }

        #[test]
        fn answers_come_back(fields in fields(), status in 100_u16..1000) {
            let mut out = BytesMut::new();
            put_response(&mut out, StatusCode::from_u16(status).unwrap(), &fields);
            let mut read = HeaderMap::new();
            prop_assert_eq!(take_response(out.freeze(), &mut read).unwrap().as_u16(), status);
            prop_assert_eq!(read, fields);
        }

        #[test]
        fn any_bytes_are_a_head_or_refused(bytes in vec(any::<u8>(), 0..300)) {
            let mut read = HeaderMap::new();
            let _ = take_request(Bytes::from(bytes.clone()), &mut read);
            read.clear();
            let _ = take_response(Bytes::from(bytes.clone()), &mut read);
            read.clear();
            let _ = take_fields(Bytes::from(bytes), &mut read);
        }

        #[test]
        fn what_is_cut_is_refused(fields in fields(), keep in 0.0..1.0_f64) {
            let mut out = BytesMut::new();
            put_fields(&mut out, &fields);
            let all = out.freeze();
            let cut = all.slice(..(all.len() as f64 * keep) as usize);
            let mut read = HeaderMap::new();
            // Between two fields it is a head of fewer.
            if take_fields(cut.clone(), &mut read).is_ok() {
                prop_assert!(read.len() <= fields.len());
                let mut again = BytesMut::new();
                put_fields(&mut again, &read);
                prop_assert!(again.len() == cut.len());
            }
        }
    }

    #[test]
    fn every_code_is_its_own() {
        for (at, name) in NAMES.iter().enumerate() {
            assert_eq!((name_code(name), name.as_str()), (Some(code(at)), TEXTS[at]));
        }
        for bad in [&[METHODS.len() as u8 + 1, 0][..], &[1], &[1, 0x80], &[0, 3, b'G'], &[1, 0x80, 0x80, 0x80, 1]] {
            assert!(take_request(Bytes::copy_from_slice(bad), &mut HeaderMap::new()).is_err(), "{bad:?}");
        }
        let mut many = BytesMut::new();
        for _ in 0..=MAX_FIELDS {
            many.extend_from_slice(&[1, 0]);
        }
        assert_eq!(take_fields(many.freeze(), &mut HeaderMap::new()), Err(FieldsError::TooMany));
    }
}
