//! A mesh in one process, in virtual time, under a seed: certificate authority, controller, two proxies, an application
//! and a caller as hosts of a simulated network that can be cut and whose hosts can crash.
//!
//! What happens to whom, and when, is the same each time. Two things are not simulated: the keys of TLS, whose bytes
//! nobody sees, and files (roots, tokens), which are real. The network loses nothing by itself, knows no reset that
//! overtakes data, refuses a connection across a cut at once where a real one would let it wait, and takes a crash for one
//! of the whole machine: whoever connects to it hears nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    cell::RefCell,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_api::{model::Protocol, sys::Sys};
use mesh_proxy::config::{Config, InboundListener, OutboundListener};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};
use turmoil::{
    Sim,
    net::{TcpListener, TcpStream},
};

use self::mesh::{Plane, destination, endpoint, open, policy};

#[path = "support/mesh.rs"]
mod mesh;

const SEED: u64 = 0x6d65_7368;
/// Ports: of authority and controller, of the proxies' two sides, of the application.
const PLANE: u16 = 4000;
const ENTRY: u16 = 8000;
const INBOUND: u16 = 8080;
const APP: u16 = 9000;
const ADMIN: u16 = 15490;
/// Time between two requests.
const PACE: Duration = Duration::from_millis(250);
/// A request takes at most this long; the proxies' own limits are shorter.
const LIMIT: Duration = Duration::from_secs(8);
/// When the control plane is cut off, comes back, when the server's proxy crashes, starts again, when all is over.
/// The first is past the time in which everything starts; the cut is long enough for every keep-alive to notice.
const CUT: Duration = Duration::from_secs(10);
const REPAIRED: Duration = Duration::from_secs(50);
const CRASHED: Duration = Duration::from_secs(60);
const BOUNCED: Duration = Duration::from_secs(70);
const END: Duration = Duration::from_secs(80);

/// One request: when it began, how long it took, and its status line with what the mesh says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    at: Duration,
    took: Duration,
    result: String,
}

type Transcript = Rc<RefCell<Vec<Line>>>;

fn clock() -> Duration {
    turmoil::sim_elapsed().unwrap()
}

/// One run; what the caller saw.
fn run(seed: u64) -> Vec<Line> {
    let epoch = SystemTime::now();
    let mut builder = turmoil::Builder::new();
    // The same way always takes as long: the order in which two hosts act at one instant then moves nothing.
    let way = Duration::from_millis(2);
    builder.rng_seed(seed).epoch(epoch).min_message_latency(way).max_message_latency(way);
    builder.simulation_duration(END * 2).tcp_capacity(1024);
    let mut sim = builder.build();
    let at = |sim: &Sim<'_>, host: &str, port: u16| SocketAddr::new(sim.lookup(host), port);
    let (authority, controller) = (at(&sim, "authority", PLANE), at(&sim, "controller", PLANE));
    let (inbound, entry, app) = (at(&sim, "cart", INBOUND), at(&sim, "web", ENTRY), at(&sim, "app", APP));

    let plane = Plane::at([authority, controller]);
    let (target, known) = destination("cart", Protocol::Detect, vec![endpoint(inbound, Some("cart"))]);
    plane.change(|world| {
        world.destinations.insert(target, known);
        for name in ["web", "cart"] {
            world.inbound.insert(format!("{name}-1"), policy(&format!("{name}-1"), name, open(Protocol::Detect)));
        }
    });
    let any = |port| SocketAddr::from(([0, 0, 0, 0], port));
    let (root, world) = (Arc::clone(&plane.root), plane.world.subscribe());
    sim.host("authority", move || {
        let root = Arc::clone(&root);
        async move {
            mesh::serve_authority(&Sys::sim(seed + 1, epoch), any(PLANE), &root).await;
            std::future::pending().await
        }
    });
    let root = Arc::clone(&plane.root);
    sim.host("controller", move || {
        let (root, world) = (Arc::clone(&root), world.clone());
        async move {
            mesh::serve_controller(&Sys::sim(seed + 2, epoch), any(PLANE), &root, world).await;
            std::future::pending().await
        }
    });
    let mut config = plane.config("cart-1", "cart");
    config.inbound.listeners.push(InboundListener { listen: any(INBOUND), app });
    proxy(&mut sim, "cart", config, seed + 3, epoch);
    let mut config = plane.config("web-1", "web");
    config.outbound.listeners.push(OutboundListener { listen: any(ENTRY), to: "cart.shop:80".into() });
    config.outbound.connect_timeout = Duration::from_millis(300);
    proxy(&mut sim, "web", config, seed + 4, epoch);
    sim.host("app", application);
    let transcript = Transcript::default();
    sim.client("caller", caller(entry, Rc::clone(&transcript)));

    for name in ["web", "cart"] {
        sim.client(format!("operator of {name}"), operator(at(&sim, name, ADMIN)));
    }

    steer(&mut sim);
    transcript.take()
}

fn proxy(sim: &mut Sim<'_>, name: &str, mut config: Config, seed: u64, epoch: SystemTime) {
    config.admin.listen = SocketAddr::from(([0, 0, 0, 0], ADMIN));
    sim.host(name, move || {
        let config = config.clone();
        async move {
            let sys = Sys::sim(seed, epoch);
            mesh_proxy::app::run_here(config, sys, std::future::pending()).await.map_err(Into::into)
        }
    });
}

/// Answers every request with who asked.
async fn application() -> turmoil::Result {
    let listener = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], APP))).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut seen = Vec::new();
            while stream.read_buf(&mut seen).await.is_ok_and(|read| read > 0) {
                if seen.ends_with(b"\r\n\r\n") {
                    let member =
                        String::from_utf8_lossy(&seen).contains("mesh-client-id: spiffe://test.mesh/ns/shop/sa/web");
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{member:>5}");
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                    seen.clear();
                }
            }
        });
    }
}

/// Asks again and again, over a connection of its own each time, until the end.
async fn caller(entry: SocketAddr, transcript: Transcript) -> turmoil::Result {
    while clock() < END {
        let at = clock();
        let result = timeout(LIMIT, ask(entry)).await.unwrap_or_else(|_| Ok("no answer in time".into()));
        let result = result.unwrap_or_else(|error| error.kind().to_string());
        transcript.borrow_mut().push(Line { at, took: clock() - at, result });
        sleep(PACE).await;
    }
    Ok(())
}

async fn ask(entry: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(entry).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let error = answer.lines().find(|line| line.starts_with("mesh-error:")).unwrap_or_default();
    let body = if error.is_empty() { answer.rsplit("\r\n").next().unwrap_or_default() } else { error };
    Ok(format!("{} {}", answer.get(9..12).unwrap_or("no status"), body.trim()))
}

/// Sees that the cut is one, and that the proxy finds back; and what it may see.
async fn operator(admin: SocketAddr) -> turmoil::Result {
    for (at, connected) in [(CUT, "1"), (REPAIRED, "0"), (CRASHED, "1"), (END, "1")] {
        sleep(at - Duration::from_secs(1) - clock()).await;
        let page = page(admin, "/metrics").await?;
        let line = format!("\nmesh_discovery_connected {connected}\n");
        if !page.contains(&line) {
            return Err(format!("at {at:?} not `{}`:\n{page}", line.trim()).into());
        }
    }
    // Another machine sees no more than health and metrics.
    for (path, status) in [("/live", "200"), ("/ready", "200"), ("/config", "403"), ("/log-level", "403")] {
        let page = page(admin, path).await?;
        if page.get(9..12) != Some(status) || page.contains("cart.shop") {
            return Err(format!("{path} of another machine's proxy: {page}").into());
        }
    }
    Ok(())
}

async fn page(admin: SocketAddr, path: &str) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect(admin).await?;
    let question = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    stream.write_all(question.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// Lets time pass, and strikes when it is time to.
fn steer(sim: &mut Sim<'_>) {
    let members = ["web", "cart"].map(|host| sim.lookup(host));
    let plane: [IpAddr; 2] = ["authority", "controller"].map(|host| sim.lookup(host));
    let each = |act: &dyn Fn(IpAddr, IpAddr)| members.iter().for_each(|m| plane.iter().for_each(|p| act(*m, *p)));
    let until = |sim: &mut Sim<'_>, time: Duration| {
        while sim.elapsed() < time {
            assert!(!sim.step().unwrap(), "the caller stopped early");
        }
    };
    until(sim, CUT);
    each(&|member, plane| sim.partition(member, plane));
    until(sim, REPAIRED);
    each(&|member, plane| sim.repair(member, plane));
    until(sim, CRASHED);
    sim.crash("cart");
    until(sim, BOUNCED);
    sim.bounce("cart");
    while !sim.step().unwrap() {}
}

fn told(lines: &[Line]) -> String {
    lines.iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{:>9.3} s  {:>6.3} s  {}", line.at.as_secs_f64(), line.took.as_secs_f64(), line.result);
        text
    })
}

#[test]
fn requests_outlive_the_control_plane_and_recover_from_a_crash_the_same_way_each_time() {
    let lines = run(SEED);
    let text = told(&lines);
    let between = |from: Duration, to: Duration| lines.iter().filter(move |line| line.at >= from && line.at < to);
    let good = |line: &Line| line.result == "200 true";

    // Nothing fails once the first request got through, and not while the control plane is away, or comes back.
    let first = lines.iter().position(good).unwrap_or_else(|| panic!("no request got through\n{text}"));
    assert!(lines[first].at < CUT / 2, "slow to start\n{text}");
    let served: Vec<&Line> = lines[first..].iter().filter(|line| line.at + line.took < CRASHED).collect();
    assert!(served.len() > 190, "{} requests\n{text}", served.len());
    assert!(served.iter().all(|line| good(line)), "{text}");
    assert!(served.iter().skip(1).all(|line| line.took < Duration::from_millis(100)), "{text}");

    // With the only instance gone they fail, at once and in the mesh's words.
    let failed: Vec<&Line> = between(CRASHED + PACE, BOUNCED).collect();
    assert!(failed.len() > 5, "{text}");
    assert!(failed.iter().all(|line| line.result.starts_with("503 mesh-error:")), "{text}");
    assert!(failed.iter().all(|line| line.took < Duration::from_secs(1)), "{text}");

    // It is back soon after it was started again, for good.
    let back = lines.iter().position(|line| line.at >= BOUNCED && good(line)).unwrap_or_else(|| panic!("{text}"));
    assert!(lines[back].at < BOUNCED + Duration::from_secs(3), "{text}");
    assert!(lines[back..].iter().all(good), "{text}");

    let again = run(SEED);
    assert_eq!(text, told(&again), "the same seed, another outcome");
}
