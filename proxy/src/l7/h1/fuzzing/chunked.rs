//! The chunked coding against a decoder that is as plain as can be.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{
    fuzzing::arrivals,
    l7::h1::{
        chunked::{ChunkedDecoder, EXTENSION_MAX, Step, TRAILER_FIELDS_MAX, TRAILER_MAX, drop_forbidden},
        chunked::{encode_chunk, encode_last_chunk},
        reason::Reason,
    },
};

/// A body: its data, its trailers, and what follows it.
type Body = (Vec<u8>, HeaderMap, Vec<u8>);

/// What arrives in these pieces; `None` where it does not end.
fn decode(pieces: &[&[u8]]) -> Result<Option<Body>, Reason> {
    let (mut decoder, mut buf) = (ChunkedDecoder::default(), BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    let (mut nth, mut arrived) = (0, 0);
    loop {
        match decoder.decode(&mut buf)? {
            Step::Data(bytes) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
                assert!(data.len() <= arrived, "more came out than went in");
            }
            Step::Trailers(fields) => trailers = fields,
            Step::End => {
                let rest = pieces.get(nth..).unwrap_or_default().concat();
                return Ok(Some((data, trailers, [&buf[..], &rest].concat())));
            }
            Step::More => {
                assert!(buf.len() < TRAILER_MAX, "nothing but trailers is kept");
                let Some(piece) = pieces.get(nth) else { return Ok(None) };
                buf.extend_from_slice(piece);
                (nth, arrived) = (nth + 1, arrived + piece.len());
            }
        }
    }
}

/// The same of bytes that are all there.
fn plainly(wire: &[u8]) -> Option<Body> {
    let (mut rest, mut data, mut extensions) = (wire, Vec::new(), 0);
    loop {
        let line = take_line(&mut rest)?;
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, extension) = line.split_at(digits);
        let size = u64::from_str_radix(std::str::from_utf8(size).ok()?, 16).ok().filter(|_| digits <= 16)?;
        if let [first, text @ ..] = extension {
            extensions += text.len();
            let good = *first == b';' && text.iter().all(|b| *b == b'\t' || *b >= 0x20 && *b != 0x7f);
            (good && extensions <= EXTENSION_MAX).then_some(())?;
        }
        if size == 0 {
            break;
        }
        let size = i64::try_from(size).ok().and_then(|size| usize::try_from(size).ok())?;
        data.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
    let (mut trailers, section, mut count) = (HeaderMap::new(), rest, 0);
    loop {
        let line = take_line(&mut rest)?;
        if line.is_empty() {
            break;
        }
        count += 1;
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        let value = HeaderValue::from_maybe_shared(Bytes::copy_from_slice(trim(&line[colon + 1..]))).ok()?;
        trailers.append(name, value);
    }
    if count > TRAILER_FIELDS_MAX || section.len() - rest.len() > TRAILER_MAX {
        return None;
    }
    drop_forbidden(&mut trailers);
    // Spelt with `_` they are length and coding to some servers.
    for twin in ["content_length", "transfer_encoding", "proxy_connection", "keep_alive", "http2_settings"] {
        trailers.remove(twin);
    }
    Some((data, trailers, rest.to_vec()))
}

/// Up to the first LF, which must follow a CR.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|b| *b == b'\n')?;
    let line = rest[..end].strip_suffix(b"\r")?;
    *rest = &rest[end + 1..];
    Some(line)
}

fn trim(value: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t');
    let start = value.iter().position(|b| !blank(b)).unwrap_or(value.len());
    let end = value.iter().rposition(|b| !blank(b)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// A body is what the plainest decoder says, however it arrives; written again it is the same.
pub fn h1_chunked(bytes: &[u8]) {
    let whole = decode(&[bytes]);
    for pieces in arrivals(bytes) {
        assert_eq!(decode(&pieces), whole, "it depends on the pieces");
    }
    let body = whole.ok().flatten();
    assert_eq!(body, plainly(bytes), "the plain decoder reads something else");
    let Some((data, trailers, _)) = body else { return };
    let mut wire = Vec::new();
    for chunk in data.chunks(1 + data.len() / 2) {
        encode_chunk(chunk, &mut wire);
    }
    encode_last_chunk(Some(trailers.clone()), &mut wire);
    assert_eq!(decode(&[&wire]), Ok(Some((data, trailers, Vec::new()))));
}
