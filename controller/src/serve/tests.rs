//! The service with real clients over loopback, and its actor with time that a test moves.

mod harness;
mod properties;
mod slow;

use std::time::Duration;

use mesh_api::{
    convert::{destination_from_proto, inbound_from_proto, version_of},
    proto::{self, watch_response::Body},
};
use tonic::Code;

use self::harness::{Client, Server, eventually, workload_yaml};
use super::*;
use crate::{
    fixtures::{SHOP, client, object_ref, objects, target, workload_id},
    resolve,
    source::Event,
};

const WEB: &str = "spiffe://td/ns/shop/sa/web";
const FRONT: &str = "spiffe://td/ns/front/sa/front";

fn synced(yaml: &str) -> Vec<Event> {
    let mut events: Vec<Event> = objects(yaml).into_iter().map(|object| Event::Apply(Box::new(object))).collect();
    events.push(Event::Synced);
    events
}

#[tokio::test]
async fn a_destination_then_only_what_changes() {
    let server = Server::start(synced(SHOP)).await;
    let mut proxy = Client::hello(&server, FRONT, "front", "front-1").await;
    proxy.subscribe("web.shop:80", "").await;
    let first = proxy.next().await;
    assert_eq!(harness::key_of(&first), "web.shop.svc:80");
    let Some(Body::Destination(wire)) = first.body.clone() else { panic!("{first:?}") };
    assert_eq!(first.version, version_of(&wire));
    let mut held = destination_from_proto(wire).unwrap();

    // The same again, and something that this proxy does not watch: no message.
    server.hub.commit(objects(SHOP).into_iter().map(|object| Event::Apply(Box::new(object))));
    server.apply(&workload_yaml("api-2", "api", 2));
    server.apply(&workload_yaml("web-3", "web", 3));
    let second = proxy.next().await;
    let Some(Body::Delta(delta)) = second.body.clone() else { panic!("{second:?}") };
    assert_eq!(delta.base_version, first.version);
    assert_eq!((delta.backends[0].upsert.len(), delta.backends[0].remove.len()), (1, 0));
    held.apply(mesh_api::convert::delta_from_proto(delta).unwrap()).unwrap();
    let truth = server.hub.with_index(|index| resolve::destination(index, &target("web.shop:80"), &client("front")));
    assert_eq!(held, truth.unwrap());
    assert_eq!(second.version, version_of(&mesh_api::convert::destination_to_proto(&held)));

    // More than endpoints: all of it.
    server.apply(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: r, namespace: shop}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web}], rules: [{backendRefs: [{name: web, port: 80}]}]}",
    );
    assert!(matches!(proxy.next().await.body, Some(Body::Destination(all)) if all.routed));
    server.hub.commit([Event::Delete(object_ref("Service", "shop", "web"))]);
    assert!(matches!(proxy.next().await.body, Some(Body::NotFound(_))));
    server.hub.commit(objects(SHOP).into_iter().map(|object| Event::Apply(Box::new(object))));
    assert!(matches!(proxy.next().await.body, Some(Body::Destination(_))), "it came back");
    proxy.is_silent().await;
}

#[tokio::test]
async fn what_the_proxy_holds_already_is_not_sent_again() {
    let server = Server::start(synced(SHOP)).await;
    let mut proxy = Client::hello(&server, FRONT, "front", "front-1").await;
    proxy.subscribe("web.shop.svc:80", "").await;
    let version = proxy.next().await.version;
    drop(proxy);
    let mut again = Client::hello(&server, FRONT, "front", "front-1").await;
    again.subscribe("web.shop.svc:80", &version).await;
    let current = again.next().await;
    assert!(matches!(current.body, Some(Body::Current(_))));
    assert_eq!(current.version, version);
    again.subscribe("10.96.0.1:80", "another").await;
    assert!(matches!(again.next().await.body, Some(Body::Destination(_))));
    // The claimed version is a base for changes.
    server.apply(&workload_yaml("web-3", "web", 3));
    let bodies = [again.next().await, again.next().await];
    assert!(bodies.iter().all(|message| matches!(message.body, Some(Body::Delta(_)))), "{bodies:?}");
}

#[tokio::test]
async fn nobody_is_answered_before_all_is_known() {
    let server = Server::start(synced(SHOP).into_iter().take(1).collect()).await;
    let mut proxy = Client::hello(&server, FRONT, "front", "front-1").await;
    proxy.subscribe("web.shop:80", "").await;
    proxy.subscribe("nothing.shop:80", "").await;
    proxy.is_silent().await;
    server.hub.commit(synced(SHOP));
    let Some(Body::Destination(wire)) = proxy.next().await.body else { panic!() };
    assert_eq!(wire.backends[0].endpoints.len(), 2, "all endpoints at once");
    assert!(matches!(proxy.next().await.body, Some(Body::NotFound(_))));
}

#[tokio::test]
async fn only_the_workload_itself_learns_who_may_call_it() {
    let server = Server::start(synced(SHOP)).await;
    let mut own = Client::hello(&server, WEB, "shop", "web-1").await;
    own.subscribe_inbound().await;
    let Some(Body::Inbound(wire)) = own.next().await.body else { panic!() };
    assert_eq!(inbound_from_proto(wire).unwrap().workload, workload_id("shop", "web-1"));
    let mut other = Client::hello(&server, "spiffe://td/ns/shop/sa/other", "shop", "web-1").await;
    other.subscribe_inbound().await;
    assert!(matches!(other.next().await.body, Some(Body::NotFound(_))));
    let mut unknown = Client::hello(&server, WEB, "shop", "web-77").await;
    unknown.subscribe_inbound().await;
    assert!(matches!(unknown.next().await.body, Some(Body::NotFound(_))));
    server.apply("apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {name: t, namespace: shop}\nspec: {mode: Strict}");
    let Some(Body::Inbound(wire)) = own.next().await.body else { panic!() };
    assert_eq!(wire.default_port.unwrap().transport, i32::from(proto::Transport::Strict));
    other.is_silent().await;
}

#[tokio::test]
async fn strangers_and_liars_are_refused() {
    let server = Server::start(synced(SHOP)).await;
    for (identity, namespace, workload, code) in [
        ("", "shop", "web-1", Code::Unauthenticated),
        ("spiffe://other/ns/shop/sa/web", "shop", "web-1", Code::PermissionDenied),
        (WEB, "front", "web-1", Code::PermissionDenied),
        ("spiffe://td/web", "shop", "web-1", Code::PermissionDenied),
        (WEB, "shop", "", Code::InvalidArgument),
        (WEB, "shop", "../x", Code::InvalidArgument),
    ] {
        let refused = Client::connect(&server, identity, vec![harness::hello(namespace, workload)]).await;
        assert_eq!(refused.end().await, code, "{identity} {namespace}");
    }
    let no_hello = Client::connect(&server, WEB, vec![harness::subscribe("web.shop:80", "")]).await;
    assert_eq!(no_hello.end().await, Code::InvalidArgument);
    let twice = vec![harness::hello("shop", "web-1"), harness::hello("shop", "web-1")];
    assert_eq!(Client::connect(&server, WEB, twice).await.end().await, Code::InvalidArgument);
    let huge = vec![harness::hello("shop", "web-1"), harness::subscribe(&"x".repeat(70_000), "")];
    assert_eq!(Client::connect(&server, WEB, huge).await.end().await, Code::OutOfRange);
    let long = vec![harness::hello("shop", "web-1"), harness::subscribe(&"x".repeat(301), "")];
    assert_eq!(Client::connect(&server, WEB, long).await.end().await, Code::InvalidArgument);
    eventually(|| server.hub.is_idle()).await;
}

#[tokio::test]
async fn what_proxies_run_is_known() {
    let server = Server::start(synced(SHOP)).await;
    let mut proxy = Client::hello(&server, WEB, "shop", "web-1").await;
    proxy.subscribe("web.shop:80", "").await;
    let first = proxy.next().await;
    proxy.ack(&first).await;
    let status = |server: &Server| server.hub.proxies()[0].keys["web.shop.svc:80"].clone();
    eventually(|| status(&server).is_current()).await;
    server.apply(&workload_yaml("web-3", "web", 3));
    let second = proxy.next().await;
    assert!(!status(&server).is_current());
    proxy.nack(&second, "no such thing").await;
    eventually(|| status(&server).refused.is_some()).await;
    let now = status(&server);
    assert_eq!(
        (now.acked.as_deref(), now.refused.unwrap().reason.as_str()),
        (Some(first.version.as_str()), "no such thing")
    );
    proxy.is_silent().await;
    // What the proxy holds now is not known: no change can be based on it.
    server.apply(&workload_yaml("web-4", "web", 4));
    let third = proxy.next().await;
    assert!(matches!(third.body, Some(Body::Destination(_))));
    proxy.ack(&third).await;
    eventually(|| status(&server).is_current()).await;
    let told = server.hub.proxies().remove(0);
    assert_eq!((told.namespace.as_str(), told.workload.as_str(), told.identity.as_str()), ("shop", "web-1", WEB));
    let text = serde_json::to_string(&told).unwrap();
    assert_eq!(serde_json::from_str::<crate::status::ProxyStatus>(&text).unwrap(), told);
}

#[tokio::test]
async fn subscriptions_are_bounded_and_leave_nothing_behind() {
    let limits = Limits { subscriptions: 10, ..Limits::default() };
    let server = Server::start_with(synced(SHOP), limits).await;
    let mut proxy = Client::hello(&server, WEB, "shop", "web-1").await;
    for n in 0..10 {
        proxy.subscribe(&format!("name-{n}.shop:80"), "").await;
        assert!(matches!(proxy.next().await.body, Some(Body::NotFound(_))));
    }
    proxy.subscribe("web.shop:80", "").await;
    let Some(Body::NotFound(refused)) = proxy.next().await.body else { panic!() };
    assert!(refused.reason.contains("10 keys"), "{}", refused.reason);
    proxy.subscribe("not a name", "").await;
    assert!(matches!(proxy.next().await.body, Some(Body::NotFound(_))));
    for n in 0..10 {
        proxy.unsubscribe(&format!("name-{n}.shop:80")).await;
    }
    for n in 0..3000 {
        proxy.subscribe(&format!("other-{n}.shop:80"), "").await;
        proxy.unsubscribe(&format!("other-{n}.shop:80")).await;
    }
    proxy.subscribe("web.shop:80", "").await;
    loop {
        let message = proxy.next().await;
        if harness::key_of(&message) == "web.shop.svc:80" {
            assert!(matches!(message.body, Some(Body::Destination(_))));
            break;
        }
    }
    assert_eq!(server.hub.proxies()[0].keys.len(), 1);
    drop(proxy);
    eventually(|| server.hub.is_idle()).await;
}

#[tokio::test]
async fn streams_are_bounded() {
    let limits = Limits { streams: 2, ..Limits::default() };
    let server = Server::start_with(synced(SHOP), limits).await;
    let one = Client::hello(&server, WEB, "shop", "web-1").await;
    let _two = Client::hello(&server, WEB, "shop", "web-2").await;
    eventually(|| server.hub.proxies().len() == 2).await;
    let three = Client::connect(&server, WEB, vec![harness::hello("shop", "web-3")]).await;
    assert_eq!(three.end().await, Code::ResourceExhausted);
    drop(one);
    eventually(|| server.hub.proxies().len() == 1).await;
    let mut four = Client::hello(&server, WEB, "shop", "web-4").await;
    four.subscribe("web.shop:80", "").await;
    assert!(matches!(four.next().await.body, Some(Body::Destination(_))));
}

#[tokio::test]
async fn a_thousand_endpoints_that_come_and_go() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}";
    let server = Server::start(synced(service)).await;
    let objects: Vec<Event> = (0..1000)
        .flat_map(|n| crate::fixtures::objects(&workload_yaml(&format!("web-{n}"), "web", n)))
        .map(|object| Event::Apply(Box::new(object)))
        .collect();
    server.hub.commit(objects.clone());
    let mut proxies = Vec::new();
    for n in 0..5 {
        let proxy = Client::hello(&server, FRONT, "front", &format!("front-{n}")).await;
        proxy.subscribe("web.shop:80", "").await;
        proxies.push(proxy);
    }
    for round in 0..100usize {
        let n = round * 7 % 1000;
        server.hub.commit([Event::Delete(object_ref("ExternalWorkload", "shop", &format!("web-{n}")))]);
        tokio::task::yield_now().await;
        if round % 2 == 0 {
            server.hub.commit([objects[n].clone()]);
        }
    }
    let truth =
        server.hub.with_index(|index| resolve::destination(index, &target("web.shop:80"), &client("front"))).unwrap();
    for proxy in &mut proxies {
        let (held, whole, _) = proxy.follow("web.shop.svc:80", &truth).await;
        assert_eq!(held, truth);
        assert_eq!(whole, 1, "the whole once, then changes");
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_introduce_itself_is_let_go() {
    let hub = harness::hub(synced(SHOP), Limits::default());
    let (_kept, requests) = harness::requests(vec![]);
    let mut responses = super::stream::start(hub, WEB.parse().unwrap(), requests);
    let started = tokio::time::Instant::now();
    let end = tokio_stream::StreamExt::next(&mut responses).await.unwrap().unwrap_err();
    assert_eq!(end.code(), Code::DeadlineExceeded);
    assert!(started.elapsed() >= Duration::from_secs(10) && started.elapsed() < Duration::from_secs(11));
}
