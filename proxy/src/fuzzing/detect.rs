//! What a connection speaks, and which name its TLS asks for.

use std::io::Cursor;

use mesh_api::names::{ALPN_MESH_HTTP, ALPN_MESH_MUX, ALPN_MESH_TCP};
use rustls::server::Acceptor;

use super::Numbers;
use crate::detect::{ClientHello, Detected, MAX_PREFIX, detect as look};

/// Up to this length every prefix is looked at.
const ALL_PREFIXES: usize = 192;
/// Of longer ones so many.
const SOME_PREFIXES: usize = 64;

/// Holds `detect` to what it says: an answer is final, and of TLS it is the one of the library that terminates it.
pub fn detect(bytes: &[u8]) {
    let whole = look(bytes);
    assert!(whole != Detected::NeedMore || bytes.len() < MAX_PREFIX, "there is always an answer in the end");
    let mut numbers = Numbers::of(bytes);
    let mut at = 0;
    while at <= bytes.len() {
        let sooner = look(&bytes[..at]);
        assert!(sooner == Detected::NeedMore || sooner == whole, "{sooner:?} at {at} and then {whole:?}");
        at += if bytes.len() <= ALL_PREFIXES { 1 } else { 1 + numbers.below(2 * bytes.len() / SOME_PREFIXES) };
    }
    match &whole {
        Detected::Tls(hello) => {
            let name = hello.server_name.as_deref();
            assert!(name.is_none_or(|name| !name.is_empty() && !name.ends_with('.') && *name == name.to_lowercase()));
        }
        Detected::Http2Preface => assert!(bytes.starts_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
        Detected::Http1 => assert!(!bytes.starts_with(&[22])),
        Detected::NeedMore | Detected::Opaque => {}
    }
    // What that library is lenient with (versions of records, empty ones, garbage behind a name) is no plain TLS here.
    if let Some(hello) = of_rustls(bytes).filter(|_| whole != Detected::Opaque) {
        assert_eq!(whole, Detected::Tls(hello), "the library that terminates TLS reads something else");
    }
}

/// What rustls reads; `None` where it reads no ClientHello.
fn of_rustls(bytes: &[u8]) -> Option<ClientHello> {
    let (mut acceptor, mut input) = (Acceptor::default(), Cursor::new(bytes));
    let accepted = loop {
        if acceptor.read_tls(&mut input).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            break accepted;
        }
    };
    let hello = accepted.client_hello();
    let offers = |name: &[u8]| hello.alpn().is_some_and(|mut offered| offered.any(|offer| offer == name));
    Some(ClientHello {
        server_name: hello.server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase().into()),
        mesh_http: offers(ALPN_MESH_HTTP) || offers(ALPN_MESH_MUX),
        mesh_tcp: offers(ALPN_MESH_TCP),
    })
}
