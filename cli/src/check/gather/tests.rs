//! The gatherers against a fake API server: what is refused, late, broken or gone ends as a fact that says so.

use std::time::Duration;

use http::Method;
use mesh_api::names::API_VERSION;
use serde_json::{Value, json};

use super::*;
use crate::{
    check::{
        facts::Trial,
        judge::fixtures::{meshed_pod, namespace, system_pod},
        report::Report,
        verdict::Outcome,
    },
    query::fake::{self, Fake, Reply},
};

fn plan(stage: Stage) -> Plan {
    Plan { stage, namespace: None }
}

fn outcome(report: &Report, name: &str) -> Outcome {
    report.checks.iter().find(|line| line.name == name).unwrap().verdict.outcome
}

#[tokio::test]
async fn an_empty_cluster_is_not_installed_and_nothing_is_changed_in_it() {
    let fake = Fake::start().await;
    let facts = gather_from(&fake.cluster(), &plan(Stage::Proxies)).await;
    let report = Report::judge(&facts, Stage::Proxies);
    assert_eq!(outcome(&report, "control-plane-deployments"), Outcome::Error);
    assert_eq!(outcome(&report, "webhook-answers"), Outcome::Skipped);
    let changed: Vec<_> = fake.asked().into_iter().filter(|asked| asked.method != Method::GET).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

#[tokio::test]
async fn a_user_without_rights_is_told_so_and_the_mesh_is_not_blamed() {
    let fake = Fake::start().await;
    // Which groups are served everybody may know.
    fake.reply(
        Method::GET,
        "/apis",
        200,
        json!({"kind": "APIGroupList", "groups": [
        {"name": "mesh.dev", "versions": [{"groupVersion": API_VERSION, "version": "v1alpha1"}]}]}),
    );
    fake.otherwise(Reply::Json(403, fake::status(403, "Forbidden", "User \"dev\" cannot list resource")));
    let facts = gather_from(&fake.cluster(), &plan(Stage::Proxies)).await;
    let report = Report::judge(&facts, Stage::Proxies);
    let bad: Vec<_> = report.checks.iter().filter(|line| line.verdict.outcome == Outcome::Error).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    let deployments = report.checks.iter().find(|line| line.name == "control-plane-deployments").unwrap();
    assert_eq!(deployments.verdict.outcome, Outcome::Warning);
    assert!(deployments.verdict.summary.contains("User \"dev\" cannot list resource"), "{deployments:?}");
    assert!(deployments.verdict.hint.contains("right"), "{deployments:?}");
}

#[tokio::test]
async fn a_broken_server_is_an_error_and_each_list_fails_alone() {
    let fake = Fake::start().await;
    fake.reply(Method::GET, "/api/v1/nodes", 500, fake::status(500, "InternalError", "etcd is away"));
    fake.reply(Method::GET, "/api/v1/namespaces", 200, json!({"items": "not a list"}));
    let facts = gather_from(&fake.cluster(), &plan(Stage::Installed)).await;
    let missing = facts.nodes.clone().unwrap_err();
    assert_eq!((missing.fault, missing.why.as_str()), (Fault::Server, "etcd is away"));
    assert_eq!(facts.namespaces.as_ref().unwrap_err().fault, Fault::Server);
    assert!(facts.mutating.is_ok());
    assert_eq!(outcome(&Report::judge(&facts, Stage::Installed), "nodes"), Outcome::Error);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_not_waited_for_for_ever() {
    let fake = Fake::start().await;
    fake.late("/api/v1/nodes", Duration::from_secs(3600));
    fake.late("/apis", Duration::from_secs(3600));
    let before = tokio::time::Instant::now();
    let facts = gather_from(&fake.cluster(), &plan(Stage::Before)).await;
    assert!(before.elapsed() < Duration::from_secs(120), "{:?}", before.elapsed());
    assert!(facts.nodes.unwrap_err().why.contains("did not answer within"));
    assert!(facts.groups.unwrap_err().why.contains("did not answer within"));
}

#[tokio::test]
async fn long_lists_are_read_page_by_page() {
    let fake = Fake::start().await;
    let node = |name: &str| json!({"metadata": {"name": name}});
    fake.reply(
        Method::GET,
        "/api/v1/nodes",
        200,
        json!({"metadata": {"continue": "more"}, "items": [node("a"), node("b")]}),
    );
    let asking = api::list::<k8s_openapi::api::core::v1::Node>(Api::all(fake.client()), "nodes", ListParams::default());
    let reading = tokio::spawn(asking);
    while fake.asked().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fake.list("/api/v1/nodes", &[node("c")]);
    let nodes = tokio::time::timeout(Duration::from_secs(10), reading).await.unwrap().unwrap().unwrap();
    assert!(nodes.len() >= 3 && nodes.last().unwrap().metadata.name.as_deref() == Some("c"));
    let asked = fake.asked();
    assert!(asked[0].query.contains("limit=500") && asked[1].query.contains("continue=more"), "{asked:?}");
}

#[tokio::test]
async fn rights_are_asked_one_by_one_where_not_everything_is_allowed() {
    let fake = Fake::start().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let review = |allowed: bool| json!({"spec": {}, "status": {"allowed": allowed}});
    fake.reply(Method::POST, path, 201, review(true));
    let all = rights::rights(&fake.client()).await.unwrap();
    assert!(all.iter().all(|right| right.allowed) && fake.asked().len() == 1);
    fake.reply(Method::POST, path, 201, review(false));
    let none = rights::rights(&fake.client()).await.unwrap();
    assert!(none.iter().all(|right| !right.allowed));
    let namespaced = fake
        .asked()
        .into_iter()
        .filter(|asked| asked.body.pointer("/spec/resourceAttributes/namespace") == Some(&Value::from("mesh-system")));
    assert_eq!((none.len(), namespaced.count()), (rights::NEEDED.len() * 3, 27));
}

/// A control plane of one controller with a proxy, behind the fake server.
async fn installed(fake: &Fake) {
    let base = "/api/v1/namespaces/mesh-system/pods";
    fake.list(base, &[system_pod("mesh-controller-1", "mesh-controller", "n")]);
    fake.list("/api/v1/pods", &[meshed_pod("shop", "web-1"), system_pod("mesh-controller-1", "mesh-controller", "n")]);
    fake.list("/api/v1/namespaces", &[namespace("shop", Some("enabled"))]);
    fake.list("/apis/apps/v1/namespaces/mesh-system/deployments", &[json!({"metadata": {"name": "mesh-controller"}})]);
    let pages = fake::pages(&[
        ("/ready", 503, "there is no certificate yet\n"),
        ("/metrics", 200, "mesh_controller_synced 1\n"),
        (
            "/status",
            200,
            "{\"version\": \"0.0.1\", \"synced\": true, \"objects\": {}, \"proxies\": 1, \"problems\": {}}",
        ),
        ("/proxies", 200, "[]"),
        ("/problems", 500, "oh"),
    ]);
    fake.forward("mesh-system/mesh-controller-1:15421", pages.await);
    let proxy = fake::pages(&[("/metrics", 200, "mesh_certificate_expiry_timestamp_seconds 12\n")]);
    fake.forward("shop/web-1:15490", proxy.await);
}

#[tokio::test]
async fn the_parts_are_asked_through_port_forwards() {
    let fake = Fake::start().await;
    installed(&fake).await;
    let pods = "/api/v1/namespaces/shop/pods";
    let mut made = meshed_pod("shop", "trial");
    made["spec"]["containers"][0]["name"] = "trial".into();
    fake.reply(Method::POST, pods, 201, made);
    let facts = gather_from(&fake.cluster(), &plan(Stage::Proxies)).await;
    let [replica] = facts.replicas.as_slice() else { panic!("{:?}", facts.replicas) };
    assert_eq!(replica.not_ready, Ok(Some("there is no certificate yet".into())));
    let pages = replica.controller.as_ref().unwrap();
    assert_eq!(pages.overview.as_ref().unwrap().version, "0.0.1");
    assert!(pages.proxies.as_ref().unwrap().is_empty());
    let problems = pages.problems.clone().unwrap_err();
    assert_eq!(problems.fault, Fault::Mesh);
    assert!(problems.why.contains("500") && problems.why.contains("oh"), "{problems:?}");
    // Nobody listens for webhooks there.
    assert_eq!(replica.webhook.clone().unwrap().unwrap_err().fault, Fault::Mesh);
    assert_eq!(facts.proxies["shop/web-1"].as_ref().unwrap()[0].value, 12.0);
    // The control plane's own pods are no members.
    assert_eq!(facts.pods.as_ref().unwrap().len(), 1);
    assert_eq!(facts.trial, Ok(Trial::Created(["mesh-proxy".to_owned(), "trial".to_owned()].into())));
    let tried: Vec<_> = fake.asked().into_iter().filter(|asked| asked.method == Method::POST).collect();
    assert_eq!((tried.len(), tried[0].path.as_str()), (1, pods));
    assert!(tried[0].query.contains("dryRun=All"), "{tried:?}");
}

#[tokio::test]
async fn a_trial_that_is_refused_says_why() {
    let fake = Fake::start().await;
    installed(&fake).await;
    let namespaces: Vec<_> =
        [namespace("shop", Some("enabled"))].into_iter().map(crate::check::judge::fixtures::of).collect();
    let path = "/api/v1/namespaces/shop/pods";
    let message = "Internal error occurred: failed calling webhook \"x\": connection refused";
    fake.reply(Method::POST, path, 500, fake::status(500, "InternalError", message));
    assert_eq!(trial::trial(&fake.client(), &namespaces, None).await, Ok(Trial::Refused(message.into())));
    let message = "pods is forbidden: User \"dev\" cannot create resource \"pods\" in API group \"\"";
    fake.reply(Method::POST, path, 403, fake::status(403, "Forbidden", message));
    assert_eq!(trial::trial(&fake.client(), &namespaces, None).await.unwrap_err().fault, Fault::Rights);
    let none = trial::trial(&fake.client(), &[], None).await;
    assert_eq!(none.unwrap_err().fault, Fault::Unasked);
}

#[tokio::test]
async fn conditions_of_others_are_left_out() {
    let fake = Fake::start().await;
    fake.reply(
        Method::GET,
        "/apis",
        200,
        json!({"kind": "APIGroupList", "groups": [
        {"name": "mesh.dev", "versions": [{"groupVersion": API_VERSION, "version": "v1alpha1"}]},
        {"name": "gateway.networking.k8s.io", "versions": [{"groupVersion": GATEWAY_API_VERSION, "version": "v1"}]}]}),
    );
    let resource = |name: &str, kind: &str| json!({"name": name, "kind": kind, "namespaced": true, "singularName": "", "verbs": []});
    let kinds = |version: &str, resources: Value| json!({"kind": "APIResourceList", "groupVersion": version, "resources": resources});
    fake.reply(
        Method::GET,
        "/apis/mesh.dev/v1alpha1",
        200,
        kinds(
            API_VERSION,
            json!([
                resource("authorizationpolicies", "AuthorizationPolicy"),
                resource("authorizationpolicies/status", "AuthorizationPolicy")
            ]),
        ),
    );
    fake.reply(
        Method::GET,
        "/apis/gateway.networking.k8s.io/v1",
        200,
        kinds(GATEWAY_API_VERSION, json!([resource("gateways", "Gateway"), resource("httproutes", "HTTPRoute")])),
    );
    let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m"});
    fake.list("/apis/mesh.dev/v1alpha1/authorizationpolicies", &[
        json!({"metadata": {"name": "p", "namespace": "shop"}, "status": {"conditions": [condition("Accepted", "False")]}})]);
    fake.list(
        "/apis/gateway.networking.k8s.io/v1/httproutes",
        &[json!({
            "metadata": {"name": "r", "namespace": "shop"},
            "status": {"parents": [
                {"controllerName": "mesh.dev/controller", "conditions": [condition("Accepted", "True")]},
                {"controllerName": "other.io/gateway", "conditions": [condition("Accepted", "False")]}]},
        })],
    );
    let facts = gather_from(&fake.cluster(), &plan(Stage::Installed)).await;
    let conditions = facts.conditions.unwrap();
    let told: Vec<_> = conditions.iter().map(|one| (one.object.as_str(), one.status)).collect();
    assert_eq!(told, [("AuthorizationPolicy shop/p", Some(false)), ("HTTPRoute shop/r", Some(true))]);
    assert!(!fake.asked().iter().any(|asked| asked.path.ends_with("/gateways")));
}

#[test]
fn a_clock_is_compared_with_the_middle_of_the_way() {
    let now = "2026-06-01T12:00:10Z".parse().unwrap();
    let clock = api::offset("Mon, 01 Jun 2026 12:00:08 GMT", Duration::from_secs(4), now).unwrap();
    assert_eq!((clock.ahead_ms, clock.slack_ms), (500, 2_500));
    assert_eq!(api::offset("yesterday", Duration::ZERO, now), None);
}
