//! A client's proxy, and several instances of the service it calls, each behind a proxy of its own and a relay that can be
//! cut: that is what a machine does that fails.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_api::model::{Protocol, destination::Endpoint};
use mesh_proxy::config::{InboundListener, OutboundListener};
use tokio::{net::TcpListener, task::JoinHandle};

use super::{
    apps::{Wire, status},
    mesh::{Plane, Proxy, destination, endpoint, free_port, open, policy},
};

/// Passes connections on until it is cut.
pub struct Relay {
    pub address: SocketAddr,
    tasks: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Relay {
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let carried = Arc::clone(&tasks);
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let carry = tokio::spawn(async move {
                    // A relay that is cut resets.
                    socket2::SockRef::from(&near).set_linger(Some(Duration::ZERO)).unwrap();
                    near.set_nodelay(true).unwrap();
                    let Ok(mut far) = tokio::net::TcpStream::connect(to).await else { return };
                    far.set_nodelay(true).unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                carried.lock().unwrap().push(carry);
            }
        });
        tasks.lock().unwrap().push(accepting);
        Self { address, tasks }
    }

    /// Nothing passes any more, in either direction, nor ever will.
    pub fn cut(&self) {
        for task in self.tasks.lock().unwrap().drain(..) {
            task.abort();
        }
    }
}

pub struct Fleet {
    pub plane: Plane,
    pub client: Proxy,
    pub servers: Vec<Proxy>,
    pub relays: Vec<Relay>,
    pub entry: SocketAddr,
}

impl Fleet {
    /// One instance for each application.
    pub async fn start(apps: &[SocketAddr], protocol: Protocol) -> Self {
        let plane = Plane::start().await;
        let (mut servers, mut relays) = (Vec::new(), Vec::new());
        for (nth, app) in apps.iter().enumerate() {
            let (inbound, workload) = (free_port(), format!("cart-{nth}"));
            plane.change(|world| {
                world.inbound.insert(workload.clone(), policy(&workload, "cart", open(protocol)));
            });
            let mut config = plane.config(&workload, "cart");
            config.inbound.listeners.push(InboundListener { listen: inbound, app: *app });
            servers.push(Proxy::start(config).await);
            relays.push(Relay::start(inbound).await);
        }
        let endpoints = relays.iter().map(|relay| endpoint(relay.address, Some("cart"))).collect();
        Self::with(plane, servers, relays, endpoints, protocol).await
    }

    /// A client of these endpoints.
    pub async fn with(
        plane: Plane,
        servers: Vec<Proxy>,
        relays: Vec<Relay>,
        endpoints: Vec<Endpoint>,
        protocol: Protocol,
    ) -> Self {
        let entry = free_port();
        let (target, destination) = destination("cart", protocol, endpoints);
        plane.change(|world| {
            world.destinations.insert(target, destination);
            world.inbound.insert("web-1".into(), policy("web-1", "web", open(Protocol::Detect)));
        });
        let mut config = plane.config("web-1", "web");
        config.outbound.listeners.push(OutboundListener { listen: entry, to: "cart.shop:80".into() });
        let client = Proxy::start(config).await;
        Self { plane, client, servers, relays, entry }
    }
}

/// Callers that ask one request after the other, each on a connection of its own, and count.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub good: Arc<AtomicUsize>,
    pub bad: Arc<Mutex<Vec<String>>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(entry: SocketAddr, methods: &[&'static str]) -> Self {
        let mut load = Self { stop: Arc::default(), good: Arc::default(), bad: Arc::default(), callers: Vec::new() };
        for (nth, method) in methods.iter().copied().enumerate() {
            let (stop, good, bad) = (Arc::clone(&load.stop), Arc::clone(&load.good), Arc::clone(&load.bad));
            load.callers.push(tokio::spawn(async move {
                let mut wire = None;
                for round in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut used: Wire = match wire.take() {
                        Some(wire) => wire,
                        None => Wire::connect(entry).await,
                    };
                    let ask = match method {
                        "GET" => format!("GET /{nth}/{round} HTTP/1.1\r\nHost: cart\r\n\r\n"),
                        method => {
                            let body = format!("{nth}-{round}").repeat(100);
                            let length = body.len();
                            format!("{method} /{nth}/{round} HTTP/1.1\r\nHost: cart\r\nContent-Length: {length}\r\n\r\n{body}")
                        }
                    };
                    let answer = if used.try_send(ask).await { used.message().await } else { None };
                    match answer {
                        Some((head, body)) if status(&head) == 200 => {
                            assert!(String::from_utf8_lossy(&body).contains(&format!("/{nth}/{round} ")));
                            good.fetch_add(1, Ordering::SeqCst);
                            wire = (!head.contains("close")).then_some(used);
                        }
                        Some((head, body)) => {
                            let text = format!("{method}: {head}{}", String::from_utf8_lossy(&body));
                            bad.lock().unwrap().push(text);
                        }
                        None => bad.lock().unwrap().push(format!("{method}: no answer")),
                    }
                }
            }));
        }
        load
    }

    /// Until so many more were answered well.
    pub async fn more(&self, count: usize) {
        let goal = self.good.load(Ordering::SeqCst) + count;
        super::apps::until("the load is carried", async || self.good.load(Ordering::SeqCst) >= goal).await;
    }

    /// How many failed, and how.
    pub async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::SeqCst);
        for caller in self.callers {
            super::apps::within(caller).await.unwrap();
        }
        std::mem::take(&mut *self.bad.lock().unwrap())
    }
}
