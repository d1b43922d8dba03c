//! What an idle proxy costs in memory: little, and no more in a large mesh than in a small one.
//!
//! The release build is measured, the one that images are made of: run `scripts/images.sh` first, or
//! `cargo build --release -p mesh-proxy`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::net::SocketAddr;

use mesh_api::model::{Protocol, destination::Endpoint};
use mesh_proxy::config::{Config, OutboundListener};

use self::{
    mesh::{Plane, destination, endpoint, free_port, open, policy},
    release::Proxy,
};

#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/release.rs"]
mod release;

/// The most that a proxy may hold right after it is ready, in KiB.
const LIMIT: u64 = 15_000_000 / 1024;
/// The most that a large mesh may add, in KiB.
const GROWTH: u64 = 1_000_000 / 1024;
/// Services of the large mesh that the proxy does not call.
const OTHERS: u16 = 2_000;
/// Memory differs a little from start to start: the least of several counts.
const STARTS: usize = 3;

/// A mesh of one service that the proxy calls, and `others` that it does not.
async fn plane(others: u16) -> (Plane, Config) {
    let plane = Plane::start().await;
    let endpoints = |nth: u16| -> Vec<Endpoint> {
        let [high, low] = nth.to_be_bytes();
        (1..=5).map(|host| endpoint(SocketAddr::from(([10, high, low, host], 8080)), Some("other"))).collect()
    };
    plane.change(|world| {
        let (target, known) = destination("cart", Protocol::Detect, endpoints(0));
        world.destinations.insert(target, known);
        world.inbound.insert("web-1".into(), policy("web-1", "web", open(Protocol::Detect)));
        for nth in 1..=others {
            let name = format!("other-{nth}");
            let (target, known) = destination(&name, Protocol::Detect, endpoints(nth));
            world.destinations.insert(target, known);
            world.inbound.insert(name.clone(), policy(&name, "other", open(Protocol::Detect)));
        }
    });
    let mut config = plane.config("web-1", "web");
    config.outbound.listeners.push(OutboundListener { listen: free_port(), to: "cart.shop:80".into() });
    (plane, config)
}

/// The least of several starts, in KiB.
async fn least(others: u16) -> u64 {
    let (_plane, config) = plane(others).await;
    let folder = tempfile::tempdir().unwrap();
    let mut least = u64::MAX;
    for _ in 0..STARTS {
        least = least.min(Proxy::start(config.clone(), folder.path(), &[]).await.resident());
    }
    least
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_proxy_is_small_and_stays_so_in_a_large_mesh() {
    let (small, large) = (least(0).await, least(OTHERS).await);
    println!("an idle proxy holds {small} KiB; with {OTHERS} other services in the mesh {large} KiB");
    assert!(small <= LIMIT, "{small} KiB are more than {LIMIT}");
    assert!(large <= small + GROWTH, "{OTHERS} services that it does not call cost {} KiB", large - small);
}
