//! The catalogue of hostile framing, first half: what a request head may say (A01 to A20, A35 to A50).
//!
//! Each case goes raw through the server and client half to a recording upstream: it sees nothing, or the normal form.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use mesh_proxy::l7::h1::Reason;
use support::{Fixture, run};

const H: &str = "Host: app.ns.svc\r\n";

/// A request with these field lines after `Host`, and this body.
fn post(fields: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\n{H}{fields}\r\n\r\n{body}")
}

/// All of these are refused with this status and reason.
fn refused<R: AsRef<[u8]>>(raws: impl IntoIterator<Item = R>, status: u16, reason: Reason) {
    run(async {
        let t = Fixture::start().await;
        for raw in raws {
            let got = t.refuses(raw.as_ref(), status).await;
            assert_eq!(got, reason, "{:?}", String::from_utf8_lossy(raw.as_ref()));
        }
    });
}

/// This request reaches the upstream exactly so.
fn forwarded(raw: &str, normal: &str) {
    run(async { Fixture::start().await.forwards(raw, normal).await });
}

#[test]
fn a01_cl_te_is_refused() {
    refused([post("Content-Length: 6\r\nTransfer-Encoding: chunked", "0\r\n\r\nX")], 400, Reason::LengthAndEncoding);
}

#[test]
fn a02_te_cl_is_refused() {
    let body = "5c\r\nGPOST / HTTP/1.1\r\nContent-Length: 15\r\n\r\nx=1\r\n0\r\n\r\n";
    refused([post("Transfer-Encoding: chunked\r\nContent-Length: 4", body)], 400, Reason::LengthAndEncoding);
}

#[test]
fn a03_a_coding_after_chunked_is_refused() {
    refused([post("Transfer-Encoding: chunked, identity", "0\r\n\r\n")], 400, Reason::TransferEncoding);
}

#[test]
fn a04_a_coding_before_chunked_is_refused() {
    refused([post("Transfer-Encoding: gzip, chunked", "0\r\n\r\n")], 400, Reason::TransferEncoding);
}

#[test]
fn a05_two_transfer_encodings_are_refused() {
    let fields = "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked";
    refused([post(fields, "0\r\n\r\n")], 400, Reason::TransferEncoding);
}

#[test]
fn a06_chunked_twice_is_refused() {
    refused([post("Transfer-Encoding: chunked, chunked", "0\r\n\r\n")], 400, Reason::TransferEncoding);
}

#[test]
fn a07_an_empty_member_before_chunked_is_refused() {
    let raws = [",chunked", "chunked,", ", chunked", ""].map(|v| post(&format!("Transfer-Encoding: {v}"), "0\r\n\r\n"));
    refused(raws, 400, Reason::TransferEncoding);
}

#[test]
fn a08_near_misses_of_chunked_are_refused() {
    let values = ["xchunked", "\"chunked\"", "chunked;q=1", "'chunked'", "identity", "chunkedx", "chun ked", "ch"];
    refused(values.map(|v| post(&format!("Transfer-Encoding: {v}"), "0\r\n\r\n")), 400, Reason::TransferEncoding);
    let with = |byte: u8| {
        let raw = post("Transfer-Encoding: @chunked", "0\r\n\r\n");
        raw.bytes().map(|b| if b == b'@' { byte } else { b }).collect::<Vec<u8>>()
    };
    refused([with(0xa0)], 400, Reason::TransferEncoding);
    refused([with(0x0b), with(0x0c), with(0x00)], 400, Reason::HeaderValue);
}

#[test]
fn a09_space_before_the_colon_is_refused() {
    let raws = [
        post("Transfer-Encoding : chunked", "0\r\n\r\n"),
        post("Content-Length : 1", "Z"),
        post("Content-Length\t: 1", "Z"),
        post("X-A : b", ""),
    ];
    refused(raws, 400, Reason::HeaderName);
}

#[test]
fn a10_folded_transfer_encoding_is_refused() {
    refused([post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n")], 400, Reason::ObsFold);
}

#[test]
fn a11_upper_case_chunked_is_normalised() {
    // In one piece the body has a known length; in two it stays chunked, in the one spelling.
    let raw = "POST /p HTTP/1.1\r\nHost: app.ns.svc\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    forwarded(raw, "POST /p HTTP/1.1\r\nhost: app.ns.svc\r\ncontent-length: 3\r\n\r\nabc");
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        client.send(&raw.as_bytes()[..raw.len() - 8]).await;
        t.recorder
            .until(|conns| conns.iter().any(|conn| conn.bytes.ends_with(b"a\r\n") || !conn.bytes.is_empty()))
            .await;
        client.send(&raw.as_bytes()[raw.len() - 8..]).await;
        assert_eq!(client.reply("POST").await.unwrap().status, 200);
        let seen = t.recorder.all();
        assert!(
            seen.starts_with("POST /p HTTP/1.1\r\nhost: app.ns.svc\r\ntransfer-encoding: chunked\r\n\r\n"),
            "{seen}"
        );
        assert!(!seen.contains("CHUNKED"));
        t.good_on(&mut client).await;
    });
}

#[test]
fn a12_transfer_encoding_in_http10_is_refused() {
    let raw = format!("POST / HTTP/1.0\r\n{H}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    refused([raw], 400, Reason::EncodingOnHttp10);
}

#[test]
fn a13_http10_without_length_has_no_body() {
    run(async {
        let t = Fixture::start().await;
        for fields in ["", "Connection: keep-alive\r\n"] {
            let before = t.recorder.all().len();
            let mut client = t.client().await;
            client
                .send(format!("POST /old HTTP/1.0\r\n{H}{fields}\r\nGET /admin/x HTTP/1.1\r\n{H}\r\n").as_bytes())
                .await;
            let reply = client.reply("POST").await.unwrap();
            assert_eq!(reply.status, 200);
            client.closed().await;
            let seen = t.recorder.all();
            assert_eq!(&seen[before..], "POST /old HTTP/1.1\r\nhost: app.ns.svc\r\ncontent-length: 0\r\n\r\n");
        }
        t.good().await;
    });
}

#[test]
fn a14_differing_lengths_are_refused() {
    refused([post("Content-Length: 1\r\nContent-Length: 0", "Z")], 400, Reason::ContentLength);
}

#[test]
fn a15_repeated_lengths_are_refused() {
    refused([post("Content-Length: 1\r\nContent-Length: 1", "Z")], 400, Reason::ContentLength);
}

#[test]
fn a16_a_list_of_lengths_is_refused() {
    refused(["1, 1", "1,", ",1"].map(|v| post(&format!("Content-Length: {v}"), "Z")), 400, Reason::ContentLength);
}

#[test]
fn a17_odd_lengths_are_refused() {
    let values =
        ["+1", "-1", "0x1", "1_0", "", "1 0", "18446744073709551616", "9223372036854775808", "1Z", "１", "1.0", "1e1"];
    refused(values.map(|v| post(&format!("Content-Length: {v}"), "Z")), 400, Reason::ContentLength);
}

#[test]
fn a18_leading_zeros_of_a_length_are_not_forwarded() {
    forwarded(
        &post("Content-Length: 010", "0123456789"),
        "POST / HTTP/1.1\r\nhost: app.ns.svc\r\ncontent-length: 10\r\n\r\n0123456789",
    );
}

#[test]
fn a19_an_empty_length_before_a_length_is_refused() {
    let raws = ["Content-Length:\r\nContent-Length: 5", "Content-Length: 5\r\nContent-Length:"];
    refused(raws.map(|fields| post(fields, "12345")), 400, Reason::ContentLength);
}

#[test]
fn a20_a_get_may_have_a_body() {
    forwarded(
        &format!("GET / HTTP/1.1\r\n{H}Content-Length: 1\r\n\r\nZ"),
        "GET / HTTP/1.1\r\nhost: app.ns.svc\r\ncontent-length: 1\r\n\r\nZ",
    );
}

#[test]
fn a35_bare_line_feeds_are_refused() {
    let raws = [
        "GET / HTTP/1.1\nHost: a\nX: b\n\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n".to_owned(),
        "GET / HTTP/1.1\r\nHost: a\r\n\n".to_owned(),
        format!("GET / HTTP/1.1\n{H}\r\n"),
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        // At once, without waiting for an end of the head that never comes.
        "GET / HTTP/1.1\n".to_owned(),
    ];
    refused(raws, 400, Reason::LineEnding);
}

#[test]
fn a36_bare_carriage_returns_are_refused() {
    refused([post("X-A: b\rX-B: c", ""), post("X-A: b\r\r", "")], 400, Reason::HeaderValue);
}

#[test]
fn a37_control_characters_are_refused() {
    for byte in [0x00, 0x01, 0x08, 0x0b, 0x0c, 0x1b, 0x1f, 0x7f] {
        refused([post(&format!("X-A: b{}c", char::from(byte)), "")], 400, Reason::HeaderValue);
    }
}

#[test]
fn a38_folded_lines_are_refused() {
    refused([post("X-A: b\r\n c", ""), post("X-A: b\r\n\tc", "")], 400, Reason::ObsFold);
}

#[test]
fn a39_an_indented_first_line_is_refused() {
    refused(
        ["GET / HTTP/1.1\r\n Host: a\r\n\r\n", "GET / HTTP/1.1\r\n\tHost: a\r\nHost: b\r\n\r\n"],
        400,
        Reason::ObsFold,
    );
}

#[test]
fn a40_bad_field_names_are_refused() {
    let mut raws: Vec<Vec<u8>> = ["XA b", ": b", "X(A): b", "X A: b", "X\"A: b", "X/A: b", "X@A: b", "X\0A: b"]
        .map(|line| post(line, "").into_bytes())
        .to_vec();
    raws.push(post("X-@A: b", "").bytes().map(|b| if b == b'@' { 0xef } else { b }).collect());
    refused(raws, 400, Reason::HeaderName);
}

#[test]
fn a41_underscore_twins_of_framing_fields_are_dropped() {
    forwarded(
        &post(
            "content_length: 5\r\nTransfer_Encoding: chunked\r\nKeep_Alive: 1\r\nx_other: 1\r\nContent-Length: 2",
            "ab",
        ),
        "POST / HTTP/1.1\r\nhost: app.ns.svc\r\nx_other: 1\r\ncontent-length: 2\r\n\r\nab",
    );
    forwarded(&post("content_length: 5", ""), "POST / HTTP/1.1\r\nhost: app.ns.svc\r\ncontent-length: 0\r\n\r\n");
}

#[test]
fn a42_other_versions_are_refused() {
    let line = |version: &str| format!("GET / {version}\r\n{H}\r\n");
    refused(["HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "HTTP/3.0"].map(line), 505, Reason::UnsupportedVersion);
    refused(
        ["http/1.1", "HTTP/1.01", "HTTP/4294967295.255", "HTTP/1.1 ", "HTTP/a.b", "ICAP/1.1"].map(line),
        400,
        Reason::Version,
    );
    refused(["GET /\r\n\r\n", "GET / \r\n\r\n", "GET\r\n\r\n"], 400, Reason::RequestLine);
    refused([line("HTTP/\r\r1.1")], 400, Reason::Version);
}

#[test]
fn a43_bad_targets_are_refused() {
    let line = |target: &str| format!("GET {target} HTTP/1.1\r\n{H}\r\n").into_bytes();
    let mut raws =
        ["/a b", "/\u{1}", "!", " /", "/ ", "/\t", "a", "*", "/a#b", "/\\", "http:/x", "/\0"].map(line).to_vec();
    raws.push(line("/@").into_iter().map(|b| if b == b'@' { 0xff } else { b }).collect());
    refused(raws, 400, Reason::Target);
    refused([format!("GET\t/\tHTTP/1.1\r\n{H}\r\n")], 400, Reason::RequestLine);
    refused([format!("G@T / HTTP/1.1\r\n{H}\r\n"), format!(" / HTTP/1.1\r\n{H}\r\n")], 400, Reason::Method);
    refused([format!("{} / HTTP/1.1\r\n{H}\r\n", "G".repeat(33))], 501, Reason::MethodTooLong);
}

#[test]
fn a44_a_huge_target_is_refused() {
    for len in [33_000, 70_000] {
        refused([format!("GET /{} HTTP/1.1\r\n{H}\r\n", "a".repeat(len))], 414, Reason::TargetTooLong);
    }
    // Without an end in sight, too.
    refused([format!("GET /{}", "a".repeat(70_000))], 414, Reason::TargetTooLong);
}

#[test]
fn a45_a_huge_head_is_refused() {
    refused([post(&format!("X-A: {}", "a".repeat(500_000)), "")], 431, Reason::HeadTooLarge);
    refused([post(&format!("X-A: {}", "a".repeat(64 * 1024 + 1)), "")], 431, Reason::HeadTooLarge);
    refused([post(&vec!["X-A: b"; 200].join("\r\n"), "")], 431, Reason::TooManyHeaders);
    let normal: String = (0..99).map(|n| format!("x-{n}: b\r\n")).collect();
    let raw = format!("GET / HTTP/1.1\r\n{H}{normal}\r\n");
    forwarded(&raw, &format!("GET / HTTP/1.1\r\nhost: app.ns.svc\r\n{normal}\r\n"));
}

#[test]
fn a46_a_bad_request_behind_a_good_one_is_answered_in_order() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        client.send(format!("GET /1 HTTP/1.1\r\n{H}\r\nGET /2 HTTP/1.1\r\n{H}\r\nINVALID\r\n\r\n").as_bytes()).await;
        assert_eq!(client.reply("GET").await.unwrap().body, "id-1");
        assert_eq!(client.reply("GET").await.unwrap().body, "id-2");
        let last = client.reply("GET").await.unwrap();
        assert_eq!((last.status, last.header("connection")), (400, Some("close")));
        client.closed().await;
        assert!(!t.recorder.all().contains("INVALID"));
        t.good().await;
    });
}

#[test]
fn a47_the_body_of_a_denied_request_is_never_a_request() {
    run(async {
        let t = Fixture::start().await;
        let smuggled = format!("GET /public/x HTTP/1.1\r\n{H}\r\n");
        for (length, chunked) in [(smuggled.len(), false), (smuggled.len(), true), (1 << 20, false)] {
            let mut client = t.client().await;
            let fields =
                if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {length}") };
            let body =
                if chunked { format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len()) } else { smuggled.clone() };
            client.send(format!("GET /admin/x HTTP/1.1\r\n{H}{fields}\r\n\r\n").as_bytes()).await;
            let denied = client.reply("GET").await.unwrap();
            assert_eq!(denied.status, 403);
            client.send(body.as_bytes()).await;
            if length > 64 * 1024 {
                assert_eq!(denied.header("connection"), Some("close"));
                client.closed().await;
            } else {
                // Drained: the next request on the same connection is served as itself.
                t.good_on(&mut client).await;
            }
            assert!(!t.recorder.all().contains("/public/x"));
        }
        t.good().await;
    });
}

#[test]
fn a49_a_little_leading_junk_is_skipped_and_much_is_not() {
    let normal = "GET / HTTP/1.1\r\nhost: app.ns.svc\r\n\r\n";
    forwarded(&format!("\r\nGET / HTTP/1.1\r\n{H}\r\n"), normal);
    forwarded(&format!("\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"), normal);
    refused([format!("\r\n\r\n\r\nGET / HTTP/1.1\r\n{H}\r\n"), "\r\n".repeat(500_000)], 400, Reason::LeadingJunk);
}

#[test]
fn a50_an_http2_preface_behind_a_request_is_refused() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        client.send(format!("GET /1 HTTP/1.1\r\n{H}\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").as_bytes()).await;
        assert_eq!(client.reply("GET").await.unwrap().body, "id-1");
        assert_eq!(client.reply("PRI").await.unwrap().status, 400);
        client.closed().await;
        assert_eq!(t.bad.lock().unwrap()[0].reason, Reason::Preface);
        t.good().await;
    });
}

#[test]
fn c01_to_c03_hosts_that_are_not_one_host_are_refused() {
    let raw = |fields: &str| format!("GET / HTTP/1.1\r\n{fields}\r\n");
    refused([raw("Host: a\r\nHost: b\r\n"), raw("Host: a\r\nHost: a\r\n")], 400, Reason::HostRepeated);
    refused([raw(""), raw("X-Host: a\r\n")], 400, Reason::HostMissing);
    let bad = ["a, b", "a,b", "u@a", "a/b", "a b", "a:99999", "[::1", "", "a:", "a\u{e9}", "%61", "a?b", "a#b"];
    refused(bad.map(|host| raw(&format!("Host: {host}\r\n"))), 400, Reason::HostInvalid);
}

#[test]
fn c04_the_authority_of_the_target_replaces_host() {
    forwarded("GET http://b.ns/x?y HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x?y HTTP/1.1\r\nhost: b.ns\r\n\r\n");
    forwarded(
        "GET http://b.ns:81 HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: b.ns:81\r\nx: y\r\n\r\n",
    );
    forwarded("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n");
    let raw = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
    refused(["http://u@b/", "http:///", "http://a,b/"].map(raw), 400, Reason::HostInvalid);
}
