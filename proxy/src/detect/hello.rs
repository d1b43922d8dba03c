//! Enough of a ClientHello (RFC 8446 §4.1.2) to see the server name and the protocols that are offered. The handshake
//! message may be cut into records, and these into segments, anywhere.

use std::borrow::Cow;

use mesh_api::names::{ALPN_MESH_HTTP, ALPN_MESH_MUX, ALPN_MESH_TCP};

use super::{ClientHello, Detected};

/// Content type of a record that carries handshake messages.
pub(super) const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Longest payload of a record.
const MAX_RECORD: usize = 1 << 14;
/// Longest ClientHello that is looked at, with its header. With post-quantum keys they have 2 KiB.
const MAX_HELLO: usize = 32 * 1024;
/// Most records that one may be cut into.
const MAX_RECORDS: usize = 32;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

pub(super) fn detect(bytes: &[u8]) -> Detected {
    match collect(bytes) {
        Collected::NeedMore => Detected::NeedMore,
        Collected::Not => Detected::Opaque,
        Collected::Message(message) => {
            let mut body = Reader(message.get(4..).unwrap_or_default());
            parse(&mut body).map_or(Detected::Opaque, Detected::Tls)
        }
    }
}

enum Collected<'a> {
    NeedMore,
    Not,
    /// The whole message, with its header.
    Message(Cow<'a, [u8]>),
}

/// Takes the first handshake message out of its records.
fn collect(bytes: &[u8]) -> Collected<'_> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    for _ in 0..MAX_RECORDS {
        let record = match split_record(rest) {
            Ok(record) => record,
            Err(answer) => return answer,
        };
        if message.is_empty() {
            message = Cow::Borrowed(record.payload);
        } else {
            message.to_mut().extend_from_slice(record.payload);
        }
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Collected::Not;
        }
        if let [_, a, b, c, ..] = *message {
            let len = 4 + usize::from(a) * 0x1_0000 + usize::from(b) * 0x100 + usize::from(c);
            if len > MAX_HELLO {
                return Collected::Not;
            }
            if message.len() >= len {
                // What follows in the record is no part of it.
                return Collected::Message(match message {
                    Cow::Borrowed(all) => Cow::Borrowed(all.get(..len).unwrap_or_default()),
                    Cow::Owned(mut all) => {
                        all.truncate(len);
                        Cow::Owned(all)
                    }
                });
            }
        }
        if !record.complete {
            return Collected::NeedMore;
        }
        rest = record.rest;
    }
    Collected::Not
}

struct Record<'a> {
    /// What has come of it.
    payload: &'a [u8],
    complete: bool,
    rest: &'a [u8],
}

/// The record that `bytes` begin with.
fn split_record(bytes: &[u8]) -> Result<Record<'_>, Collected<'static>> {
    let [kind, major, minor, high, low, rest @ ..] = bytes else {
        // So far it may be one.
        let good = match bytes {
            [] | [HANDSHAKE] => true,
            [HANDSHAKE, 3] => true,
            [HANDSHAKE, 3, minor, ..] => *minor <= 4,
            _ => false,
        };
        return Err(if good { Collected::NeedMore } else { Collected::Not });
    };
    let len = usize::from(*high) << 8 | usize::from(*low);
    if *kind != HANDSHAKE || *major != 3 || *minor > 4 || len == 0 || len > MAX_RECORD {
        return Err(Collected::Not);
    }
    let complete = rest.len() >= len;
    let (payload, rest) = rest.split_at(len.min(rest.len()));
    Ok(Record { payload, complete, rest })
}

/// Reads numbers and vectors.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<usize> {
        self.take(1)?.first().map(|b| usize::from(*b))
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|pair| u16::from_be_bytes(*pair))
    }

    /// A vector with a length of one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(len)
    }

    /// A vector with a length of two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(len.into())
    }
}

/// `None` where it is not well-formed.
fn parse(body: &mut Reader<'_>) -> Option<ClientHello> {
    body.take(2 + 32)?; // version, random
    body.short()?; // session
    body.long()?; // cipher suites
    body.short()?; // compression
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = Reader(body.long()?);
    if !body.0.is_empty() {
        return None;
    }
    let (mut named, mut offered) = (false, false);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let content = extensions.long()?;
        // Twice the same extension: two readers could choose differently.
        match kind {
            SERVER_NAME if !std::mem::replace(&mut named, true) => hello.server_name = server_name(content)?,
            ALPN if !std::mem::replace(&mut offered, true) => protocols(content, &mut hello)?,
            SERVER_NAME | ALPN => return None,
            _ => {}
        }
    }
    Some(hello)
}

/// `None` where it is not well-formed; no name where it is none that DNS could have.
fn server_name(content: &[u8]) -> Option<Option<Box<str>>> {
    let mut outer = Reader(content);
    let mut names = Reader(outer.long()?);
    let (kind, name) = (names.u8()?, names.long()?);
    if kind != 0 || !names.0.is_empty() || !outer.0.is_empty() {
        return None;
    }
    let name = name.strip_suffix(b".").unwrap_or(name);
    let good = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let labels = |name: &&[u8]| name.split(|b| *b == b'.').all(|label| !label.is_empty() && label.iter().all(good));
    let name = Some(name).filter(|name| name.len() <= 253).filter(labels);
    Some(name.and_then(|name| std::str::from_utf8(name).ok()).map(|name| name.to_ascii_lowercase().into()))
}

fn protocols(content: &[u8], hello: &mut ClientHello) -> Option<()> {
    let mut outer = Reader(content);
    let mut list = Reader(outer.long()?);
    if !outer.0.is_empty() {
        return None;
    }
    while !list.0.is_empty() {
        let protocol = list.short()?;
        hello.mesh_http |= protocol == ALPN_MESH_HTTP || protocol == ALPN_MESH_MUX;
        hello.mesh_tcp |= protocol == ALPN_MESH_TCP;
    }
    Some(())
}
