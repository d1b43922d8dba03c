//! Unit and property tests of head parsing.

use super::*;
use crate::l7::h1::encode::{WireFraming, encode_request_head, encode_response_head};
use crate::l7::h1::framing::BodyLength;
use proptest::prelude::*;

fn request(text: &str) -> Result<Option<RequestHead>, Reason> {
    let mut buf = BytesMut::from(text);
    parse_request(&mut buf, &mut HeadScan::default(), &Limits::default())
}

fn response(text: &str) -> Result<Option<ResponseHead>, Reason> {
    let mut buf = BytesMut::from(text);
    parse_response(&mut buf, &mut HeadScan::default(), &Limits::default())
}

#[test]
fn a_head_arrives_byte_by_byte_in_linear_time() {
    let text = format!("\r\nGET /x HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\nbody", "y".repeat(40_000));
    let (mut buf, mut scan, mut found) = (BytesMut::new(), HeadScan::default(), None);
    for byte in text.bytes() {
        buf.extend_from_slice(&[byte]);
        if found.is_none() {
            found = parse_request(&mut buf, &mut scan, &Limits::default()).unwrap();
        }
    }
    let head = found.unwrap();
    assert_eq!(head.uri, "/x");
    assert_eq!(head.headers["x"].len(), 40_000);
    assert_eq!(&buf[..], b"body");
}

#[test]
fn persistence_follows_version_and_options() {
    let keeps = |text: &str| request(text).unwrap().unwrap().keep_alive();
    assert!(keeps("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n"));
    assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
    assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
    assert!(!keeps("PUT / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
}

#[test]
fn expectations_are_known_or_refused() {
    let expects = |fields: &str| {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        request(&text).map(|head| {
            let head = head.unwrap();
            (head.framing.expects_continue, head.headers.contains_key("expect"))
        })
    };
    assert_eq!(expects("Expect: 100-Continue\r\nContent-Length: 1\r\n"), Ok((true, true)));
    assert_eq!(expects("Expect: 100-continue\r\n"), Ok((false, false)), "nothing to wait for");
    for odd in ["y 100-continue", "100-continue, x", "", "200-ok", "100-continue\r\nExpect: 100-continue"] {
        assert_eq!(expects(&format!("Expect: {odd}\r\nContent-Length: 1\r\n")), Err(Reason::Expect), "{odd:?}");
    }
}

#[test]
fn upgrades_are_asked_properly_and_never_lead_to_http2() {
    let upgrade = |fields: &str| {
        let head = request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).unwrap().unwrap();
        assert!(!head.headers.contains_key("http2-settings"));
        let kept = head.headers.get("upgrade").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(kept.is_some(), head.framing.upgrade);
        kept
    };
    let asks = "Connection: keep-alive, Upgrade\r\n";
    assert_eq!(upgrade(&format!("{asks}Upgrade: websocket\r\n")).as_deref(), Some("websocket"));
    assert_eq!(upgrade(&format!("{asks}Upgrade: h2c, a/1\r\nUpgrade: b\r\n")).as_deref(), Some("a/1, b"));
    for none in
        ["Upgrade: h2c\r\nHTTP2-Settings: x\r\n", "Upgrade: H2C\r\n", "Upgrade: HTTP/2.0\r\n", "Upgrade:\r\n", ""]
    {
        assert_eq!(upgrade(&format!("{asks}{none}")), None, "{none:?}");
    }
    assert_eq!(upgrade("Upgrade: websocket\r\n"), None, "without the connection option");
    assert_eq!(upgrade(&format!("{asks}Upgrade: websocket\r\nContent-Length: 3\r\n")), None, "with a body");
    let old = request("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").unwrap().unwrap();
    assert!(!old.framing.upgrade && !old.headers.contains_key("upgrade"));
}

#[test]
fn connect_has_one_form_and_no_body() {
    let head = request("CONNECT h:1 HTTP/1.1\r\nHost: other\r\n\r\n").unwrap().unwrap();
    assert!(head.framing.upgrade);
    assert_eq!(head.headers["host"], "h:1");
    for line in [
        "CONNECT / HTTP/1.1",
        "CONNECT http://t/ HTTP/1.1",
        "CONNECT * HTTP/1.1",
        "CONNECT h HTTP/1.1",
        "CONNECT h:1 HTTP/1.0",
    ] {
        assert_eq!(request(&format!("{line}\r\nHost: h\r\n\r\n")).unwrap_err(), Reason::Connect, "{line}");
    }
    for field in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        assert_eq!(
            request(&format!("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n{field}\r\n\r\n")).unwrap_err(),
            Reason::Connect
        );
    }
}

#[test]
fn status_lines_are_strict() {
    for ok in ["HTTP/1.1 200 OK", "HTTP/1.0 404", "HTTP/1.1 599 ", "HTTP/1.1 200 a\tb \u{e9}", "HTTP/1.1 100 x"] {
        assert!(response(&format!("{ok}\r\n\r\n")).unwrap().is_some(), "{ok}");
    }
    for bad in [
        "HTTP/1.1 99 x",
        "HTTP/1.1 000 x",
        "HTTP/1.1 600 x",
        "HTTP/1.1 2000",
        "HTTP/1.1 20",
        "HTTP/1.1  200 OK",
        "HTTP/1.1 200OK",
        "HTTP/1.1 +20 x",
        "HTTP/1.1 200 a\0",
        "HTTP/1.1\t200 OK",
        " HTTP/1.1 200 OK",
        "ICY 200 OK",
        "HTTP/1.1 200\r\rX",
    ] {
        assert!(response(&format!("{bad}\r\n\r\n")).is_err(), "{bad:?}");
    }
    assert_eq!(response("HTTP/2.0 200 OK\r\n\r\n").unwrap_err(), Reason::UnsupportedVersion);
    assert_eq!(response("HTTP/1.1 200 OK\n\n").unwrap_err(), Reason::LineEnding);
    let endless = format!("HTTP/1.1 200 {}", "x".repeat(70_000));
    assert!(response(&endless).is_err());
}

fn token() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9!#$%&'*+.^`|~-]{0,12}"
}

fn fields() -> impl Strategy<Value = Vec<(String, String)>> {
    let own = ["connection", "content-length", "transfer-encoding", "keep-alive", "upgrade", "te", "host", "expect"];
    let name = token().prop_filter("written by the codec", move |name| !own.contains(&name.as_str()));
    proptest::collection::vec((name, "[!-~]([ -~\u{e9}\u{4e00}]{0,20}[!-~])?"), 0..12)
}

fn map(fields: &[(String, String)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(http::HeaderName::try_from(name).unwrap(), http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_parsed_again(
        method in "[A-Z]{1,12}", path in "/[a-zA-Z0-9/._~!$&'()*+,;=:@%-]{0,40}", query in proptest::option::of("[a-z0-9=&?/]{0,20}"),
        fields in fields(), length in proptest::option::of(0_u64..1_000_000),
    ) {
        prop_assume!(method != "CONNECT" && method != "PRI");
        let uri: Uri = query.map_or(path.clone(), |query| format!("{path}?{query}")).parse().unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut headers = map(&fields);
        headers.insert(HOST, "app.ns.svc".parse().unwrap());
        let framing = length.map_or(WireFraming::Chunked, WireFraming::Length);
        let mut wire = Vec::new();
        encode_request_head(&method, &uri, &headers, framing, false, &mut wire).unwrap();
        let mut buf = BytesMut::from(&wire[..]);
        let head = parse_request(&mut buf, &mut HeadScan::default(), &Limits::default()).unwrap().unwrap();
        prop_assert!(buf.is_empty());
        prop_assert_eq!(&head.method, &method);
        prop_assert_eq!(&head.uri, &uri);
        let expected = match length { None => BodyLength::Chunked, Some(0) => BodyLength::Empty, Some(n) => BodyLength::Exact(n) };
        prop_assert_eq!(head.body(), expected);
        if let Some(n) = length {
            headers.insert(http::header::CONTENT_LENGTH, n.into());
        }
        prop_assert_eq!(&head.headers, &headers);
        // The normal form is a fixed point.
        let mut again = Vec::new();
        encode_request_head(&head.method, &head.uri, &head.headers, framing, false, &mut again).unwrap();
        prop_assert_eq!(again, wire);
    }

    #[test]
    fn responses_are_parsed_again(status in 100_u16..600, fields in fields()) {
        let headers = map(&fields);
        let status = StatusCode::from_u16(status).unwrap();
        let mut wire = Vec::new();
        encode_response_head(status, &headers, WireFraming::None, false, &mut wire);
        let head = parse_response(&mut BytesMut::from(&wire[..]), &mut HeadScan::default(), &Limits::default()).unwrap().unwrap();
        prop_assert_eq!(head.status, status);
        prop_assert_eq!(head.headers, headers);
    }

    #[test]
    fn random_bytes_never_panic_and_splits_never_matter(
        start in prop_oneof![Just("GET / HTTP/1.1\r\n"), Just("HTTP/1.1 200 OK\r\n"), Just("GET "), Just("")],
        noise in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'a'), any::<u8>()], 0..60),
        step in 1_usize..7,
    ) {
        let bytes = [start.as_bytes(), &noise].concat();
        let limits = Limits { max_head: 64, max_headers: 4, max_target: 16 };
        let whole = parse_request(&mut BytesMut::from(&bytes[..]), &mut HeadScan::default(), &limits);
        let _ = parse_response(&mut BytesMut::from(&bytes[..]), &mut HeadScan::default(), &limits);
        let (mut buf, mut scan, mut split) = (BytesMut::new(), HeadScan::default(), Ok(None));
        for piece in bytes.chunks(step) {
            buf.extend_from_slice(piece);
            split = parse_request(&mut buf, &mut scan, &limits);
            if !matches!(split, Ok(None)) {
                break;
            }
        }
        prop_assert_eq!(whole.map(|head| head.is_some()).ok(), split.map(|head| head.is_some()).ok());
    }
}
