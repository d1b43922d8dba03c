//! Who gets in with a service-account token, and who does not, however the API server is doing.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use http::Method;
use mesh_ca::{
    authn::{Authenticator, AuthnError, Caller, Demands, MAX_TOKEN, Review},
    time::Time,
};
use serde_json::{Value, json};

use crate::fake::{Fake, Mood};

const STRICT: Demands = Demands { check_address: true, allow_unbound: false };
const TOKEN: &str = "head.body.signature";
const UID: &str = "11111111-2222";

fn now() -> Time {
    // 2026-11-18.
    Time::from_unix(1_795_000_000)
}

/// The answer about a good token of shop/web, bound to the pod web-1.
fn good() -> Value {
    json!({
        "authenticated": true,
        "audiences": ["mesh-ca"],
        "user": {
            "username": "system:serviceaccount:shop:web",
            "uid": "sa-uid",
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": ["web-1"],
                "authentication.kubernetes.io/pod-uid": [UID],
                "authentication.kubernetes.io/node-name": ["node"],
            },
        },
    })
}

fn pod() -> Value {
    json!({
        "metadata": { "uid": UID },
        "spec": { "serviceAccountName": "web", "containers": [] },
        "status": {
            "phase": "Running",
            "podIP": "10.1.2.3",
            "podIPs": [{ "ip": "10.1.2.3" }, { "ip": "fd00::3" }],
            "hostIP": "192.168.7.1",
            "hostIPs": [{ "ip": "192.168.7.1" }],
        },
    })
}

fn edited(mut value: Value, path: &str, new: Value) -> Value {
    *value.pointer_mut(path).unwrap() = new;
    value
}

struct Scene {
    fake: Fake,
    review: Review,
}

impl Scene {
    async fn new() -> Self {
        Self::with(STRICT).await
    }

    async fn with(demands: Demands) -> Self {
        let fake = Fake::start().await;
        fake.namespace("shop");
        fake.review(TOKEN, good());
        fake.put("pods", "shop", "web-1", pod());
        let review = Review::new(fake.cluster_within(Duration::from_secs(2)), demands);
        Self { fake, review }
    }

    async fn ask(&self, token: &str, from: &str) -> Result<Caller, AuthnError> {
        let peer: Option<IpAddr> = (!from.is_empty()).then(|| from.parse().unwrap());
        self.review.authenticate(token, peer, now()).await
    }

    fn questions(&self) -> (usize, usize) {
        (self.fake.calls(&Method::POST, "tokenreviews"), self.fake.calls(&Method::GET, "/pods/"))
    }
}

#[tokio::test]
async fn a_pod_is_known_by_its_token_from_each_of_its_addresses() {
    let scene = Scene::new().await;
    for from in ["10.1.2.3", "fd00::3", "::ffff:10.1.2.3"] {
        let caller = scene.ask(TOKEN, from).await.unwrap();
        assert_eq!((caller.namespace(), caller.account(), caller.instance()), ("shop", "web", UID));
    }
    assert_eq!(scene.questions(), (1, 1), "it is remembered for a moment");
    assert_eq!(scene.ask(TOKEN, "10.9.9.9").await, Err(AuthnError::Address), "and so are its addresses");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(6)).await;
    tokio::time::resume();
    scene.fake.remove("pods", "shop", "web-1");
    assert_eq!(scene.ask(TOKEN, "10.1.2.3").await, Err(AuthnError::Pod), "but not for longer");
    assert_eq!(scene.questions(), (2, 2));
}

#[tokio::test]
async fn tokens_of_others_are_refused() {
    let scene = Scene::new().await;
    let named = |name: &str| edited(good(), "/user/username", name.into());
    let extra = |key: &str, value: Value| {
        let mut answer = good();
        answer["user"]["extra"][format!("authentication.kubernetes.io/{key}")] = value;
        answer
    };
    let long = format!("system:serviceaccount:shop:{}", "a".repeat(300));
    let mut unbound = good();
    unbound["user"]["extra"] = json!({});
    let cases = [
        ("i03 expired", json!({ "error": "[invalid bearer token, token has expired]" }), AuthnError::Expired),
        ("i02 unknown", json!({ "error": "[invalid bearer token, unknown]" }), AuthnError::Rejected),
        ("nothing", json!({}), AuthnError::Rejected),
        ("not authenticated", edited(good(), "/authenticated", false.into()), AuthnError::Rejected),
        (
            "i04 another audience",
            json!({ "error": "token audiences [\"vault\"] is invalid for the target audiences [\"mesh-ca\"]" }),
            AuthnError::Audience,
        ),
        ("i04 no audience", edited(good(), "/audiences", json!([])), AuthnError::Audience),
        (
            "i04 similar audiences",
            edited(good(), "/audiences", json!(["mesh-ca2", "MESH-CA", ""])),
            AuthnError::Audience,
        ),
        ("i06 a node", named("system:node:x"), AuthnError::Names),
        ("i06 a user", named("alice"), AuthnError::Names),
        ("i06 nobody", named(""), AuthnError::Names),
        ("i07 no account", named("system:serviceaccount:shop"), AuthnError::Names),
        ("i07 too many parts", named("system:serviceaccount:shop:web:x"), AuthnError::Names),
        ("i07 capitals", named("system:serviceaccount:Shop:web"), AuthnError::Names),
        ("i07 empty parts", named("system:serviceaccount::"), AuthnError::Names),
        ("i07 a path", named("system:serviceaccount:shop:../admin"), AuthnError::Names),
        ("i07 long", named(&long), AuthnError::Names),
        ("unbound", unbound, AuthnError::Unbound),
        ("a pod without uid", extra("pod-uid", json!([])), AuthnError::Malformed),
        ("an empty uid", extra("pod-uid", json!([""])), AuthnError::Malformed),
        ("two pods", extra("pod-name", json!(["web-1", "web-2"])), AuthnError::Malformed),
        ("a pod that is a path", extra("pod-name", json!(["../secrets/x"])), AuthnError::Malformed),
        ("a pod that is a path", extra("pod-name", json!(["a?b"])), AuthnError::Malformed),
        ("another pod", extra("pod-name", json!(["web-2"])), AuthnError::Pod),
        ("a pod of the same name", extra("pod-uid", json!(["33333333"])), AuthnError::Pod),
        ("another namespace's pod", named("system:serviceaccount:other:web"), AuthnError::Pod),
        ("another account's pod", named("system:serviceaccount:shop:admin"), AuthnError::Pod),
    ];
    for (at, (case, answer, expected)) in cases.into_iter().enumerate() {
        let token = format!("a.{at}.c");
        scene.fake.review(&token, answer);
        assert_eq!(scene.ask(&token, "10.1.2.3").await, Err(expected), "{case}");
    }
    assert!(scene.ask(TOKEN, "10.1.2.3").await.is_ok());
}

#[tokio::test]
async fn the_pod_decides() {
    let scene = Scene::new().await;
    let over = |phase: &str| edited(pod(), "/status/phase", phase.into());
    let ends = |when: &str| {
        let mut pod = pod();
        pod["metadata"]["deletionTimestamp"] = when.into();
        pod
    };
    let mut nowhere = pod();
    nowhere["status"] = json!({ "phase": "Pending", "hostIP": "192.168.7.1" });
    let mut on_host = pod();
    on_host["spec"]["hostNetwork"] = true.into();
    on_host["status"]["podIPs"] = json!([{ "ip": "192.168.7.1" }]);
    let cases = [
        (over("Succeeded"), "10.1.2.3", Err(AuthnError::Pod)),
        (over("Failed"), "10.1.2.3", Err(AuthnError::Pod)),
        (over("Pending"), "10.1.2.3", Ok(())),
        // It drains until 2026-11-18T12:00, and a little.
        (ends("2026-11-18T12:00:00Z"), "10.1.2.3", Ok(())),
        (ends("2026-11-18T10:00:00Z"), "10.1.2.3", Err(AuthnError::Pod)),
        (nowhere, "10.1.2.3", Err(AuthnError::AddressUnknown)),
        (pod(), "10.1.2.4", Err(AuthnError::Address)),
        (pod(), "127.0.0.1", Err(AuthnError::Address)),
        (pod(), "192.168.7.1", Err(AuthnError::Address)),
        (pod(), "", Err(AuthnError::Address)),
        (on_host, "192.168.7.1", Ok(())),
    ];
    for (at, (pod, from, expected)) in cases.into_iter().enumerate() {
        let token = format!("a.{at}.c");
        scene.fake.review(&token, good());
        scene.fake.put("pods", "shop", "web-1", pod.clone());
        let now = scene.ask(&token, from).await.map(|_| ());
        assert_eq!(now, expected, "{pod} from {from}");
    }
}

#[tokio::test]
async fn demands_can_be_relaxed() {
    let scene = Scene::with(Demands { check_address: false, allow_unbound: true }).await;
    assert!(scene.ask(TOKEN, "203.0.113.1").await.is_ok());
    let mut unbound = good();
    unbound["user"]["extra"] = json!({});
    scene.fake.review("un.bou.nd", unbound);
    let caller = scene.ask("un.bou.nd", "203.0.113.1").await.unwrap();
    assert_eq!((caller.namespace(), caller.account(), caller.instance().len()), ("shop", "web", 16));
    scene.fake.remove("pods", "shop", "web-1");
    scene.fake.review("bou.nd.2", good());
    assert_eq!(scene.ask("bou.nd.2", "203.0.113.1").await, Err(AuthnError::Pod), "the pod is looked at all the same");
}

#[tokio::test]
async fn i01_junk_costs_the_api_server_nothing() {
    let scene = Scene::new().await;
    let long = format!("a.b.{}", "c".repeat(MAX_TOKEN));
    for (junk, expected) in [
        ("", AuthnError::Missing),
        (long.as_str(), AuthnError::TooLong),
        ("a.b", AuthnError::Malformed),
        ("a.b.c.d", AuthnError::Malformed),
        ("a..c", AuthnError::Malformed),
        ("a.b.c\n", AuthnError::Malformed),
        ("a.b.c d", AuthnError::Malformed),
        ("Bearer a.b.c", AuthnError::Malformed),
        ("\0.\0.\0", AuthnError::Malformed),
        ("é.é.é", AuthnError::Malformed),
    ] {
        assert_eq!(scene.ask(junk, "10.1.2.3").await, Err(expected), "{junk:?}");
    }
    assert_eq!(scene.questions(), (0, 0));
}

#[tokio::test]
async fn i16_an_api_server_that_cannot_be_asked_lets_nobody_in() {
    let scene = Scene::new().await;
    let bad = [
        Mood::Says(500, "{}".into()),
        Mood::Says(503, "<html>".into()),
        Mood::Says(429, "{}".into()),
        Mood::Says(401, r#"{"reason":"Unauthorized"}"#.into()),
        Mood::Says(403, r#"{"reason":"Forbidden"}"#.into()),
        Mood::Says(201, "not JSON".into()),
        Mood::Says(201, "[]".into()),
        Mood::Says(201, "{}".into()),
        Mood::Says(201, r#"{"status":{"authenticated":"yes"}}"#.into()),
        Mood::Says(201, r#"{"metadata":[],"spec":7,"status":{"audiences":"mesh-ca"}}"#.into()),
    ];
    for mood in &bad {
        scene.fake.mood("tokenreviews", mood.clone());
        assert_eq!(scene.ask(TOKEN, "10.1.2.3").await, Err(AuthnError::Unavailable), "{mood:?}");
        scene.fake.good();
        // A pod that says nothing of itself is not the one.
        scene.fake.mood("/pods/", mood.clone());
        let refused = scene.ask(TOKEN, "10.1.2.3").await;
        assert!(matches!(refused, Err(AuthnError::Unavailable | AuthnError::Pod)), "{mood:?}: {refused:?}");
        scene.fake.good();
    }
    assert!(scene.ask(TOKEN, "10.1.2.3").await.is_ok(), "nothing bad is remembered");
}

#[tokio::test]
async fn i17_a_slow_api_server_is_given_up() {
    let scene = Scene::new().await;
    for what in ["tokenreviews", "/pods/"] {
        scene.fake.mood(what, Mood::Slow(Duration::from_secs(40)));
        let begin = Instant::now();
        assert_eq!(scene.ask(TOKEN, "10.1.2.3").await, Err(AuthnError::Unavailable));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        scene.fake.good();
    }
    assert!(scene.ask(TOKEN, "10.1.2.3").await.is_ok());
}

#[tokio::test]
async fn one_that_is_not_there_is_not_waited_for() {
    let Scene { fake, review } = Scene::new().await;
    drop(fake);
    let begin = Instant::now();
    let asked = review.authenticate(TOKEN, Some("10.1.2.3".parse().unwrap()), now()).await;
    assert_eq!(asked, Err(AuthnError::Unavailable));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_flood_of_tokens_from_one_address_stays_here() {
    let scene = Scene::new().await;
    let mut refused = 0;
    for at in 0..500 {
        match scene.ask(&format!("a.{at}.c"), "10.6.6.6").await {
            Err(AuthnError::TooOften(wait)) => {
                assert!(wait <= Duration::from_secs(1));
                refused += 1;
            }
            other => assert_eq!(other, Err(AuthnError::Rejected)),
        }
    }
    assert!(refused >= 300, "{refused}");
    assert!(scene.questions().0 <= 200);
    assert!(scene.ask(TOKEN, "10.1.2.3").await.is_ok(), "another address");
}
