//! The source of clusters against an API server that breaks: what is known stays in force, and what is true is known in
//! the end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use mesh_api::{model::ObjectRef, resources::Resource, sys::Sys};
use mesh_controller::{
    conditions::Board,
    source::{
        Event,
        kubernetes::{Options, watch},
    },
    telemetry::Telemetry,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use self::apiserver::{ApiServer, Fault, OWN, Verb, gone};

#[path = "support/apiserver.rs"]
mod apiserver;

const LIMIT: Duration = Duration::from_secs(30);
const ROUTES: (&str, &str, &str) = ("gateway.networking.k8s.io", "v1", "httproutes");

/// What the source has told.
struct Mirror {
    events: mpsc::Receiver<Event>,
    objects: BTreeMap<ObjectRef, Resource>,
    problems: usize,
    synced: bool,
    deleted: usize,
    telemetry: Arc<Telemetry>,
    source: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Mirror {
    fn of(server: &ApiServer) -> Self {
        let (sender, events) = mpsc::channel(16);
        let telemetry = Arc::new(Telemetry::new().unwrap());
        let options = Options {
            client: server.client(),
            discovery: Duration::from_millis(200),
            sys: Sys::host(),
            telemetry: telemetry.clone(),
            board: Arc::new(Board::default()),
        };
        let source = tokio::spawn(watch(options, sender));
        Self { events, objects: BTreeMap::new(), problems: 0, synced: false, deleted: 0, telemetry, source }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Apply(object) => {
                self.objects.insert(object.object_ref(), *object);
            }
            Event::Delete(object) => {
                assert!(self.objects.remove(&object).is_some(), "{object} was never told");
                self.deleted += 1;
            }
            Event::Problems(problems) => self.problems = problems.len(),
            Event::Synced => {
                assert!(!self.synced, "told once");
                self.synced = true;
            }
        }
    }

    /// Takes what comes until `is` so.
    async fn until(&mut self, what: &str, is: impl Fn(&Self) -> bool) {
        let wait = async {
            while !is(self) {
                let event = self.events.recv().await.expect("the source lives");
                self.take(event);
            }
        };
        tokio::time::timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("in time: {what}"));
    }

    async fn synced(server: &ApiServer) -> Self {
        let mut mirror = Self::of(server);
        mirror.until("synced", |mirror| mirror.synced).await;
        mirror
    }

    fn names(&self) -> Vec<String> {
        self.objects.keys().map(|object| object.name.to_string()).collect()
    }

    fn metric(&self, name: &str) -> f64 {
        let page = self.telemetry.handle().render();
        let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn service(name: &str, port: u16) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop", "uid": name}, "spec": {"ports": [{"port": port}]}})
}

fn port_of(mirror: &Mirror, name: &str) -> Option<u16> {
    mirror.objects.iter().find(|(object, _)| &*object.name == name).and_then(|(_, resource)| match resource {
        Resource::Service(service) => service.spec.ports.first().map(|port| port.port),
        _ => None,
    })
}

#[tokio::test]
async fn objects_come_change_and_go() {
    let server = ApiServer::start().await;
    server.put("services", service("a", 1));
    server
        .put("pods", json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"containers": [{"name": "c"}]}}));
    let mut mirror = Mirror::synced(&server).await;
    assert_eq!(mirror.names(), ["p", "a"]);
    server.put("services", service("b", 1));
    server.put("services", service("a", 2));
    mirror.until("changes", |mirror| port_of(mirror, "a") == Some(2) && port_of(mirror, "b") == Some(1)).await;
    server.delete("services", "b");
    mirror.until("deleted", |mirror| mirror.deleted == 1).await;
    assert_eq!(server.seen("services", Verb::List), 1, "one list, and a watch from there on");
    drop(mirror.events);
    tokio::time::timeout(LIMIT, mirror.source).await.expect("ends with its receiver").unwrap().unwrap();
}

#[tokio::test]
async fn j01_a_watch_that_is_too_old_lists_anew() {
    let server = ApiServer::start().await;
    for name in ["a", "b", "c"] {
        server.put("services", service(name, 1));
    }
    let mut mirror = Mirror::synced(&server).await;
    // In the stream.
    server.delete("services", "a");
    mirror.until("a is gone", |mirror| mirror.deleted == 1).await;
    server.pause_watches_and(|server| {
        server.delete("services", "b");
        server.put("services", service("d", 4));
        server.forget();
    });
    mirror.until("listed anew", |mirror| mirror.deleted == 2 && port_of(mirror, "d") == Some(4)).await;
    assert_eq!(mirror.names(), ["c", "d"]);
    // As the answer.
    server.fault("services", Verb::Watch, Fault::Answer(410, gone()));
    let lists = server.seen("services", Verb::List);
    server.pause_watches_and(|server| server.put("services", service("c", 9)));
    mirror.until("c changed", |mirror| port_of(mirror, "c") == Some(9)).await;
    assert!(server.seen("services", Verb::List) > lists);
    assert_eq!(mirror.deleted, 2);
}

#[tokio::test]
async fn j02_lists_that_fail_are_tried_again_and_take_nothing_away() {
    let server = ApiServer::start().await;
    server.put("services", service("a", 1));
    let status = |code: u16| {
        json!({"kind": "Status", "status": "Failure", "message": "x", "reason": "x", "code": code}).to_string()
    };
    for fault in [
        Fault::Answer(500, status(500)),
        Fault::Answer(429, status(429)),
        Fault::Answer(503, "no JSON".into()),
        Fault::Answer(200, "{\"items\": []".into()),
        Fault::Answer(200, "{}".into()),
        Fault::Broken,
    ] {
        server.fault("services", Verb::List, fault);
    }
    let mut mirror = Mirror::of(&server);
    mirror.until("synced", |mirror| mirror.synced).await;
    assert_eq!(mirror.names(), ["a"], "known when the list was whole, and not before");
    assert!(mirror.metric("mesh_controller_watch_errors_total{kind=\"Service\"}") >= 6.0);
    // The same while something is known.
    server.fault("services", Verb::List, Fault::Answer(200, "{\"items\": []".into()));
    server.fault("services", Verb::List, Fault::Broken);
    server.fault("services", Verb::Watch, Fault::Answer(503, "no JSON".into()));
    server.pause_watches_and(|server| {
        server.put("services", service("b", 1));
        server.forget();
    });
    mirror.until("b", |mirror| port_of(mirror, "b").is_some()).await;
    assert_eq!((mirror.deleted, mirror.names()), (0, vec!["a".into(), "b".into()]));
}

#[tokio::test]
async fn j03_an_outage_changes_nothing_and_ends_soon() {
    let mut server = ApiServer::start().await;
    for name in ["a", "b"] {
        server.put("services", service(name, 1));
    }
    let mut mirror = Mirror::synced(&server).await;
    server.pause().await;
    let failures = async {
        while mirror.metric("mesh_controller_watch_errors_total{kind=\"Service\"}") < 4.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, failures).await.expect("it is noticed");
    while let Ok(event) = mirror.events.try_recv() {
        mirror.take(event);
    }
    assert_eq!((mirror.names().len(), mirror.deleted), (2, 0), "what is known stays");
    assert_eq!(mirror.metric("mesh_controller_watch_up{kind=\"Service\"}"), 0.0);
    server.delete("services", "a");
    server.put("services", service("c", 1));
    server.forget();
    server.resume().await;
    mirror.until("what is true", |mirror| mirror.names() == ["b", "c"]).await;
}

#[tokio::test]
async fn j05_a_list_whose_next_page_is_not_there_any_more_begins_again() {
    let server = ApiServer::start().await;
    for n in 0..1200 {
        server.put("services", service(&format!("s{n:04}"), 1));
    }
    server.fault("services", Verb::Page, Fault::Answer(410, gone()));
    let mirror = Mirror::synced(&server).await;
    assert_eq!((mirror.objects.len(), mirror.deleted), (1200, 0));
    assert_eq!(server.seen("services", Verb::List), 2);
    assert_eq!(server.seen("services", Verb::Page), 3);
}

#[tokio::test]
async fn j06_objects_that_cannot_be_read_stop_no_watch() {
    let server = ApiServer::start().await;
    server.put("services", json!({"metadata": {"name": "bad", "namespace": "shop"}, "spec": {"ports": "none"}}));
    server.put("services", service("a", 1));
    let mut mirror = Mirror::synced(&server).await;
    assert_eq!((mirror.names(), mirror.problems), (vec!["a".to_owned()], 1));
    server.put("services", json!({"metadata": {"name": "a", "namespace": "shop", "uid": "a", "labels": 7}}));
    server.put("authorizationpolicies", json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": {"rulez": []}}));
    server.put("services", service("b", 1));
    mirror.until("b and the stand-in", |mirror| mirror.names() == ["p", "a", "b"] && mirror.problems == 3).await;
    assert_eq!(port_of(&mirror, "a"), Some(1), "its last good state");
    assert_eq!(server.seen("services", Verb::List), 1);
}

#[tokio::test]
async fn j08_kinds_come_and_go() {
    let server = ApiServer::start().await;
    server.serve(&[]);
    let mut mirror = Mirror::synced(&server).await;
    assert!(mirror.names().is_empty());
    assert_eq!(mirror.metric("mesh_controller_watch_served{kind=\"TransportPolicy\"}"), 0.0);
    server
        .put("transportpolicies", json!({"metadata": {"name": "t", "namespace": "shop"}, "spec": {"mode": "Strict"}}));
    server.put("httproutes", json!({"metadata": {"name": "r", "namespace": "shop"}, "spec": {"rules": []}}));
    server.serve(&[OWN[1], ROUTES]);
    mirror.until("both", |mirror| mirror.names() == ["r", "t"]).await;
    // An old version only.
    server.serve(&[OWN[1], (ROUTES.0, "v1beta1", ROUTES.2)]);
    server.put("httproutes", json!({"metadata": {"name": "s", "namespace": "shop"}, "spec": {"rules": []}}));
    mirror.until("the other route", |mirror| mirror.names() == ["r", "s", "t"]).await;
    // Without a word: its objects do not come as deleted.
    server.serve(&[ROUTES]);
    server.cut();
    mirror.until("no policy", |mirror| mirror.names() == ["r", "s"]).await;
    assert_eq!(mirror.deleted, 1);
    server.serve(&[OWN[1], ROUTES]);
    mirror.until("back", |mirror| mirror.names() == ["r", "s", "t"]).await;
}
