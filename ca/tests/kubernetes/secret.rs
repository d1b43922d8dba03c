//! The Secret: one whole state at every moment, whoever writes, whatever breaks.

use std::{sync::Arc, time::Duration};

use http::Method;
use mesh_ca::{
    issuer::{
        ANNOTATION_OUTCOME, ANNOTATION_ROTATE, Issuing, SecretError, SecretStore,
        keyring::Frame,
        rotation::{Order, Schedule},
    },
    time::Time,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::fake::{Fake, Mood, SYSTEM};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn start() -> Time {
    Time::from_unix(1_795_000_000)
}

fn frame(domain: &str) -> Frame {
    let schedule = Schedule { root_lifetime: 300 * DAY, issuer_lifetime: 30 * DAY, overlap: DAY, retire: DAY };
    Frame { domain: domain.parse().unwrap(), schedule }
}

/// A replica's store, and whether it leads.
struct Replica {
    store: SecretStore,
    leads: watch::Sender<bool>,
    issuing: Option<Issuing>,
}

impl Replica {
    fn new(fake: &Fake, leads: bool) -> Self {
        Self::of(fake, leads, "cluster.local")
    }

    fn of(fake: &Fake, leads: bool, domain: &str) -> Self {
        let (leads, leading) = watch::channel(leads);
        let cluster = fake.cluster_within(Duration::from_secs(1));
        Self { store: SecretStore::new(cluster, frame(domain), leading), leads, issuing: None }
    }

    /// True where something changed.
    async fn order(&mut self, now: Time, order: Option<Order>) -> Result<bool, SecretError> {
        let changed = self.store.tick(now, order).await?;
        let any = changed.is_some();
        self.issuing = changed.or(self.issuing.take());
        Ok(any)
    }

    async fn tick(&mut self, now: Time) -> Result<bool, SecretError> {
        self.order(now, None).await
    }

    fn mark(&self) -> &str {
        self.issuing.as_ref().unwrap().mark()
    }

    fn roots(&self) -> usize {
        self.issuing.as_ref().unwrap().roots().len()
    }

    fn phase(&self) -> &'static str {
        self.issuing.as_ref().unwrap().report().phase
    }
}

fn secret(fake: &Fake) -> Value {
    fake.get("secrets", SYSTEM, "mesh-ca").unwrap()
}

fn names(fake: &Fake) -> Vec<String> {
    secret(fake)["data"].as_object().unwrap().keys().cloned().collect()
}

fn annotate(fake: &Fake, order: &str) {
    let mut object = secret(fake);
    object["metadata"]["annotations"][ANNOTATION_ROTATE] = order.into();
    fake.put("secrets", SYSTEM, "mesh-ca", object);
}

fn outcome(fake: &Fake) -> String {
    let object = secret(fake);
    let annotations = &object["metadata"]["annotations"];
    assert!(annotations.get(ANNOTATION_ROTATE).is_none(), "the order is still there");
    annotations[ANNOTATION_OUTCOME].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_leader_makes_it_and_the_others_follow() {
    let fake = Fake::start().await;
    let (mut leader, mut follower) = (Replica::new(&fake, true), Replica::new(&fake, false));
    assert!(!follower.tick(start()).await.unwrap(), "there is nothing yet, and it makes nothing");
    assert!(leader.tick(start()).await.unwrap());
    assert!(follower.tick(start()).await.unwrap());
    assert_eq!(leader.mark(), follower.mark());
    assert_eq!(names(&fake), ["issuer-1.key", "issuer-1.pem", "root-1.key", "root-1.pem", "state.json", "trust.pem"]);
    let object = secret(&fake);
    assert_eq!(object["type"], "Opaque");
    assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/managed-by"], "mesh-ca");
    // No change, no write; and nothing is new.
    for _ in 0..5 {
        assert!(!leader.tick(start()).await.unwrap() && !follower.tick(start()).await.unwrap());
    }
    assert_eq!(fake.calls(&Method::PUT, "secrets") + fake.calls(&Method::POST, "secrets"), 1);
}

#[tokio::test]
async fn of_two_who_begin_at_once_the_slower_takes_the_others_root() {
    for _ in 0..10 {
        let fake = Fake::start().await;
        let (mut one, mut other) = (Replica::new(&fake, true), Replica::new(&fake, true));
        let (first, second) = tokio::join!(one.tick(start()), other.tick(start()));
        assert!(first.unwrap() && second.unwrap());
        assert_eq!(one.mark(), other.mark());
        assert_eq!(fake.calls(&Method::PUT, "secrets"), 0);
    }
}

#[tokio::test]
async fn each_step_is_one_write() {
    let fake = Fake::start().await;
    let (mut leader, mut follower) = (Replica::new(&fake, true), Replica::new(&fake, false));
    leader.tick(start()).await.unwrap();
    follower.tick(start()).await.unwrap();
    let first = leader.mark().to_owned();
    let mut now = start();
    let mut seen = Vec::new();
    assert!(leader.order(now, Some(Order::RotateRoot)).await.unwrap());
    for _ in 0..3 {
        assert!(follower.tick(now).await.unwrap());
        assert_eq!((follower.mark(), follower.roots()), (leader.mark(), leader.roots()));
        seen.push((follower.phase(), follower.roots(), follower.mark() == first));
        now = now.plus(DAY);
        // The follower does nothing of what is due.
        assert!(!follower.tick(now).await.unwrap());
        leader.tick(now).await.unwrap();
    }
    assert_eq!(seen, [("announced", 2, true), ("retiring", 2, false), ("steady", 1, false)]);
    assert_eq!(fake.calls(&Method::PUT, "secrets"), 3);
    assert_eq!(names(&fake), ["issuer-2.key", "issuer-2.pem", "root-2.key", "root-2.pem", "state.json", "trust.pem"]);
    assert!(matches!(follower.order(now, Some(Order::RotateIssuer)).await, Err(SecretError::NotLeading { .. })));
}

/// Whatever two do at once, the Secret is a whole, and both end at what it says.
#[tokio::test]
async fn two_leaders_by_mistake_corrupt_nothing() {
    let fake = Fake::start().await;
    let (mut one, mut other) = (Replica::new(&fake, true), Replica::new(&fake, true));
    one.tick(start()).await.unwrap();
    other.tick(start()).await.unwrap();
    let mut now = start();
    for turn in 0..40 {
        let order = match turn % 5 {
            0 => Some(Order::RotateRoot),
            1 | 2 => Some(Order::RotateIssuer),
            _ => None,
        };
        // One of two changes of root is refused: there is one at a time.
        let (_, _) = tokio::join!(one.order(now, order), other.order(now, order));
        one.tick(now).await.unwrap();
        other.tick(now).await.unwrap();
        assert_eq!((one.mark(), one.roots(), one.phase()), (other.mark(), other.roots(), other.phase()));
        // A third one finds a whole state.
        let mut third = Replica::new(&fake, false);
        assert!(third.tick(now).await.unwrap());
        assert_eq!(third.mark(), one.mark());
        now = now.plus(DAY / 2);
    }
}

#[tokio::test]
async fn an_answer_that_gets_lost_loses_nothing() {
    let fake = Fake::start().await;
    fake.mood("POST /api/v1/namespaces/mesh-system/secrets", Mood::Loses(500));
    let mut leader = Replica::new(&fake, true);
    assert!(leader.tick(start()).await.is_err());
    fake.good();
    leader.tick(start()).await.unwrap();
    let first = leader.mark().to_owned();
    assert_eq!(fake.calls(&Method::POST, "secrets"), 1, "it was made, and is found");
    fake.mood("PUT ", Mood::Loses(504));
    assert!(leader.order(start(), Some(Order::RotateIssuer)).await.is_err());
    fake.good();
    assert!(leader.tick(start()).await.unwrap());
    assert_ne!(leader.mark(), first);
    assert_eq!(leader.issuing.as_ref().unwrap().report().issuer.generation, Some(2));
}

#[tokio::test]
async fn one_that_disappears_is_written_back() {
    let fake = Fake::start().await;
    let (mut leader, mut follower) = (Replica::new(&fake, true), Replica::new(&fake, false));
    leader.tick(start()).await.unwrap();
    follower.tick(start()).await.unwrap();
    let before = secret(&fake)["data"].clone();
    for emptied in [false, true] {
        if emptied {
            fake.put("secrets", SYSTEM, "mesh-ca", json!({ "metadata": {}, "type": "Opaque" }));
        } else {
            fake.remove("secrets", SYSTEM, "mesh-ca");
        }
        // Who starts now waits for who knows.
        let mut new = Replica::new(&fake, false);
        assert!(!follower.tick(start()).await.unwrap() && !new.tick(start()).await.unwrap());
        assert!(new.issuing.is_none());
        assert!(!leader.tick(start()).await.unwrap(), "nothing changed for members");
        assert_eq!(secret(&fake)["data"], before);
        assert!(new.tick(start()).await.unwrap());
        assert_eq!(new.mark(), leader.mark());
    }
    // Leadership goes to the follower, and then it disappears.
    leader.leads.send_replace(false);
    follower.leads.send_replace(true);
    fake.remove("secrets", SYSTEM, "mesh-ca");
    leader.tick(start()).await.unwrap();
    follower.tick(start()).await.unwrap();
    assert_eq!(secret(&fake)["data"], before);
    // Where nobody knows, it begins anew.
    fake.remove("secrets", SYSTEM, "mesh-ca");
    let mut first = Replica::new(&fake, true);
    assert!(first.tick(start()).await.unwrap());
    assert_ne!(secret(&fake)["data"], before);
}

#[tokio::test]
async fn an_outage_of_the_api_server_changes_nothing() {
    let fake = Fake::start().await;
    let mut leader = Replica::new(&fake, true);
    leader.tick(start()).await.unwrap();
    let before = leader.mark().to_owned();
    for mood in [
        Mood::Says(500, "{}".into()),
        Mood::Says(403, r#"{"reason":"Forbidden","message":"secrets \"mesh-ca\" is forbidden"}"#.into()),
        Mood::Says(200, "garbage".into()),
        Mood::Says(200, r#"{"data":{"state.json":"!"}}"#.into()),
        Mood::Slow(Duration::from_secs(30)),
    ] {
        fake.mood("secrets", mood.clone());
        let error = leader.tick(start().plus(25 * DAY)).await.unwrap_err();
        assert!(error.is_of_cluster(), "{mood:?}: {error}");
        assert!(error.to_string().starts_with("Secret mesh-system/mesh-ca: the"), "{error}");
        fake.good();
    }
    assert_eq!(leader.mark(), before);
    assert!(leader.tick(start().plus(25 * DAY)).await.unwrap(), "what was due meanwhile is done");
}

#[tokio::test]
async fn i12_what_does_not_fit_is_refused_by_name_and_what_held_stays() {
    let fake = Fake::start().await;
    let mut leader = Replica::new(&fake, true);
    leader.tick(start()).await.unwrap();
    let good = secret(&fake);
    let other = Fake::start().await;
    Replica::new(&other, true).tick(start()).await.unwrap();
    let foreign = |name: &str| secret(&other)["data"][name].clone();
    for (name, content, told) in [
        ("issuer-1.key", foreign("issuer-1.key"), "does not belong to the certificate"),
        ("issuer-1.pem", foreign("issuer-1.pem"), "is not the certificate that state.json names"),
        ("root-1.key", Value::Null, "is missing"),
        ("root-1.pem", json!("Z2FyYmFnZQ=="), "no certificate in PEM form"),
        ("state.json", json!("e30="), "cannot be read"),
    ] {
        let mut bad = good.clone();
        bad["data"][name] = content;
        if bad["data"][name].is_null() {
            bad["data"].as_object_mut().unwrap().remove(name);
        }
        fake.put("secrets", SYSTEM, "mesh-ca", bad.clone());
        for replica in [&mut leader, &mut Replica::new(&fake, true)] {
            let error = replica.tick(start()).await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("Secret mesh-system/mesh-ca: {name}")), "{error}");
            assert!(error.contains(told), "{name}: {error}");
        }
        // Nobody overwrites what a person may be mending.
        assert_eq!(secret(&fake)["data"], bad["data"]);
    }
    fake.put("secrets", SYSTEM, "mesh-ca", good);
    assert!(!leader.tick(start()).await.unwrap());
    let mut stranger = Replica::of(&fake, true, "other.org");
    let error = stranger.tick(start()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to the trust domain `cluster.local`, configured is `other.org`"), "{error}");
}

#[tokio::test]
async fn an_operators_root_is_taken_and_what_is_not_ours_is_kept() {
    let maker = Fake::start().await;
    let mut made = Replica::new(&maker, true);
    made.tick(start()).await.unwrap();
    let fake = Fake::start().await;
    let from = secret(&maker);
    let data = json!({
        "root-1.pem": from["data"]["root-1.pem"], "root-1.key": from["data"]["root-1.key"], "notes.txt": "aGk=",
    });
    let labels = json!({ "owner": "security" });
    fake.put("secrets", SYSTEM, "mesh-ca", json!({ "metadata": { "labels": labels }, "data": data }));
    let mut leader = Replica::new(&fake, true);
    assert!(leader.tick(start()).await.unwrap());
    let roots = |replica: &Replica| replica.issuing.as_ref().unwrap().roots()[0].fingerprint().to_owned();
    assert_eq!(roots(&leader), roots(&made));
    assert_ne!(leader.mark(), made.mark());
    leader.order(start(), Some(Order::RotateIssuer)).await.unwrap();
    let object = secret(&fake);
    assert_eq!(
        (&object["data"]["notes.txt"], &object["metadata"]["labels"]["owner"]),
        (&json!("aGk="), &json!("security"))
    );
}

#[tokio::test]
async fn a_rotation_is_ordered_by_an_annotation() {
    let fake = Fake::start().await;
    let (mut leader, mut follower) = (Replica::new(&fake, true), Replica::new(&fake, false));
    leader.tick(start()).await.unwrap();
    follower.tick(start()).await.unwrap();
    annotate(&fake, "issuer");
    assert!(!follower.tick(start()).await.unwrap(), "that is for the leader");
    assert!(leader.tick(start()).await.unwrap());
    assert_eq!(leader.issuing.as_ref().unwrap().report().issuer.generation, Some(2));
    assert_eq!(outcome(&fake), format!("{}: done: issuer", start()));
    annotate(&fake, " root ");
    assert!(leader.tick(start()).await.unwrap());
    assert_eq!(leader.phase(), "announced");
    for (order, told) in [
        ("root", "refused: a change of root is under way (announced)"),
        ("repair", "refused: the root is valid until"),
        ("everything", "refused: `everything` is none of `issuer`, `root`, `repair`"),
        ("", "refused: `` is none of"),
    ] {
        annotate(&fake, order);
        assert!(!leader.tick(start()).await.unwrap());
        assert!(outcome(&fake).contains(told), "{order}: {}", outcome(&fake));
    }
    let long = "x".repeat(10_000);
    annotate(&fake, &long);
    leader.tick(start()).await.unwrap();
    assert!(outcome(&fake).len() < 200);
    // Everything expired, and somebody decides.
    let late = start().plus(900 * DAY);
    assert!(leader.tick(late).await.unwrap_err().to_string().contains("the root expired"));
    annotate(&fake, "repair");
    assert!(leader.tick(late).await.unwrap());
    assert!(outcome(&fake).contains("done: repair"));
    assert_eq!((leader.phase(), leader.roots()), ("steady", 1));
}

/// Nothing that is wrong, and nothing that is logged at any level, shows a key.
#[tokio::test]
async fn i22_no_key_in_any_error() {
    let fake = Fake::start().await;
    let mut leader = Replica::new(&fake, true);
    leader.tick(start()).await.unwrap();
    let keys: Vec<String> = ["root-1.key", "issuer-1.key"]
        .iter()
        .map(|name| secret(&fake)["data"][name].as_str().unwrap().to_owned())
        .collect();
    let shown = format!("{:?} {:?}", leader.store, leader.issuing);
    let mut wrong = secret(&fake);
    wrong["data"]["root-1.key"] = json!({ "nested": keys[0] });
    fake.put("secrets", SYSTEM, "mesh-ca", wrong);
    let error = leader.tick(start()).await.unwrap_err();
    let shown = format!("{shown} {error} {error:?}");
    for key in &keys {
        assert!(!shown.contains(&key[40..80]), "{shown}");
    }
    drop(Arc::new(leader));
}
