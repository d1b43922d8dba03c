//! What must hold of the frames between sidecars, and of both sides of a connection, whatever a peer says. Beside the state,
//! because it looks inside; part of `crate::fuzzing`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what does not hold is to be seen")]

mod connection;
mod hostile;
mod model;
mod pair;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header::CONTENT_LENGTH};

use super::fields::{body_length, put_fields, put_request, put_response, take_fields, take_request, take_response};

pub use connection::mux_connection;

/// One side against a peer that keeps to no rule, or two sides that keep to all of them.
pub fn mux_state(bytes: &[u8]) {
    match bytes {
        [] => {}
        [first, steps @ ..] if first & 1 == 0 => hostile::play(*first, steps),
        [first, steps @ ..] => pair::play(*first, steps),
    }
}

/// Any bytes are a head or refused; what is a head is the same when it is written and read again.
pub fn mux_fields(bytes: &[u8]) {
    let block = Bytes::copy_from_slice(bytes);
    let (mut read, mut again, mut out) = (HeaderMap::new(), HeaderMap::new(), BytesMut::new());
    if let Ok((method, target)) = take_request(block.clone(), &mut read) {
        plain(&read);
        put_request(&mut out, &method, &target, &read, None);
        // The names that have a code are shorter by it, and no length is written in more bytes than it takes.
        assert!(out.len() <= bytes.len());
        let second = take_request(out.split().freeze(), &mut again).expect("what was read can be written");
        assert_eq!((second, &again), ((method, target), &read));
        lengths(&mut read);
    }
    (read, again) = (HeaderMap::new(), HeaderMap::new());
    if let Ok(status) = take_response(block.clone(), &mut read) {
        plain(&read);
        put_response(&mut out, status, &read);
        let second = take_response(out.split().freeze(), &mut again).expect("what was read can be written");
        assert_eq!((second, &again), (status, &read));
        lengths(&mut read);
    }
    (read, again) = (HeaderMap::new(), HeaderMap::new());
    if take_fields(block, &mut read).is_ok() {
        plain(&read);
        put_fields(&mut out, &read);
        take_fields(out.split().freeze(), &mut again).expect("what was read can be written");
        assert_eq!(again, read);
    }
}

/// Nothing in it that frames a message of HTTP/1.
fn plain(fields: &HeaderMap) {
    for name in ["transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade"] {
        assert!(!fields.contains_key(name), "{name}");
    }
    for value in fields.values() {
        assert!(!value.as_bytes().iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
    }
}

/// A head says one length or none, and says it once.
fn lengths(fields: &mut HeaderMap) {
    let said: Vec<Bytes> =
        fields.get_all(CONTENT_LENGTH).iter().map(|length| Bytes::copy_from_slice(length.as_bytes())).collect();
    match body_length(fields) {
        Ok(None) => assert!(said.is_empty()),
        Ok(Some(length)) => {
            assert!(said.iter().all(|other| other == &said[0]) && said[0].iter().all(u8::is_ascii_digit));
            assert_eq!(fields.get_all(CONTENT_LENGTH).iter().count(), 1);
            assert_eq!(body_length(fields), Ok(Some(length)));
        }
        Err(_) => assert!(!said.is_empty()),
    }
}
