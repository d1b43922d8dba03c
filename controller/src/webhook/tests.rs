use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use mesh_api::{names, probe::Token};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::inject::{Decision, Namespace, decide};

const UID: &str = "705ab4f5-6393-41e8-b7cc-42010a800002";

struct Bench {
    hook: Arc<Webhook>,
    _known: (watch::Sender<Option<Version>>, watch::Sender<Option<Addresses>>),
}

fn bench() -> Bench {
    let enabled = BTreeMap::from([(names::INJECT.to_owned(), "enabled".to_owned())]);
    let spaces = [("shop".to_owned(), enabled), ("other".to_owned(), BTreeMap::new())];
    bench_of(Arc::new(StaticNamespaces(spaces.into())))
}

fn bench_of(namespaces: Arc<dyn NamespaceLookup>) -> Bench {
    let ((to_version, version), (to_addresses, addresses)) = (watch::channel(None), watch::channel(None));
    let known = Known { version, addresses };
    let domain = names::DEFAULT_TRUST_DOMAIN.parse().unwrap();
    let telemetry = Arc::new(Telemetry::new().unwrap());
    Bench {
        hook: Webhook::new(Settings::default(), domain, namespaces, known, telemetry),
        _known: (to_version, to_addresses),
    }
}

impl Bench {
    async fn send(&self, request: http::Request<Full<Bytes>>) -> (StatusCode, String) {
        let caller = Caller::new(Arc::default());
        let (head, body) = self.hook.answer(&caller, request).await.into_parts();
        (head.status, String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap())
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
        let request = http::Request::post(path).header("content-type", "application/json");
        self.send(request.body(Full::new(body.into())).unwrap()).await
    }

    /// Answers a review that can be answered.
    async fn review(&self, path: &str, request: Value) -> Value {
        let (status, body) = self.post(path, review(request).to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], UID);
        answer["response"].clone()
    }
}

fn review(request: Value) -> Value {
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request })
}

fn of_pod(namespace: &str, pod: &Value) -> Value {
    json!({
        "uid": UID, "operation": "CREATE", "namespace": namespace, "object": pod, "oldObject": null,
        "kind": { "group": "", "version": "v1", "kind": "Pod" }, "userInfo": { "username": "somebody" },
    })
}

fn pod(metadata: Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": { "containers": [{ "name": "app", "image": "a" }] } })
}

fn of_policy(operation: &str, object: &Value, old: &Value) -> Value {
    json!({
        "uid": UID, "operation": operation, "namespace": "shop", "object": object, "oldObject": old,
        "kind": { "group": "mesh.dev", "version": "v1alpha1", "kind": object["kind"].as_str().unwrap_or("AuthorizationPolicy") },
    })
}

fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "mesh.dev/v1alpha1", "kind": "AuthorizationPolicy",
        "metadata": { "name": "p", "namespace": "shop", "managedFields": [{ "manager": "kubectl" }] }, "spec": spec,
    })
}

#[tokio::test]
async fn what_is_no_review_is_told_so() {
    let bench = bench();
    let whole = review(of_pod("shop", &pod(json!({}))));
    let without = |path: &str| {
        let mut broken = whole.clone();
        *broken.pointer_mut(path).unwrap() = Value::Null;
        broken.to_string()
    };
    let mut old = whole.clone();
    old["apiVersion"] = "admission.k8s.io/v1beta1".into();
    let mut service = whole.clone();
    service["request"]["kind"]["kind"] = "Service".into();
    let nested = "[".repeat(100_000);
    let bad = [
        String::new(),
        "aaaaaa".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        "{}".to_owned(),
        nested,
        without("/request"),
        without("/request/uid"),
        without("/request/kind"),
        old.to_string(),
        service.to_string(),
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":""}}"#.to_owned(),
    ];
    for body in bad {
        for path in ["/inject", "/validate"] {
            let shown: String = body.chars().take(80).collect();
            let (status, said) = bench.post(path, body.clone()).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{shown}: {said}");
            assert!(said.len() > 10, "{shown}: {said}");
        }
    }
    let large = bench.post("/inject", vec![b' '; MAX_REVIEW + 1]).await;
    assert_eq!(large.0, StatusCode::PAYLOAD_TOO_LARGE);
}

/// Tells what it is asked, and knows nothing.
#[derive(Default)]
struct Asked(parking_lot::Mutex<Vec<String>>);

impl NamespaceLookup for Asked {
    fn find<'a>(&'a self, name: &'a str) -> Lookup<'a> {
        self.0.lock().push(name.to_owned());
        Box::pin(std::future::ready(Found::Unknown("not yet".to_owned())))
    }
}

#[tokio::test]
async fn what_no_namespace_is_called_is_asked_for_nowhere() {
    let asked = Arc::new(Asked::default());
    let bench = bench_of(asked.clone());
    let long = "x".repeat(64);
    for name in ["?watch=1", "shop/pods", "shop?watch=1", "../pods", "shop%2fpods", "Shop", "a.b", "-a", " ", &long] {
        for path in ["/inject", "/validate"] {
            let (status, said) = bench.post(path, review(of_pod(name, &pod(json!({})))).to_string()).await;
            assert_eq!(status, StatusCode::BAD_REQUEST, "{name}: {said}");
        }
    }
    let (status, _) = bench.post("/inject", review(of_pod("", &pod(json!({})))).to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    // Nor where nothing depends on it.
    let mut gone = of_pod("shop", &pod(json!({})));
    gone["operation"] = "DELETE".into();
    assert_eq!(bench.review("/inject", gone).await["allowed"], true);
    assert!(asked.0.lock().is_empty(), "{:?}", asked.0.lock());
    bench.post("/inject", review(of_pod("shop", &pod(json!({})))).to_string()).await;
    assert_eq!(*asked.0.lock(), ["shop"]);
}

/// A body that is a byte, and then nothing for ever.
struct Dripping(Option<Bytes>);

impl Body for Dripping {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0
            .take()
            .map_or(std::task::Poll::Pending, |data| std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(data)))))
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_that_never_end_keep_nobody_waiting() {
    let bench = bench();
    let source = Arc::new(Source::default());
    let begun = Instant::now();
    let mut waiting = tokio::task::JoinSet::new();
    for at in 0..2000 {
        let (hook, caller) = (bench.hook.clone(), Caller::new(source.clone()));
        waiting.spawn(async move {
            // The address's share of all bytes is taken soon, and that of no other.
            let data = Bytes::from(vec![b' '; if at < 20 { MAX_REVIEW } else { 1 }]);
            let request = http::Request::post("/inject").header("content-type", "application/json");
            let request = request.body(Dripping(Some(data))).unwrap();
            (hook.answer(&caller, request).await.status(), caller.is_busy())
        });
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    bench.review("/inject", of_pod("shop", &pod(json!({})))).await;
    assert!(begun.elapsed() < BODY / 2, "{:?}", begun.elapsed());
    while let Some(ended) = waiting.join_next().await {
        assert_eq!(ended.unwrap(), (StatusCode::REQUEST_TIMEOUT, false));
    }
    assert!(begun.elapsed() < BODY * 2, "{:?}", begun.elapsed());
}

/// Never says anything.
struct Silent;

impl NamespaceLookup for Silent {
    fn find<'a>(&'a self, _: &'a str) -> Lookup<'a> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(start_paused = true)]
async fn one_address_has_no_more_than_its_share_of_reviews() {
    let bench = bench_of(Arc::new(Silent));
    let source = Arc::new(Source::default());
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let (hook, caller) = (bench.hook.clone(), Caller::new(source.clone()));
        waiting.spawn(async move {
            let request = http::Request::post("/inject").header("content-type", "application/json");
            let body = Bytes::from(review(of_pod("shop", &pod(json!({})))).to_string());
            hook.answer(&caller, request.body(Full::new(body)).unwrap()).await.status()
        });
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let begun = Instant::now();
    let answer = bench.review("/validate", of_policy("CREATE", &policy(json!({ "rules": [] })), &Value::Null)).await;
    assert_eq!(answer["allowed"], true);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    while let Some(ended) = waiting.join_next().await {
        assert_eq!(ended.unwrap(), StatusCode::REQUEST_TIMEOUT);
    }
}

#[tokio::test]
async fn other_requests_are_told_what_there_is() {
    let bench = bench();
    let empty = |method: &str, path: &str| {
        http::Request::builder().method(method).uri(path).body(Full::new(Bytes::new())).unwrap()
    };
    assert_eq!(bench.send(empty("GET", "/live")).await, (StatusCode::OK, "live\n".to_owned()));
    assert_eq!(bench.send(empty("GET", "/inject")).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(bench.send(empty("POST", "/live")).await.0, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(bench.send(empty("POST", "/")).await.0, StatusCode::NOT_FOUND);
    assert_eq!(bench.send(empty("POST", "/inject")).await.0, StatusCode::UNSUPPORTED_MEDIA_TYPE);
}

#[tokio::test]
async fn a_pod_gets_what_the_pure_function_says() {
    let bench = bench();
    let pod = pod(json!({ "generateName": "web-" }));
    let answer = bench.review("/inject", of_pod("shop", &pod)).await;
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["patchType"], "JSONPatch");
    let patch: ByteString = serde_json::from_value(answer["patch"].clone()).unwrap();
    let patch: Value = serde_json::from_slice(&patch.0).unwrap();
    let labels = BTreeMap::from([(names::INJECT.to_owned(), "enabled".to_owned())]);
    let namespace = Namespace { name: "shop".into(), labels };
    let token = Token::new(UID).unwrap();
    let Decision::Inject(wanted) = decide(&pod, None, &namespace, &Settings::default(), None, &token) else { panic!() };
    assert_eq!(patch, serde_json::to_value(&wanted.patch).unwrap());
    // Once more, as with reinvocation: nothing is left to be done.
    let again = bench.review("/inject", of_pod("shop", &wanted.pod)).await;
    assert_eq!((&again["allowed"], again.get("patch")), (&json!(true), None));
    let page = bench.hook.telemetry.handle().render();
    for wanted in [r#"result="injected"} 1"#, r#"result="unchanged"} 1"#] {
        assert!(page.contains(wanted), "{page}");
    }
}

#[tokio::test]
async fn a_pod_keeps_its_token_whatever_the_next_review_is_called() {
    let bench = bench();
    let mut pod = pod(json!({ "labels": { "mesh.dev/inject": "enabled" } }));
    pod["spec"]["containers"][0]["lifecycle"] =
        json!({ "preStop": { "httpGet": { "path": "/shutdown", "port": 80 } } });
    let settings = Settings::default();
    let decided = |pod: &Value, uid: &str| {
        let request = Request { uid: uid.into(), namespace: "shop".into(), object: pod.clone(), ..Request::default() };
        let found = Found::Unknown(String::new());
        let request = Request { kind: review::Kind { kind: "Pod".into(), ..review::Kind::default() }, ..request };
        inject(&request, &found, &settings, None).map(|(_, answer)| answer.patch)
    };
    let Decision::Inject(first) = decide(&pod, None, &Namespace::default(), &settings, None, &Token::new(UID).unwrap())
    else {
        panic!()
    };
    assert_eq!(decided(&pod, UID).unwrap(), first.patch);
    assert!(serde_json::to_string(&first.patch).unwrap().contains(&format!("/probe/{UID}/app/pre-stop")));
    assert_eq!(decided(&first.pod, "00000000-1111-4222-8333-444444444444").unwrap(), []);
    assert!(matches!(decided(&pod, "7"), Err(BadReview::Empty)));
    let answer = bench.review("/inject", of_pod("shop", &first.pod)).await;
    assert_eq!(answer.get("patch"), None);
}

#[tokio::test]
async fn pods_that_are_left_alone_are_let_in() {
    let bench = bench();
    let mut update = of_pod("shop", &pod(json!({})));
    update["operation"] = "UPDATE".into();
    let mut host = pod(json!({ "labels": { "mesh.dev/inject": "enabled" } }));
    host["spec"]["hostNetwork"] = true.into();
    for request in [of_pod("other", &pod(json!({}))), update, of_pod("shop", &host)] {
        let answer = bench.review("/inject", request).await;
        assert_eq!((&answer["allowed"], answer.get("patch")), (&json!(true), None), "{answer}");
    }
    let answer = bench.review("/inject", of_pod("shop", &host)).await;
    assert!(answer["warnings"][0].as_str().unwrap().contains("the node's network"), "{answer}");
    assert_eq!(answer["auditAnnotations"]["injection"], "HostNetwork");
}

#[tokio::test]
async fn pods_with_mistakes_are_refused_with_every_reason() {
    let annotations = json!({ "mesh.dev/skip-inbound-ports": "x", "mesh.dev/proxy-access-log": "y\n" });
    let answer = bench().review("/inject", of_pod("shop", &pod(json!({ "annotations": annotations })))).await;
    assert_eq!((&answer["allowed"], answer.get("patch")), (&json!(false), None));
    assert_eq!(answer["status"]["code"], 422);
    let message = answer["status"]["message"].as_str().unwrap();
    for wanted in ["[mesh.dev/skip-inbound-ports]: `x` is not PORT", "[mesh.dev/proxy-access-log]"] {
        assert!(message.contains(wanted), "{message}");
    }
}

#[tokio::test]
async fn where_a_namespace_would_decide_and_is_not_known_the_pod_has_to_wait() {
    let bench = bench();
    let (status, said) = bench.post("/inject", review(of_pod("new", &pod(json!({})))).to_string()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    assert!(said.contains("try again"), "{said}");
    for (word, patched) in [("enabled", true), ("disabled", false)] {
        let pod = pod(json!({ "labels": { "mesh.dev/inject": word } }));
        let answer = bench.review("/inject", of_pod("new", &pod)).await;
        assert_eq!((&answer["allowed"], answer.get("patch").is_some()), (&json!(true), patched), "{word}");
    }
}

#[tokio::test]
async fn policies_are_judged_as_the_controller_does() {
    let bench = bench();
    let good = policy(json!({ "rules": [{ "from": [{ "namespaces": ["web"] }] }] }));
    let answer = bench.review("/validate", of_policy("CREATE", &good, &Value::Null)).await;
    assert_eq!(answer["allowed"], true, "{answer}");
    let cases = [
        (json!({ "rules": [{ "from": [{ "cidrs": ["10.0.0.0/99"] }] }] }), "spec.rules[0].from[0].cidrs"),
        (json!({ "rules": [{ "to": [{ "paths": ["no-slash"] }] }] }), "spec.rules[0].to[0].paths"),
        (json!({ "acton": "Deny" }), "did you mean `action`?"),
        (json!({ "action": "Maybe" }), "spec.action"),
        (json!(7), "spec"),
    ];
    for (spec, wanted) in cases {
        let answer = bench.review("/validate", of_policy("CREATE", &policy(spec), &Value::Null)).await;
        assert_eq!((&answer["allowed"], &answer["status"]["code"]), (&json!(false), &json!(422)), "{answer}");
        assert!(answer["status"]["message"].as_str().unwrap().contains(wanted), "{answer}");
    }
}

#[tokio::test]
async fn a_broken_object_can_still_be_labelled_and_deleted() {
    let bench = bench();
    let broken = policy(json!({ "action": "Maybe" }));
    let mut labelled = broken.clone();
    labelled["metadata"]["labels"] = json!({ "a": "b" });
    let answer = bench.review("/validate", of_policy("UPDATE", &labelled, &broken)).await;
    assert_eq!(answer["allowed"], true);
    assert!(answer["warnings"][0].as_str().unwrap().contains("not obeyed"), "{answer}");
    let otherwise = policy(json!({ "action": "Perhaps" }));
    assert_eq!(bench.review("/validate", of_policy("UPDATE", &otherwise, &broken)).await["allowed"], false);
    let mut gone = of_policy("DELETE", &broken, &Value::Null);
    gone["object"] = Value::Null;
    assert_eq!(bench.review("/validate", gone).await["allowed"], true);
}

#[tokio::test]
async fn what_the_reference_shows_is_let_in() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    let bench = bench();
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for document in text.split("\n---").filter(|text| text.contains("mesh.dev/v1alpha1")) {
            let object: Value = serde_saphyr::from_str(document).unwrap();
            let answer = bench.review("/validate", of_policy("CREATE", &object, &Value::Null)).await;
            assert_eq!(answer["allowed"], true, "{document}{answer}");
            seen += 1;
        }
    }
    assert!(seen >= 3);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
        Just(Value::from("CREATE")),
        Just(Value::from("Pod")),
        Just(Value::from("mesh.dev")),
        Just(Value::from("AuthorizationPolicy")),
        Just(Value::from("mesh.dev/v1alpha1")),
    ];
    let key = prop_oneof![
        Just("spec"),
        Just("metadata"),
        Just("labels"),
        Just("annotations"),
        Just("containers"),
        Just("kind"),
        Just("apiVersion"),
        Just("rules"),
        Just("name"),
        Just("volumes"),
        Just("securityContext"),
    ];
    leaf.prop_recursive(5, 48, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_review_makes_it_panic(object in any_json(), old in any_json(), bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = bench();
            let (status, _) = bench.post("/inject", review(of_pod("shop", &object)).to_string()).await;
            assert_eq!(status, StatusCode::OK);
            let (status, _) = bench.post("/validate", review(of_policy("UPDATE", &object, &old)).to_string()).await;
            assert_eq!(status, StatusCode::OK);
            let (status, _) = bench.post("/validate", bytes).await;
            assert_eq!(status, StatusCode::BAD_REQUEST);
        });
    }
}
