//! Policies at the proxy's real listener: which one wins, what they say of connections that are not HTTP, and how soon
//! they hold for connections that are open.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::time::{Duration, Instant};

use mesh_api::model::{
    ObjectRef, Protocol,
    policy::{Action, AuthorizationPolicy, AuthorizationRule, Operation, PortPolicy, Probe, Source, Transport},
    route::PathMatch,
};
use mesh_proxy::config::InboundListener;

use self::{
    apps::{End, Wire, app, echo, fetch, h2_client, recorder, request, status, until, within},
    mesh::{Pair, Plane, Proxy, free_port, get, open, policy},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

fn rule(action: Action, name: &str, from: &[&str], paths: &[&str]) -> AuthorizationPolicy {
    let from = from.iter().map(|id| Source { identities: vec![(*id).into()], ..Source::default() }).collect();
    let paths: Vec<_> = paths.iter().map(|path| PathMatch::Prefix((*path).into())).collect();
    let to = if paths.is_empty() { vec![] } else { vec![Operation { paths, ..Operation::default() }] };
    let origin = ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "shop".into(), name: name.into() };
    AuthorizationPolicy { origin, action, rules: vec![AuthorizationRule { from, to }] }
}

const WEB: &str = "spiffe://test.mesh/ns/shop/sa/web";

async fn answer(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut wire = Wire::connect(address).await;
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n")).await;
    let (head, _) = wire.message().await.unwrap();
    (status(&head), head)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j12_deny_beats_allow_in_any_order() {
    let (app, requests) = echo().await;
    let allow = rule(Action::Allow, "allow", &[WEB], &["/"]);
    let deny = rule(Action::Deny, "deny", &[], &["/admin"]);
    let all = PortPolicy { policies: vec![allow.clone(), deny.clone()], default_allow: false, ..open(Protocol::Http1) };
    let pair = Pair::start(app, Protocol::Http1, all).await;
    for _ in 0..2 {
        assert_eq!(answer(pair.entry, "/public").await.0, 200);
        for path in ["/admin", "/admin/x", "/admin?x", "//admin", "/admin;a=b", "/%61dmin"] {
            let (code, head) = answer(pair.entry, path).await;
            assert!(code == 403 && head.contains("mesh-policy: AuthorizationPolicy/shop/deny\r\n"), "{path}: {head}");
        }
        // Without an identity no allow policy matches.
        assert_eq!(answer(pair.inbound, "/public").await.0, 403);
        let served = requests.load(std::sync::atomic::Ordering::SeqCst);
        pair.plane.change(|world| {
            world.inbound.get_mut("cart-1").unwrap().default_port.policies = vec![deny.clone(), allow.clone()];
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), served);
    }
    assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_probes_pass_a_port_that_lets_nobody_in() {
    let (app, requests) = echo().await;
    let probes = vec![Probe { method: "GET".into(), path: "/health".into() }];
    let policies = vec![rule(Action::Deny, "deny", &[], &[])];
    for (at, protocol) in [Protocol::Detect, Protocol::Http1].into_iter().enumerate() {
        let (probes, policies) = (probes.clone(), policies.clone());
        let port = PortPolicy { transport: Transport::Strict, policies, probes, ..open(protocol) };
        let pair = Pair::start(app, protocol, port).await;
        // Who asks has no identity, as a kubelet.
        assert_eq!(answer(pair.inbound, "/health?full").await.0, 200);
        for path in ["/", "/health/x", "/other"] {
            assert_eq!(answer(pair.inbound, path).await.0, 403, "{path}");
        }
        let mut wire = Wire::connect(pair.inbound).await;
        wire.send(b"\0\x01binary\r\n\r\n").await;
        assert_eq!(wire.rest().await.1, End::Reset);
        assert_eq!(requests.load(std::sync::atomic::Ordering::SeqCst), at + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_judged_by_rules_for_requests_is_refused() {
    for policies in
        [vec![rule(Action::Deny, "deny", &[], &["/admin"])], vec![rule(Action::Allow, "allow", &[], &["/public"])]]
    {
        for protocol in [Protocol::Detect, Protocol::Opaque, Protocol::Http1] {
            let (app, log) = recorder().await;
            let port = PortPolicy { policies: policies.clone(), ..open(protocol) };
            let pair = Pair::start(app, Protocol::Opaque, port).await;
            for address in [pair.entry, pair.inbound] {
                let mut wire = Wire::connect(address).await;
                // It would be a request to the application; to the proxy it is bytes, where the port says so.
                let bytes: &[u8] =
                    if protocol == Protocol::Opaque { b"GET /admin HTTP/1.1\r\n\r\n" } else { b"\0\x01binary\r\n\r\n" };
                // It may be refused before it has said anything: then that is the moment at which the reset is told.
                let sent = wire.try_send(bytes).await;
                let (_, end) = wire.rest().await;
                assert!(!sent || end == End::Reset || protocol == Protocol::Http1, "{protocol:?}");
            }
            assert_eq!(log.text(), "", "{protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_speaks_first_says_nothing_past_rules_for_requests() {
    let app = app(|mut wire, _| async move {
        wire.try_send("220 secret banner\r\n").await;
        wire.rest().await;
    })
    .await;
    let port = PortPolicy { policies: vec![rule(Action::Deny, "deny", &[], &["/admin"])], ..open(Protocol::Detect) };
    let pair = Pair::start(app, Protocol::Detect, port).await;
    for address in [pair.entry, pair.inbound] {
        let mut wire = Wire::connect(address).await;
        assert_eq!(wire.rest().await, (vec![], End::Reset));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn j16_open_connections_end_when_they_are_not_allowed_any_more() {
    let app = app(|mut wire, _| async move {
        while let Some(line) = wire.through("\n").await {
            wire.try_send(line).await;
        }
    })
    .await;
    let stricter: [fn(&mut PortPolicy); 3] = [
        |port| port.default_allow = false,
        |port| port.policies = vec![rule(Action::Deny, "deny", &["*"], &[])],
        |port| port.policies = vec![rule(Action::Allow, "allow", &["spiffe://test.mesh/ns/shop/sa/other"], &[])],
    ];
    for change in stricter {
        let pair = Pair::start(app, Protocol::Opaque, open(Protocol::Opaque)).await;
        let mut wire = Wire::connect(pair.entry).await;
        wire.send("hello\n").await;
        assert_eq!(wire.through("\n").await.unwrap(), "hello\n");
        // A change that does not concern it.
        pair.plane.change(|world| {
            let port = &mut world.inbound.get_mut("cart-1").unwrap().default_port;
            port.policies = vec![rule(Action::Deny, "others", &["spiffe://test.mesh/ns/shop/sa/other"], &[])];
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        wire.send("still\n").await;
        assert_eq!(wire.through("\n").await.unwrap(), "still\n");
        let begun = Instant::now();
        pair.plane.change(|world| change(&mut world.inbound.get_mut("cart-1").unwrap().default_port));
        wire.rest().await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }
    // A plain connection, when the port becomes strict.
    let pair = Pair::start(app, Protocol::Opaque, open(Protocol::Opaque)).await;
    let (mut plain, mut meshed) = (Wire::connect(pair.inbound).await, Wire::connect(pair.entry).await);
    for wire in [&mut plain, &mut meshed] {
        wire.send("hello\n").await;
        assert_eq!(wire.through("\n").await.unwrap(), "hello\n");
    }
    pair.plane.change(|world| {
        world.inbound.get_mut("cart-1").unwrap().default_port.transport = Transport::Strict;
    });
    plain.rest().await;
    meshed.send("still\n").await;
    assert_eq!(meshed.through("\n").await.unwrap(), "still\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_on_open_connections_are_judged_by_what_holds_now() {
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    let mut plain = Wire::connect(pair.inbound).await;
    let http2 = h2_client(pair.inbound).await;
    plain.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
    assert_eq!(status(&plain.message().await.unwrap().0), 200);
    pair.plane.change(|world| {
        world.inbound.get_mut("cart-1").unwrap().default_port.transport = Transport::Strict;
    });
    until("the policy holds", async || {
        let answer = fetch(&http2, request("GET", "/")).await;
        answer.map_or(true, |answer| answer.head.status == 403)
    })
    .await;
    if plain.try_send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await
        && let Some((head, _)) = plain.message().await
    {
        assert_eq!(status(&head), 403);
    }
    assert_eq!(answer(pair.entry, "/").await.0, 200, "members still may");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_policy_nobody_is_let_in() {
    let (app, log) = recorder().await;
    let plane = Plane::start().await;
    let inbound = free_port();
    let mut config = plane.config("late-1", "late");
    config.discovery.wait = Duration::from_millis(500);
    config.inbound.listeners.push(InboundListener { listen: inbound, app });
    let proxy = Proxy::start_unready(config).await;
    until("it listens", async || tokio::net::TcpStream::connect(inbound).await.is_ok()).await;
    for bytes in ["GET / HTTP/1.1\r\nHost: cart\r\n\r\n", "\0binary", ""] {
        let mut wire = Wire::connect(inbound).await;
        wire.try_send(bytes).await;
        assert_eq!(wire.rest().await.0, b"");
    }
    assert_eq!(log.text(), "");
    // A connection that is waiting when the policy comes goes on.
    let mut wire = Wire::connect(inbound).await;
    wire.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
    plane.change(|world| {
        world.inbound.insert("late-1".into(), policy("late-1", "late", open(Protocol::Http1)));
    });
    until("the application is asked", async || log.text().starts_with("GET / HTTP/1.1\r\n")).await;
    let (code, _) = within(get(proxy.admin, "/ready")).await.unwrap();
    assert_eq!(code, 200);
}
