//! Handshakes of sidecars at the proxy's real listener: roots that come and go, callers that take their time.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_api::{
    model::{
        Protocol,
        policy::{PortPolicy, Transport},
    },
    names,
    tls::Keeper,
};

use self::{
    apps::{Wire, echo, recorder, until},
    mesh::{Pair, Root, id, open, trust},
    peers::{connect, keeper},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/peers.rs"]
mod peers;

fn strict(protocol: Protocol) -> PortPolicy {
    PortPolicy { transport: Transport::Strict, ..open(protocol) }
}

/// A request over the link of a peer; `None` where the connection was refused.
async fn asks(address: SocketAddr, keeper: &Arc<Keeper>) -> Option<String> {
    let stream = connect(address, keeper, id("cart"), names::ALPN_MESH_HTTP).await.ok()?;
    let (client, connection) = h2::client::handshake(stream).await.ok()?;
    let driving = tokio::spawn(connection);
    let answer = apps::fetch(&client, apps::request("GET", "/")).await;
    driving.abort();
    answer.ok().map(|answer| String::from_utf8(answer.body).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f36_a_root_that_was_removed_is_not_trusted_any_more() {
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Http1, strict(Protocol::Http1)).await;
    let (old, new) = (&pair.plane.root, Root::new());
    let under_old = keeper(old, Some(old), "web");
    let under_new = keeper(old, Some(&new), "web");
    assert!(asks(pair.inbound, &under_old).await.is_some());
    assert!(asks(pair.inbound, &under_new).await.is_none());
    old.trust.send_replace(trust(&[&old.der, &new.der]));
    until("the new root is trusted", async || asks(pair.inbound, &under_new).await.is_some()).await;
    assert!(asks(pair.inbound, &under_old).await.is_some());
    old.trust.send_replace(trust(&[&old.der]));
    let begun = Instant::now();
    until("the root is gone", async || asks(pair.inbound, &under_new).await.is_none()).await;
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(asks(pair.inbound, &under_old).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e16_handshakes_that_stop_are_given_up() {
    let (app, log) = recorder().await;
    let pair = Pair::start(app, Protocol::Detect, strict(Protocol::Detect)).await;
    let hello = {
        let member = keeper(&pair.plane.root, Some(&pair.plane.root), "web");
        let alpn = [names::ALPN_MESH_HTTP];
        let config =
            mesh_api::tls::client_config(&member, mesh_api::sys::Sys::host().clock, id("cart"), &alpn).unwrap();
        let mut hello = Vec::new();
        let name = mesh_api::tls::no_name();
        rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut hello).unwrap();
        hello
    };
    let begun = Instant::now();
    // Nothing; a byte; most of a hello; all of it; a byte a second.
    let stops = [0, 1, hello.len() - 1, hello.len()].map(|some| {
        let some = hello[..some].to_vec();
        async move {
            let mut wire = Wire::connect(pair.inbound).await;
            wire.send(some).await;
            wire.rest().await;
        }
    });
    let drip = async {
        let mut wire = Wire::connect(pair.inbound).await;
        for byte in &hello {
            if !wire.try_send([*byte]).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let all = async { tokio::join!(futures_util::future::join_all(stops), drip) };
    tokio::time::timeout(Duration::from_secs(14), all).await.expect("all are given up");
    assert!(begun.elapsed() > Duration::from_secs(8));
    assert_eq!(log.text(), "");
    // E17: at once, but each byte by itself.
    let mut wire = Wire::connect(pair.inbound).await;
    for byte in &hello {
        wire.send([*byte]).await;
    }
    assert_eq!(wire.bytes(1).await, [0x16], "a ServerHello");
}
