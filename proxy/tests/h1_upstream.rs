//! Hostile and ordinary upstreams (H01 to H06, H10, G08, G09, G27) and what the client half makes of them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use mesh_proxy::l7::h1::{
    BodyError, ClientConfig, ClientErrorKind, Connection, Reason, Retry, send, send_with_interim,
};
use support::{Fixture, Reply, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::spawn_local;

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the client gets when the upstream answers so and keeps its connection open, and how many connections are
/// pooled afterwards.
async fn answer(method: &str, bytes: impl Into<Vec<u8>>) -> (Option<Reply>, usize) {
    let bytes = Rc::new(bytes.into());
    let t = Fixture::scripted(ClientConfig::default(), move |mut stream| {
        let bytes = Rc::clone(&bytes);
        async move {
            let mut buf = [0; 4096];
            while stream.read(&mut buf).await.unwrap_or(0) > 0 {
                let _ = stream.write_all(&bytes).await;
            }
        }
    })
    .await;
    let mut client = t.client().await;
    client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
    let mut reply = client.reply(method).await;
    while reply.as_ref().is_some_and(|reply| reply.status < 200) {
        reply = client.reply(method).await;
    }
    (reply, t.pool.borrow().len())
}

/// Each of these answers becomes 502, and its connection is not used again.
fn bad_gateway(reason: Reason, answers: impl IntoIterator<Item = impl AsRef<[u8]>>) {
    run(async {
        for bytes in answers {
            let shown = String::from_utf8_lossy(bytes.as_ref()).into_owned();
            let shown = &shown[..shown.len().min(100)];
            let (reply, pooled) = answer("GET", bytes.as_ref()).await;
            let reply = reply.expect(shown);
            assert_eq!(reply.status, 502, "{shown:?}");
            let error = reply.header("x-error").unwrap().to_owned();
            assert_eq!(error, format!("bad response: {reason} Never"), "{shown:?}");
            assert_eq!(pooled, 0, "{shown:?}");
        }
    });
}

#[test]
fn h01_responses_of_ambiguous_length_are_refused() {
    let with = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n0\r\n\r\n");
    bad_gateway(Reason::LengthAndEncoding, [with("Content-Length: 5\r\nTransfer-Encoding: chunked")]);
    let lengths =
        ["Content-Length: 1\r\nContent-Length: 2", "Content-Length: -1", "Content-Length: 1, 1", "Content-Length: +1"];
    bad_gateway(Reason::ContentLength, lengths.map(with));
    let codings = ["Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"];
    bad_gateway(Reason::TransferEncoding, codings.map(with));
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    bad_gateway(Reason::EncodingOnHttp10, [old]);
}

#[test]
fn h02_a_second_response_is_never_given_to_anybody() {
    run(async {
        let one = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none";
        let two = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo";
        let (reply, pooled) = answer("GET", format!("{one}{two}")).await;
        assert_eq!((reply.unwrap().body.as_str(), pooled), ("one", 0));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nextra";
        let (reply, pooled) = answer("GET", chunked).await;
        assert_eq!((reply.unwrap().body.as_str(), pooled), ("a", 0));
    });
}

#[test]
fn h03_bytes_on_an_idle_connection_end_it() {
    run(async {
        let (near, mut far) = duplex(4096);
        let conn = Connection::new(near);
        assert!(conn.is_alive() && !conn.is_reused());
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(!conn.is_alive());
        let request = Request::new(Empty::<Bytes>::new());
        let error = send(conn, request, &ClientConfig::default(), |_| panic!("not reusable")).await.unwrap_err();
        assert!(matches!(error.kind(), ClientErrorKind::Stale));
        assert_eq!(error.retry(), Retry::Always);
        let (near, far) = duplex(4096);
        drop(far);
        assert!(!Connection::new(near).is_alive());
    });
}

#[test]
fn h04_split_and_malformed_heads_are_refused() {
    bad_gateway(Reason::HeaderValue, ["HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n", "HTTP/1.1 200 OK\r\nX: a\rb\r\n\r\n"]);
    bad_gateway(Reason::StatusLine, ["HTTP/1.1 200\r\r\nX\r\n\r\n", "HTTP/1.1 200 \0\r\n\r\n"]);
    bad_gateway(Reason::LineEnding, ["HTTP/1.1 200 OK\nX: a\n\n", "HTTP/1.1 200 OK\r\nX: a\n\r\n"]);
    bad_gateway(Reason::ObsFold, ["HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n"]);
    bad_gateway(Reason::HeaderName, ["HTTP/1.1 200 OK\r\nX : a\r\n\r\n", "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"]);
    bad_gateway(Reason::Version, ["GET / HTTP/1.1\r\n\r\n", "SSH-2.0-OpenSSH\r\n\r\n"]);
}

#[test]
fn h05_an_early_end_is_a_502_or_a_cut_body() {
    run(async {
        for (bytes, status) in [
            ("", 502),
            ("HTTP/1.1 200 O", 502),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 200),
            ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345", 200),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n", 200),
        ] {
            let t = Fixture::scripted(ClientConfig::default(), move |mut stream| async move {
                let mut buf = [0; 4096];
                let _ = stream.read(&mut buf).await;
                stream.write_all(bytes.as_bytes()).await.unwrap();
                // The head and what follows it travel apart.
                tokio::time::sleep(Duration::from_millis(20)).await;
            })
            .await;
            let mut client = t.client().await;
            client.send(GET).await;
            let reply = client.reply("GET").await;
            if status == 502 {
                assert_eq!(reply.unwrap().status, 502, "{bytes:?}");
            } else {
                assert!(reply.is_none(), "{bytes:?} has no end: {reply:?}");
            }
            assert_eq!(t.pool.borrow().len(), 0);
        }
    });
}

#[test]
fn h06_endless_heads_interims_and_trailers_are_refused() {
    bad_gateway(Reason::HeadTooLarge, [format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(80_000))]);
    bad_gateway(Reason::TooManyHeaders, [format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: a\r\n".repeat(101))]);
    bad_gateway(Reason::InterimFlood, ["HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000)]);
    // Trailers come after the head has been passed on: the response is cut.
    run(async {
        let trailers = "X: a\r\n".repeat(50_000);
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
        let (reply, pooled) = answer("GET", format!("{head}{trailers}")).await;
        assert!(reply.is_none_or(|reply| reply.status == 502));
        assert_eq!(pooled, 0);
    });
}

#[test]
fn h10_odd_statuses_are_refused() {
    let statuses = ["99", "600", "000", "2000", "-10", "20x", "1e2", ""];
    bad_gateway(Reason::StatusLine, statuses.map(|code| format!("HTTP/1.1 {code} x\r\nContent-Length: 0\r\n\r\n")));
}

#[test]
fn g27_responses_without_a_body_have_none() {
    run(async {
        for (method, status, fields, length) in [
            ("HEAD", "200 OK", "Content-Length: 500\r\n", Some("500")),
            ("HEAD", "200 OK", "Transfer-Encoding: chunked\r\n", None),
            ("GET", "304 Not Modified", "Content-Length: 500\r\n", Some("500")),
            ("GET", "204 No Content", "Content-Length: 5\r\n", None),
            ("GET", "204 No Content", "Transfer-Encoding: chunked\r\n", None),
        ] {
            let (reply, pooled) = answer(method, format!("HTTP/1.1 {status}\r\n{fields}\r\n")).await;
            let reply = reply.unwrap();
            assert_eq!(format!("HTTP/1.1 {status}"), reply.head.lines().next().unwrap());
            assert_eq!((reply.header("content-length"), reply.header("transfer-encoding")), (length, None), "{status}");
            assert_eq!(pooled, 1, "{method} {status} {fields}");
            // A body that must not be there is not forwarded and spoils the connection.
            let (reply, pooled) = answer(method, format!("HTTP/1.1 {status}\r\n{fields}\r\nhello")).await;
            assert!(reply.is_some());
            assert_eq!(pooled, 0, "{method} {status} {fields}");
        }
    });
}

#[test]
fn repeated_equal_lengths_of_a_response_become_one() {
    run(async {
        let (reply, pooled) =
            answer("GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok").await;
        let reply = reply.unwrap();
        assert_eq!((reply.body.as_str(), pooled), ("ok", 1));
        assert_eq!(reply.head.matches("content-length").count(), 1);
    });
}

#[test]
fn g08_interim_responses_are_passed_on_but_100() {
    run(async {
        let interims = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        let bytes = format!("{interims}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        let t = Fixture::scripted(ClientConfig::default(), move |mut stream| {
            let bytes = bytes.clone();
            async move {
                let mut buf = [0; 4096];
                while stream.read(&mut buf).await.unwrap_or(0) > 0 {
                    let _ = stream.write_all(bytes.as_bytes()).await;
                }
            }
        })
        .await;
        let mut client = t.client().await;
        client.send(GET).await;
        assert_eq!(client.reply("GET").await.unwrap().status, 102);
        let hints = client.reply("GET").await.unwrap();
        assert_eq!((hints.status, hints.header("link")), (103, Some("</a>")));
        assert_eq!(client.reply("GET").await.unwrap().body, "ok");
        // An HTTP/1.0 client knows no interim responses.
        let mut client = t.client().await;
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.reply("GET").await.unwrap().status, 200);
    });
}

/// One exchange of the client half with a script at the other end of a pipe.
fn pipe() -> (Connection, DuplexStream) {
    let (near, far) = duplex(1 << 16);
    (Connection::new(near), far)
}

async fn read_some(far: &mut DuplexStream) -> String {
    let mut buf = vec![0; 1 << 16];
    let n = far.read(&mut buf).await.unwrap();
    String::from_utf8_lossy(&buf[..n]).into_owned()
}

#[test]
fn g09_a_held_body_waits_for_continue() {
    let request =
        || Request::post("/").header("host", "a").header("expect", "100-continue").body(Full::from("abc")).unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    run(async move {
        for answers in [true, false] {
            let (conn, mut far) = pipe();
            let config = ClientConfig { continue_timeout: Duration::from_millis(30), ..ClientConfig::default() };
            let exchange = spawn_local(async move { send(conn, request(), &config, |_| {}).await });
            assert_eq!(read_some(&mut far).await, head);
            if answers {
                far.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            }
            assert_eq!(read_some(&mut far).await, "abc", "after 100, or after a while");
            far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            assert_eq!(exchange.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        // A final answer instead: the body is never sent, the connection never used again.
        let (conn, mut far) = pipe();
        let exchange =
            spawn_local(
                async move { send(conn, request(), &ClientConfig::default(), |_| panic!("not reusable")).await },
            );
        assert_eq!(read_some(&mut far).await, head);
        far.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert_eq!(exchange.await.unwrap().unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read_some(&mut far).await, "", "closed");
    });
}

#[test]
fn errors_say_whether_a_retry_is_safe() {
    run(async {
        let get = || Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
        let config = ClientConfig { head_timeout: Duration::from_millis(40), ..ClientConfig::default() };
        // Closed before a byte of an answer.
        let (conn, mut far) = pipe();
        let (sent, _) = tokio::join!(send(conn, get(), &config, |_| {}), async {
            read_some(&mut far).await;
            drop(far);
        });
        let error = sent.unwrap_err();
        assert!(matches!(error.kind(), ClientErrorKind::Closed));
        assert_eq!((error.retry(), error.on_reused_connection()), (Retry::IfIdempotent, false));
        // Closed in an answer.
        let (conn, mut far) = pipe();
        far.write_all(b"").await.unwrap();
        let (sent, _) = tokio::join!(send(conn, get(), &config, |_| {}), async {
            read_some(&mut far).await;
            far.write_all(b"HTTP/1.1 2").await.unwrap();
            drop(far);
        });
        assert_eq!(sent.unwrap_err().retry(), Retry::Never);
        // Silent.
        let (conn, _far) = pipe();
        let error = send(conn, get(), &config, |_| {}).await.unwrap_err();
        assert!(matches!(error.kind(), ClientErrorKind::HeadTimeout));
        assert_eq!(error.retry(), Retry::IfIdempotent);
        // Not a byte was taken.
        let (near, _far) = duplex(1);
        let (mut a, _b) = (near, ());
        a.write_all(b"x").await.unwrap();
        let config = ClientConfig { write_timeout: Duration::from_millis(40), ..config };
        let error = send(Connection::new(a), get(), &config, |_| {}).await.unwrap_err();
        assert!(matches!(error.kind(), ClientErrorKind::WriteTimeout));
        assert_eq!(error.retry(), Retry::Always);
        // The request itself cannot be written.
        let (conn, _far) = pipe();
        let request = Request::get("/\u{e9}").body(Empty::<Bytes>::new()).unwrap();
        let error = send(conn, request, &config, |_| {}).await.unwrap_err();
        assert!(matches!(error.kind(), ClientErrorKind::Unwritable));
    });
}

#[test]
fn a_dropped_response_closes_its_connection_and_a_read_one_frees_it() {
    run(async {
        let (conn, mut far) = pipe();
        let freed = Rc::new(std::cell::RefCell::new(None));
        let (free, request) = (Rc::clone(&freed), Request::new(Empty::<Bytes>::new()));
        let config = ClientConfig::default();
        let (response, _) = tokio::join!(
            send(conn, request, &config, move |conn| *free.borrow_mut() = Some(conn)),
            far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"),
        );
        let mut body = response.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(freed.borrow().is_none());
        far.write_all(b"cd").await.unwrap();
        // Free with the last frame, before the end is asked for.
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "cd");
        assert!(http_body::Body::is_end_stream(&body));
        let conn = freed.borrow_mut().take().expect("free");
        assert!(conn.is_reused() && conn.is_alive());
        read_some(&mut far).await;

        let request = Request::new(Empty::<Bytes>::new());
        let (response, _) = tokio::join!(
            send(conn, request, &config, |_| panic!("not free")),
            far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"),
        );
        read_some(&mut far).await;
        drop(response);
        assert_eq!(read_some(&mut far).await, "", "closed");
    });
}

#[test]
fn a_request_body_that_fails_beside_its_response_ends_both() {
    run(async {
        let (conn, mut far) = pipe();
        let (sender, receiver) = tokio::sync::mpsc::channel::<Result<http_body::Frame<Bytes>, BodyError>>(4);
        let body = http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        sender.send(Ok(http_body::Frame::data(Bytes::from_static(b"up")))).await.unwrap();
        let config = ClientConfig::default();
        let (response, _) = tokio::join!(
            send(conn, Request::post("/").header("host", "a").body(body).unwrap(), &config, |_| panic!("not free")),
            far.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"),
        );
        let mut response = response.unwrap().into_body();
        assert!(response.frame().await.unwrap().is_ok());
        assert!(read_some(&mut far).await.ends_with("2\r\nup\r\n"));
        sender.send(Err(BodyError::Closed)).await.unwrap();
        assert_eq!(response.frame().await.unwrap().unwrap_err(), BodyError::Request);
        assert_eq!(read_some(&mut far).await, "", "cut, without a last chunk");
    });
}

#[test]
fn interims_are_shown_to_who_asks() {
    run(async {
        let (conn, mut far) = pipe();
        let mut seen = Vec::new();
        far.write_all(b"").await.unwrap();
        let config = ClientConfig::default();
        let request = Request::new(Empty::<Bytes>::new());
        let (response, _) = tokio::join!(
            send_with_interim(conn, request, &config, |_| {}, |status, _| seen.push(status.as_u16())),
            far.write_all(b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 199 x\r\n\r\nHTTP/1.1 204 x\r\n\r\n"),
        );
        assert_eq!(response.unwrap().status(), 204);
        assert_eq!(seen, [103, 199]);
    });
}
