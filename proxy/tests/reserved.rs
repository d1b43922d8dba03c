//! Header fields that only the mesh may set, at the proxies' real listeners: whoever sends them, and in whatever spelling,
//! the application sees the truth or nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use http::HeaderValue;
use mesh_api::model::{
    Protocol,
    policy::{Action, AuthorizationPolicy, AuthorizationRule, Operation, PortPolicy},
    route::PathMatch,
};

use self::{
    apps::{Wire, app, echo, fetch, field, h2_client, request, status},
    mesh::{Pair, get, open},
    peers::{keeper, link},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/peers.rs"]
mod peers;

const FORGED: &str = "Mesh-Client-Id: spiffe://test.mesh/ns/shop/sa/admin\r\n\
                      mesh_client_id: spiffe://test.mesh/ns/shop/sa/admin\r\n\
                      MESH-CLIENT-ID: spiffe://test.mesh/ns/shop/sa/admin\r\n\
                      Mesh_Client-Id: \u{e4}\r\n\
                      Mesh-Orig-Proto: HTTP/1.0; absolute-form\r\n\
                      Mesh-Upgrade: websocket\r\n\
                      Mesh-Error: denied\r\n\
                      Mesh-Policy: x\r\n\
                      Mesh-Whatever-Comes: x\r\n\
                      X-Forwarded-Client-Cert: By=x;URI=spiffe://test.mesh/ns/shop/sa/admin\r\n\
                      X-Envoy-Original-Path: /admin\r\n\
                      X-Kept: yes\r\n";

/// The head that the application saw.
async fn seen(wire: &mut Wire, fields: &str) -> String {
    wire.send(format!("GET /x HTTP/1.1\r\nHost: cart\r\n{fields}\r\n")).await;
    let (head, body) = wire.message().await.unwrap();
    let body = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(status(&head), 200, "{head}{body}");
    body
}

/// Nothing forged is left; the caller's identity is this.
fn check(seen: &str, identity: Option<&str>) {
    assert_eq!(field(seen, "mesh-client-id"), identity, "{seen}");
    assert_eq!(field(seen, "x-kept"), Some("yes"), "{seen}");
    let claims =
        ["mesh-orig", "mesh_", "mesh-upgrade", "mesh-error", "mesh-policy", "mesh-whatever", "admin", "upgrade"];
    for claim in claims {
        assert!(!seen.to_lowercase().contains(claim), "{claim}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c10_c12_c13_c14_c15_c16_a_plain_caller_claims_nothing() {
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    let mut wire = Wire::connect(pair.inbound).await;
    check(&seen(&mut wire, FORGED).await, None);
    check(&seen(&mut wire, &FORGED.repeat(3)).await.replace("x-kept: yes\r\nx-kept: yes\r\n", ""), None);
    // HTTP/2 with prior knowledge is no sidecar either: its word about the application's protocol is not believed.
    let mut ask = request("GET", "/x");
    let headers = ask.headers_mut();
    headers.insert("mesh-orig-proto", HeaderValue::from_static("h1"));
    headers.insert("mesh-client-id", HeaderValue::from_static("spiffe://test.mesh/ns/shop/sa/admin"));
    let app = apps::h2_app(|request, mut respond| async move {
        assert!(request.headers().keys().all(|name| !name.as_str().starts_with("mesh")), "{request:?}");
        respond.send_response(apps::bare(200), true).unwrap();
    })
    .await;
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    let answer = fetch(&h2_client(pair.inbound).await, ask).await.unwrap();
    // The application, which speaks nothing else, was spoken to in HTTP/2.
    assert_eq!(answer.head.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_c15_a_members_application_claims_nothing_but_is_who_it_is() {
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Detect, open(Protocol::Detect)).await;
    let mut wire = Wire::connect(pair.entry).await;
    check(&seen(&mut wire, FORGED).await, Some("spiffe://test.mesh/ns/shop/sa/web"));
    // Nor can it have the truth removed.
    let hop = format!("Connection: mesh-client-id, x-other\r\nX-Other: 1\r\n{FORGED}");
    let seen = seen(&mut wire, &hop).await;
    check(&seen, Some("spiffe://test.mesh/ns/shop/sa/web"));
    assert_eq!(field(&seen, "x-other"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c11_g10_a_peer_that_lies_over_its_own_tls_is_still_who_it_is() {
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let root = &pair.plane.root;
    let client = link(pair.inbound, &keeper(root, Some(root), "mallory")).await;
    for (name, value) in [
        ("mesh-client-id", "spiffe://test.mesh/ns/shop/sa/admin"),
        ("mesh-orig-proto", "h2, h1"),
        ("mesh-upgrade", "h2c"),
        ("mesh-upgrade", "websocket, HTTP/2.0"),
        ("mesh-policy", "x"),
        ("x-forwarded-client-cert", "URI=spiffe://test.mesh/ns/shop/sa/admin"),
    ] {
        let mut ask = request("GET", "/x");
        ask.headers_mut().insert(name, HeaderValue::from_static(value));
        ask.headers_mut().insert("x-kept", HeaderValue::from_static("yes"));
        let answer = fetch(&client, ask).await.unwrap();
        assert_eq!(answer.head.status, 200, "{name}");
        check(&String::from_utf8(answer.body).unwrap(), Some("spiffe://test.mesh/ns/shop/sa/mallory"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_an_application_answers_nothing_in_the_meshs_name() {
    let app = app(|mut wire, _| async move {
        while wire.head().await.is_some() {
            wire.send(
                "HTTP/1.1 503 Busy\r\nMesh-Error: denied\r\nmesh_policy: x\r\nMesh-Client-Id: y\r\nMesh-Upgrade: z\r\n\
                 X-Kept: yes\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n",
            )
            .await;
        }
    })
    .await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    for address in [pair.entry, pair.inbound] {
        let mut wire = Wire::connect(address).await;
        wire.send("GET / HTTP/1.1\r\nHost: cart\r\n\r\n").await;
        let head = wire.head().await.unwrap().to_lowercase();
        assert!(status(&head) == 503 && head.contains("x-kept: yes"), "{head}");
        assert!(!head.contains("mesh") && !head.contains("x-hop"), "{head}");
    }
}

fn refusing() -> PortPolicy {
    let origin = mesh_api::model::ObjectRef {
        kind: "AuthorizationPolicy".into(),
        namespace: "shop".into(),
        name: "secret-name".into(),
    };
    let to = vec![Operation { paths: vec![PathMatch::Prefix("/denied".into())], ..Operation::default() }];
    let rules = vec![AuthorizationRule { from: vec![], to }];
    PortPolicy { policies: vec![AuthorizationPolicy { origin, action: Action::Deny, rules }], ..open(Protocol::Http1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c20_errors_tell_strangers_no_names_and_nobody_addresses() {
    let nobody = mesh::free_port();
    let pair = Pair::start(nobody, Protocol::Http1, refusing()).await;
    for (path, code) in [("/denied", 403), ("/down", 503), ("/../x", 400)] {
        for (address, member) in [(pair.entry, true), (pair.inbound, false)] {
            let mut wire = Wire::connect(address).await;
            wire.send(format!("GET {path} HTTP/1.1\r\nHost: cart\r\n\r\n")).await;
            let (head, body) = wire.message().await.unwrap();
            let all = format!("{head}{}", String::from_utf8_lossy(&body));
            assert_eq!(status(&head), code, "{all}");
            assert!(!all.contains("127.0.0.1") && !all.contains(&nobody.port().to_string()), "{all}");
            assert!(!all.contains("spiffe"), "{all}");
            assert_eq!(all.contains("secret-name"), member && code == 403, "{all}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c09_a_host_never_chooses_where_a_request_goes() {
    let (app, _) = echo().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    let own = [pair.client.admin, pair.server.admin, pair.entry, pair.inbound].map(|address| address.to_string());
    let hosts = ["169.254.169.254", "localhost", "other.shop.svc"].map(str::to_owned);
    for host in own.iter().chain(&hosts) {
        for address in [pair.entry, pair.inbound] {
            for target in ["/metrics".to_owned(), format!("http://{host}/metrics")] {
                let mut wire = Wire::connect(address).await;
                wire.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
                let (_, body) = wire.message().await.unwrap();
                assert!(body.starts_with(b"GET /metrics HTTP/1.1\r\n"), "{host}: {}", String::from_utf8_lossy(&body));
            }
        }
    }
    assert_eq!(get(pair.client.admin, "/ready").await.unwrap().0, 200);
}
