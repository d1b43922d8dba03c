//! The real program, redirected to by the kernel: two network namespaces as two pods, each with an application and a
//! proxy under a user of its own, and a third one between them with the control plane and the outside world.
//!
//! ```text
//!   pod `web` 10.88.1.2 fd88:1::2 ── hub 10.88.1.1, 10.88.2.1 ── pod `cart` 10.88.2.2 fd88:2::2
//! ```
//! Needs root, `ip`, `nft`, `setpriv` and `tcpdump`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::{IpAddr, SocketAddr},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use mesh_api::{
    model::{Protocol, Target},
    names,
    sys::Sys,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use self::{
    capture::{Capture, holds},
    mesh::{Plane, destination, endpoint, get, open, policy},
    netns::{Netns, Process},
};

#[path = "support/capture.rs"]
mod capture;
#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/netns.rs"]
mod netns;

/// A test takes at most this long.
const LIMIT: Duration = Duration::from_secs(120);
/// One exchange takes at most this long.
const EXCHANGE: Duration = Duration::from_secs(10);

const WEB: [&str; 2] = ["10.88.1.2", "fd88:1::2"];
const WEB_GATE: [&str; 2] = ["10.88.1.1", "fd88:1::1"];
const CART: [&str; 2] = ["10.88.2.2", "fd88:2::2"];
const CART_GATE: [&str; 2] = ["10.88.2.1", "fd88:2::1"];
/// Addresses of services, which no machine has.
const SERVICE: [&str; 2] = ["10.96.0.10", "fd96::10"];
/// Users of the two proxies.
const USERS: [u32; 2] = [15401, 15402];

/// Ports of the application `cart`, and of its services.
const HTTP: [u16; 2] = [8080, 80];
const REVERSE: [u16; 2] = [9090, 81];
const GREET: [u16; 2] = [2525, 82];
/// Port of a program outside the mesh, and of one that is left out of redirection.
const OUTSIDE: u16 = 7000;
const SKIPPED: u16 = 7001;

const PATH: &str = "/marker-in-the-path-5e1c";
const BYTES: &str = "marker-in-the-bytes-90af";
const GREETING: &str = "marker-in-a-greeting-27d3";
const PLAIN: &str = "marker-in-the-open-b8f4";

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

/// The same address, as a socket of IPv6 writes it.
fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// A pod's sidecar.
struct Sidecar {
    process: Process,
    admin: SocketAddr,
    log: std::path::PathBuf,
}

impl Sidecar {
    async fn metric(&self, parts: &[&str]) -> f64 {
        let (_, page) = get(self.admin, "/metrics").await.unwrap();
        let fits = |line: &&str| !line.starts_with('#') && parts.iter().all(|part| line.contains(part));
        page.lines().filter(fits).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until it carries nothing.
    async fn until_idle(&self) {
        for _ in 0..100 {
            if self.metric(&["mesh_connections_open"]).await == 0.0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("connections stay open that nobody has");
    }

    async fn loops(&self) -> f64 {
        self.metric(&["mesh_refusals_total", "\"loop\""]).await
    }
}

/// Everything, ready. Dropped, it is gone.
struct Stage {
    web: Sidecar,
    cart: Sidecar,
    web_netns: Netns,
    cart_netns: Netns,
    hub: Netns,
    folder: tempfile::TempDir,
    _plane: Plane,
}

/// Runs a test within the hub.
fn on_stage<F: Future<Output = ()> + Send>(test: impl FnOnce(Stage) -> F + Send + 'static) {
    let hub = Netns::new();
    // Its threads are begotten in the hub, and so are their sockets.
    let build = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let runtime = hub.run(build);
    let running = runtime.spawn(async move {
        timeout(LIMIT, async { test(Stage::start(hub).await).await }).await.expect("the test took too long");
    });
    if let Err(failed) = runtime.block_on(running) {
        std::panic::resume_unwind(failed.into_panic());
    }
}

impl Stage {
    async fn start(hub: Netns) -> Self {
        let (web_netns, cart_netns) = (Netns::new(), Netns::new());
        web_netns.link(&hub, "web", WEB, WEB_GATE);
        cart_netns.link(&hub, "cart", CART, CART_GATE);
        hub.forward();
        let folder = tempfile::tempdir().unwrap();
        for_everybody(folder.path());
        let binary = folder.path().join("mesh-proxy");
        // Where it was built, the proxy's user may not be able to read it. Not copied by this process: while it has the
        // file open, any other test may beget a child that has it open too, and what is being written is not run.
        let mut copy = Command::new("install");
        copy.args(["-m", "755", env!("CARGO_BIN_EXE_mesh-proxy")]).arg(&binary);
        hub.must_run(copy);
        let plane = Plane::start_with(Sys::host(), [at(WEB_GATE[0], 0), at(CART_GATE[1], 0)]).await;
        script(&plane);
        let web = sidecar(&web_netns, &plane, folder.path(), "web", USERS[0]);
        let cart = sidecar(&cart_netns, &plane, folder.path(), "cart", USERS[1]);
        for port in [HTTP[0], OUTSIDE, SKIPPED] {
            http_app(cart_netns.listen(port));
        }
        http_app(hub.listen(OUTSIDE));
        greeting_app(hub.listen(GREET[0]));
        reverse_app(cart_netns.listen(REVERSE[0]));
        greeting_app(cart_netns.listen(GREET[0]));
        http_app(web_netns.listen(HTTP[0]));
        let mut stage = Self { web, cart, web_netns, cart_netns, hub, folder, _plane: plane };
        until_ready(&mut stage.web).await;
        until_ready(&mut stage.cart).await;
        redirect(&stage.web_netns, &["--proxy-uid", &USERS[0].to_string(), "--skip-subnets", "10.97.0.0/16,fd97::/16"]);
        let skipped = SKIPPED.to_string();
        redirect(&stage.cart_netns, &["--proxy-gid", &USERS[1].to_string(), "--skip-inbound-ports", &skipped]);
        stage
    }

    fn app(&self, to: SocketAddr) -> TcpStream {
        self.web_netns.connect(to).unwrap_or_else(|error| panic!("{to}: {error}"))
    }
}

fn for_everybody(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the controller knows: the service by its addresses, and the pods by theirs.
fn script(plane: &Plane) {
    plane.change(|world| {
        for family in [0, 1] {
            for [port, service_port] in [HTTP, REVERSE, GREET] {
                let pod = at(CART[family], port);
                let (_, known) = destination("cart", Protocol::Detect, vec![endpoint(pod, Some("cart"))]);
                world.destinations.insert(Target::Address(at(SERVICE[family], service_port)), known.clone());
                world.destinations.insert(Target::Address(pod), known);
            }
            // A service whose only instance is the caller itself.
            let own = at(WEB[family], HTTP[0]);
            let (_, known) = destination("web", Protocol::Detect, vec![endpoint(own, Some("web"))]);
            world.destinations.insert(Target::Address(at(SERVICE[family], 90)), known);
        }
        for name in ["web", "cart"] {
            world.inbound.insert(format!("{name}-1"), policy(&format!("{name}-1"), name, open(Protocol::Detect)));
        }
    });
}

fn sidecar(netns: &Netns, plane: &Plane, folder: &Path, name: &str, user: u32) -> Sidecar {
    let mut config = plane.config(&format!("{name}-1"), name);
    for_everybody(config.identity.token_file.parent().unwrap());
    let any = |port| Some(SocketAddr::from(([0_u16; 8], port)));
    config.inbound.transparent = any(names::PORT_INBOUND);
    config.outbound.transparent = any(names::PORT_OUTBOUND);
    config.admin.listen = SocketAddr::from(([0_u16; 8], names::PORT_ADMIN));
    let (file, log) = (folder.join(format!("{name}.json")), folder.join(format!("{name}.log")));
    std::fs::write(&file, serde_json::to_string(&config).unwrap()).unwrap();
    for_everybody(&file);
    let mut command = Command::new("setpriv");
    let user = user.to_string();
    command.args(["--reuid", &user, "--regid", &user, "--clear-groups", "--pdeathsig", "KILL"]);
    command.arg(folder.join("mesh-proxy")).arg("--config").arg(&file);
    let out = std::fs::File::create(&log).unwrap();
    command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out);
    let ip = if name == "web" { WEB[0] } else { CART[0] };
    Sidecar { process: netns.spawn(command), admin: at(ip, names::PORT_ADMIN), log }
}

async fn until_ready(sidecar: &mut Sidecar) {
    let mut last = String::new();
    for _ in 0..200 {
        match get(sidecar.admin, "/ready").await {
            Ok((200, _)) => return,
            Ok((_, reason)) => last = reason,
            Err(error) => last = error.to_string(),
        }
        if sidecar.process.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the proxy is not ready: {last}\n{}", std::fs::read_to_string(&sidecar.log).unwrap());
}

fn redirect(netns: &Netns, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    command.args(["redirect", "apply"]).args(arguments);
    netns.must_run(command);
}

/// Answers each connection by `serve`.
fn app<F: Future<Output = std::io::Result<()>> + Send + 'static>(
    listener: TcpListener,
    serve: impl Fn(TcpStream) -> F + Send + 'static,
) {
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
}

/// Answers one request with its head and the caller's address.
fn http_app(listener: TcpListener) {
    app(listener, async |mut stream| {
        let mut seen = Vec::new();
        while !holds(&seen, b"\r\n\r\n") {
            if stream.read_buf(&mut seen).await? == 0 {
                return Ok(());
            }
        }
        let body = format!("from {}\r\n{}", stream.peer_addr()?.ip().to_canonical(), String::from_utf8_lossy(&seen));
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await
    });
}

/// Answers everything, once it is all there, in reverse.
fn reverse_app(listener: TcpListener) {
    app(listener, async |mut stream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await?;
        all.reverse();
        stream.write_all(&all).await
    });
}

/// Speaks first, then answers a line.
fn greeting_app(listener: TcpListener) {
    app(listener, async |mut stream| {
        stream.write_all(GREETING.as_bytes()).await?;
        stream.read_exact(&mut [0; 4]).await?;
        stream.write_all(b"bye").await
    });
}

async fn request(mut stream: TcpStream, path: &str) -> String {
    let exchange = async {
        let host = stream.peer_addr()?;
        stream
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    timeout(EXCHANGE, exchange).await.expect("the request took too long").unwrap()
}

async fn bytes(mut stream: TcpStream, bytes: &str) -> String {
    let exchange = async {
        stream.write_all(bytes.as_bytes()).await?;
        stream.shutdown().await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.chars().rev().collect())
    };
    timeout(EXCHANGE, exchange).await.expect("the exchange took too long").unwrap()
}

/// Says nothing before the greeting is there.
async fn greeted(mut stream: TcpStream) -> String {
    let exchange = async {
        let mut greeting = vec![0; GREETING.len()];
        stream.read_exact(&mut greeting).await?;
        stream.write_all(b"QUIT").await?;
        let mut answer = String::from_utf8_lossy(&greeting).into_owned();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    timeout(EXCHANGE, exchange).await.expect("the exchange took too long").unwrap()
}

#[test]
fn members_by_service_and_by_pod_in_both_families_and_nothing_in_clear() {
    on_stage(async |stage| {
        let capture = Capture::start(&stage.hub, "web", stage.folder.path()).await;
        let mut http = 0.0;
        for family in [0, 1] {
            let pairs = [(SERVICE[family], 1), (CART[family], 0)];
            for (ip, kind) in pairs {
                for to in [at(ip, HTTP[kind]), mapped(at(ip, HTTP[kind]))] {
                    let answer = request(stage.app(to), PATH).await;
                    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(PATH), "{to}: {answer}");
                    assert!(answer.contains("mesh-client-id: spiffe://test.mesh/ns/shop/sa/web\r\n"), "{to}: {answer}");
                    http += 1.0;
                }
                for to in [at(ip, REVERSE[kind]), mapped(at(ip, REVERSE[kind]))] {
                    assert_eq!(bytes(stage.app(to), BYTES).await, BYTES, "{to}");
                }
                for to in [at(ip, GREET[kind]), mapped(at(ip, GREET[kind]))] {
                    assert_eq!(greeted(stage.app(to)).await, format!("{GREETING}bye"), "{to}");
                }
            }
        }
        let labels = ["mesh_requests_total", "outbound", "tls=\"mutual\"", "sa/cart", "2xx"];
        assert_eq!(stage.web.metric(&labels).await, http);
        let labels = ["mesh_requests_total", "inbound", "tls=\"mutual\"", "sa/web", "2xx"];
        assert_eq!(stage.cart.metric(&labels).await, http);

        // To somebody outside the mesh everything is readable: the capture is not blind.
        let answer = request(stage.app(at(CART[0], OUTSIDE)), &format!("/{PLAIN}")).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let packets = capture.stop(&stage.hub, at(WEB[0], 9)).await;
        assert!(holds(&packets, PLAIN.as_bytes()), "the capture is blind");
        for marker in [PATH, BYTES, GREETING] {
            assert!(!holds(&packets, marker.as_bytes()), "{marker} is readable between two members");
        }
    });
}

#[test]
fn what_nobody_knows_is_reached_as_without_a_proxy() {
    on_stage(async |stage| {
        for family in [0, 1] {
            // Outside the mesh, through the outbound side; a server that speaks first too.
            let outside = at(WEB_GATE[family], OUTSIDE);
            let answer = request(stage.app(outside), "/").await;
            assert!(answer.contains(&format!("from {}", WEB[family])) && !answer.contains("mesh-"), "{answer}");
            assert_eq!(greeted(stage.app(at(WEB_GATE[family], GREET[0]))).await, format!("{GREETING}bye"));
            // A caller outside the mesh, through the inbound side.
            let caller = stage.hub.connect(at(CART[family], HTTP[0])).unwrap();
            let answer = request(caller, "/").await;
            assert!(answer.starts_with("HTTP/1.1 200") && !answer.contains("mesh-client-id"), "{answer}");
            assert_eq!(greeted(stage.hub.connect(at(CART[family], GREET[0])).unwrap()).await, format!("{GREETING}bye"));
            // A port that is left out: the application sees the caller itself.
            let answer = request(stage.hub.connect(at(CART[family], SKIPPED)).unwrap(), "/").await;
            assert!(answer.contains(&format!("from {}\r\n", CART_GATE[family])), "{answer}");
            // What does not answer does not answer.
            let refused = bytes_or_error(stage.app(at(WEB_GATE[family], 7999))).await;
            assert!(refused.is_err(), "{refused:?}");
        }
        // Not redirected, so refused by the network and not by the proxy.
        let refusals = stage.web.metric(&["mesh_refusals_total"]).await;
        for skipped in ["10.97.0.1", "fd97::1"] {
            assert!(stage.web_netns.connect(at(skipped, 80)).is_err());
        }
        assert_eq!(stage.web.metric(&["mesh_refusals_total"]).await, refusals);
    });
}

async fn bytes_or_error(mut stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    let exchange = async {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        stream.read_to_end(&mut all).await
    };
    timeout(EXCHANGE, exchange).await.map_err(std::io::Error::other)??;
    Ok(all)
}

/// Refused: closed or reset without a word. The reset may be there before it is known that there was a connection.
async fn hears_nothing(connected: std::io::Result<TcpStream>) {
    if let Ok(stream) = connected {
        let answer = bytes_or_error(stream).await;
        assert!(answer.as_ref().is_err() || answer.as_ref().is_ok_and(Vec::is_empty), "{answer:?}");
    }
}

#[test]
fn a_workload_reaches_itself_by_its_service() {
    on_stage(async |stage| {
        for family in [0, 1] {
            for to in [at(SERVICE[family], 90), at(WEB[family], HTTP[0])] {
                let answer = request(stage.app(to), "/itself").await;
                assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("/itself"), "{to}: {answer}");
            }
        }
    });
}

#[test]
fn g01_the_proxy_never_talks_to_itself() {
    on_stage(async |stage| {
        let mut refused = 0.0;
        for ip in [WEB[0], WEB[1], "127.0.0.1", "::1", "::ffff:127.0.0.1", "::ffff:10.88.1.2"] {
            for port in [names::PORT_INBOUND, names::PORT_OUTBOUND] {
                let to = at(ip, port);
                let loops = stage.web.loops().await;
                hears_nothing(stage.web_netns.connect(to)).await;
                assert_eq!(stage.web.loops().await, loops + 1.0, "{to}: refused at the first hop, and counted");
                refused += 1.0;
            }
        }
        assert_eq!(stage.web.loops().await, refused);
        // From outside, on the way in.
        for ip in CART {
            for port in [names::PORT_INBOUND, names::PORT_OUTBOUND] {
                let loops = stage.cart.loops().await;
                hears_nothing(stage.hub.connect(at(ip, port))).await;
                assert_eq!(stage.cart.loops().await, loops + 1.0, "{ip}:{port}: refused at the first hop, and counted");
            }
        }
        // From one pod to the ports of the other's proxy: out, in, refused there.
        for port in [names::PORT_INBOUND, names::PORT_OUTBOUND] {
            let loops = stage.cart.loops().await;
            hears_nothing(stage.web_netns.connect(at(CART[0], port))).await;
            assert_eq!(stage.cart.loops().await, loops + 1.0);
        }
        assert_eq!(stage.web.loops().await, refused);
        for sidecar in [&stage.web, &stage.cart] {
            sidecar.until_idle().await;
            // Nothing goes round: what is measured is that nothing happens.
            let before = sidecar.process.cpu();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let used = sidecar.process.cpu() - before;
            assert!(used <= Duration::from_millis(50), "{used:?} of processor time in half a second");
        }
        // The admin server is reached without a detour.
        for ip in ["127.0.0.1", "::1", WEB[0], CART[1]] {
            let answer = request(stage.app(at(ip, names::PORT_ADMIN)), "/live").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{ip}: {answer}");
        }
    });
}

#[test]
fn without_the_proxy_nothing_gets_past_until_the_rules_are_taken_back() {
    on_stage(async |mut stage| {
        stage.web.process.kill();
        for family in [0, 1] {
            for to in [at(SERVICE[family], HTTP[1]), at(CART[family], HTTP[0]), at(WEB_GATE[family], OUTSIDE)] {
                assert!(stage.web_netns.connect(to).is_err(), "{to}");
            }
            assert!(stage.hub.connect(at(WEB[family], HTTP[0])).is_err());
        }
        let mut remove = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
        remove.args(["redirect", "remove"]);
        stage.web_netns.must_run(remove);
        for family in [0, 1] {
            let answer = request(stage.app(at(WEB_GATE[family], OUTSIDE)), "/").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    });
}
