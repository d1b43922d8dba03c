use mesh_api::names::{ALPN_MESH_HTTP, ALPN_MESH_TCP};
use proptest::{collection::vec, prelude::*};

use super::*;

fn prefixed(len_bytes: usize, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_be_bytes();
    [&len[len.len() - len_bytes..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &prefixed(2, content)].concat()
}

fn name_extension(name: &[u8]) -> Vec<u8> {
    extension(0, &prefixed(2, &[&[0][..], &prefixed(2, name)].concat()))
}

fn alpn_extension(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|protocol| prefixed(1, protocol)).collect();
    extension(16, &prefixed(2, &list))
}

/// A handshake message.
fn message(extensions: &[Vec<u8>]) -> Vec<u8> {
    let body = [
        &[3, 3][..],
        &[7; 32],
        &prefixed(1, &[9; 32]),
        &prefixed(2, &[0x13, 1]),
        &prefixed(1, &[0]),
        &prefixed(2, &extensions.concat()),
    ]
    .concat();
    [&[1][..], &prefixed(3, &body)].concat()
}

/// In records of at most `size` bytes.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|chunk| [&[22, 3, 1][..], &prefixed(2, chunk)].concat()).collect()
}

fn mesh_hello() -> Vec<u8> {
    message(&[extension(51, &[0; 1300]), name_extension(b"Web.shop"), alpn_extension(&[b"h2", ALPN_MESH_HTTP])])
}

fn tls(bytes: &[u8]) -> Option<ClientHello> {
    match detect(bytes) {
        Detected::Tls(hello) => Some(hello),
        _ => None,
    }
}

/// The answer, after checking that every shorter prefix gave it or asked for more.
fn stepwise(bytes: &[u8]) -> Detected {
    let last = detect(bytes);
    for len in 0..bytes.len() {
        let early = detect(&bytes[..len]);
        assert!(early == Detected::NeedMore || early == last, "{early:?} after {len}, {last:?} in the end");
    }
    last
}

#[test]
fn http1() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /x",
        "GET http://a/x HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "OPTIONS /x HTTP/1.0\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "PROPFIND /x HTTP/1.1\r\n",
        "get /x HTTP/1.1\r\n",
        "get /x HTTP/1.1\n",
        "\r\nGET / HTTP/1.1\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\n",
        "GET /a b c HTTP/1.9\r\n",
        "GET ! HTTP/1.1\r\n",
    ] {
        assert_eq!(stepwise(text.as_bytes()), Detected::Http1, "{text:?}");
    }
}

#[test]
fn http2() {
    assert_eq!(stepwise(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04"), Detected::Http2Preface);
    assert_eq!(stepwise(b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"), Detected::Opaque);
}

#[test]
fn e02_beginnings_of_everything_ask_for_more() {
    for text in [
        "",
        "P",
        "PRI * HT",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r",
        "\x16",
        "\x16\x03",
        "\x16\x03\x01\x02",
        "\r",
        "\r\n",
        "GET",
        "GET ",
        "GET h",
        "OPTIONS *",
        "PING\x20",
    ] {
        assert_eq!(stepwise(text.as_bytes()), Detected::NeedMore, "{text:?}");
    }
}

#[test]
fn other_protocols_are_opaque() {
    for text in [
        "EHLO mail\r\n",
        "*1\r\n$4\r\nPING\r\n",
        "PING\r\n",
        "CONNECT {\"verbose\":false}\r\n",
        "OPTIONS rtsp://a RTSP/1.0\r\n",
        "OPTIONS sip:a SIP/2.0\r\n",
        "SSH-2.0-OpenSSH\r\n",
        "\0\0\0\x08\x04\x52\x16\x2f",
        "\r\n\r\n\r\nGET / HTTP/1.1\r\n",
        " GET / HTTP/1.1\r\n",
        "GET\t/ HTTP/1.1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "GET x\0",
        "AVERYLONGWORDTHATISNOMETHODATALL!! /",
    ] {
        assert_eq!(stepwise(text.as_bytes()), Detected::Opaque, "{text:?}");
    }
    let endless = [b"PROPFIND /", &vec![b'a'; MAX_PREFIX][..]].concat();
    assert_eq!(detect(&endless), Detected::Opaque);
    assert_eq!(detect(&endless[..MAX_PREFIX - 1]), Detected::NeedMore);
}

#[test]
fn e17_hellos_in_small_pieces() {
    let hello = mesh_hello();
    let wanted = ClientHello { server_name: Some("web.shop".into()), mesh_http: true, mesh_tcp: false };
    for size in [hello.len(), 1000, 100, 50] {
        assert_eq!(stepwise(&records(&hello, size)), Detected::Tls(wanted.clone()), "{size}");
    }
    // What follows the hello changes nothing.
    let more = [records(&hello, 4000), vec![0xff; 100]].concat();
    assert_eq!(stepwise(&more), Detected::Tls(wanted));
}

#[test]
fn hellos_that_are_too_much() {
    assert_eq!(stepwise(&records(&mesh_hello(), 1)), Detected::Opaque);
    let huge = message(&[extension(51, &vec![0; 40_000])]);
    assert_eq!(stepwise(&records(&huge, 4000)), Detected::Opaque);
    let large = message(&[extension(51, &vec![0; 20_000]), alpn_extension(&[ALPN_MESH_TCP])]);
    assert!(tls(&records(&large, 16_384)).unwrap().is_mesh());
    assert_eq!(detect(&[22, 3, 1, 0xff, 0xff, 1]), Detected::Opaque);
    assert_eq!(detect(&[22, 3, 1, 0, 0, 22]), Detected::Opaque);
}

#[test]
fn f28_protocols_tell_whose_it_is() {
    let offers = |protocols: &[&[u8]]| tls(&records(&message(&[alpn_extension(protocols)]), 9999)).unwrap().is_mesh();
    assert!(offers(&[ALPN_MESH_HTTP]) && offers(&[b"h2", ALPN_MESH_TCP]));
    assert!(!offers(&[b"h2", b"http/1.1"]) && !offers(&[b"mesh-http/11", b"mesh-http/"]) && !offers(&[]));
    assert!(!tls(&records(&message(&[]), 9999)).unwrap().is_mesh());
    let two = message(&[alpn_extension(&[b"h2"]), alpn_extension(&[ALPN_MESH_HTTP])]);
    assert_eq!(detect(&records(&two, 9999)), Detected::Opaque);
}

#[test]
fn f29_server_names() {
    let name = |name: &[u8]| tls(&records(&message(&[name_extension(name)]), 9999)).unwrap().server_name;
    assert_eq!(name(b"A.b.").as_deref(), Some("a.b"));
    for bad in [&b""[..], b".", b"a..", b".a", b"a..b", b"a\0b", b"a b", b"\xff", &[b'a'; 300]] {
        assert_eq!(name(bad), None, "{bad:?}");
    }
    assert_eq!(tls(&records(&message(&[]), 9999)).unwrap().server_name, None);
}

#[test]
fn broken_hellos_are_opaque() {
    let good = message(&[name_extension(b"a"), alpn_extension(&[b"h2"])]);
    // Every length field of the message one too large or too small.
    for at in 4..good.len() {
        for delta in [1_u8, 255] {
            let mut bad = good.clone();
            bad[at] = bad[at].wrapping_add(delta);
            let answer = stepwise(&records(&bad, 9999));
            assert!(matches!(answer, Detected::Tls(_) | Detected::Opaque), "{at}: {answer:?}");
        }
    }
    let mut not_hello = good;
    not_hello[0] = 2;
    assert_eq!(detect(&records(&not_hello, 9999)), Detected::Opaque);
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        stepwise(&bytes);
    }

    #[test]
    fn nearly_http(text in "(\r\n){0,3}(GET|CONNECT|PRI|get|X)?[ \t]?[*/a]{0,3}[ ]?(HTTP/[12]\\.[01])?[\r\n\0]{0,4}") {
        stepwise(text.as_bytes());
    }

    #[test]
    fn nearly_tls(at in 0_usize..400, byte: u8, size in 20_usize..2000) {
        let hello = message(&[name_extension(b"web.shop"), alpn_extension(&[ALPN_MESH_TCP]), extension(51, &[0; 64])]);
        let mut bytes = records(&hello, size);
        let len = bytes.len();
        bytes[at % len] = byte;
        stepwise(&bytes);
    }

    #[test]
    fn cut_anywhere(size in 45_usize..2000, name in "[a-z]{1,20}(\\.[a-z]{1,20}){0,3}") {
        let hello = message(&[name_extension(name.as_bytes()), extension(51, &[0; 1200]), alpn_extension(&[ALPN_MESH_TCP])]);
        let hello = tls(&records(&hello, size)).unwrap();
        prop_assert_eq!(hello, ClientHello { server_name: Some(name.into()), mesh_http: false, mesh_tcp: true });
    }
}
