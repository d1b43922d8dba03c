//! The roots in every namespace: there at once, put back, changed everywhere, and not written without need.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::Method;
use mesh_ca::{
    bundle::Bundles,
    issuer::{
        Issuing, Store,
        rotation::{Order, Schedule},
    },
    time::Time,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

use crate::fake::{Fake, Mood, SYSTEM};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> Time {
    Time::from_unix(1_795_000_000)
}

struct Scene {
    fake: Fake,
    _folder: tempfile::TempDir,
    store: Store,
    issuing: watch::Sender<Arc<Issuing>>,
    leads: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    async fn new(namespaces: &[&str]) -> Self {
        let fake = Fake::start().await;
        namespaces.iter().for_each(|name| fake.namespace(name));
        let folder = tempfile::tempdir().unwrap();
        let schedule = Schedule { root_lifetime: 300 * DAY, issuer_lifetime: 30 * DAY, overlap: DAY, retire: DAY };
        let store = Store::open(folder.path(), "cluster.local".parse().unwrap(), schedule, now()).unwrap();
        let (issuing, watching) = watch::channel(Arc::new(store.issuing(now()).unwrap()));
        let (leads, leading) = watch::channel(false);
        let bundles = Bundles::new(fake.cluster_within(Duration::from_secs(2)), watching, leading);
        let task = tokio::spawn(bundles.run());
        Self { fake, _folder: folder, store, issuing, leads, task }
    }

    async fn leading(namespaces: &[&str]) -> Self {
        let scene = Self::new(namespaces).await;
        scene.leads.send_replace(true);
        scene
    }

    fn trust(&self) -> String {
        self.issuing.borrow().trust_pem()
    }

    fn has(&self, namespace: &str) -> bool {
        let found = self.fake.get("configmaps", namespace, "mesh-trust");
        found.is_some_and(|object| {
            object["data"]["roots.pem"] == self.trust()
                && object["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "mesh-ca"
        })
    }

    async fn until_right(&self, namespaces: &[&str]) {
        self.fake.until("the roots are there", |_| namespaces.iter().all(|name| self.has(name))).await;
    }

    fn writes(&self) -> usize {
        self.fake.calls(&Method::PATCH, "configmaps") + self.fake.calls(&Method::DELETE, "configmaps")
    }

    fn put(&self, namespace: &str, object: Value) {
        self.fake.put("configmaps", namespace, "mesh-trust", object);
    }
}

#[tokio::test]
async fn every_namespace_has_them_once_somebody_leads() {
    let scene = Scene::new(&["shop", "kube-system"]).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(scene.writes(), 0, "who does not lead writes nothing");
    scene.leads.send_replace(true);
    scene.until_right(&["shop", "kube-system", SYSTEM]).await;
    assert_eq!(scene.writes(), 3);
}

#[tokio::test]
async fn a_new_namespace_has_them_within_a_second() {
    let scene = Scene::leading(&["shop"]).await;
    scene.until_right(&["shop", SYSTEM]).await;
    let begin = Instant::now();
    scene.fake.namespace("new");
    scene.until_right(&["new"]).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn what_is_right_is_not_written() {
    let scene = Scene::new(&["a", "b"]).await;
    for namespace in ["a", "b", SYSTEM] {
        let labels = json!({ "app.kubernetes.io/managed-by": "mesh-ca", "theirs": "stays" });
        let data = json!({ "roots.pem": scene.trust() });
        scene.put(namespace, json!({ "metadata": { "labels": labels }, "data": data }));
    }
    for _ in 0..3 {
        scene.leads.send_replace(true);
        scene.fake.namespace("canary");
        scene.until_right(&["canary"]).await;
        scene.leads.send_replace(false);
        scene.fake.remove("namespaces", "", "canary");
        scene.fake.remove("configmaps", "canary", "mesh-trust");
    }
    assert_eq!(scene.writes(), 3, "only what was new");
}

#[tokio::test]
async fn what_was_changed_or_removed_is_put_back() {
    let scene = Scene::leading(&["a", "b", "c", "d"]).await;
    let all = ["a", "b", "c", "d", SYSTEM];
    scene.until_right(&all).await;
    scene.fake.remove("configmaps", "a", "mesh-trust");
    scene.put("b", json!({ "data": { "roots.pem": "another root", "theirs": "stays" } }));
    scene.put("c", json!({ "data": { "roots.pem": "another root" }, "immutable": true }));
    scene.until_right(&all).await;
    assert_eq!(scene.fake.get("configmaps", "b", "mesh-trust").unwrap()["data"]["theirs"], "stays");
    assert!(scene.fake.get("configmaps", "c", "mesh-trust").unwrap().get("immutable").is_none());
    // Another ConfigMap is nobody's business here.
    scene.fake.put("configmaps", "a", "other", json!({ "data": {} }));
    assert!(scene.fake.get("configmaps", "a", "other").is_some());
}

/// Somebody who removes it all the time makes no storm.
#[tokio::test]
async fn an_endless_quarrel_is_slow() {
    let scene = Scene::leading(&["a"]).await;
    scene.until_right(&["a", SYSTEM]).await;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(3) {
        scene.fake.remove("configmaps", "a", "mesh-trust");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!((3..=6).contains(&scene.writes()), "{}", scene.writes());
}

#[tokio::test]
async fn namespaces_that_are_being_deleted_are_left_alone() {
    let scene = Scene::new(&["here"]).await;
    scene.fake.terminate("going");
    scene.leads.send_replace(true);
    scene.until_right(&["here", SYSTEM]).await;
    scene.fake.terminate("here");
    scene.fake.remove("configmaps", "here", "mesh-trust");
    scene.fake.namespace("later");
    scene.until_right(&["later"]).await;
    assert_eq!(scene.writes(), 3);
    assert!(!scene.has("going") && !scene.has("here"));
    // It comes again under its old name.
    scene.fake.remove("namespaces", "", "here");
    scene.fake.namespace("here");
    scene.until_right(&["here"]).await;
}

#[tokio::test]
async fn a_change_of_root_reaches_all() {
    let names: Vec<String> = (0..60).map(|at| format!("ns-{at}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut scene = Scene::leading(&all).await;
    scene.until_right(&all).await;
    let before = scene.writes();
    scene.store.advance(now(), Some(Order::RotateRoot)).unwrap().unwrap();
    let next = Arc::new(scene.store.issuing(now()).unwrap());
    let begin = Instant::now();
    scene.issuing.send_replace(next);
    scene.until_right(&all).await;
    assert!(begin.elapsed() >= Duration::from_secs(1), "one after the other, {:?}", begin.elapsed());
    scene.until_right(&[SYSTEM]).await;
    assert_eq!(scene.writes(), before + 61);
    // The same roots again are no reason to write.
    let same = Arc::clone(&scene.issuing.borrow());
    scene.issuing.send_replace(same);
    scene.fake.namespace("last");
    scene.until_right(&["last"]).await;
    assert_eq!(scene.writes(), before + 62);
}

#[tokio::test]
async fn failures_are_tried_again_and_hold_up_nobody() {
    let scene = Scene::new(&["good", "slow"]).await;
    scene.fake.mood("PATCH /api/v1/namespaces/slow", Mood::Slow(Duration::from_secs(30)));
    scene.leads.send_replace(true);
    scene.until_right(&["good", SYSTEM]).await;
    scene.fake.mood("PATCH", Mood::Says(500, "{}".into()));
    scene.fake.namespace("other");
    scene.fake.until("a try", |fake| fake.calls(&Method::PATCH, "/other/") >= 1).await;
    assert!(!scene.has("other"));
    scene.fake.good();
    scene.until_right(&["good", "slow", "other", SYSTEM]).await;
}

/// Watches that break are begun anew, and what happened meanwhile is found.
#[tokio::test]
async fn what_happens_while_nothing_can_be_watched_is_found() {
    let scene = Scene::new(&["a"]).await;
    scene.fake.mood("GET", Mood::Says(503, "{}".into()));
    scene.leads.send_replace(true);
    scene.fake.until("a try", |fake| fake.calls(&Method::GET, "/namespaces") >= 1).await;
    scene.fake.namespace("b");
    assert_eq!(scene.writes(), 0);
    scene.fake.good();
    scene.until_right(&["a", "b", SYSTEM]).await;
}
