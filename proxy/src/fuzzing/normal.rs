//! The normal form of requests: what policy judges is what goes upstream, and nothing is hidden in it.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Uri, Version, header::HOST, request::Parts, uri::Authority};

use super::Numbers;
use crate::{
    l7::{
        h1::pure::{HeadScan, Limits, WireFraming, encode_request_head, parse_request},
        mux::fields,
    },
    normal::{check_raw_target, normalise, rule_path},
};

/// Holds `normalise` to what it says of a request: a line with its method, one with its target, and one for each `Host`.
pub fn normal(bytes: &[u8]) {
    let Some(mut parts) = request(bytes) else { return };
    let Ok(first) = normalise(&mut parts) else { return };
    let view = first.view(&parts);
    let (path, host) = (view.path.map(str::to_owned), view.host.map(str::to_owned));

    if let Some(path) = &path {
        assert!(path.starts_with('/') && !path.contains("//") && !path.contains([';', '\\']), "{path}");
        assert!(!path.chars().any(|c| c.is_ascii_control()), "{path:?}");
        assert!(!path.split('/').any(|segment| segment == "." || segment == ".."), "{path}");
        assert_eq!(rule_path(path).as_ref(), Some(path), "a rule for just this path is for another one");
        assert_eq!(&spelt(parts.uri.path()), path);
    }
    if let Some(host) = &host {
        assert!(!host.is_empty() && !host.ends_with('.') && *host == host.to_lowercase() && !host.contains('@'));
        let sent = parts.headers[HOST].to_str().expect("ASCII");
        assert!(sent.starts_with(host) && sent.parse::<Authority>().is_ok(), "{sent}");
    }
    assert!(parts.headers.get_all(HOST).iter().count() <= 1);
    assert!(
        parts.uri.scheme().is_none() && (parts.uri.authority().is_some() == (path.is_none() && is_connect(&parts)))
    );

    if is_connect(&parts) && path.is_some() {
        // A CONNECT with a path is that of HTTP/2 (RFC 8441): without its scheme, which is gone now, it is none.
        return;
    }
    let mut again = clone(&parts);
    let second = normalise(&mut again).expect("what is normal is normal");
    assert_eq!(second.view(&again).path, path.as_deref());
    assert_eq!(second.view(&again).host, host.as_deref());
    assert_eq!((&again.uri, &again.headers), (&parts.uri, &parts.headers));
    // The codec of HTTP/1 refuses methods that nobody has registered anything like, and a `\` in a query, which others send.
    let is_sendable = parts.method.as_str().len() <= 32 && !parts.uri.query().is_some_and(|query| query.contains('\\'));
    if host.is_some() && is_sendable {
        over_http1(&parts);
    }
    over_the_mesh(&parts);
}

fn is_connect(parts: &Parts) -> bool {
    parts.method == Method::CONNECT
}

/// `Parts` with what is normalised.
fn clone(parts: &Parts) -> Parts {
    let mut copy = Request::new(()).into_parts().0;
    (copy.method, copy.uri) = (parts.method.clone(), parts.uri.clone());
    (copy.version, copy.headers) = (parts.version, parts.headers.clone());
    copy
}

fn request(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|b| *b == b'\n');
    let mut parts = Request::new(()).into_parts().0;
    parts.method = Method::from_bytes(lines.next()?).ok()?;
    parts.uri = Uri::from_maybe_shared(Bytes::copy_from_slice(lines.next()?)).ok()?;
    for host in lines {
        parts.headers.append(HOST, HeaderValue::from_bytes(host).ok()?);
    }
    parts.version = [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][Numbers::of(bytes).below(3)];
    Some(parts)
}

/// What the path on the wire spells, read in the plainest way; panics where it holds what must not be there.
fn spelt(wire: &str) -> String {
    let mut path = Vec::new();
    for segment in wire.split('/').skip(1) {
        let decoded = decode(segment.as_bytes());
        assert!(!decoded.iter().any(|(byte, _)| matches!(byte, b'/' | b'\\' | 0)), "{wire}");
        let name: Vec<_> = decoded.iter().take_while(|(byte, _)| *byte != b';').collect();
        let text: Vec<u8> = name.iter().map(|(byte, _)| *byte).collect();
        assert!(text != b"." && text != b"..", "{wire}");
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        for (byte, escaped) in name {
            let is_plain = !escaped || !(byte.is_ascii_control() || *byte == b'%');
            path.extend_from_slice(if is_plain { std::slice::from_ref(byte) } else { &[] });
            if !is_plain {
                path.extend_from_slice(format!("%{byte:02X}").as_bytes());
            }
        }
    }
    String::from_utf8(path).expect("what is matched is UTF-8")
}

/// Each byte, and whether it was escaped.
fn decode(segment: &[u8]) -> Vec<(u8, bool)> {
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(byte) = segment.get(at) {
        if *byte == b'%' {
            let digits = segment.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
            assert!(digits.is_some_and(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit())));
            let byte = u8::from_str_radix(digits.unwrap_or_default(), 16).expect("two digits");
            assert!(!byte.is_ascii_alphanumeric() && !b"-._~".contains(&byte), "nothing to escape there: {byte:#x}");
            out.push((byte, true));
            at += 3;
        } else {
            out.push((*byte, false));
            at += 1;
        }
    }
    out
}

/// An HTTP/1 server is sent, and reads, what was judged.
fn over_http1(parts: &Parts) {
    let mut wire = Vec::new();
    let written = encode_request_head(&parts.method, &parts.uri, &parts.headers, WireFraming::None, false, &mut wire);
    written.expect("what is normal can be written");
    let limits = Limits { max_target: 64 * 1024, ..Limits::default() };
    let read = parse_request(&mut BytesMut::from(&wire[..]), &mut HeadScan::default(), &limits);
    let read = read.expect("what is normal is read").expect("and whole");
    assert_eq!((&read.method, &read.uri, &read.headers), (&parts.method, &parts.uri, &parts.headers));
}

/// Another sidecar reads what was judged.
fn over_the_mesh(parts: &Parts) {
    let target = parts.uri.path_and_query().map_or_else(|| parts.uri.to_string(), |target| target.as_str().to_owned());
    let mut block = BytesMut::new();
    fields::put_request(&mut block, &parts.method, target.as_bytes(), &parts.headers, None);
    let mut read = HeaderMap::new();
    let (method, again) = fields::take_request(block.freeze(), &mut read).expect("it is a head");
    assert_eq!((&method, &again[..], &read), (&parts.method, target.as_bytes(), &parts.headers));
    check_raw_target(&again).expect("and so is its target");
    assert_eq!(Uri::from_maybe_shared(again).ok().as_ref(), Some(&parts.uri));
}
