//! What must not grow: memory while large bodies pass, descriptors over many requests, connections beyond their slots.
//! Each test looks at the whole process, so they run one after the other.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use mesh_api::model::Protocol;
use tokio::sync::{Mutex, MutexGuard};

use self::{
    apps::{
        Wire, bare, byte_at, descriptors, echo, h2_app, h2_client, request, resident, send_all, text, until, within,
    },
    mesh::{Pair, Proxy, free_port, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

async fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::const_new(());
    ONE.lock().await
}

const LARGE: usize = 50 << 20;
const PIECE: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g34_large_bodies_both_ways_arrive_as_they_are_and_take_no_memory() {
    let _alone = alone().await;
    let app = h2_app(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let mut body = request.into_body();
        let mut stream = respond.send_response(bare(200), false).unwrap();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            send_all(&mut stream, data.clone(), false).await.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let pair = Pair::start(app, Protocol::Http2, open(Protocol::Http2)).await;
    let mut client = h2_client(pair.entry).await;
    let before = resident();
    let (response, mut stream) = client.send_request(request("POST", "/"), false).unwrap();
    let upload = async {
        for at in (0..LARGE).step_by(PIECE) {
            send_all(&mut stream, text(at, PIECE), at + PIECE == LARGE).await.unwrap();
        }
    };
    let download = async {
        let mut body = within(response).await.unwrap().into_body();
        let (mut at, mut most) = (0, 0);
        while let Some(data) = within(body.data()).await {
            let data = data.unwrap();
            let wrong = data.iter().enumerate().find(|(n, byte)| **byte != byte_at(at + n));
            assert_eq!(wrong, None, "from {at} on");
            at += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
            most = most.max(resident());
        }
        assert_eq!(at, LARGE);
        most
    };
    let both = async { tokio::join!(upload, download) };
    let (_, most) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 24, "{grown} MB more while 50 MB passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g34_large_bodies_of_http1_too() {
    let _alone = alone().await;
    let app = apps::app(|mut wire, _| async move {
        let head = wire.head().await.unwrap();
        let length: usize = apps::field(&head, "content-length").unwrap().parse().unwrap();
        wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
        let mut left = length;
        while left > 0 {
            let some = wire.bytes(left.min(PIECE)).await;
            left -= some.len();
            wire.send(&some).await;
        }
    })
    .await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let before = resident();
    let (mut read, mut write) = Wire::connect(pair.entry).await.stream.into_split();
    let upload = async {
        use tokio::io::AsyncWriteExt;
        let head = format!("POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: {LARGE}\r\n\r\n");
        write.write_all(head.as_bytes()).await.unwrap();
        for at in (0..LARGE).step_by(PIECE) {
            write.write_all(&text(at, PIECE)).await.unwrap();
        }
    };
    let download = async {
        use tokio::io::AsyncReadExt;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(read.read_u8().await.unwrap());
        }
        assert!(String::from_utf8(head).unwrap().contains(&format!("content-length: {LARGE}\r\n")));
        let (mut at, mut most) = (0, 0);
        let mut piece = vec![0; PIECE];
        while at < LARGE {
            let got = within(read.read(&mut piece)).await.unwrap();
            assert!(got > 0, "cut at {at}");
            let wrong = piece[..got].iter().enumerate().find(|(n, byte)| **byte != byte_at(at + n));
            assert_eq!(wrong, None, "from {at} on");
            at += got;
            most = most.max(resident());
        }
        most
    };
    let both = async { tokio::join!(upload, download) };
    let (_, most) = tokio::time::timeout(Duration::from_secs(60), both).await.unwrap();
    let grown = most.saturating_sub(before) >> 20;
    assert!(grown < 24, "{grown} MB more while 50 MB passed");
}

/// One request over a connection of its own.
async fn once(entry: SocketAddr, method: &str) {
    let mut wire = Wire::connect(entry).await;
    wire.send(format!("{method} / HTTP/1.1\r\nHost: cart\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")).await;
    let (answer, _) = wire.rest().await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_a_thousand_requests_leave_nothing_behind() {
    let _alone = alone().await;
    let (app, requests) = echo().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    for _ in 0..50 {
        once(pair.entry, "GET").await;
        once(pair.entry, "POST").await;
    }
    // What was kept to the application for the next request is closed by then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before = descriptors();
    for _ in 0..25 {
        futures_util::future::join_all((0..20).map(|_| once(pair.entry, "GET"))).await;
        futures_util::future::join_all((0..20).map(|_| once(pair.entry, "POST"))).await;
    }
    assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), 1100);
    until("descriptors are closed", async || descriptors() <= before + 2).await;
    for (proxy, direction) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        let open = proxy.metric(&["mesh_connections_open", direction]).await.unwrap();
        assert!(open <= 1.0, "{direction}: {open}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_slots_wait_for_their_turn() {
    let _alone = alone().await;
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let mut config = pair.plane.config("web-1", "web");
    config.outbound.max_connections = 4;
    let entries = [free_port(), free_port(), free_port()];
    for listen in entries {
        config.outbound.listeners.push(mesh_proxy::config::OutboundListener { listen, to: "cart.shop:80".into() });
    }
    let proxy = Proxy::start(config).await;
    let ask = "GET / HTTP/1.1\r\nHost: cart\r\n\r\n";
    // All slots are there for one listener, though others wait for connections too.
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut wire = Wire::connect(entries[0]).await;
        wire.send(ask).await;
        assert!(wire.message().await.is_some());
        held.push(wire);
    }
    let mut more = Vec::new();
    for entry in entries {
        let mut wire = Wire::connect(entry).await;
        wire.send(ask).await;
        let mut byte = [0; 1];
        let early = tokio::time::timeout(Duration::from_millis(200), wire.stream.peek(&mut byte)).await;
        assert!(early.is_err(), "served beyond the limit");
        more.push(wire);
    }
    for mut waiting in more {
        drop(held.remove(0));
        assert!(waiting.message().await.is_some(), "a slot is free, and taken");
        held.push(waiting);
    }
    proxy.stop().await;
}
