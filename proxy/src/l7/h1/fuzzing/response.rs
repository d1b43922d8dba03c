//! Heads of responses, and where their bodies end.

use bytes::BytesMut;
use http::Method;
use http::header::{CONTENT_LENGTH, HOST};

use super::{Plain, TIGHT, end_to_end, however, stated, strict, wire_framing};
use crate::l7::h1::{
    encode::{Persistence, response_head},
    framing::{BodyLength, response_framing},
    parse::{HeadScan, Limits, ResponseHead, parse_response},
};

fn same_response(one: &ResponseHead, other: &ResponseHead) {
    assert_eq!((one.status, one.version), (other.status, other.version));
    assert_eq!((&one.headers, one.seen), (&other.headers, other.seen));
}

/// An answer is read alike however it arrives, has one end, and what is read is what is passed on.
pub fn h1_response(bytes: &[u8]) {
    for limits in [Limits::default(), TIGHT] {
        let Some((head, rest)) = however(parse_response, bytes, &limits, same_response) else { continue };
        let raw = bytes.strip_suffix(&rest[..]).expect("what follows is left alone");
        let plain = Plain::read(raw);
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            answered(&method, &head, &plain, raw, &limits);
        }
    }
}

fn answered(method: &Method, head: &ResponseHead, plain: &Plain<'_>, raw: &[u8], limits: &Limits) {
    let mut headers = head.headers.clone();
    let Ok(framing) = response_framing(method, head.status, head.version, &mut headers, head.seen) else { return };
    strict(plain, raw, head.version, &headers, limits);
    let lengths = plain.values("content-length");
    assert!(lengths.iter().all(|length| Some(length) == lengths.first()), "one length, however often it is said");
    match framing.body {
        BodyLength::Exact(length) => assert!(length > 0 && stated(&headers) == Some(length)),
        BodyLength::Chunked => assert_eq!(plain.values("transfer-encoding").len(), 1),
        BodyLength::UntilClose => assert!(!framing.keep_alive && stated(&headers).is_none()),
        BodyLength::Empty => {}
    }
    let stated = framing.body == BodyLength::Empty && headers.contains_key(CONTENT_LENGTH);
    let mut wire = Vec::new();
    response_head(head.status, &headers, wire_framing(framing.body, stated), Persistence::Default, &mut wire);
    let mut buf = BytesMut::from(&wire[..]);
    let limits = Limits { max_head: 2 * Limits::default().max_head, max_headers: 110, ..Limits::default() };
    let again = parse_response(&mut buf, &mut HeadScan::default(), &limits).expect("read").expect("as a whole");
    assert!(buf.is_empty() && again.status == head.status);
    let mut read = again.headers.clone();
    let second = response_framing(method, again.status, again.version, &mut read, again.seen).expect("one end");
    assert_eq!(second.body, framing.body);
    headers.remove(HOST);
    assert_eq!(end_to_end(&read), end_to_end(&headers));
    assert_eq!(read.get(CONTENT_LENGTH), headers.get(CONTENT_LENGTH));
}
