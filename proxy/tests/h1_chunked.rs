//! The catalogue of hostile framing, second half: what a body may do (A21 to A34, A48).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use std::time::Duration;

use mesh_proxy::l7::h1::{ClientConfig, Reason, ServerConfig};
use support::{Client, Fixture, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HEAD: &str = "POST /c HTTP/1.1\r\nHost: app.ns.svc\r\nTransfer-Encoding: chunked\r\n\r\n";
const NORMAL: &str = "POST /c HTTP/1.1\r\nhost: app.ns.svc\r\n";

/// These bodies are refused in one segment, before anything goes upstream, and also when they come after the head has
/// gone: then the upstream's request is cut without an end.
fn refused<R: AsRef<str>>(bodies: impl IntoIterator<Item = R>, status: u16, reason: Reason) {
    run(async {
        let t = Fixture::start().await;
        for body in bodies {
            let body = body.as_ref();
            assert_eq!(t.refuses(format!("{HEAD}{body}"), status).await, reason, "{body:?}");
            late(&t, body, status, reason).await;
        }
    });
}

async fn late(t: &Fixture, body: &str, status: u16, reason: Reason) {
    let mut client = begun(t).await;
    client.send(body.as_bytes()).await;
    cut_off(t, &mut client, status).await;
    assert_eq!(t.bad.lock().unwrap().last().unwrap().reason, reason, "{body:?}");
}

/// A request of which the upstream has the head and the first chunk.
async fn begun(t: &Fixture) -> Client {
    let before = t.recorder.conns.borrow().len();
    t.pool.borrow_mut().clear();
    let mut client = t.client().await;
    client.send(format!("{HEAD}5\r\nfirst\r\n").as_bytes()).await;
    t.recorder.until(|conns| conns.len() > before && conns.last().unwrap().bytes.ends_with(b"5\r\nfirst\r\n")).await;
    client
}

/// The client is refused, the upstream's connection ends without a last chunk and is not pooled.
async fn cut_off(t: &Fixture, client: &mut Client, status: u16) {
    let reply = client.reply("POST").await.expect("an answer");
    assert_eq!((reply.status, reply.header("connection")), (status, Some("close")));
    client.closed().await;
    t.recorder.until(|conns| conns.last().unwrap().closed).await;
    let seen = t.recorder.conns.borrow().last().unwrap().bytes.clone();
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.starts_with(&format!("{NORMAL}transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n")), "{seen:?}");
    assert!(!seen.contains("0\r\n\r\n"), "a cut body has no end: {seen:?}");
    assert_eq!(t.pool.borrow().len(), 0);
    t.good().await;
}

#[test]
fn a21_chunk_extensions_are_dropped() {
    run(async {
        let t = Fixture::start().await;
        for extension in [";a=b", ";a", ";a=\"b c\"", ";\u{e9}"] {
            let normal = format!("{NORMAL}content-length: 1\r\n\r\nZ");
            t.forwards(format!("{HEAD}1{extension}\r\nZ\r\n0{extension}\r\n\r\n"), &normal).await;
        }
    });
}

#[test]
fn a22_a_line_feed_in_an_extension_is_refused() {
    refused(["1;a\nb\r\nZ\r\n0\r\n\r\n", "1;a\n\r\nZ\r\n0\r\n\r\n"], 400, Reason::ChunkExtension);
}

#[test]
fn a23_a_carriage_return_in_an_extension_is_refused() {
    refused(
        ["1;a\r\rb\r\nZ\r\n0\r\n\r\n", "5\r\r;ABCD\r\n0\r\n\r\n", "1;\r;\r\nZ\r\n0\r\n\r\n"],
        400,
        Reason::ChunkExtension,
    );
}

#[test]
fn a24_a_quoted_extension_ends_with_its_line() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        let smuggled = "GET /admin/x HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(format!("{HEAD}1;a=\"\r\nZ\r\n0;b=\"\r\n\r\n{smuggled}").as_bytes()).await;
        assert_eq!(client.reply("POST").await.unwrap().status, 200);
        // A request of its own, judged as such.
        assert_eq!(client.reply("GET").await.unwrap().status, 403);
        assert_eq!(t.recorder.all(), format!("{NORMAL}content-length: 1\r\n\r\nZ"));
        t.good_on(&mut client).await;
    });
}

#[test]
fn a25_a_flood_of_extensions_is_refused() {
    let chunk = format!("1;{}\r\nZ\r\n", "e".repeat(1000));
    refused([format!("1;{}\r\nZ\r\n0\r\n\r\n", "e".repeat(20_000)), chunk.repeat(1000)], 400, Reason::ChunkExtension);
}

#[test]
fn a26_odd_chunk_sizes_are_refused() {
    let sizes = ["0x1", "+1", "-1", "0_1", " 1", "", "G", "1G", "\u{ff11}"];
    refused(sizes.map(|size| format!("{size}\r\nZ\r\n0\r\n\r\n")), 400, Reason::ChunkSize);
}

#[test]
fn a27_space_after_a_chunk_size_is_refused() {
    refused(["1 \r\nZ\r\n0\r\n\r\n", "1\t\r\nZ\r\n0\r\n\r\n", "1 ;a\r\nZ\r\n0\r\n\r\n"], 400, Reason::ChunkSize);
}

#[test]
fn a28_chunk_sizes_that_overflow_are_refused() {
    let sizes = ["10000000000000001", "ffffffffffffffff", "8000000000000000", "00000000000000000000001"];
    refused(sizes.map(|size| format!("{size}\r\nZ\r\n0\r\n\r\n")), 400, Reason::ChunkSize);
}

#[test]
fn a29_chunk_data_without_its_line_end_is_refused() {
    refused(["1\r\nZXX0\r\n\r\n", "1\r\nZZ\r\n0\r\n\r\n", "1\r\nZ\rX0\r\n\r\n"], 400, Reason::ChunkEnd);
}

#[test]
fn a30_chunk_lines_with_bare_line_feeds_are_refused() {
    refused(["1\nZ\r\n0\r\n\r\n", "1\r\nZ\r\n0\n\n"], 400, Reason::ChunkSize);
    refused(["1\r\nZ\n0\r\n\r\n"], 400, Reason::ChunkEnd);
    refused(["1\r\nZ\r\n0\r\n\n", "0\r\nA: b\n\r\n"], 400, Reason::Trailer);
}

#[test]
fn a31_a_chunk_that_breaks_in_mid_stream_aborts_the_upstream() {
    run(async {
        let t = Fixture::start().await;
        late(&t, "ZZZ\r\n", 400, Reason::ChunkSize).await;
    });
}

#[test]
fn a32_a_body_that_ends_early_aborts_the_upstream() {
    run(async {
        let t = Fixture::start().await;
        let mut client = begun(&t).await;
        client.stream.shutdown().await.unwrap();
        cut_off(&t, &mut client, 400).await;
        assert_eq!(t.bad.lock().unwrap().last().unwrap().reason, Reason::Truncated);

        t.pool.borrow_mut().clear();
        let mut client = t.client().await;
        client.send(b"POST /c HTTP/1.1\r\nHost: app.ns.svc\r\nContent-Length: 10\r\n\r\n12345").await;
        t.recorder.until(|conns| conns.last().unwrap().bytes.ends_with(b"12345")).await;
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.reply("POST").await.unwrap().status, 400);
        client.closed().await;
        t.recorder.until(|conns| conns.last().unwrap().closed).await;
        assert_eq!(t.pool.borrow().len(), 0);
        t.good().await;
    });
}

#[test]
fn a33_trailers_that_frame_or_route_are_dropped() {
    let evil =
        "Content-Length: 50\r\nTransfer-Encoding: x\r\nHost: evil\r\nX-Sum: 1\r\nAuthorization: x\r\nConnection: close";
    run(async {
        let t = Fixture::start().await;
        // Without `TE: trailers` none goes on.
        let normal = format!("{NORMAL}transfer-encoding: chunked\r\n\r\n1\r\nZ\r\n0\r\n\r\n");
        t.forwards(format!("{HEAD}1\r\nZ\r\n0\r\n{evil}\r\n\r\n"), &normal).await;
        let mut client = t.client().await;
        let head = HEAD.replace("\r\n\r\n", "\r\nTE: trailers\r\n\r\n");
        client.send(format!("{head}1\r\nZ\r\n0\r\n{evil}\r\n\r\n").as_bytes()).await;
        t.recorder.until(|conns| conns.iter().any(|conn| conn.bytes.ends_with(b"0\r\nx-sum: 1\r\n\r\n"))).await;
        let seen = t.recorder.all();
        assert!(!seen.contains("evil") && !seen.contains("authorization"), "{seen}");
    });
}

#[test]
fn a34_a_flood_of_trailers_is_refused() {
    let lines = |n: usize| format!("0\r\n{}\r\n", "A: b\r\n".repeat(n));
    refused([lines(20_000), lines(101)], 431, Reason::TrailerTooLarge);
    refused([format!("0\r\nA: {}\r\n\r\n", "b".repeat(1 << 20))], 431, Reason::TrailerTooLarge);
}

#[test]
fn a48_after_an_early_response_the_body_is_not_replayed() {
    run(async {
        // Answers 413 at the head, keeps the connection, and remembers what else it is sent.
        let t = Fixture::scripted(ClientConfig::default(), |mut stream| async move {
            let mut head = [0; 1024];
            let n = stream.read(&mut head).await.unwrap();
            let early = head[..n].starts_with(b"POST");
            let answer = if early { "413 Content Too Large" } else { "200 OK" };
            let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 2\r\n\r\nok");
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(!early || !rest.windows(3).any(|w| w == b"GET"), "no request follows on this connection");
        })
        .await;
        let mut client = t.client().await;
        client.send(b"POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n0123456789").await;
        assert_eq!(client.reply("POST").await.unwrap().status, 413);
        assert_eq!(t.pool.borrow().len(), 0, "the connection has an unfinished request on it");
        client.send(b"abcdefghijGET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.reply("GET").await.unwrap().status, 200);
    });
}

#[test]
fn slow_heads_bodies_and_idle_connections_end_in_time() {
    run(async {
        let mut config = ServerConfig { head_timeout: Duration::from_millis(80), ..ServerConfig::default() };
        config.idle_timeout = Duration::from_millis(120);
        config.body.idle = Duration::from_millis(100);
        let t = Fixture::with_config(config, ClientConfig::default()).await;
        // Connect and send nothing; send a part of a head.
        t.client().await.closed().await;
        let mut client = t.client().await;
        client.send(b"GET / HT").await;
        assert_eq!(client.reply("GET").await.unwrap().status, 408);
        client.closed().await;
        // Stall in a body.
        let mut client = begun(&t).await;
        cut_off(&t, &mut client, 408).await;
        // Stay idle after a request.
        let mut client = t.client().await;
        t.good_on(&mut client).await;
        client.closed().await;
        let reasons: Vec<_> = t.bad.lock().unwrap().iter().map(|bad| bad.reason).collect();
        assert_eq!(reasons, [Reason::HeadTimeout, Reason::BodyTimeout]);
    });
}

#[test]
fn a_body_that_drips_is_refused_below_the_lowest_rate() {
    run(async {
        let mut config = ServerConfig::default();
        config.body.grace = Duration::from_millis(150);
        config.body.min_rate = Some(1000);
        let t = Fixture::with_config(config, ClientConfig::default()).await;
        let mut client = begun(&t).await;
        for _ in 0..30 {
            client.send(b"1\r\nx\r\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cut_off(&t, &mut client, 408).await;
    });
}
