use super::*;
use crate::inject::{Decision, Namespace, Settings, decide, remove};

const TOKEN: &str = "705ab4f5-6393-41e8-b7cc-42010a800002";

fn pod(probe: &Value) -> Value {
    let container = json!({
        "name": "app", "image": "web", "ports": [{"name": "web", "containerPort": 8080}], "readinessProbe": probe,
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "labels": {names::INJECT: "enabled"}},
        "spec": {"containers": [container]},
    })
}

fn inject(pod: &Value) -> Value {
    let token = Token::new(TOKEN).unwrap();
    match decide(pod, None, &Namespace::default(), &Settings::default(), None, &token) {
        Decision::Inject(injection) => injection.pod,
        other => panic!("{other:?}"),
    }
}

fn probe(pod: &Value) -> &Value {
    &pod["spec"]["containers"][0]["readinessProbe"]
}

fn of(probe: &Value) -> Option<Probe> {
    taken(&pod(probe), &"9000-9010".parse().unwrap(), &Token::new(TOKEN).unwrap()).1.pop()
}

#[test]
fn what_the_sidecar_can_look_into_or_does_not_stand_before_stays() {
    for stays in [
        json!({"exec": {"command": ["true"]}}),
        json!({"grpc": {"port": 8080}}),
        json!({"httpGet": {"port": 8080}}),
        json!({"httpGet": {"port": 8080, "scheme": "HTTP"}}),
        json!({"httpGet": {"port": 8080, "scheme": "HTTPS", "host": "192.0.2.1"}}),
        json!({"tcpSocket": {"port": 8080, "host": "192.0.2.1"}}),
        json!({"tcpSocket": {"port": 9005}}),
        json!({"tcpSocket": {"port": names::PORT_ADMIN}}),
        json!({"tcpSocket": {"port": "unknown"}}),
        json!({"tcpSocket": {"port": 0}}),
        json!({"tcpSocket": {"port": 70000}}),
        json!({"tcpSocket": {}}),
        json!({"tcpSocket": null}),
        json!("tcpSocket"),
        json!(null),
    ] {
        assert_eq!(of(&stays), None, "{stays}");
    }
}

#[test]
fn ports_times_and_requests_are_as_they_were() {
    let number = |port: Value| of(&json!({"tcpSocket": {"port": port}})).map(|probe| probe.port);
    assert_eq!(number(json!(5432)), Some(5432));
    assert_eq!(number(json!("web")), Some(8080));
    assert_eq!(number(json!("5432")), Some(5432));
    let seconds = |given: Value| of(&json!({"tcpSocket": {"port": 1}, "timeoutSeconds": given})).unwrap().seconds;
    assert_eq!([json!(null), json!(0), json!(7), json!(1_000_000)].map(seconds), [1, 1, 7, 60]);
    let https =
        json!({"path": "x?y", "port": "web", "scheme": "https", "httpHeaders": [{"name": "A", "value": "$(B)"}]});
    let found = of(&json!({"httpGet": https})).unwrap();
    assert_eq!(found.https, Some(Get { path: "x?y".into(), headers: vec![("A".into(), "$(B)".into())] }));
    assert_eq!(found.at, format!("/probe/{TOKEN}/app/readiness"));
}

#[test]
fn names_that_no_container_can_have_are_in_no_path() {
    for name in ["", "a/b", "..", "A", "a b", "é", "a\n", &"x".repeat(64)] {
        let mut pod = pod(&json!({"tcpSocket": {"port": 1}}));
        pod["spec"]["containers"][0]["name"] = name.into();
        assert!(taken(&pod, &PortList::default(), &Token::new(TOKEN).unwrap()).0.is_empty(), "{name:?}");
    }
}

#[test]
fn a_probe_that_was_changed_since_stays_changed() {
    let was = json!({"tcpSocket": {"port": "web"}, "periodSeconds": 3});
    let injected = inject(&pod(&was));
    assert_eq!(probe(&injected)["httpGet"]["port"], names::PORT_ADMIN);
    assert_eq!(probe(&injected)["periodSeconds"], 3);
    assert_eq!(inject(&injected), injected);
    assert_eq!(probe(&remove(&injected).unwrap()), &was);

    let now = json!({"exec": {"command": ["true"]}});
    let mut changed = injected;
    changed["spec"]["containers"][0]["readinessProbe"] = now.clone();
    assert_eq!(probe(&remove(&changed).unwrap()), &now);
    let again = inject(&changed);
    assert_eq!(probe(&again), &now);
    assert_eq!(again, inject(&pod(&now)));
}

#[test]
fn records_that_somebody_made_up_change_nothing_else() {
    for probes in [
        json!([{"container": "app", "at": "/image", "was": {"x": 1}}]),
        json!([{"container": "app", "at": "", "was": {"image": "other"}}]),
        json!([{"container": "mesh-proxy", "at": "/livenessProbe", "was": {"x": 1}}]),
        json!([{"container": "none", "at": "/livenessProbe", "was": {}}]),
        json!([{"container": "app", "at": "/readinessProbe", "was": {"exec": {}}}]),
        json!([1]),
    ] {
        let was = pod(&json!({"httpGet": {"port": 8080}}));
        let mut given = was.clone();
        given["metadata"]["annotations"] = json!({names::ANNOTATION_INJECTION: json!({"probes": probes}).to_string()});
        assert_eq!(restored(&given)["spec"], was["spec"], "{probes}");
        assert_eq!(inject(&given), inject(&was), "{probes}");
    }
}

#[test]
fn hooks_over_http_are_the_sidecars_and_probes_are_not() {
    let hook = |scheme: &str| {
        let mut pod = pod(&json!({"httpGet": {"path": "/ready", "port": "web"}}));
        let get = json!({"path": "/shutdown", "port": "web", "scheme": scheme});
        pod["spec"]["containers"][0]["lifecycle"] =
            json!({"preStop": {"httpGet": get}, "postStart": {"tcpSocket": {"port": 1}}});
        pod
    };
    for scheme in ["HTTP", "HTTPS"] {
        let was = hook(scheme);
        let (all, probes) = taken(&was, &PortList::default(), &Token::new(TOKEN).unwrap());
        let [probe] = &*probes else { panic!("{probes:?}") };
        assert_eq!(probe.at, format!("/probe/{TOKEN}/app/pre-stop"));
        let get = Some(Get { path: "/shutdown".into(), headers: vec![] });
        let wanted = if scheme == "HTTP" { (None, get) } else { (get, None) };
        assert_eq!((probe.https.clone(), probe.http.clone()), wanted);
        assert_eq!(all[0].at, "/lifecycle/preStop");
        let injected = inject(&was);
        let seen = &injected["spec"]["initContainers"][0]["name"];
        let list = if seen == names::PROXY_CONTAINER { "initContainers" } else { "containers" };
        assert!(injected["spec"][list].to_string().contains(TOKEN), "the sidecar knows it");
        assert_eq!(remove(&injected).unwrap()["spec"], was["spec"]);
    }
    assert!(taken(&hook("HTTP"), &"8080".parse().unwrap(), &Token::new(TOKEN).unwrap()).0.is_empty());
}

#[test]
fn a_pod_from_before_there_were_tokens_gets_one_and_one_that_is_none_is_not_kept() {
    let was = pod(&json!({"tcpSocket": {"port": "web"}}));
    let wanted = inject(&was);
    for (old, path) in
        [("", "/probe/app/readiness"), ("../x", "/probe/../x/app/readiness"), ("short", "/probe/short/app/readiness")]
    {
        let mut given = wanted.clone();
        given["spec"]["containers"].as_array_mut().unwrap().iter_mut().filter(|one| one["name"] == "app").for_each(
            |one| {
                one["readinessProbe"]["httpGet"]["path"] = path.into();
            },
        );
        let mut record = Record::of(&given).unwrap();
        record.token = old.into();
        record.hash = "old".into();
        given["metadata"]["annotations"][names::ANNOTATION_INJECTION] = serde_json::to_string(&record).unwrap().into();
        assert_eq!(remove(&given).unwrap()["spec"], was["spec"], "{old}");
        assert_eq!(inject(&given), wanted, "{old}");
    }
}
