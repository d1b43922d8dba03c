//! Both journeys through two real proxies: HTTP/1.1, opaque bytes, a server that speaks first, a denial that names its
//! policy, and a drain that loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{net::SocketAddr, time::Duration};

use mesh_api::model::{
    ObjectRef, Protocol,
    policy::{Action, AuthorizationPolicy, AuthorizationRule, Operation, PortPolicy},
    route::PathMatch,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use self::mesh::{Pair, get, open, raw};

#[path = "support/mesh.rs"]
mod mesh;

/// An application that answers every HTTP/1.1 request with what it got, and everything else by echo.
async fn echo_app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut chunk = [0; 4096];
                while let Ok(read) = stream.read(&mut chunk).await {
                    if read == 0 {
                        return;
                    }
                    seen.extend_from_slice(&chunk[..read]);
                    if let Some(end) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
                        let head = String::from_utf8(seen.drain(..end + 4).collect()).unwrap();
                        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http1_through_two_sidecars() {
    let pair = Pair::start(echo_app().await, Protocol::Detect, open(Protocol::Detect)).await;
    let (status, head) = get(pair.entry, "/hello?x=1").await.unwrap();
    assert_eq!(status, 200, "{head}");
    assert!(head.starts_with("GET /hello?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("mesh-client-id: spiffe://test.mesh/ns/shop/sa/web\r\n"), "{head}");
    assert!(!head.contains("mesh-orig-proto"), "{head}");
    let labels = ["mesh_requests_total", "outbound", "destination=\"cart\"", "tls=\"mutual\"", "sa/cart", "2xx"];
    assert_eq!(pair.client.metric(&labels).await, Some(1.0));
    let labels = ["mesh_requests_total", "inbound", "source=\"web\"", "tls=\"mutual\"", "sa/web", "2xx"];
    assert_eq!(pair.server.metric(&labels).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opaque_bytes_and_half_close() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut question = Vec::new();
            stream.read_to_end(&mut question).await.unwrap();
            question.reverse();
            stream.write_all(&question).await.unwrap();
        }
    });
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    let mut stream = TcpStream::connect(pair.entry).await.unwrap();
    stream.write_all(b"\x00\x01 not http\n").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"\nptth ton \x01\x00");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_is_not_kept_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"220 welcome\r\n").await.unwrap();
                let mut line = [0; 4];
                if stream.read_exact(&mut line).await.is_ok() {
                    stream.write_all(b"221 bye\r\n").await.unwrap();
                }
            });
        }
    });
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    for _ in 0..2 {
        let begun = std::time::Instant::now();
        let mut stream = TcpStream::connect(pair.entry).await.unwrap();
        let mut banner = [0; 13];
        stream.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"220 welcome\r\n");
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        stream.write_all(b"QUIT").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "221 bye\r\n");
    }
}

fn deny_admin() -> PortPolicy {
    let rule = AuthorizationRule {
        from: vec![],
        to: vec![Operation { paths: vec![PathMatch::Prefix("/admin".into())], ..Operation::default() }],
    };
    let origin = ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "shop".into(), name: "no-admin".into() };
    let policies = vec![AuthorizationPolicy { origin, action: Action::Deny, rules: vec![rule] }];
    PortPolicy { policies, ..open(Protocol::Detect) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_names_its_policy_to_members_only() {
    let pair = Pair::start(echo_app().await, Protocol::Http1, deny_admin()).await;
    let question = "GET /admin/x HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n";
    let answer = raw(pair.entry, question).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(answer.contains("mesh-policy: AuthorizationPolicy/shop/no-admin\r\n"), "{answer}");
    let answer = raw(pair.inbound, question).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert!(!answer.contains("no-admin"), "a caller outside the mesh learns no names: {answer}");
    assert_eq!(get(pair.entry, "/public").await.unwrap().0, 200);
    let labels = ["mesh_requests_total", "outbound", "status=\"refused\"", "sa/cart"];
    assert_eq!(pair.client.metric(&labels).await, Some(1.0));
    let labels = ["mesh_refusals_total", "denied", "AuthorizationPolicy/shop/no-admin"];
    assert_eq!(pair.server.metric(&labels).await, Some(2.0));

    pair.plane.change(|world| {
        world.inbound.get_mut("cart-1").unwrap().default_port = open(Protocol::Http1);
    });
    for _ in 0..50 {
        if get(pair.entry, "/admin/x").await.unwrap().0 == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the policy was taken back, and is still in force after a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_knows_says_so() {
    let pair = Pair::start(echo_app().await, Protocol::Detect, open(Protocol::Detect)).await;
    let mut config = pair.plane.config("web-1", "web");
    let entry = mesh::free_port();
    config.outbound.listeners.push(mesh_proxy::config::OutboundListener { listen: entry, to: "nobody.shop:80".into() });
    let client = mesh::Proxy::start(config).await;
    let answer = raw(entry, "GET / HTTP/1.1\r\nHost: nobody\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("mesh-error: unknown-destination"), "{answer}");
    client.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_what_is_in_flight_and_takes_nothing_new() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut chunk = [0; 1024];
                let _ = stream.read(&mut chunk).await;
                tokio::time::sleep(Duration::from_millis(700)).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslow").await;
            });
        }
    });
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let (entry, inbound) = (pair.entry, pair.inbound);
    let slow = tokio::spawn(async move { get(entry, "/slow").await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    pair.server.stop().await;
    assert_eq!(slow.await.unwrap().unwrap(), (200, "slow".to_owned()));
    assert!(TcpStream::connect(inbound).await.is_err(), "nothing new is taken");
    let answer = raw(entry, "GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("mesh-error: connect-failed"), "{answer}");
    pair.client.stop().await;
}
