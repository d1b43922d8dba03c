//! Connections that stop being HTTP, and those that must not (G10 to G18).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use std::rc::Rc;

use mesh_proxy::l7::h1::{ClientConfig, Reason};
use support::{Client, Fixture, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ASK: &str =
    "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

/// Reads a head; whatever came behind it in the same read is returned, too.
async fn head(stream: &mut TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        let mut buf = [0; 4096];
        let n = stream.read(&mut buf).await.unwrap_or(0);
        bytes.extend_from_slice(&buf[..n]);
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return (String::from_utf8(bytes).unwrap(), rest);
        }
        assert!(n > 0, "a head comes: {}", String::from_utf8_lossy(&bytes));
    }
}

/// An upstream that answers each connection's first head so, and then sends back what it gets.
async fn echo(answer: impl Into<String>) -> Fixture {
    let answer: Rc<str> = answer.into().into();
    Fixture::scripted(ClientConfig::default(), move |mut stream| {
        let answer = Rc::clone(&answer);
        async move {
            let (head, early) = head(&mut stream).await;
            assert!(early.is_empty(), "nothing precedes the answer: {early:?} after {head}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    })
    .await
}

async fn tunnelled(client: &mut Client, text: &str) {
    while client.buf.len() < text.len() {
        let mut buf = [0; 1024];
        let n = client.stream.read(&mut buf).await.unwrap();
        assert!(n > 0);
        client.buf.extend_from_slice(&buf[..n]);
    }
    assert_eq!(String::from_utf8(client.buf.drain(..text.len()).collect()).unwrap(), text);
}

#[test]
fn g11_an_upgrade_becomes_a_tunnel_with_its_early_bytes() {
    run(async {
        // The upstream's first bytes come with its 101, the client's with its request: neither is lost.
        let t = echo(format!("{SWITCH}early ")).await;
        let mut client = t.client().await;
        client.send(format!("{ASK}data ").as_bytes()).await;
        let reply = client.reply("GET").await.unwrap();
        assert_eq!(
            (reply.status, reply.header("connection"), reply.header("upgrade")),
            (101, Some("upgrade"), Some("websocket"))
        );
        tunnelled(&mut client, "early data ").await;
        client.send(b"more").await;
        tunnelled(&mut client, "more").await;
        client.stream.shutdown().await.unwrap();
        client.closed().await;
        assert_eq!(t.pool.borrow().len(), 0, "G15: never pooled");
        t.ended(1).await;
        assert!(t.ends.borrow()[0].is_ok());
    });
}

#[test]
fn g12_what_follows_a_refused_upgrade_is_a_request_of_its_own() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        client.send(format!("{ASK}GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await;
        assert_eq!(client.reply("GET").await.unwrap().status, 200);
        assert_eq!(client.reply("GET").await.unwrap().status, 403, "seen and judged");
        let normal =
            "GET /ws HTTP/1.1\r\nhost: a\r\nsec-websocket-key: k\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
        assert_eq!(t.recorder.all(), normal);
        t.good_on(&mut client).await;
    });
}

#[test]
fn g13_a_200_with_upgrade_is_no_tunnel() {
    run(async {
        let t =
            echo("HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok").await;
        let mut client = t.client().await;
        client.send(ASK.as_bytes()).await;
        let reply = client.reply("GET").await.unwrap();
        assert_eq!((reply.status, reply.body.as_str(), reply.header("upgrade")), (200, "ok", None));
        client.send(b"not http\r\n\r\n").await;
        assert_eq!(client.reply("GET").await.unwrap().status, 400);
    });
}

#[test]
fn g14_a_101_nobody_asked_for_is_a_502() {
    run(async {
        let other = SWITCH.replace("websocket", "other");
        let nameless = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n";
        let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let body = ASK.replace("\r\n\r\n", "\r\nContent-Length: 1\r\n\r\nx");
        for (ask, answer) in [(plain, SWITCH), (ASK, &other), (ASK, nameless), (&body, SWITCH)] {
            let answer = answer.to_owned();
            let t = Fixture::scripted(ClientConfig::default(), move |mut stream| {
                let answer = answer.clone();
                async move {
                    head(&mut stream).await;
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let _ = stream.read_to_end(&mut Vec::new()).await;
                }
            })
            .await;
            let mut client = t.client().await;
            client.send(ask.as_bytes()).await;
            let reply = client.reply("GET").await.unwrap();
            assert_eq!(reply.status, 502, "{ask} {answer:?}", answer = reply);
            assert_eq!(reply.header("x-error"), Some("bad response: upgrade_not_asked Never"));
            assert_eq!(t.pool.borrow().len(), 0);
        }
    });
}

#[test]
fn g10_an_upgrade_to_http2_is_stripped() {
    run(async {
        let t = Fixture::start().await;
        let raw = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
        t.forwards(raw, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    });
}

#[test]
fn g16_malformed_connects_are_refused() {
    run(async {
        let t = Fixture::start().await;
        for line in
            ["/ HTTP/1.1", "http://t/ HTTP/1.1", "* HTTP/1.1", "host HTTP/1.1", "u@h:1 HTTP/1.1", "h:1 HTTP/1.0"]
        {
            let reason = t.refuses(format!("CONNECT {line}\r\nHost: h\r\n\r\n"), 400).await;
            assert_eq!(reason, Reason::Connect, "{line}");
        }
    });
}

#[test]
fn g17_g18_a_connect_holds_early_data_until_2xx_and_strips_framing() {
    run(async {
        let t = echo("HTTP/1.1 200 Established\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let mut client = t.client().await;
        client.send(b"CONNECT h:1 HTTP/1.1\r\nHost: other\r\n\r\nearly").await;
        let reply = client.reply("HEAD").await.unwrap();
        assert_eq!(
            (reply.status, reply.header("content-length"), reply.header("transfer-encoding")),
            (200, None, None)
        );
        tunnelled(&mut client, "early").await;

        // Refused: what follows is neither tunnelled nor a request.
        let t = Fixture::start().await;
        let mut client = t.client().await;
        let t403 = Fixture::scripted(ClientConfig::default(), |mut stream| async move {
            let (seen, early) = head(&mut stream).await;
            assert_eq!((seen.as_str(), early.len()), ("CONNECT h:1 HTTP/1.1\r\nhost: h:1\r\n\r\n", 0));
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        })
        .await;
        let mut refused = t403.client().await;
        refused.send(b"CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = refused.reply("CONNECT").await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (403, Some("close")));
        refused.closed().await;
        t.good_on(&mut client).await;
    });
}
