//! Streams on which nothing is said for long, through two sidecars, in virtual time: nobody cuts them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_api::{model::Protocol, sys::Sys};
use mesh_proxy::config::{Config, InboundListener, OutboundListener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep},
};
use turmoil::{
    Sim,
    net::{TcpListener, TcpStream},
};

use self::mesh::{Plane, destination, endpoint, open, policy};

#[path = "support/mesh.rs"]
mod mesh;

const SILENCE: Duration = Duration::from_secs(900);
const PLANE: u16 = 4000;
const ENTRY: u16 = 8000;
const INBOUND: u16 = 8080;
const APP: u16 = 9000;

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], port))
}

fn proxy(sim: &mut Sim<'_>, name: &str, mut config: Config, seed: u64, epoch: SystemTime) {
    config.admin.listen = any(15490);
    sim.host(name, move || {
        let config = config.clone();
        async move {
            mesh_proxy::app::run_here(config, Sys::sim(seed, epoch), std::future::pending()).await.map_err(Into::into)
        }
    });
}

/// Up to and with `mark`.
async fn through(stream: &mut TcpStream, mark: &str) -> Option<String> {
    let mut seen = Vec::new();
    while !seen.ends_with(mark.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        seen.push(byte[0]);
    }
    Some(String::from_utf8(seen).unwrap())
}

/// Is silent where the path says so.
async fn application() -> turmoil::Result {
    let listener = TcpListener::bind(any(APP)).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            while let Some(head) = through(&mut stream, "\r\n\r\n").await {
                let path = head.split(' ').nth(1).unwrap();
                if path == "/upload" {
                    assert_eq!(through(&mut stream, "end\n").await.unwrap(), "begin end\n");
                }
                let answer: &[&str] = match path {
                    "/events" => &[
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n",
                        "4\r\ntwo\n\r\n",
                        "6\r\nthree\n\r\n0\r\n\r\n",
                    ],
                    "/poll" => &["", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nlate\n"],
                    "/tunnel" => &[
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: quiet\r\n\r\none\n",
                        "two\n",
                    ],
                    _ => &["HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnow\n"],
                };
                for (nth, part) in answer.iter().enumerate() {
                    if nth > 0 {
                        sleep(SILENCE).await;
                    }
                    if stream.write_all(part.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// Asks on a connection; `lines` is what comes, each after a silence but the first.
async fn listens(entry: SocketAddr, head: &str, lines: &[&str]) {
    let mut stream = TcpStream::connect(entry).await.unwrap();
    stream.write_all(format!("GET {head}\r\nHost: cart\r\n\r\n").as_bytes()).await.unwrap();
    let mut begun = Instant::now();
    for (nth, line) in lines.iter().enumerate() {
        let mut seen = through(&mut stream, "\n").await.unwrap_or_else(|| panic!("{head} was cut before {line}"));
        while seen != format!("{line}\n") {
            seen = through(&mut stream, "\n").await.unwrap_or_else(|| panic!("{head} was cut before {line}"));
        }
        assert!(
            nth == 0 || begun.elapsed() + Duration::from_secs(1) > SILENCE,
            "{head}: {line} after {:?}",
            begun.elapsed()
        );
        begun = Instant::now();
    }
}

/// A connection that rests between two requests is the application's to close.
async fn returns(entry: SocketAddr) {
    let mut stream = TcpStream::connect(entry).await.unwrap();
    for _ in 0..2 {
        stream.write_all(b"GET /now HTTP/1.1\r\nHost: cart\r\n\r\n").await.unwrap();
        through(&mut stream, "now\n").await.expect("the connection was closed while it rested");
        sleep(SILENCE).await;
    }
}

/// A body whose sender pauses.
async fn uploads(entry: SocketAddr) {
    let mut stream = TcpStream::connect(entry).await.unwrap();
    let head = "POST /upload HTTP/1.1\r\nHost: cart\r\nContent-Length: 10\r\n\r\nbegin ";
    stream.write_all(head.as_bytes()).await.unwrap();
    sleep(SILENCE).await;
    stream.write_all(b"end\n").await.unwrap();
    through(&mut stream, "now\n").await.expect("an answer");
}

#[test]
fn silent_streams_are_not_cut() {
    let epoch = SystemTime::now();
    let mut builder = turmoil::Builder::new();
    builder.rng_seed(7).epoch(epoch).tick_duration(Duration::from_millis(20));
    builder.simulation_duration(SILENCE * 4).tcp_capacity(1024);
    let mut sim = builder.build();
    let at = |sim: &Sim<'_>, host: &str, port: u16| SocketAddr::new(sim.lookup(host), port);
    let (authority, controller) = (at(&sim, "authority", PLANE), at(&sim, "controller", PLANE));
    let (inbound, entry, app) = (at(&sim, "cart", INBOUND), at(&sim, "web", ENTRY), at(&sim, "app", APP));
    let plane = Plane::at([authority, controller]);
    let (target, known) = destination("cart", Protocol::Http1, vec![endpoint(inbound, Some("cart"))]);
    plane.change(|world| {
        world.destinations.insert(target, known);
        for name in ["web", "cart"] {
            world.inbound.insert(format!("{name}-1"), policy(&format!("{name}-1"), name, open(Protocol::Http1)));
        }
    });
    let (root, world) = (Arc::clone(&plane.root), plane.world.subscribe());
    sim.host("authority", move || {
        let root = Arc::clone(&root);
        async move {
            mesh::serve_authority(&Sys::sim(1, epoch), any(PLANE), &root).await;
            std::future::pending().await
        }
    });
    let root = Arc::clone(&plane.root);
    sim.host("controller", move || {
        let (root, world) = (Arc::clone(&root), world.clone());
        async move {
            mesh::serve_controller(&Sys::sim(2, epoch), any(PLANE), &root, world).await;
            std::future::pending().await
        }
    });
    let mut config = plane.config("cart-1", "cart");
    config.inbound.listeners.push(InboundListener { listen: any(INBOUND), app });
    proxy(&mut sim, "cart", config, 3, epoch);
    let mut config = plane.config("web-1", "web");
    config.outbound.listeners.push(OutboundListener { listen: any(ENTRY), to: "cart.shop:80".into() });
    proxy(&mut sim, "web", config, 4, epoch);
    sim.host("app", application);
    sim.client("caller", async move {
        // Everything has started by then.
        sleep(Duration::from_secs(20)).await;
        tokio::join!(
            listens(entry, "/events HTTP/1.1", &["one", "two", "three"]),
            listens(entry, "/poll HTTP/1.1", &["HTTP/1.1 200 OK\r"]),
            listens(entry, "/tunnel HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: quiet", &["one", "two"]),
            returns(entry),
            uploads(entry),
        );
        Ok(())
    });
    sim.run().unwrap();
}
