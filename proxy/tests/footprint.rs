//! What an idle proxy costs in memory: little, and no more in a large mesh than in a small one.
//!
//! The release build is measured, the one that images are made of: run `scripts/images.sh` first, or
//! `cargo build --release -p mesh-proxy`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_api::model::{Protocol, destination::Endpoint};
use mesh_proxy::config::{Config, OutboundListener};

use self::mesh::{Plane, destination, endpoint, free_port, get, open, policy};

#[path = "support/mesh.rs"]
mod mesh;

/// The most that a proxy may hold right after it is ready, in KiB.
const LIMIT: u64 = 15_000_000 / 1024;
/// The most that a large mesh may add, in KiB.
const GROWTH: u64 = 1_000_000 / 1024;
/// Services of the large mesh that the proxy does not call.
const OTHERS: u16 = 2_000;
/// Memory differs a little from start to start: the least of several counts.
const STARTS: usize = 3;

/// The release build, beside the debug build that runs with this test: the younger one, where there are several.
fn release() -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_mesh-proxy")).parent().unwrap();
    let image = format!("{}-unknown-linux-gnu/image", std::env::consts::ARCH);
    let built = ["release", &image].map(|profile| debug.with_file_name(profile).join("mesh-proxy"));
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let binary = built.into_iter().filter(|path| path.is_file()).max_by_key(age);
    binary.expect("there is no release build: run `scripts/images.sh` or `cargo build --release -p mesh-proxy` first")
}

/// A running proxy; dropped, it is killed.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxy {
    async fn start(mut config: Config, folder: &Path) -> Self {
        config.admin.listen = free_port();
        let file = folder.join("proxy.json");
        std::fs::write(&file, serde_json::to_string(&config).unwrap()).unwrap();
        let mut command = Command::new(release());
        command.arg("--config").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut proxy = Self(command.spawn().unwrap());
        proxy.until_ready(config.admin.listen).await;
        proxy
    }

    async fn until_ready(&mut self, admin: SocketAddr) {
        for _ in 0..1000 {
            if matches!(get(admin, "/ready").await, Ok((200, _))) {
                return;
            }
            assert!(self.0.try_wait().unwrap().is_none(), "the proxy ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the proxy was not ready in time");
    }

    /// Resident memory, in KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

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
        least = least.min(Proxy::start(config.clone(), folder.path()).await.resident());
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
