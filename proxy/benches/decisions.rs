//! What each request is asked, by itself and without a network: `cargo bench -p mesh-proxy`.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, reason = "a benchmark's own data")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use divan::{Bencher, black_box};
use http::{Request, StatusCode, request::Parts};
use mesh_api::model::{
    ObjectRef, Protocol, WorkloadId,
    destination::{Backend, BackendId, Destination, Endpoint},
    policy::{Action, AuthorizationPolicy, AuthorizationRule, Operation, PortPolicy, Source},
    route::{HttpMatch, PathMatch, RouteEntry, Rule, WeightedBackend},
};
use mesh_proxy::{
    authz::{Authorizer, Caller},
    balance::{Balancer, Outcome},
    config::Config,
    normal::{headers, normalise},
    routing::Router,
    telemetry::{
        Telemetry,
        metrics::{self, Direction, Edge, RequestMetrics},
    },
    trace::{Incoming, Sampler},
};

fn main() {
    divan::main();
}

/// A head as a browser behind a gateway sends it.
fn head() -> Parts {
    Request::get("/shop/items/42?colour=red")
        .header("host", "cart.shop")
        .header("user-agent", "a-program/1.0")
        .header("accept", "text/html,application/json")
        .header("accept-encoding", "gzip, br")
        .header("cookie", "session=0123456789abcdef")
        .header("x-request-id", "6f1d2f9a-41c4-4a6b-9d37-0f2f3a1b2c3d")
        .body(())
        .unwrap()
        .into_parts()
        .0
}

fn backend() -> BackendId {
    BackendId { namespace: "shop".into(), name: "cart".into(), port: 80 }
}

fn object(kind: &str, nth: usize) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "shop".into(), name: format!("o{nth}").into() }
}

/// So many rules by prefix of the path; the last one fits.
fn router(rules: usize) -> Router {
    let weighted = || WeightedBackend { backend: backend(), weight: 1, filters: Vec::new() };
    let path = |nth: usize| if nth + 1 == rules { "/shop".to_owned() } else { format!("/other-{nth}") };
    let destination = Destination {
        id: backend(),
        protocol: Protocol::Http1,
        rules: (0..rules)
            .map(|nth| Rule {
                origin: object("HTTPRoute", nth),
                name: "0".into(),
                filters: Vec::new(),
                backends: vec![weighted()],
                request_timeout: None,
                backend_timeout: None,
            })
            .collect(),
        routes: (0..rules)
            .map(|rule| RouteEntry {
                matches: HttpMatch { path: Some(PathMatch::Prefix(path(rule).into())), ..HttpMatch::default() },
                rule,
            })
            .collect(),
        routed: true,
        default_backends: vec![weighted()],
        backends: [(backend(), Backend::default())].into(),
    };
    Router::compile(&destination).0
}

#[divan::bench]
fn normal_form(bencher: Bencher<'_, '_>) {
    bencher.with_inputs(head).bench_local_values(|mut parts| {
        headers::strip_hop_by_hop(&mut parts.headers);
        headers::strip_reserved(&mut parts.headers);
        normalise(&mut parts).unwrap();
        parts
    });
}

#[divan::bench(args = [1, 10, 100])]
fn route(bencher: Bencher<'_, '_>, rules: usize) {
    let (router, mut parts) = (router(rules), head());
    let normal = normalise(&mut parts).unwrap();
    bencher.bench_local(|| black_box(router.decide(&normal.view(black_box(&parts)), 7)));
}

#[divan::bench(args = [1, 10, 100])]
fn authorize(bencher: Bencher<'_, '_>, policies: usize) {
    // Only the last one lets the caller in.
    let allow = |nth: usize| {
        let who = if nth + 1 == policies { "web".to_owned() } else { format!("other-{nth}") };
        let identities = vec![format!("spiffe://cluster.local/ns/shop/sa/{who}").into()];
        let paths = vec![PathMatch::Prefix("/shop".into())];
        AuthorizationPolicy {
            origin: object("AuthorizationPolicy", nth),
            action: Action::Allow,
            rules: vec![AuthorizationRule {
                from: vec![Source { identities, ..Source::default() }],
                to: vec![Operation { paths, ..Operation::default() }],
            }],
        }
    };
    let policy = PortPolicy { policies: (0..policies).map(allow).collect(), ..PortPolicy::default() };
    let authorizer = Authorizer::compile(&policy, 80).0;
    let mut parts = head();
    let normal = normalise(&mut parts).unwrap();
    let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let caller = Caller { identity: Some(&identity), address: [10, 0, 0, 1].into() };
    assert!(authorizer.authorize(&caller, Some(&normal.view(&parts))).is_allow());
    bencher.bench_local(|| black_box(authorizer.authorize(&caller, Some(&normal.view(black_box(&parts))))).is_allow());
}

#[divan::bench(args = [1, 3, 100, 1000])]
fn balance(bencher: Bencher<'_, '_>, endpoints: u16) {
    let endpoint = |nth: u16| {
        let [high, low] = nth.to_be_bytes();
        Endpoint {
            address: SocketAddr::from(([10, 0, high, low], 80)),
            identity: None,
            workload: WorkloadId { namespace: "shop".into(), name: "cart-1".into() },
            owner: "cart".into(),
            zone: "".into(),
            weight: 1,
            ready: true,
        }
    };
    let endpoints = (0..endpoints).map(endpoint).map(|one| (one.address, one)).collect();
    let now = Instant::now();
    let mut balancer = Balancer::new(1, now);
    balancer.update(&Backend { protocol: Protocol::Http1, endpoints }, now, |_| ());
    bencher.bench_local(|| {
        let mut pick = balancer.pick(now).unwrap();
        pick.record(Outcome::Answered, now);
    });
}

#[divan::bench]
fn record(bencher: Bencher<'_, '_>) {
    let (telemetry, _drains) = Telemetry::new(&Config::default()).unwrap();
    let edge = Edge {
        direction: Direction::Outbound,
        source: "web".into(),
        source_namespace: "shop".into(),
        destination: "cart".into(),
        destination_namespace: "shop".into(),
        route: "".into(),
        protocol: "http1",
        peer: None,
    };
    let metrics = RequestMetrics::new(&Arc::clone(&telemetry), edge);
    let outcome = metrics::Outcome::Status(StatusCode::OK);
    bencher.bench_local(|| metrics.record(black_box(outcome), Duration::from_micros(700)));
}

#[divan::bench]
fn trace(bencher: Bencher<'_, '_>) {
    let mut next = 1_u64;
    let sampler = Sampler::ratio(0.01);
    bencher.with_inputs(head).bench_local_values(|mut parts| {
        let span = Incoming::read(&parts.headers).span(sampler, || {
            next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            next
        });
        span.write(&mut parts.headers);
        parts
    });
}
