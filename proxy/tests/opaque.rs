//! Connections that are not HTTP, through two sidecars: breaks look like breaks, pauses are nobody's business.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{net::SocketAddr, time::Duration};

use mesh_api::model::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::{
    apps::{End, Wire, app, text, within},
    mesh::{Pair, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

async fn pair(app: SocketAddr) -> Pair {
    Pair::start(app, Protocol::Opaque, open(Protocol::Opaque)).await
}

const MUCH: usize = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_may_rest_longer_than_a_peer_may_be_gone() {
    let app = app(|mut wire, _| async move {
        let all = text(0, MUCH);
        // More than all buffers on the way hold: it is waiting for the reader.
        let sent = tokio::time::timeout(Duration::from_secs(120), wire.stream.write_all(&all)).await;
        assert!(sent.is_ok_and(|sent| sent.is_ok()), "broken off");
        wire.stream.shutdown().await.unwrap();
    })
    .await;
    let pair = pair(app).await;
    let mut wire = Wire::connect(pair.entry).await;
    tokio::time::sleep(Duration::from_secs(36)).await;
    let mut at = 0;
    let mut piece = vec![0; 64 << 10];
    loop {
        match within(wire.stream.read(&mut piece)).await.unwrap_or_else(|error| panic!("{error} at {at}")) {
            0 => break,
            read => at += read,
        }
    }
    assert_eq!(at, MUCH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_on_either_side_is_a_reset_on_the_other() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let app = app(move |mut wire, number| {
        let tell = tell.clone();
        async move {
            wire.bytes(5).await;
            wire.send("world").await;
            if number == 0 {
                // Whoever resets: the application first, the client then.
                wire.bytes(3).await;
                socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
                return;
            }
            let (rest, end) = wire.rest().await;
            assert_eq!((&*rest, end), (&b"end"[..], End::Reset));
            tell.send(()).unwrap();
        }
    })
    .await;
    let pair = pair(app).await;
    for number in 0..2 {
        let mut wire = Wire::connect(pair.entry).await;
        wire.send("hello").await;
        assert_eq!(wire.bytes(5).await, b"world");
        wire.send("end").await;
        if number == 0 {
            assert_eq!(wire.rest().await, (vec![], End::Reset));
            continue;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(wire);
        within(told.recv()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_listens_first_learns_that_its_server_left_or_is_not_there() {
    let closes = app(|_, _| async {}).await;
    let resets = app(|wire, _| async move {
        socket2::SockRef::from(&wire.stream).set_linger(Some(Duration::ZERO)).unwrap();
    })
    .await;
    for (server, end) in [(closes, End::Clean), (resets, End::Reset), (mesh::free_port(), End::Reset)] {
        for protocol in [Protocol::Detect, Protocol::Opaque] {
            let pair = Pair::start(server, protocol, open(protocol)).await;
            for address in [pair.entry, pair.inbound] {
                let mut wire = Wire::connect(address).await;
                let ended = tokio::time::timeout(Duration::from_secs(3), wire.rest()).await;
                assert_eq!(ended.expect("left waiting"), (vec![], end), "{protocol:?}");
            }
        }
    }
}
