//! A service behind a fake API server.

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::query::{
    fake::{self, Fake},
    get,
};

const PODS: &str = "/api/v1/namespaces/mesh-viz/pods";

fn pod(name: &str, ready: bool) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"containers": [{"name": "jaeger", "ports": [{"name": "query", "containerPort": 16_686}]}]},
        "status": {"conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    })
}

/// A cluster with Jaeger.
async fn cluster() -> Fake {
    let fake = Fake::start().await;
    fake.reply(
        Method::GET,
        "/api/v1/namespaces/mesh-viz/services/jaeger",
        200,
        json!({
            "metadata": {"name": "jaeger"},
            "spec": {"selector": {"app": "jaeger"}, "ports": [
                {"name": "otlp", "port": 4317}, {"name": "query", "port": 80, "targetPort": "query"}]},
        }),
    );
    fake
}

#[tokio::test]
async fn a_pod_that_is_replaced_is_found_again() {
    let fake = cluster().await;
    fake.list(PODS, &[pod("starting", false), pod("jaeger-1", true)]);
    fake.forward("mesh-viz/jaeger-1:16686", fake::pages(&[("/", 200, "first")]).await);
    let relay = Arc::new(Relay::find(fake.client(), Which::Jaeger).await.unwrap());
    let listener = relay.listen([127, 0, 0, 1].into(), Some(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(relay.serve(listener, |_| {}));
    let page = || async { get(address, "/").await.and_then(|answer| answer.text()) };
    assert_eq!(page().await.unwrap(), "first");
    assert_eq!(page().await.unwrap(), "first");

    // It goes, and another one comes.
    let gone = format!("{PODS}/jaeger-1/portforward");
    fake.reply(Method::GET, &gone, 404, fake::status(404, "NotFound", "pods \"jaeger-1\" not found"));
    fake.list(PODS, &[pod("jaeger-2", true)]);
    fake.forward("mesh-viz/jaeger-2:16686", fake::pages(&[("/", 200, "second")]).await);
    assert_eq!(page().await.unwrap(), "second");
    assert!(fake.asked().iter().any(|asked| asked.query.contains("labelSelector=app%3Djaeger")));
    serving.abort();
}

#[tokio::test]
async fn trouble_is_told_once() {
    let fake = cluster().await;
    fake.list(PODS, &[pod("jaeger-1", true)]);
    let relay = Arc::new(Relay::find(fake.client(), Which::Jaeger).await.unwrap());
    let listener = relay.listen([127, 0, 0, 1].into(), Some(0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let serving = tokio::spawn(relay.serve(listener, move |why| drop(tell.send(why.to_owned()))));
    for _ in 0..3 {
        assert!(get(address, "/").await.is_err());
    }
    let why = timeout(Duration::from_secs(10), told.recv()).await.unwrap().unwrap();
    assert_eq!(why, "jaeger: connection refused");
    serving.abort();
    assert!(told.try_recv().is_err());
}

#[tokio::test]
async fn what_is_not_there_is_told_with_what_to_do() {
    let fake = Fake::start().await;
    for namespace in ["mesh-viz", "mesh-system"] {
        let path = format!("/api/v1/namespaces/{namespace}/services/prometheus");
        fake.reply(Method::GET, &path, 404, fake::status(404, "NotFound", "no such service"));
    }
    let error = Relay::find(fake.client(), Which::Prometheus).await.unwrap_err().to_string();
    assert_eq!(error, "there is no Service prometheus in mesh-viz or mesh-system; install it: meshctl viz install");
    let path = "/api/v1/namespaces/mesh-viz/services/jaeger";
    fake.reply(Method::GET, path, 403, fake::status(403, "Forbidden", "you may not get services"));
    let error = Relay::find(fake.client(), Which::Jaeger).await.unwrap_err().to_string();
    assert_eq!(error, "the Service mesh-viz/jaeger: you may not get services");
}

#[tokio::test]
async fn a_taken_port_is_replaced_unless_it_was_asked_for() {
    let fake = cluster().await;
    let relay = Relay::find(fake.client(), Which::Jaeger).await.unwrap();
    let first = relay.listen([127, 0, 0, 1].into(), Some(0)).await.unwrap();
    let taken = first.local_addr().unwrap().port();
    assert!(relay.listen([127, 0, 0, 1].into(), Some(taken)).await.is_err());
    let relay = Relay { port: Port::Number(taken), ..relay };
    assert_ne!(relay.listen([127, 0, 0, 1].into(), None).await.unwrap().local_addr().unwrap().port(), taken);
}

#[tokio::test]
async fn without_the_right_nobody_waits() {
    let fake = cluster().await;
    fake.list(PODS, &[pod("jaeger-1", true)]);
    let path = format!("{PODS}/jaeger-1/portforward");
    fake.reply(Method::GET, &path, 403, fake::status(403, "Forbidden", ""));
    let relay = Relay::find(fake.client(), Which::Jaeger).await.unwrap();
    for refused in [relay.probe().await.err(), relay.tunnel().await.err()] {
        assert!(matches!(refused, Some(RelayError::Forbidden(_))), "{refused:?}");
    }
}
