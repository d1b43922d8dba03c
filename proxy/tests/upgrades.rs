//! Connections that become tunnels, WebSocket above all: through two sidecars, through one, and where nobody agrees.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{net::SocketAddr, time::Duration};

use mesh_api::model::Protocol;
use tokio::{io::AsyncWriteExt, sync::mpsc};

use self::{
    apps::{End, Wire, app, field, ok, status, until, within},
    mesh::{Pair, Proxy, destination, endpoint, free_port, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: cart\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nMesh-Upgrade: forged\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Agrees, greets, then answers each line with itself in capitals; `quit` ends its side first.
async fn shouting_app() -> (SocketAddr, mpsc::UnboundedReceiver<(Vec<u8>, End)>) {
    let (tell, told) = mpsc::unbounded_channel();
    let address = app(move |mut wire, _| {
        let tell = tell.clone();
        async move {
            while let Some((head, _)) = wire.message().await {
                if field(&head, "upgrade").is_none() {
                    wire.send(ok("plain")).await;
                    continue;
                }
                assert_eq!(field(&head, "sec-websocket-version"), Some("13"), "{head}");
                assert!(!head.contains("mesh-upgrade"), "{head}");
                wire.send(format!("{AGREE}hello\n")).await;
                while let Some(line) = wire.through("\n").await {
                    if line == "quit\n" {
                        wire.stream.shutdown().await.unwrap();
                        break;
                    }
                    wire.send(line.to_uppercase()).await;
                }
                tell.send(wire.rest().await).unwrap();
                return;
            }
        }
    })
    .await;
    (address, told)
}

async fn upgraded(address: SocketAddr) -> Wire {
    let mut wire = Wire::connect(address).await;
    // What is sent before anybody agreed waits until they did.
    wire.send(format!("{ASK}early\n")).await;
    let head = wire.head().await.unwrap();
    assert_eq!((status(&head), field(&head, "upgrade")), (101, Some("websocket")), "{head}");
    assert!(field(&head, "connection").unwrap().eq_ignore_ascii_case("upgrade"));
    assert_eq!(field(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert!(!head.contains("mesh-"), "{head}");
    assert_eq!(wire.through("\n").await.unwrap(), "hello\n");
    assert_eq!(wire.through("\n").await.unwrap(), "EARLY\n");
    wire
}

/// Talks both ways, then ends from one side, and from the other.
async fn talks(address: SocketAddr, ends: &mut mpsc::UnboundedReceiver<(Vec<u8>, End)>) {
    let mut wire = upgraded(address).await;
    for n in 0..100 {
        wire.send(format!("line {n}\n")).await;
        assert_eq!(wire.through("\n").await.unwrap(), format!("LINE {n}\n"));
    }
    let long = "x".repeat(1 << 20) + "\n";
    wire.send(&long).await;
    assert_eq!(wire.through("\n").await.unwrap(), long.to_uppercase());
    wire.stream.shutdown().await.unwrap();
    assert_eq!(within(ends.recv()).await.unwrap(), (vec![], End::Clean));
    assert_eq!(wire.rest().await, (vec![], End::Clean));
    // The application ends its side first; what the client still has to say arrives.
    let mut wire = upgraded(address).await;
    wire.send("quit\n").await;
    assert_eq!(wire.rest().await, (vec![], End::Clean));
    tokio::time::sleep(Duration::from_millis(50)).await;
    wire.send("afterwards").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    wire.stream.shutdown().await.unwrap();
    assert_eq!(within(ends.recv()).await.unwrap(), (b"afterwards".to_vec(), End::Clean));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_through_two_sidecars() {
    let (app, mut ends) = shouting_app().await;
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    talks(pair.entry, &mut ends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_from_a_caller_outside_the_mesh() {
    let (app, mut ends) = shouting_app().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    talks(pair.inbound, &mut ends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g11_to_an_endpoint_outside_the_mesh() {
    let (app, mut ends) = shouting_app().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let (target, outside) = destination("legacy", Protocol::Http1, vec![endpoint(app, None)]);
    pair.plane.change(|world| {
        world.destinations.insert(target, outside);
    });
    let mut config = pair.plane.config("web-1", "web");
    let entry = free_port();
    config.outbound.listeners.push(mesh_proxy::config::OutboundListener { listen: entry, to: "legacy.shop:80".into() });
    let proxy = Proxy::start(config).await;
    talks(entry, &mut ends).await;
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g12_g13_without_agreement_there_is_no_tunnel() {
    let app = app(|mut wire, _| async move {
        while let Some((head, _)) = wire.message().await {
            let answer = match head.split(' ').nth(1).unwrap() {
                "/chat" => "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno".to_owned(),
                "/busy" => "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n".to_owned(),
                path => ok(path),
            };
            wire.send(answer).await;
        }
    })
    .await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    for address in [pair.entry, pair.inbound] {
        let mut wire = Wire::connect(address).await;
        // What follows the refused one is a request, and read as one.
        wire.send(format!("{ASK}GET /next HTTP/1.1\r\nHost: cart\r\n\r\n")).await;
        let (head, body) = wire.message().await.unwrap();
        assert_eq!((status(&head), &*body), (200, &b"no"[..]), "{head}");
        assert_eq!(wire.message().await.unwrap().1, b"/next");
        wire.send(ASK.replace("/chat", "/busy")).await;
        assert_eq!(status(&wire.message().await.unwrap().0), 426);
        wire.send("GET /last HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        assert_eq!(wire.message().await.unwrap().1, b"/last");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g10_h2c_is_never_agreed_on_behind_the_proxy() {
    let (app, _) = apps::echo().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    for address in [pair.entry, pair.inbound] {
        let mut wire = Wire::connect(address).await;
        wire.send(
            "GET / HTTP/1.1\r\nHost: cart\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
        )
        .await;
        let (head, body) = wire.message().await.unwrap();
        let seen = String::from_utf8(body).unwrap();
        assert_eq!(status(&head), 200);
        assert!(field(&seen, "upgrade").is_none() && field(&seen, "http2-settings").is_none(), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g15_a_tunnel_that_breaks_breaks_on_both_sides_and_leaves_nothing() {
    let (app, mut ends) = shouting_app().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    for address in [pair.entry, pair.inbound] {
        let wire = upgraded(address).await;
        socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(wire);
        within(ends.recv()).await.unwrap();
        // Nothing of it is met by the next request.
        let mut wire = Wire::connect(address).await;
        wire.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        assert_eq!(wire.message().await.unwrap().1, b"plain");
    }
    until("no connection is counted", async || {
        pair.server.metric(&["mesh_connections_open", "inbound"]).await == Some(1.0)
            && pair.client.metric(&["mesh_connections_open", "outbound"]).await == Some(0.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_count_as_connections_and_are_drained_as_such() {
    let (app, _ends) = shouting_app().await;
    let Pair { plane: _plane, client, server, entry, inbound } =
        Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let mut meshed = upgraded(entry).await;
    let mut plain = upgraded(inbound).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.metric(&["mesh_connections_open", "outbound"]).await, Some(1.0));
    assert_eq!(server.metric(&["mesh_connections_open", "inbound"]).await, Some(2.0));
    let stopping = tokio::spawn(server.stop());
    tokio::time::sleep(Duration::from_millis(300)).await;
    for wire in [&mut meshed, &mut plain] {
        wire.send("still here\n").await;
        assert_eq!(wire.through("\n").await.as_deref(), Some("STILL HERE\n"));
    }
    assert!(!stopping.is_finished());
    for wire in [&mut meshed, &mut plain] {
        wire.stream.shutdown().await.unwrap();
        assert_eq!(wire.rest().await.1, End::Clean);
    }
    // Long before the time for draining is over.
    tokio::time::timeout(Duration::from_secs(3), stopping).await.unwrap().unwrap();
    client.stop().await;
}
