//! Who is let in, and to whom anything is sent, at the proxies' real listeners and in both directions: hostile cases F01,
//! F03, F05, F29, F31, F32 and F33. That the certificates themselves are judged rightly is tested where they are
//! verified (`mesh-api/tests/tls`). F35 is about revocation lists, which the mesh does not have: certificates live for a
//! day at most.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_api::{
    model::{
        Protocol,
        policy::{PortPolicy, Transport},
    },
    names,
    sys::Clock,
    tls::{self, ClientAuth, Credentials, Keeper},
};
use mesh_proxy::config::OutboundListener;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use self::mesh::{Pair, Plane, Proxy, Root, destination, endpoint, free_port, get, id, open, policy, raw};

#[path = "support/mesh.rs"]
mod mesh;

const LIMIT: Duration = Duration::from_secs(10);

/// An application that answers everything and counts the bytes that reach it.
async fn counting_app() -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let bytes = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&bytes);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut chunk = [0; 4096];
                while let Ok(read) = stream.read(&mut chunk).await {
                    // Counted first: whoever has the answer may look at once.
                    seen.fetch_add(read, Ordering::SeqCst);
                    if read == 0 || stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, bytes)
}

fn strict(protocol: Protocol) -> PortPolicy {
    PortPolicy { transport: Transport::Strict, ..open(protocol) }
}

/// Whether a TLS client with these credentials gets as far as exchanging a byte with the sidecar at `address`.
async fn gets_in(address: SocketAddr, keeper: &Arc<Keeper>, alpn: &[&[u8]]) -> bool {
    let config = tls::client_config(keeper, Clock::Host, id("cart"), alpn).unwrap();
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(config).connect(tls::no_name(), stream).await?;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        let mut answer = [0; 9];
        stream.read_exact(&mut answer).await
    };
    timeout(LIMIT, exchange).await.expect("the sidecar neither answered nor refused").is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f01_f03_f05_callers_without_a_good_certificate_are_refused() {
    let (app, bytes) = counting_app().await;
    let pair = Pair::start(app, Protocol::Http1, strict(Protocol::Http1)).await;
    let root = &pair.plane.root;
    let trust = Arc::new(root.bundle());
    let own = |keeper: Arc<Keeper>| {
        // Trusts the mesh whatever it shows itself.
        Keeper::new(Credentials { identity: keeper.current().identity.clone(), trust: Arc::clone(&trust) })
    };
    let alpn = [names::ALPN_MESH_HTTP];
    let good = root.keeper(&id("web"));
    assert!(gets_in(pair.inbound, &good, &alpn).await);

    let nobody = Keeper::new(Credentials { identity: None, trust: Arc::clone(&trust) });
    assert!(!gets_in(pair.inbound, &nobody, &alpn).await, "F05: no certificate");
    let foreign = own(Root::new().keeper(&id("web")));
    assert!(!gets_in(pair.inbound, &foreign, &alpn).await, "F03: a foreign root");
    let mut expired = root.params(&id("web"), Duration::from_secs(3600));
    expired.not_before = (std::time::SystemTime::now() - Duration::from_secs(7200)).into();
    expired.not_after = (std::time::SystemTime::now() - Duration::from_secs(1)).into();
    assert!(!gets_in(pair.inbound, &own(root.keeper_of(&expired)), &alpn).await, "F01: an expired one");
    assert!(!gets_in(pair.inbound, &good, &[b"h2"]).await, "F29: TLS that is not the mesh's");

    assert_eq!(bytes.load(Ordering::SeqCst), 0, "nothing of all that reached the application");
    assert_eq!(get(pair.entry, "/").await.unwrap().0, 200, "and a good caller gets in");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f31_nothing_plain_passes_a_strict_port() {
    for protocol in [Protocol::Http1, Protocol::Detect, Protocol::Opaque] {
        let (app, bytes) = counting_app().await;
        let pair = Pair::start(app, protocol, strict(protocol)).await;
        for plain in ["GET / HTTP/1.1\r\nHost: cart\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\x01\x02 bytes"] {
            let answer = raw(pair.inbound, plain).await.unwrap_or_default();
            assert!(!answer.contains("200"), "{protocol:?}: {answer}");
        }
        assert_eq!(bytes.load(Ordering::SeqCst), 0, "{protocol:?}");
        pair.client.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_plain_caller_of_a_permissive_port_has_no_identity() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..read]).into_owned();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let claim = "GET / HTTP/1.1\r\nHost: cart\r\nmesh-client-id: spiffe://test.mesh/ns/shop/sa/admin\r\n\
                 Mesh_Client_Id: x\r\nConnection: close\r\n\r\n";
    let answer = raw(pair.inbound, claim).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && !answer.to_lowercase().contains("client"), "{answer}");
    let answer = raw(pair.entry, claim).await.unwrap();
    assert_eq!(answer.matches("mesh-client-id").count(), 1, "{answer}");
    assert!(answer.contains("mesh-client-id: spiffe://test.mesh/ns/shop/sa/web\r\n"), "{answer}");
}

/// What a client proxy answers whose destination is at `server`, said to be a member with the account `cart`.
async fn answer_for(plane: &Plane, server: SocketAddr) -> String {
    let entry = free_port();
    plane.change(|world| {
        let (target, destination) = destination("cart", Protocol::Http1, vec![endpoint(server, Some("cart"))]);
        world.destinations.insert(target, destination);
        world.inbound.insert("web-1".into(), policy("web-1", "web", open(Protocol::Detect)));
    });
    let mut config = plane.config("web-1", "web");
    config.outbound.listeners.push(OutboundListener { listen: entry, to: "cart.shop:80".into() });
    let client = Proxy::start(config).await;
    let answer = raw(entry, "GET /secret HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await.unwrap();
    client.stop().await;
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f32_f01_f03_nothing_is_sent_to_somebody_else() {
    let plane = Plane::start().await;
    let root = &plane.root;
    let mut expired = root.params(&id("cart"), Duration::from_secs(3600));
    expired.not_before = (std::time::SystemTime::now() - Duration::from_secs(7200)).into();
    expired.not_after = (std::time::SystemTime::now() - Duration::from_secs(1)).into();
    let impostors = [
        ("another workload of the mesh", root.keeper(&id("intruder"))),
        ("a foreign root", Root::new().keeper(&id("cart"))),
        ("an expired certificate", root.keeper_of(&expired)),
    ];
    for (who, keeper) in impostors {
        // It would take anybody.
        let config = tls::server_config(&keeper, Clock::Host, ClientAuth::None, &[names::ALPN_MESH_HTTP]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let got = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, seen) = (TlsAcceptor::from(Arc::clone(&config)), Arc::clone(&seen));
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let mut chunk = [0; 1024];
                        seen.fetch_add(stream.read(&mut chunk).await.unwrap_or(0), Ordering::SeqCst);
                    }
                });
            }
        });
        let answer = answer_for(&plane, server).await;
        assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("mesh-error: peer-refused"), "{who}: {answer}");
        assert_eq!(got.load(Ordering::SeqCst), 0, "{who} got bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f33_a_peer_without_tls_gets_nothing_in_plain() {
    let plane = Plane::start().await;
    for greets in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap();
        let got = Arc::new(std::sync::Mutex::new(Vec::new()));
        let seen = Arc::clone(&got);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    if greets {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                    }
                    let mut chunk = [0; 4096];
                    let read = stream.read(&mut chunk).await.unwrap_or(0);
                    seen.lock().unwrap().extend_from_slice(&chunk[..read]);
                });
            }
        });
        let answer = answer_for(&plane, server).await;
        assert!(answer.starts_with("HTTP/1.1 50"), "{answer}");
        let got = String::from_utf8_lossy(&got.lock().unwrap()).into_owned();
        assert!(!got.contains("secret") && !got.contains("GET"), "sent in plain: {got}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_bytes_that_nobody_looks_at_do_not_enter_a_port_of_http() {
    let (app, bytes) = counting_app().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let keeper = pair.plane.root.keeper(&id("web"));
    let config = tls::client_config(&keeper, Clock::Host, id("cart"), &[names::ALPN_MESH_TCP]).unwrap();
    let stream = TcpStream::connect(pair.inbound).await.unwrap();
    let mut stream = TlsConnector::from(config).connect(tls::no_name(), stream).await.unwrap();
    let forged = b"GET / HTTP/1.1\r\nHost: cart\r\nmesh-client-id: spiffe://test.mesh/ns/shop/sa/admin\r\n\r\n";
    let _ = stream.write_all(forged).await;
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("the sidecar keeps it open");
    assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    let hidden =
        "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: cart\r\nmesh-client-id: spiffe://x/y\r\nConnection: close\r\n\r\n";
    let answer = raw(pair.inbound, hidden).await.unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 400"), "what is not plainly HTTP is refused, not passed on: {answer}");
    assert_eq!(bytes.load(Ordering::SeqCst), 0, "nothing of all that reached the application");
    assert_eq!(get(pair.entry, "/").await.unwrap().0, 200);
}

/// The first bytes of a TLS client that asks for `name`, with another protocol than the mesh's.
fn hello(name: &'static str) -> Vec<u8> {
    let keeper = Keeper::new(Credentials::default());
    let config = tls::client_config(&keeper, Clock::Host, id("cart"), &[b"h2"]).unwrap();
    let mut config = rustls::ClientConfig::clone(&config);
    config.enable_sni = true;
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name.try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_tls_of_others_is_never_terminated() {
    let long = format!("{}.example", ["a".repeat(60), "b".repeat(60), "c".repeat(60), "d".repeat(60)].join("."));
    let long: &'static str = Box::leak(long.into_boxed_str());
    let mut hellos: Vec<Vec<u8>> = ["web.shop.svc", "cart-1", "10.0.0.1", long].map(hello).into();
    // A name with a NUL in it, as no library would send it.
    let mut with_nul = hello("cart.example");
    let at = with_nul.windows(12).position(|bytes| bytes == b"cart.example").unwrap();
    with_nul[at + 4] = 0;
    hellos.push(with_nul);

    let (app, bytes) = counting_app().await;
    let pair = Pair::start(app, Protocol::Detect, strict(Protocol::Detect)).await;
    for hello in &hellos {
        let mut stream = TcpStream::connect(pair.inbound).await.unwrap();
        stream.write_all(hello).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("a strict port keeps it open");
        assert!(answer.is_empty(), "a strict port answered other TLS");
    }
    assert_eq!(bytes.load(Ordering::SeqCst), 0);

    // On a permissive port it is the application's own: passed on as it is, byte for byte.
    pair.plane.change(|world| world.inbound.get_mut("cart-1").unwrap().default_port = open(Protocol::Detect));
    for hello in &hellos {
        let passed = async {
            loop {
                let before = bytes.load(Ordering::SeqCst);
                let mut stream = TcpStream::connect(pair.inbound).await.unwrap();
                stream.write_all(hello).await.unwrap();
                let mut answer = [0; 12];
                if stream.read_exact(&mut answer).await.is_ok() && &answer == b"HTTP/1.1 200" {
                    assert!(bytes.load(Ordering::SeqCst) > before);
                    return;
                }
                // The new policy has not come yet.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(LIMIT, passed).await.expect("other TLS is not passed on");
    }
}
