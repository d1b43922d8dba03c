//! Statuses in an API server: written by the leader, where they differ, and not again and again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{sync::Arc, time::Duration};

use mesh_api::sys::{Clock, Sys};
use mesh_controller::{
    conditions::Board,
    config::Config,
    reporter::Reporter,
    serve::{Hub, Limits},
    source::kubernetes,
    telemetry::Telemetry,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use self::apiserver::{ApiServer, Fault, OWN, Verb};

#[path = "support/apiserver.rs"]
mod apiserver;

const LIMIT: Duration = Duration::from_secs(30);

struct Running {
    server: ApiServer,
    leader: watch::Sender<bool>,
    telemetry: Arc<Telemetry>,
    _tasks: tokio::task::JoinSet<()>,
}

impl Running {
    async fn start() -> Self {
        let server = ApiServer::start().await;
        server.serve(&[OWN[0], OWN[1], OWN[2], ("gateway.networking.k8s.io", "v1", "httproutes")]);
        let telemetry = Arc::new(Telemetry::new().unwrap());
        let hub = Hub::new(Config::default().settings().unwrap(), Limits::default(), Clock::Host, telemetry.clone());
        let (board, sys) = (Arc::new(Board::default()), Sys::host());
        let (events, to_index) = mpsc::channel(16);
        let options = kubernetes::Options {
            client: server.client(),
            discovery: Duration::from_secs(1),
            sys: sys.clone(),
            telemetry: telemetry.clone(),
            board: board.clone(),
        };
        let leader = watch::Sender::new(false);
        let (client, leads) = (server.client(), leader.subscribe());
        let reporter = Reporter { hub: hub.clone(), board, client, leader: leads, sys, telemetry: telemetry.clone() };
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move { kubernetes::watch(options, events).await.unwrap() });
        let driver = hub.clone();
        tasks.spawn(async move { driver.drive(to_index).await });
        tasks.spawn(reporter.run());
        let mut synced = hub.synced();
        tokio::time::timeout(LIMIT, synced.wait_for(|synced| *synced)).await.expect("synced in time").unwrap();
        Self { server, leader, telemetry, _tasks: tasks }
    }

    /// Waits until an object's conditions are these: `Type=Status(Reason)`.
    async fn until(&self, plural: &str, name: &str, pointer: &str, expected: &[&str]) {
        let wait = async {
            while short(self.server.get(plural, name).pointer(pointer)) != expected {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(LIMIT, wait).await.is_err() {
            panic!("{name}: {:#}", self.server.get(plural, name));
        }
    }
}

fn short(list: Option<&Value>) -> Vec<String> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    let one = |one: &Value| format!("{}={}({})", text(one, "type"), text(one, "status"), text(one, "reason"));
    list.and_then(Value::as_array).into_iter().flatten().map(one).collect()
}

fn policy(name: &str, generation: i64, spec: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name, "generation": generation}, "spec": spec})
}

const GOOD: [&str; 2] = ["Accepted=True(Accepted)", "ResolvedRefs=True(ResolvedRefs)"];

#[tokio::test]
async fn the_leader_writes_what_differs_and_nothing_else() {
    let running = Running::start().await;
    let server = &running.server;
    server.put("transportpolicies", policy("t", 1, json!({"mode": "Strict"})));
    server.put("authorizationpolicies", policy("bad", 4, json!({"rulez": []})));
    server.put(
        "httproutes",
        policy("r", 2, json!({"parentRefs": [{"group": "", "kind": "Service", "name": "web"}], "rules": []})),
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.seen("transportpolicies", Verb::Patch), 0, "who does not lead writes nothing");
    running.leader.send_replace(true);
    running.until("transportpolicies", "t", "/status/conditions", &GOOD).await;
    let bad = ["Accepted=False(Invalid)", "ResolvedRefs=True(ResolvedRefs)"];
    running.until("authorizationpolicies", "bad", "/status/conditions", &bad).await;
    let nowhere = ["Accepted=False(NoMatchingParent)", "ResolvedRefs=True(ResolvedRefs)"];
    running.until("httproutes", "r", "/status/parents/0/conditions", &nowhere).await;
    assert_eq!(server.get("authorizationpolicies", "bad")["status"]["conditions"][0]["observedGeneration"], 4);
    // Its own writes come back, and other objects change: nothing differs.
    let writes = || ["transportpolicies", "authorizationpolicies", "httproutes"].map(|of| server.seen(of, Verb::Patch));
    assert_eq!(writes(), [1, 1, 1]);
    server.put(
        "services",
        json!({"metadata": {"name": "other", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}),
    );
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(writes(), [1, 1, 1]);
    // What an object refers to comes.
    server
        .put("services", json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [{"port": 80}]}}));
    running.until("httproutes", "r", "/status/parents/0/conditions", &GOOD).await;
    assert_eq!(writes(), [1, 1, 2]);
}

#[tokio::test]
async fn failures_and_fights_are_slow_and_hurt_nobody_else() {
    let running = Running::start().await;
    let server = &running.server;
    let refused =
        json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "Invalid", "code": 422}).to_string();
    let status = |code: u16| {
        json!({"kind": "Status", "status": "Failure", "message": "x", "reason": "x", "code": code}).to_string()
    };
    server.fault("transportpolicies", Verb::Patch, Fault::Answer(500, status(500)));
    server.fault("transportpolicies", Verb::Patch, Fault::Answer(409, status(409)));
    server.fault("transportpolicies", Verb::Patch, Fault::Answer(422, refused));
    server.put("transportpolicies", policy("t", 1, json!({"mode": "Strict"})));
    server.put("authorizationpolicies", policy("a", 1, json!({"rules": []})));
    running.leader.send_replace(true);
    running.until("authorizationpolicies", "a", "/status/conditions", &GOOD).await;
    running.until("transportpolicies", "t", "/status/conditions", &GOOD).await;
    assert_eq!(server.seen("transportpolicies", Verb::Patch), 4);
    // Somebody else takes the conditions away whenever they are there.
    let before = server.seen("authorizationpolicies", Verb::Patch);
    let fight = async {
        loop {
            let mut object = server.get("authorizationpolicies", "a");
            if !object["status"]["conditions"].is_null() {
                object["status"] = json!({});
                server.put("authorizationpolicies", object);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(6), fight).await;
    let writes = server.seen("authorizationpolicies", Verb::Patch) - before;
    assert!((1..=4).contains(&writes), "{writes} writes");
    let page = running.telemetry.handle().render();
    for result in ["written", "conflict", "failed"] {
        let line =
            page.lines().find(|line| line.contains(&format!("status_writes_total{{result=\"{result}\"}}"))).unwrap();
        assert!(!line.ends_with(" 0"), "{line}");
    }
}
