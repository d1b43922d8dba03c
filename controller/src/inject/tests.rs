use std::{fs, path::Path};

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// What stands in the `#=` lines at the head of a golden input.
#[derive(Default)]
struct Case {
    settings: Settings,
    namespace: Namespace,
    version: Option<Version>,
}

fn token() -> Token {
    Token::new("705ab4f5-6393-41e8-b7cc-42010a800002").unwrap()
}

impl Case {
    fn new() -> Self {
        let mut case = Self::default();
        case.settings.config.image = "mesh.dev/proxy:golden".into();
        case.namespace.name = "default".into();
        case.namespace.labels.insert(names::INJECT.into(), "enabled".into());
        case
    }

    fn of(text: &str) -> Self {
        let mut case = Self::new();
        let mut config = serde_json::to_value(&case.settings.config).unwrap();
        for line in text.lines().filter_map(|line| line.strip_prefix("#= ")) {
            let (key, value) = line.split_once('=').unwrap();
            match key {
                "version" => case.version = Some(value.parse().unwrap()),
                "namespace.name" => value.clone_into(&mut case.namespace.name),
                "namespace.inject" if value.is_empty() => case.namespace.labels.clear(),
                "namespace.inject" => drop(case.namespace.labels.insert(names::INJECT.into(), value.into())),
                "namespace.pod-security" => {
                    case.namespace.labels.insert("pod-security.kubernetes.io/enforce".into(), value.into());
                }
                "addresses" => {
                    let (ca, discovery) = value.split_once(',').unwrap();
                    let at = |ip: &str, port| (ip.parse::<std::net::IpAddr>().unwrap(), port).into();
                    let (ca, discovery) = (at(ca, names::PORT_CA), at(discovery, names::PORT_DISCOVERY));
                    case.settings.addresses = Some(Addresses { ca, discovery });
                }
                key => {
                    assert!(config.get(key).is_some(), "{key}");
                    let is_text = config[key].is_string();
                    config[key] = if is_text { value.into() } else { serde_json::from_str(value).unwrap() };
                }
            }
        }
        case.settings.config = serde_json::from_value(config).unwrap();
        assert_eq!(case.settings.config.mistakes(), []);
        case
    }

    fn decide(&self, pod: &Value) -> Decision {
        decide(pod, None, &self.namespace, &self.settings, self.version, &token())
    }

    fn inject(&self, pod: &Value) -> Injection {
        match self.decide(pod) {
            Decision::Inject(injection) => *injection,
            other => panic!("{other:?}"),
        }
    }
}

fn shown(decision: &Decision) -> String {
    match decision {
        Decision::Leave(fault) => format!("# left alone: {}\n# {fault}\n", fault.reason.as_str()),
        Decision::Refuse(faults) => {
            faults.iter().map(|fault| format!("# refused: {}\n# {fault}\n", fault.reason.as_str())).collect()
        }
        Decision::Inject(injection) => {
            let warnings: String = injection.warnings.iter().map(|warning| format!("# warning: {warning}\n")).collect();
            let mut pod = injection.pod.clone();
            // What changes with every version is not what the golden files are about.
            let record = Record { version: "golden".into(), hash: "golden".into(), ..injection.record.clone() };
            let record = serde_json::to_string(&record).unwrap();
            pod["metadata"]["annotations"][names::ANNOTATION_INJECTION] = record.into();
            format!("# {}: {}\n{warnings}{}", injection.because.reason.as_str(), injection.because, yaml(&pod))
        }
    }
}

fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap()
}

fn read(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

fn golden() -> Vec<(std::path::PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/inject/golden");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<_> = paths
        .filter(|path| path.to_str().unwrap().ends_with(".in.yaml"))
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            (path, text)
        })
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn golden_pods() {
    let inputs = golden();
    assert!(inputs.len() >= 20);
    for (path, text) in inputs {
        let decision = Case::of(&text).decide(&read(&text));
        let found = shown(&decision);
        let out = path.to_str().unwrap().replace(".in.yaml", ".out.yaml");
        if std::env::var_os("MESH_UPDATE_GOLDEN").is_some() {
            fs::write(&out, &found).unwrap();
        }
        let wanted = fs::read_to_string(&out).unwrap_or_default();
        assert!(wanted == found, "{out} is not what is decided, which is:\n{found}");
    }
}

#[test]
fn golden_pods_once_more_are_the_same() {
    for (path, text) in golden() {
        let case = Case::of(&text);
        if let Decision::Inject(injection) = case.decide(&read(&text)) {
            let again = case.inject(&injection.pod);
            assert_eq!(again.patch, [], "{}", path.display());
            assert_eq!(again.pod, injection.pod, "{}", path.display());
        }
    }
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "app", "image": "web"}]},
    })
}

fn containers(pod: &Value, list: &str) -> Vec<String> {
    let list = pod["spec"][list].as_array().cloned().unwrap_or_default();
    list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_others_put_in_front_is_put_behind() {
    let case = Case::new();
    let mut pod = case.inject(&pod()).pod;
    let init = pod["spec"]["initContainers"].as_array_mut().unwrap();
    init.insert(0, json!({"name": "vault", "image": "vault"}));
    init.push(json!({"name": "late", "image": "late"}));
    pod["spec"]["initContainers"][2]["env"].as_array_mut().unwrap().push(json!({"name": "MESH_ADDED", "value": "1"}));
    let again = case.inject(&pod);
    assert_eq!(containers(&again.pod, "initContainers"), ["mesh-init", "mesh-proxy", "vault", "late"]);
    let proxy = &again.pod["spec"]["initContainers"][1];
    // It is what would be put in now: what others did to it stays.
    assert!(proxy["env"].as_array().unwrap().iter().any(|entry| entry["name"] == "MESH_ADDED"));
    assert_eq!(case.inject(&again.pod).patch, []);
}

#[test]
fn a_half_injected_pod_is_completed() {
    let case = Case::new();
    let whole = case.inject(&pod()).pod;
    for list in ["initContainers", "volumes"] {
        let mut half = whole.clone();
        half["spec"].as_object_mut().unwrap().remove(list).unwrap();
        assert_eq!(case.inject(&half).pod, whole, "{list}");
    }
    let mut half = whole.clone();
    half["metadata"]["annotations"].as_object_mut().unwrap().clear();
    assert_eq!(case.inject(&half).pod, whole);
}

#[test]
fn from_plain_to_native_and_back() {
    let mut case = Case::new();
    let native = case.inject(&pod()).pod;
    case.settings.config.native = Native::False;
    let plain = case.inject(&native).pod;
    assert_eq!(containers(&plain, "initContainers"), ["mesh-init"]);
    assert_eq!(containers(&plain, "containers"), ["mesh-proxy", "app"]);
    assert_eq!(plain["metadata"]["annotations"][sidecar::DEFAULT_CONTAINER], "app");
    assert_eq!(plain, case.inject(&pod()).pod);
    case.settings.config.native = Native::True;
    assert_eq!(case.inject(&plain).pod, native);
    assert_eq!(remove(&plain), Some(pod()));
}

#[test]
fn malformed_pods_are_refused_and_nothing_else() {
    let wrong = [
        json!(null),
        json!([]),
        json!("pod"),
        json!({}),
        json!({"spec": 1}),
        json!({"kind": "Service", "spec": {}}),
        json!({"metadata": [], "spec": {"containers": [{}]}}),
        json!({"metadata": {"labels": []}, "spec": {"containers": [{}]}}),
        json!({"spec": {"containers": []}}),
        json!({"spec": {"containers": {}}}),
        json!({"spec": {"containers": [1]}}),
        json!({"spec": {"containers": [{}], "volumes": "x"}}),
        json!({"spec": {"containers": [{}], "initContainers": [null]}}),
    ];
    for pod in wrong {
        let Decision::Refuse(faults) = Case::new().decide(&pod) else { panic!("{pod}") };
        assert_eq!(faults[0].reason, Reason::NotAPod, "{pod}");
    }
}

#[test]
fn odd_but_possible_pods_are_injected() {
    let odd = [
        json!({"metadata": {"labels": null, "annotations": null}, "spec": {"containers": [{}], "initContainers": null}}),
        json!({"metadata": null, "spec": {"containers": [{"name": 1}], "volumes": null}}),
        json!({"spec": {"containers": [{}], "securityContext": null, "nodeSelector": 1, "os": "linux"}}),
        json!({"spec": {"containers": vec![json!({"name": "a", "ports": [1, {"containerPort": "x"}]}); 10_000]}}),
    ];
    for pod in odd {
        let case = Case::new();
        let injection = case.inject(&pod);
        assert_eq!(case.inject(&injection.pod).patch, []);
    }
}

#[test]
fn owners_are_workloads() {
    let owner =
        |metadata: Value| Pod::new(&json!({"metadata": metadata, "spec": {"containers": [{}]}})).unwrap().owner();
    let owned = |kind: &str, name: &str, labels: Value| {
        owner(json!({"name": "x", "labels": labels, "ownerReferences": [
            {"kind": "Other", "name": "not"}, {"kind": kind, "name": name, "controller": true}]}))
        .name
    };
    assert_eq!(owned("ReplicaSet", "web-abc", json!({"pod-template-hash": "abc"})), "web");
    assert_eq!(owned("ReplicaSet", "web-abc", json!({"rollouts-pod-template-hash": "abc"})), "web");
    assert_eq!(owned("ReplicaSet", "web-abc", json!({})), "web-abc");
    assert_eq!(owned("ReplicaSet", "-abc", json!({"pod-template-hash": "abc"})), "-abc");
    assert_eq!(owned("Job", "report-29385720", json!({})), "report");
    assert_eq!(owned("Job", "report-2024", json!({})), "report-2024");
    assert_eq!(owned("StatefulSet", "db", json!({})), "db");
    assert_eq!(owner(json!({"generateName": "tmp-"})), Owner { name: "tmp".into(), job: false });
    assert_eq!(owner(json!({"name": "one", "generateName": "tmp-"})).name, "one");
}

#[test]
fn templates_are_found_wherever_they_are() {
    let template = json!({"spec": {"containers": [{"name": "a"}]}});
    let object = |version: &str, kind: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "n", "namespace": "s"}, "spec": spec});
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [
        object("apps/v1", "Deployment", json!({"template": template})),
        object("batch/v1", "CronJob", json!({"jobTemplate": {"spec": {"template": template}}})),
        object("v1", "Service", json!({})),
        object("v1", "Pod", template["spec"].clone()),
        object("example.com/v1", "Deployment", json!({"template": template})),
        object("argoproj.io/v1alpha1", "Rollout", json!({"workloadRef": {}})),
    ]});
    let found: Vec<_> =
        templates(&list).into_iter().map(|one| (one.pointer, one.owner.is_some_and(|o| o.job))).collect();
    let wanted =
        [("/items/0/spec/template", false), ("/items/1/spec/jobTemplate/spec/template", true), ("/items/3", false)];
    assert_eq!(found, wanted.map(|(pointer, job)| (pointer.to_owned(), job)));
    for (pointer, _) in found {
        assert!(matches!(Case::new().decide(list.pointer(&pointer).unwrap()), Decision::Inject(_)));
    }
}

fn any_container(name: String) -> impl Strategy<Value = Value> {
    let port = (1u16..65535).prop_filter("not the sidecar's", |port| !(15440..=15490).contains(port));
    (prop::option::of(0u64..15400), prop::collection::vec(port, 0..3), any::<bool>(), any::<bool>()).prop_map(
        move |(user, ports, probe, env)| {
            let mut one = json!({"name": name, "image": "i"});
            if let Some(user) = user {
                one["securityContext"] = json!({"runAsUser": user});
            }
            if !ports.is_empty() {
                one["ports"] = ports.iter().map(|port| json!({"containerPort": port})).collect();
            }
            if probe {
                one["livenessProbe"] = json!({"httpGet": {"path": "/", "port": 80}});
            }
            if env {
                one["env"] = json!([{"name": "MESH_ANYTHING", "value": "the application's"}]);
            }
            one
        },
    )
}

fn any_pod() -> impl Strategy<Value = Value> {
    let list = |prefix: &'static str, least: usize| {
        (least..4)
            .prop_flat_map(move |count| (0..count).map(|at| any_container(format!("{prefix}{at}"))).collect::<Vec<_>>())
    };
    let labels = prop::option::of(prop::collection::btree_map("[a-z]{1,3}", "[a-z]{0,3}", 1..3));
    let volumes = prop::collection::vec("[a-z]{1,4}", 0..3);
    (list("app", 1), list("init", 0), labels, volumes, prop::option::of(0u64..100)).prop_map(
        |(containers, init, labels, volumes, grace)| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
            if !init.is_empty() {
                pod["spec"]["initContainers"] = init.into();
            }
            if let Some(labels) = labels {
                pod["metadata"]["labels"] = json!(labels);
            }
            if !volumes.is_empty() {
                pod["spec"]["volumes"] = volumes.iter().map(|name| json!({"name": name, "emptyDir": {}})).collect();
            }
            if let Some(grace) = grace {
                pod["spec"]["terminationGracePeriodSeconds"] = grace.into();
            }
            pod
        },
    )
}

fn any_case() -> impl Strategy<Value = Case> {
    (any::<bool>(), any::<bool>()).prop_map(|(cni, native)| {
        let mut case = Case::new();
        case.settings.config.cni = cni;
        case.settings.config.native = if native { Native::True } else { Native::False };
        case
    })
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.settings.config.fmt(f)
    }
}

proptest! {
    #[test]
    fn twice_is_once(pod in any_pod(), case in any_case()) {
        let once = case.inject(&pod);
        let twice = case.inject(&once.pod);
        prop_assert_eq!(&twice.pod, &once.pod);
        prop_assert_eq!(twice.patch, []);
    }

    #[test]
    fn the_application_stays_untouched(pod in any_pod(), case in any_case()) {
        let changed = case.inject(&pod).pod;
        let own = |pod: &Value| -> Vec<(&'static str, Value)> {
            all_containers(pod).filter(|one| !one.is_of_mesh()).map(|one| (one.list, one.json.clone())).collect()
        };
        prop_assert_eq!(own(&pod), own(&changed));
        for (key, value) in pod["spec"].as_object().unwrap() {
            if !["containers", "initContainers", "volumes"].contains(&key.as_str()) {
                prop_assert_eq!(value, &changed["spec"][key]);
            }
        }
        let volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        prop_assert_eq!(&changed["spec"]["volumes"].as_array().unwrap()[1..], &volumes[..]);
    }

    #[test]
    fn what_is_put_in_can_be_taken_out(pod in any_pod(), case in any_case()) {
        prop_assert_eq!(remove(&pod), None);
        prop_assert_eq!(remove(&case.inject(&pod).pod), Some(pod));
    }

    #[test]
    fn whichever_way_it_was_injected_before(pod in any_pod(), before in any_case(), now in any_case()) {
        let changed = now.inject(&before.inject(&pod).pod).pod;
        prop_assert_eq!(changed, now.inject(&pod).pod);
    }

    #[test]
    fn nothing_in_a_pod_makes_it_panic(text in ".{0,64}", pod in any_pod()) {
        let mut pod = pod;
        for name in [names::INJECT, names::ANNOTATION_INJECTION, names::ANNOTATION_SKIP_SUBNETS,
            names::ANNOTATION_PROXY_IMAGE, names::ANNOTATION_PROXY_LOG_LEVEL, names::ANNOTATION_PROXY_CPU_LIMIT] {
            pod["metadata"]["annotations"][name] = text.as_str().into();
        }
        let _ = Case::new().decide(&pod);
    }
}

#[test]
fn mistakes_of_the_settings_are_found() {
    assert_eq!(InjectConfig::default().mistakes(), []);
    let wrong = InjectConfig {
        image: "a b".into(),
        cpu_limit: "much".into(),
        log_level: "loud".into(),
        skip_inbound_ports: "15440".into(),
        skip_outbound_ports: "x".into(),
        skip_subnets: "y".into(),
        ca: "mesh-ca".into(),
        discovery: "a:0".into(),
        trace_ratio: 2.0,
        otlp_endpoint: "collector".into(),
        ..InjectConfig::default()
    };
    let keys: Vec<String> = wrong.mistakes().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys.len(), 10, "{keys:?}");
}

#[test]
fn versions_are_read_as_servers_write_them() {
    assert_eq!(Version::of("1", "29+"), Some(Version { major: 1, minor: 29 }));
    assert_eq!("v1.30.2".parse(), Ok(Version { major: 1, minor: 30 }));
    assert_eq!(Version::of("", "x"), None);
    assert!(Version { major: 2, minor: 0 }.has_native_sidecars());
}
