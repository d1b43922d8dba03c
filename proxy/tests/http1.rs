//! HTTP/1.1 through two sidecars: framing, expectations, interim answers, pipelining, clients that leave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_api::model::Protocol;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use self::{
    apps::{End, Wire, app, echo, field, ok, status, within},
    mesh::{Pair, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

async fn pair(app: SocketAddr) -> Pair {
    Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n")
}

/// Answers each request as its path says, with these exact bytes.
async fn scripted(answer: impl Fn(&str) -> String + Clone + Send + 'static) -> SocketAddr {
    app(move |mut wire, _| {
        let answer = answer.clone();
        async move {
            while let Some((head, _)) = wire.message().await {
                let path = head.split(' ').nth(1).unwrap().to_owned();
                if !wire.try_send(answer(&path)).await {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g27_answers_without_a_body_have_none_and_keep_their_length() {
    let app = scripted(|path| match path {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"a\"\r\n\r\n".into(),
        "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 88\r\n\r\n".into(),
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        _ => ok("body"),
    })
    .await;
    let pair = pair(app).await;
    let mut wire = Wire::connect(pair.entry).await;
    for (method, path, code, length) in [
        ("GET", "/204", 204, None),
        ("GET", "/304", 304, Some("77")),
        ("HEAD", "/head", 200, Some("88")),
        ("HEAD", "/chunked", 200, None),
        ("GET", "/", 200, Some("4")),
    ] {
        wire.send(format!("{method} {path} HTTP/1.1\r\nHost: cart\r\n\r\n")).await;
        let head = wire.head().await.unwrap();
        assert_eq!((status(&head), field(&head, "content-length")), (code, length), "{method} {path}: {head}");
        assert_eq!(field(&head, "etag").is_some(), code == 304);
        if path == "/" {
            // Nothing of the answers before was left on the way.
            assert_eq!(wire.bytes(4).await, b"body");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lengths_stay_lengths_and_chunks_stay_chunks() {
    let (seen, mut heads) = mpsc::unbounded_channel();
    let app = app(move |mut wire, _| {
        let seen = seen.clone();
        async move {
            while let Some(head) = wire.head().await {
                let body = wire.body(&head).await;
                let chunked = head.contains("/chunked");
                seen.send((head, body)).unwrap();
                wire.send(if chunked {
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
                } else {
                    "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"
                })
                .await;
                // Apart from the head, so that nobody knows the length in advance.
                tokio::time::sleep(Duration::from_millis(50)).await;
                let rest = "6\r\nanswer\r\n0\r\nX-Sum: 7\r\nMesh-Error: forged\r\n\r\n";
                wire.send(if chunked { rest } else { "answer" }).await;
            }
        }
    })
    .await;
    let pair = pair(app).await;
    let mut wire = Wire::connect(pair.entry).await;
    wire.send("PUT /length HTTP/1.1\r\nHost: cart\r\nContent-Length: 8\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    wire.send("question").await;
    let head = wire.head().await.unwrap();
    assert_eq!((field(&head, "content-length"), field(&head, "transfer-encoding")), (Some("6"), None));
    assert_eq!(wire.body(&head).await.unwrap().0, b"answer");
    let (head, body) = heads.recv().await.unwrap();
    assert_eq!((field(&head, "content-length"), field(&head, "transfer-encoding")), (Some("8"), None));
    assert_eq!(body.unwrap().0, b"question");

    let ask =
        "PUT /chunked HTTP/1.1\r\nHost: cart\r\nTE: trailers\r\nConnection: TE\r\nTransfer-Encoding: chunked\r\n\r\n";
    wire.send(ask).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    wire.send("4;ext=1\r\nques\r\n4\r\ntion\r\n0\r\nX-Check: 3\r\nMesh-Client-Id: forged\r\n\r\n").await;
    let head = wire.head().await.unwrap();
    assert_eq!((field(&head, "content-length"), field(&head, "transfer-encoding")), (None, Some("chunked")));
    let (body, trailers) = wire.body(&head).await.unwrap();
    assert_eq!((&*body, &*trailers), (&b"answer"[..], "x-sum: 7\r\n"));
    let (head, body) = heads.recv().await.unwrap();
    assert_eq!((field(&head, "content-length"), field(&head, "transfer-encoding")), (None, Some("chunked")));
    let (body, trailers) = body.unwrap();
    assert_eq!((&*body, &*trailers), (&b"question"[..], "x-check: 3\r\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g09_expectations_are_met_once_or_refused_by_the_application() {
    let app = app(|mut wire, _| async move {
        while let Some(head) = wire.head().await {
            if head.contains("/no") {
                wire.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
                continue;
            }
            wire.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            let (body, _) = wire.body(&head).await.unwrap();
            wire.send(ok(&format!("got {}", body.len()))).await;
        }
    })
    .await;
    let pair = pair(app).await;
    let ask = |path| format!("POST {path} HTTP/1.1\r\nHost: cart\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    let mut wire = Wire::connect(pair.entry).await;
    wire.send(ask("/yes")).await;
    assert_eq!(wire.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    wire.send("hello").await;
    let (head, body) = wire.message().await.unwrap();
    assert_eq!((status(&head), &*body), (200, &b"got 5"[..]));
    wire.send(ask("/no")).await;
    let mut head = wire.head().await.unwrap();
    if status(&head) == 100 {
        wire.send("hello").await;
        head = wire.head().await.unwrap();
    }
    assert_eq!(status(&head), 417);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g08_early_hints_never_take_the_place_of_the_answer() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nMesh-Error: forged\r\n\r\n";
    let app = scripted(move |path| format!("{}{}", hints.repeat(path.len()), ok("answer"))).await;
    let pair = pair(app).await;
    let mut wire = Wire::connect(pair.entry).await;
    for path in ["/", "/two"] {
        wire.send(get(path)).await;
        let mut head = wire.head().await.unwrap();
        while status(&head) == 103 {
            assert!(!head.contains("mesh-"), "{head}");
            head = wire.head().await.unwrap();
        }
        assert_eq!(status(&head), 200);
        assert_eq!(wire.body(&head).await.unwrap().0, b"answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_requests_are_answered_in_their_order() {
    let (app, _) = echo().await;
    let pair = pair(app).await;
    let mut wire = Wire::connect(pair.entry).await;
    let all: String = (0..20).map(|n| get(&format!("/{n}"))).collect();
    wire.send(all).await;
    for n in 0..20 {
        let (_, body) = wire.message().await.unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(body.starts_with(&format!("GET /{n} HTTP/1.1\r\n")), "{n}: {body}");
    }
}

/// Answers after the time that the path says, in milliseconds; tells when its caller is gone before.
async fn slow_app() -> (SocketAddr, mpsc::UnboundedReceiver<Duration>, Arc<AtomicUsize>) {
    let (gone, told) = mpsc::unbounded_channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let address = app(move |mut wire, _| {
        let (gone, counter) = (gone.clone(), Arc::clone(&counter));
        async move {
            while let Some((head, _)) = wire.message().await {
                counter.fetch_add(1, Ordering::SeqCst);
                let begun = Instant::now();
                let wait: u64 = head.split(' ').nth(1).unwrap()[1..].parse().unwrap();
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(wait)) => wire.send(ok("late")).await,
                    _ = wire.stream.readable() => {
                        let _ = gone.send(begun.elapsed());
                        return;
                    }
                }
            }
        }
    })
    .await;
    (address, told, asked)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e12_a_client_that_only_ends_its_own_side_gets_its_answer() {
    let (app, _, _) = slow_app().await;
    let pair = pair(app).await;
    for wait in [0, 300, 3500] {
        let mut wire = Wire::connect(pair.entry).await;
        wire.send(get(&format!("/{wait}"))).await;
        wire.stream.shutdown().await.unwrap();
        let mut head = wire.head().await.expect("an answer");
        if wait > 1000 && status(&head) == 100 {
            head = wire.head().await.expect("an answer");
        }
        assert_eq!(status(&head), 200, "{wait}");
        assert_eq!(wire.body(&head).await.unwrap().0, b"late");
        assert_eq!(wire.rest().await, (vec![], End::Clean));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_gone_is_noticed_and_its_request_given_up() {
    let (app, mut gone, asked) = slow_app().await;
    let pair = pair(app).await;
    for (nth, reset) in [(1, true), (2, false)] {
        let mut wire = Wire::connect(pair.entry).await;
        wire.send(get("/60000")).await;
        apps::until("the application works", async || asked.load(Ordering::SeqCst) == nth).await;
        if reset {
            socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        let begun = Instant::now();
        drop(wire);
        within(gone.recv()).await.unwrap();
        let limit = if reset { Duration::from_millis(200) } else { Duration::from_secs(4) };
        assert!(begun.elapsed() < limit, "reset: {reset}, after {:?}", begun.elapsed());
    }
    apps::until("both are counted", async || {
        pair.server.metric(&["mesh_requests_total", "inbound", "canceled"]).await == Some(2.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a48_an_answer_before_the_end_of_the_upload_ends_it() {
    let app = app(|mut wire, number| async move {
        while let Some(head) = wire.head().await {
            if head.starts_with("POST") {
                // Of the body, nothing is read, and the connection stays open.
                wire.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nmuch").await;
                continue;
            }
            wire.send(ok(&format!("connection {number}"))).await;
        }
    })
    .await;
    let pair = pair(app).await;
    for _ in 0..5 {
        let mut wire = Wire::connect(pair.entry).await;
        wire.send("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 10000000\r\n\r\n").await;
        let (read, mut write) = wire.stream.into_split();
        let upload = tokio::spawn(async move {
            for _ in 0..1000 {
                if write.write_all(&[b'x'; 10_000]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            write
        });
        let mut bytes = [0; 12];
        let mut answer = read;
        within(tokio::io::AsyncReadExt::read_exact(&mut answer, &mut bytes)).await.unwrap();
        assert_eq!(&bytes, b"HTTP/1.1 413");
        drop((answer, within(upload).await.unwrap()));
        let mut next = Wire::connect(pair.entry).await;
        next.send(get("/")).await;
        let (head, body) = next.message().await.unwrap();
        let body = String::from_utf8(body).unwrap();
        assert!(status(&head) == 200 && body.starts_with("connection "), "{head}{body}");
    }
}
