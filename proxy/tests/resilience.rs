//! Endpoints that are not there, leave, or die under load: who notices what.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::Request;
use mesh_api::model::Protocol;
use tokio::net::TcpListener;

use self::{
    apps::{Wire, app, bare, collect, echo, fetch, h2_client, ok, request, send_all, status, text, within},
    fleet::{Fleet, Load},
    mesh::{Pair, Plane, Proxy, endpoint, free_port, open, policy},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/mesh.rs"]
mod mesh;

const MIX: [&str; 6] = ["GET", "POST", "GET", "POST", "PUT", "DELETE"];

/// An address where connections are taken and ended at once.
async fn slamming() -> SocketAddr {
    app(|_, _| async {}).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_cannot_be_connected_to_are_passed_over_with_the_body_untouched() {
    let (app, requests) = echo().await;
    let plane = Plane::start().await;
    let inbound = free_port();
    plane.change(|world| {
        world.inbound.insert("cart-0".into(), policy("cart-0", "cart", open(Protocol::Http1)));
    });
    let mut config = plane.config("cart-0", "cart");
    config.inbound.listeners.push(mesh_proxy::config::InboundListener { listen: inbound, app });
    let server = Proxy::start(config).await;
    // One where nobody listens, one that breaks the handshake off, a good one.
    let endpoints = [free_port(), slamming().await, inbound].map(|address| endpoint(address, Some("cart")));
    let fleet = Fleet::with(plane, vec![server], Vec::new(), endpoints.to_vec(), Protocol::Http1).await;
    for n in 0..60 {
        let body = text(n, 100_000);
        let mut wire = Wire::connect(fleet.entry).await;
        wire.send(format!("POST /{n} HTTP/1.1\r\nHost: cart\r\nContent-Length: {}\r\n\r\n", body.len())).await;
        wire.send(&body).await;
        let (head, _) = wire.message().await.unwrap();
        assert_eq!(status(&head), 200, "{n}: {head}");
    }
    assert_eq!(requests.load(Ordering::SeqCst), 60, "each is asked once");
    let retries = fleet.client.metric(&["mesh_retries_total", "unprocessed"]).await.unwrap();
    assert!(retries >= 1.0, "{retries}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_drains_fails_nobody() {
    let (first, _) = echo().await;
    let (second, _) = echo().await;
    let mut fleet = Fleet::start(&[first, second], Protocol::Http1).await;
    let load = Load::start(fleet.entry, &MIX);
    load.more(200).await;
    let leaving = fleet.servers.remove(0);
    leaving.stop().await;
    load.more(200).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_that_drain_one_after_the_other_and_return_fail_nobody() {
    let (first, _) = echo().await;
    let (second, _) = echo().await;
    let mut fleet = Fleet::start(&[first, second], Protocol::Http1).await;
    let load = Load::start(fleet.entry, &MIX);
    for (nth, app) in [first, second].into_iter().enumerate() {
        load.more(100).await;
        fleet.servers.remove(0).stop().await;
        load.more(100).await;
        // It comes back under another address, as pods do.
        let (inbound, workload) = (free_port(), format!("cart-{nth}"));
        let mut config = fleet.plane.config(&workload, "cart");
        config.inbound.listeners.push(mesh_proxy::config::InboundListener { listen: inbound, app });
        fleet.servers.push(Proxy::start(config).await);
        fleet.plane.change(|world| {
            for backend in world.destinations.values_mut().flat_map(|one| one.backends.values_mut()) {
                let old = fleet.relays[nth].address;
                backend.endpoints.remove(&old);
                backend.endpoints.insert(inbound, endpoint(inbound, Some("cart")));
            }
        });
        load.more(100).await;
    }
    assert_eq!(load.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_dies_fails_only_what_must_not_be_sent_twice() {
    let (first, _) = echo().await;
    let (second, _) = echo().await;
    let fleet = Fleet::start(&[first, second], Protocol::Http1).await;
    let load = Load::start(fleet.entry, &MIX);
    load.more(200).await;
    fleet.relays[0].cut();
    load.more(300).await;
    let bad = load.end().await;
    let writes = MIX.iter().filter(|method| **method != "GET").count();
    assert!(bad.len() <= writes, "only what was under way: {bad:#?}");
    for failure in &bad {
        assert!(!failure.starts_with("GET") && failure.contains(": HTTP/1.1 502 "), "{failure}");
        assert!(failure.contains("mesh-error: upstream-reset"), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_closes_what_is_kept_fails_nobody() {
    // Closes after some answers, sometimes at once, sometimes a moment later, and never says so.
    let address = app(|mut wire, number| async move {
        for _ in 0..=number % 3 {
            let Some((head, _)) = wire.message().await else { return };
            let line = head.lines().next().unwrap().to_owned();
            wire.try_send(ok(&line)).await;
        }
        tokio::time::sleep(Duration::from_millis(number as u64 % 4 * 3)).await;
    })
    .await;
    let pair = Pair::start(address, Protocol::Http1, open(Protocol::Http1)).await;
    let load = Load::start(pair.entry, &["GET"; 4]);
    load.more(400).await;
    assert_eq!(load.end().await, Vec::<String>::new());
    // A write that meets the close is not sent twice. That must stay rare: what is known of the server helps.
    let load = Load::start(pair.entry, &["POST", "POST", "PUT", "GET"]);
    load.more(600).await;
    let bad = load.end().await;
    assert!(bad.len() <= 3, "{}: {bad:#?}", bad.len());
}

/// Ends each connection properly, with a GOAWAY, after `each` requests.
async fn leaving_h2_app(each: usize) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let (head, body) = request.into_parts();
        let Ok((body, _)) = collect(body).await else { return };
        let line = format!("{} {} {}", head.method, head.uri.path(), body.len());
        let Ok(mut stream) = respond.send_response(bare(200), false) else { return };
        let _ = stream.send_data(line.into(), true);
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                let mut count = 0;
                while let Some(Ok((request, respond))) = connection.accept().await {
                    count += 1;
                    tokio::spawn(answer(request, respond));
                    if count == each {
                        connection.graceful_shutdown();
                    }
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_http2_application_that_leaves_with_a_goaway_fails_nobody() {
    let (app, connections) = leaving_h2_app(40).await;
    let pair = Pair::start(app, Protocol::Http2, open(Protocol::Http2)).await;
    let client = h2_client(pair.entry).await;
    let callers = (0..8).map(|caller| {
        let client = client.clone();
        async move {
            for n in 0..50 {
                let path = format!("/{caller}/{n}");
                if n % 2 == 0 {
                    let answer = fetch(&client, request("GET", &path)).await.unwrap();
                    assert_eq!(String::from_utf8(answer.body).unwrap(), format!("GET {path} 0"));
                    continue;
                }
                let (response, mut stream) = client.clone().send_request(request("POST", &path), false).unwrap();
                send_all(&mut stream, text(0, 10_000), true).await.unwrap();
                let response = within(response).await.unwrap();
                assert_eq!(response.status(), 200, "{path}: {response:?}");
                let (body, _) = collect(response.into_body()).await.unwrap();
                assert_eq!(String::from_utf8(body).unwrap(), format!("POST {path} 10000"));
            }
        }
    });
    futures_util::future::join_all(callers).await;
    assert!(connections.load(Ordering::SeqCst) >= 5, "connections were left, and made anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_takes_few_streams_is_not_sent_more() {
    let most = Arc::new(AtomicUsize::new(0));
    let (seen, listener) = (Arc::clone(&most), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let open = Arc::new(AtomicUsize::new(0));
                let mut connection =
                    h2::server::Builder::new().max_concurrent_streams(5).handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    seen.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let open = Arc::clone(&open);
                    tokio::spawn(async move {
                        collect(request.into_body()).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        open.fetch_sub(1, Ordering::SeqCst);
                        respond.send_response(bare(200), true).unwrap();
                    });
                }
            });
        }
    });
    let pair = Pair::start(address, Protocol::Http2, open(Protocol::Http2)).await;
    let client = h2_client(pair.entry).await;
    // All at once, on connections that are yet to be made, with bodies that could not be sent again.
    let all = (0..200).map(|n| {
        let (response, mut stream) = client.clone().send_request(request("POST", "/"), false).unwrap();
        async move {
            send_all(&mut stream, text(n, 5000), true).await.unwrap();
            within(response).await.unwrap().status()
        }
    });
    let answers = futures_util::future::join_all(all.collect::<Vec<_>>()).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert!(most.load(Ordering::SeqCst) <= 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_one_connection_carries_take_another() {
    let gate = Arc::new(tokio::sync::Barrier::new(1500));
    let app = apps::h2_app(move |_, mut respond: SendResponse<Bytes>| {
        let gate = Arc::clone(&gate);
        async move {
            gate.wait().await;
            respond.send_response(bare(200), true).unwrap();
        }
    })
    .await;
    let pair = Pair::start(app, Protocol::Http2, open(Protocol::Http2)).await;
    let clients = [h2_client(pair.entry).await, h2_client(pair.entry).await];
    let all = (0..1500).map(|n| fetch(&clients[n % 2], request("GET", "/")));
    let answers = within(futures_util::future::try_join_all(all)).await.unwrap();
    assert!(answers.iter().all(|answer| answer.head.status == 200));
    let handshakes = pair.client.metric(&["mesh_tls_handshakes_total", "client", "\"ok\""]).await;
    assert_eq!(handshakes, Some(2.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_with_long_streams_is_not_taken_for_a_slow_one() {
    // One answers at once, and what follows ends when the test says so; the other is slower than any noise.
    let end = Arc::new(tokio::sync::Notify::new());
    let served = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let instance = |nth: usize, wait: Duration| {
        let (end, served) = (Arc::clone(&end), Arc::clone(&served));
        app(move |mut wire, _| {
            let (end, served) = (Arc::clone(&end), Arc::clone(&served));
            async move {
                while let Some(head) = wire.head().await {
                    served[nth].fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(wait).await;
                    if head.contains("/stream") {
                        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                        end.notified().await;
                        wire.try_send("0\r\n\r\n").await;
                        continue;
                    }
                    wire.try_send(ok("answer")).await;
                }
            }
        })
    };
    let apps = [instance(0, Duration::ZERO).await, instance(1, Duration::from_millis(400)).await];
    let fleet = Fleet::start(&apps, Protocol::Http1).await;
    let ask = async || {
        let mut wire = Wire::connect(fleet.entry).await;
        wire.send("GET /short HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n").await;
        assert_eq!(wire.message().await.unwrap().1, b"answer");
    };
    // How quick each of them is becomes known.
    for _ in 0..100 {
        ask().await;
    }
    let known = [0, 1].map(|nth| served[nth].load(Ordering::SeqCst));
    assert!(known[0] > known[1] && known[1] > 0, "{known:?}");
    // The quick one has a stream that is long; nobody was slow.
    let mut stream = Wire::connect(fleet.entry).await;
    stream.send("GET /stream HTTP/1.1\r\nHost: cart\r\n\r\n").await;
    assert_eq!(status(&stream.head().await.unwrap()), 200);
    assert_eq!(served[0].load(Ordering::SeqCst), known[0] + 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    end.notify_one();
    assert_eq!(stream.through("0\r\n\r\n").await.as_deref(), Some("0\r\n\r\n"));
    // Had the stream's 1.5 s been taken for its latency, the other would be the quicker one now.
    for _ in 0..20 {
        ask().await;
    }
    let since = served[0].load(Ordering::SeqCst) - known[0] - 1;
    assert!(since > 15, "{since} of 20");
}

/// An application that ends as a good server does: no new connection, idle ones are closed, answers that were begun are
/// finished. Whoever sends `true` ends it.
async fn polite() -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, mut ended) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted.unwrap().0,
                _ = ended.wait_for(|ended| *ended) => return,
            };
            let mut ended = ended.clone();
            tokio::spawn(async move {
                let answer = hyper::service::service_fn(async |request: Request<hyper::body::Incoming>| {
                    let line = format!("{} ", request.uri().path());
                    let body = http_body_util::BodyExt::collect(request.into_body()).await?.to_bytes();
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    let body = format!("{line}{}", String::from_utf8_lossy(&body));
                    Ok::<_, hyper::Error>(http::Response::new(http_body_util::Full::new(Bytes::from(body))))
                });
                let io = hyper_util::rt::TokioIo::new(stream);
                let mut serving =
                    std::pin::pin!(hyper::server::conn::http1::Builder::new().serve_connection(io, answer));
                tokio::select! {
                    _ = serving.as_mut() => return,
                    _ = ended.wait_for(|ended| *ended) => serving.as_mut().graceful_shutdown(),
                }
                let _ = serving.await;
            });
        }
    });
    (address, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_leaves_before_its_sidecar_fails_nobody() {
    let (first, end) = polite().await;
    let (second, _alive) = polite().await;
    let fleet = Fleet::start(&[first, second], Protocol::Http1).await;
    // What writes may not be sent twice where the server closes a kept connection just then; that is not told apart from
    // a server that worked on it. New connections are what is looked at here.
    let load = Load::start(fleet.entry, &["GET", "GET", "GET", "GET"]);
    load.more(200).await;
    end.send(true).unwrap();
    load.more(400).await;
    assert_eq!(load.end().await, Vec::<String>::new());
    let retries = fleet.client.metric(&["mesh_retries_total", "unprocessed"]).await.unwrap();
    assert!(retries >= 1.0, "{retries}");

    // With the application gone for long, writes go elsewhere too, with their bodies.
    let load = Load::start(fleet.entry, &["POST", "PUT", "DELETE"]);
    load.more(200).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn most_applications_leaving_at_the_same_moment_fail_nobody() {
    let (alive, _end) = polite().await;
    let mut apps: Vec<SocketAddr> = (0..8).map(|_| free_port()).collect();
    apps.push(alive);
    let fleet = Fleet::start(&apps, Protocol::Http1).await;
    // All are new to the client, and each of the first requests may meet several that are gone.
    let load = Load::start(fleet.entry, &["GET", "POST", "GET", "POST"]);
    load.more(100).await;
    assert_eq!(load.end().await, Vec::<String>::new());
}
