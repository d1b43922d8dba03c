//! The programs of the demo, one role each. They know nothing of the mesh but the addresses in their environment.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use anyhow::Context;
use bytes::Bytes;
use mesh_api::supervise::terminated;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    grpc::{self, Inventory},
    http::{self, Body, Client, Version, trace_headers},
};

/// Header in which payments say their version.
pub const VERSION_HEADER: &str = "demo-version";
/// Longest line that the store reads, in bytes.
const MAX_LINE: u64 = 256;
/// One call of the store, or of inventory, takes at most this long.
const CALL: Duration = Duration::from_secs(5);
/// Calls that the load generator has in flight.
const IN_FLIGHT: usize = 64;

/// What a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// The shop's face: calls cart.
    Web,
    /// Calls payments and inventory.
    Cart,
    /// Takes money; there are two versions.
    Payments,
    /// Answers over gRPC; calls store.
    Inventory,
    /// Answers lines over TCP.
    Store,
    /// Calls payments, and should not.
    Intruder,
    /// Calls web again and again.
    Loadgen,
}

/// Runs a program until it is told to end.
///
/// # Errors
/// Where it cannot listen, or an upstream is not in its environment.
pub async fn run(role: Role, listen: SocketAddr, version: String, rate: u32) -> anyhow::Result<()> {
    match role {
        Role::Web => web(listen).await,
        Role::Cart => cart(listen).await,
        Role::Payments => payments(listen, version).await,
        Role::Inventory => inventory(listen).await,
        Role::Store => store(listen).await,
        Role::Intruder => caller("PAYMENTS", "/pay", 1).await,
        Role::Loadgen => caller("WEB", "/", rate).await,
    }
}

/// Where an upstream is reached.
fn upstream(name: &str) -> anyhow::Result<SocketAddr> {
    let variable = format!("MESH_UPSTREAM_{name}");
    let text = std::env::var(&variable).with_context(|| format!("{variable} is not set; `meshctl up` sets it"))?;
    text.parse().with_context(|| format!("{variable} is not IP:PORT"))
}

async fn web(listen: SocketAddr) -> anyhow::Result<()> {
    let cart = Client::new(upstream("CART")?, "cart.demo");
    http::serve(listen, Version::One, move |headers, _| {
        let cart = cart.clone();
        async move { pass_on(cart.call(Method::GET, "/cart", trace_headers(&headers), Bytes::new()).await, "web") }
    })
    .await
}

async fn cart(listen: SocketAddr) -> anyhow::Result<()> {
    let payments = Client::new(upstream("PAYMENTS")?, "payments.demo");
    let inventory = Arc::new(Inventory::new(upstream("INVENTORY")?));
    http::serve(listen, Version::One, move |headers, _| {
        let (payments, inventory) = (payments.clone(), Arc::clone(&inventory));
        async move {
            let trace = trace_headers(&headers);
            let reserving = async {
                timeout(CALL, inventory.reserve("book", trace.clone())).await.context("inventory takes too long")?
            };
            let paying = payments.call(Method::POST, "/pay", trace.clone(), Bytes::from_static(b"42"));
            match tokio::join!(reserving, paying) {
                (Ok(_), paid) => pass_on(paid, "cart"),
                (Err(error), _) => http::status(StatusCode::BAD_GATEWAY, format!("cart: {error:#}\n")),
            }
        }
    })
    .await
}

/// The upstream's answer with our name in front; an upstream that does not answer is said.
fn pass_on(result: anyhow::Result<Response<Bytes>>, name: &str) -> Response<Body> {
    match result {
        Ok(response) => {
            let said = String::from_utf8_lossy(response.body());
            let mut out = http::status(response.status(), format!("{name} < {said}"));
            if let Some(version) = response.headers().get(VERSION_HEADER) {
                out.headers_mut().insert(VERSION_HEADER, version.clone());
            }
            out
        }
        Err(error) => http::status(StatusCode::BAD_GATEWAY, format!("{name}: {error:#}\n")),
    }
}

async fn payments(listen: SocketAddr, version: String) -> anyhow::Result<()> {
    let name = HeaderValue::from_str(&version).context("the version is no header value")?;
    http::serve(listen, Version::One, move |_, _| {
        let mut response = http::status(StatusCode::OK, format!("payments {version}\n"));
        response.headers_mut().insert(VERSION_HEADER, name.clone());
        std::future::ready(response)
    })
    .await
}

async fn inventory(listen: SocketAddr) -> anyhow::Result<()> {
    let store = upstream("STORE")?;
    http::serve(listen, Version::Two, move |_, body| async move {
        let Some(item) = grpc::message(&body) else { return grpc::answer(Err("this is no message".into())) };
        let asked = timeout(CALL, ask_store(store, item)).await;
        grpc::answer(match asked {
            Ok(Ok(left)) => Ok(left),
            Ok(Err(error)) => Err(format!("store: {error}")),
            Err(_) => Err("store takes too long".into()),
        })
    })
    .await
}

async fn ask_store(store: SocketAddr, item: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(store).await?;
    stream.write_all(format!("{item}\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).take(MAX_LINE).read_line(&mut line).await?;
    match line.trim() {
        "" => Err(std::io::Error::other("the connection ended without an answer")),
        left => Ok(left.to_owned()),
    }
}

async fn store(listen: SocketAddr) -> anyhow::Result<()> {
    let (stop, stopping) = watch::channel(false);
    let each = move |stream: TcpStream| {
        let mut stopping = stopping.clone();
        async move {
            tokio::select! {
                // A connection that breaks off concerns its client only.
                _ = lines(stream) => {}
                _ = stopping.wait_for(|stop| *stop) => {}
            }
        }
    };
    http::accept(listen, each, stop).await
}

async fn lines(mut stream: TcpStream) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut read).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        write.write_all(format!("{} of {}\n", 42, line.trim()).as_bytes()).await?;
    }
}

/// Calls an upstream `rate` times a second, and says every answer that is new.
async fn caller(name: &str, path: &'static str, rate: u32) -> anyhow::Result<()> {
    let client = Client::new(upstream(name)?, &format!("{}.demo", name.to_ascii_lowercase()));
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut tick = interval(Duration::from_secs(1) / rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let end = terminated();
    tokio::pin!(end);
    let (said, _) = watch::channel(String::new());
    let mut calls = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            Some(_) = calls.join_next() => continue,
            _ = tick.tick() => {}
        }
        // Where all are in flight, the call is left out: a slow mesh gets no more than it can take.
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (client, said) = (client.clone(), said.clone());
        calls.spawn(async move {
            let answer = match client.call(Method::GET, path, HeaderMap::new(), Bytes::new()).await {
                Ok(response) => format!("{path}: {}", response.status()),
                Err(error) => format!("{path}: {error:#}"),
            };
            let new = said.send_if_modified(|last| std::mem::replace(last, answer.clone()) != answer);
            if new {
                println!("{answer}");
            }
            drop(slot);
        });
    }
}
