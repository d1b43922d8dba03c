//! Readers that do not read cost nobody anything, and are let go.

use std::time::Duration;

use tokio_stream::StreamExt as _;
use tonic::Code;

use super::{
    FRONT, harness,
    harness::{Client, Server, eventually, workload_yaml},
    synced,
};
use crate::{
    fixtures::{SHOP, client, target},
    resolve,
    serve::Limits,
};

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_for_half_a_minute_is_let_go_with_a_reason() {
    let hub = harness::hub(synced(SHOP), Limits::default());
    let mut messages = vec![harness::hello("front", "front-1")];
    messages.extend((0..100).map(|n| harness::subscribe(&format!("name-{n}.shop:80"), "")));
    let (_kept, requests) = harness::requests(messages);
    let mut slow = crate::serve::stream::start(hub.clone(), FRONT.parse().unwrap(), requests);
    let started = tokio::time::Instant::now();
    eventually(|| hub.proxies().len() == 1).await;
    // One that reads on and off is not slow: each message begins its time anew.
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(slow.next().await.unwrap().is_ok());
    }
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(hub.is_idle(), "after {:?}", started.elapsed());
    let rest: Vec<_> = slow.collect().await;
    assert!(rest.len() <= 3, "no more than what was under way: {}", rest.len());
    assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_take_is_not_slow() {
    let hub = harness::hub(synced(SHOP), Limits::default());
    let (_kept, requests) =
        harness::requests(vec![harness::hello("front", "front-1"), harness::subscribe("web.shop:80", "")]);
    let mut idle = crate::serve::stream::start(hub.clone(), FRONT.parse().unwrap(), requests);
    assert!(idle.next().await.unwrap().is_ok());
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(hub.proxies().len(), 1);
}

/// Over a real connection, whose windows fill: the others see every change, the slow one goes.
#[tokio::test]
async fn one_slow_reader_delays_nobody() {
    let limits = Limits { slow_reader: Duration::from_millis(500), ..Limits::default() };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                   spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}";
    let server = Server::start_with(synced(service), limits).await;
    for n in 0..500 {
        server.apply(&workload_yaml(&format!("web-{n}"), "web", n));
    }
    let slow = Client::hello(&server, FRONT, "front", "slow").await;
    // Each answer is some 60 KiB: windows and buffers hold a few of them.
    let mut ports = String::new();
    for port in 1..=40 {
        ports += &format!("{{port: {port}, name: p{port}, targetPort: 8080}},");
    }
    server.apply(&service.replace("{port: 80, targetPort: 8080}", &format!("{ports}{{port: 80, targetPort: 8080}}")));
    for port in 1..=40 {
        slow.subscribe(&format!("web.shop:{port}"), "").await;
    }
    let mut fast = Client::hello(&server, FRONT, "front", "fast").await;
    fast.subscribe("web.shop:80", "").await;
    for n in 500..550 {
        server.apply(&workload_yaml(&format!("web-{n}"), "web", n));
        let truth =
            server.hub.with_index(|index| resolve::destination(index, &target("web.shop:80"), &client("front")));
        if n == 500 {
            fast.follow("web.shop.svc:80", &truth.unwrap()).await;
        } else {
            assert!(fast.next().await.body.is_some(), "every change, one by one");
        }
    }
    eventually(|| server.hub.proxies().iter().all(|proxy| proxy.workload == "fast")).await;
    assert_eq!(slow.end().await, Code::ResourceExhausted);
    fast.is_silent().await;
}
