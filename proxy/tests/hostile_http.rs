//! Applications and clients that break HTTP/1.1, through two sidecars: whoever breaks it is told, nobody else notices.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{net::SocketAddr, sync::atomic::Ordering, time::Duration};

use mesh_api::model::{
    Protocol,
    policy::{Action, AuthorizationPolicy, AuthorizationRule, Operation, PortPolicy},
    route::PathMatch,
};
use tokio::io::AsyncWriteExt;

use self::{
    apps::{End, Wire, app, echo, ok, recorder, status, until},
    mesh::{Pair, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

async fn pair(app: SocketAddr) -> Pair {
    Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await
}

/// Answers `/bad` with `bad` and closes if `close`; anything else properly, with the path.
async fn bad_app(bad: &'static [u8], close: bool) -> SocketAddr {
    app(move |mut wire, _| async move {
        while let Some((head, _)) = wire.message().await {
            let path = head.split(' ').nth(1).unwrap().to_owned();
            if path == "/bad" {
                wire.try_send(bad).await;
                if close {
                    return;
                }
            } else if !wire.try_send(ok(&path)).await {
                return;
            }
        }
    })
    .await
}

async fn good(entry: SocketAddr, path: &str) {
    let mut wire = Wire::connect(entry).await;
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n")).await;
    let (head, body) = wire.message().await.unwrap();
    assert_eq!((status(&head), String::from_utf8_lossy(&body).as_ref()), (200, path));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h01_h04_h05_what_is_no_proper_answer_is_a_502() {
    let cases: [(&str, &'static [u8], bool); 10] = [
        (
            "H01 length and encoding",
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            false,
        ),
        ("H01 two lengths", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", false),
        ("H01 negative", b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc", false),
        ("H01 chunked 1.0", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", false),
        ("H04 NUL", b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n", false),
        ("H04 split", b"HTTP/1.1 200\r\r\nX: y\r\n\r\n", false),
        ("H05 half a head", b"HTTP/1.1 200 OK\r\nContent-Le", true),
        ("H05 nothing", b"", true),
        ("H10", b"HTTP/1.1 99 No\r\n\r\n", false),
        ("G14", b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", false),
    ];
    for (name, bad, close) in cases {
        let pair = pair(bad_app(bad, close).await).await;
        good(pair.entry, "/before").await;
        let mut wire = Wire::connect(pair.entry).await;
        wire.send("GET /bad HTTP/1.1\r\nHost: cart\r\n\r\nGET /after HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        let (head, _) = wire.message().await.unwrap();
        assert_eq!(status(&head), 502, "{name}: {head}");
        let (head, body) = wire.message().await.unwrap();
        assert_eq!((status(&head), &*body), (200, &b"/after"[..]), "{name}");
        good(pair.entry, "/other").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h02_h03_what_nobody_asked_for_is_nobodys_answer() {
    let twice = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond";
    let pair = pair(bad_app(twice, false).await).await;
    for n in 0..20 {
        let mut wire = Wire::connect(pair.entry).await;
        wire.send("GET /bad HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        let (head, body) = wire.message().await.unwrap();
        assert_eq!((status(&head), &*body), (200, &b"first"[..]));
        let path = format!("/{n}");
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n")).await;
        assert_eq!(wire.message().await.unwrap().1, path.as_bytes());
        good(pair.entry, "/other").await;
    }
    let app = app(|mut wire, _| async move {
        while let Some((head, _)) = wire.message().await {
            wire.send(ok(head.split(' ').nth(1).unwrap())).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            wire.try_send(ok("poison")).await;
        }
    })
    .await;
    let pair = self::pair(app).await;
    for n in 0..10 {
        good(pair.entry, &format!("/{n}")).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h05_half_a_body_is_never_taken_for_a_whole_one() {
    for bad in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let pair = pair(bad_app(bad, true).await).await;
        let mut wire = Wire::connect(pair.entry).await;
        wire.send("GET /bad HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        match wire.head().await {
            Some(head) if status(&head) == 200 => assert_eq!(wire.body(&head).await, None, "{head}"),
            Some(head) => assert_eq!(status(&head), 502, "{head}"),
            None => {}
        }
        good(pair.entry, "/other").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a01_what_two_could_read_differently_goes_to_nobody() {
    let (app, log) = recorder().await;
    let pair = pair(app).await;
    for bad in [
        "POST /a HTTP/1.1\r\nHost: cart\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
        "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nGPOST",
        "POST /a HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "GET /a HTTP/1.1\r\nHost: cart\r\nHost: other\r\n\r\n",
        "GET /public/../admin HTTP/1.1\r\nHost: cart\r\n\r\n",
    ] {
        // On both sides: the application's own proxy, and the other one where plain callers come.
        for address in [pair.entry, pair.inbound] {
            let mut wire = Wire::connect(address).await;
            wire.send(bad).await;
            let head = wire.head().await.unwrap();
            assert_eq!(status(&head), 400, "{bad}: {head}");
        }
    }
    assert_eq!(log.text(), "", "the application got something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a31_a32_a_request_that_breaks_off_is_never_complete_to_the_application() {
    let (app, log) = recorder().await;
    let pair = pair(app).await;
    for (address, head, rest) in [
        (pair.entry, "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", "ZZZ\r\n"),
        (pair.entry, "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", ""),
        (pair.entry, "Content-Length: 10\r\n\r\nfirst", ""),
        (pair.inbound, "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n", "ZZZ\r\n"),
        (pair.inbound, "Content-Length: 10\r\n\r\nfirst", ""),
    ] {
        log.bytes.lock().unwrap().clear();
        let mut wire = Wire::connect(address).await;
        wire.send(format!("POST /a HTTP/1.1\r\nHost: cart\r\n{head}")).await;
        until("the first part is there", async || log.text().trim_end().ends_with("first")).await;
        if rest.is_empty() {
            wire.stream.shutdown().await.unwrap();
        } else {
            wire.send(rest).await;
        }
        let (answer, _) = wire.rest().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
        until("the application is told", async || log.open.load(Ordering::SeqCst) == 0).await;
        assert!(!log.text().contains("\r\n0\r\n"), "it looks complete: {}", log.text());
    }
}

fn only_public() -> PortPolicy {
    let origin = mesh_api::model::ObjectRef {
        kind: "AuthorizationPolicy".into(),
        namespace: "shop".into(),
        name: "public".into(),
    };
    let to = vec![Operation { paths: vec![PathMatch::Prefix("/public".into())], ..Operation::default() }];
    let policies = vec![AuthorizationPolicy {
        origin,
        action: Action::Allow,
        rules: vec![AuthorizationRule { from: vec![], to }],
    }];
    PortPolicy { policies, default_allow: false, ..open(Protocol::Http1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a47_the_body_of_a_refused_request_is_no_request() {
    let (app, requests) = echo().await;
    let pair = Pair::start(app, Protocol::Http1, only_public()).await;
    let body = "GET /public/smuggled HTTP/1.1\r\nHost: cart\r\n\r\n";
    let ask = format!("GET /admin HTTP/1.1\r\nHost: cart\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for address in [pair.entry, pair.inbound] {
        let mut wire = Wire::connect(address).await;
        wire.send(&ask).await;
        let (head, _) = wire.message().await.unwrap();
        assert_eq!(status(&head), 403);
        // Either the connection ends here, or what follows is read from where it begins.
        let next = "GET /public/next HTTP/1.1\r\nHost: cart\r\n\r\n";
        if wire.try_send(next).await
            && let Some((head, body)) = wire.message().await
        {
            assert_eq!(status(&head), 200);
            assert!(body.starts_with(b"GET /public/next "), "{}", String::from_utf8_lossy(&body));
        }
    }
    assert!(requests.load(Ordering::SeqCst) <= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a46_a50_garbage_behind_a_good_request_is_refused_in_its_turn() {
    let (app, requests) = echo().await;
    let pair = pair(app).await;
    for garbage in ["INVALID\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let mut wire = Wire::connect(pair.entry).await;
        wire.send(format!("GET /good HTTP/1.1\r\nHost: cart\r\n\r\n{garbage}")).await;
        assert_eq!(status(&wire.message().await.unwrap().0), 200);
        assert_eq!(status(&wire.message().await.unwrap().0), 400);
        assert_eq!(wire.rest().await.1, End::Clean);
    }
    assert_eq!(requests.load(Ordering::SeqCst), 2);
}
