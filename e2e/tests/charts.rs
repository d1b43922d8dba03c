//! What `meshctl install` applies is what Helm makes of the charts, whatever the values.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mesh_e2e::{
    bin,
    cache::Recipe,
    process::{must_run, run},
};
use serde_json::Value;

/// One rendering takes at most this long.
const SOON: Duration = Duration::from_secs(60);

/// Values that bring every branch of the templates about.
const VALUES: [(&str, &str); 7] = [
    ("the defaults", "{}"),
    (
        "a plugin instead of init containers",
        "cni: { enabled: true, binDir: /opt/bin, tolerations: [], priorityClassName: '' }",
    ),
    (
        "everything that can be left out",
        "namespace: { create: false }\n\
         controlPlane: { priorityClassName: '', antiAffinity: none, spreadZones: false, networkPolicy: { enabled: false }, \
         nodeSelector: { kubernetes.io/os: null } }",
    ),
    (
        "other images",
        "image: { registry: registry.example/mesh, tag: 9.9.9, pullPolicy: Always, pullSecrets: [one, two] }\n\
         ca: { image: 'elsewhere.example/ca@sha256:00' }",
    ),
    (
        "another trust domain, strict",
        "trustDomain: prod.example\nclusterDomain: k8s.local\ndefaults: { transport: strict, allow: false }\n\
         ca: { checkAddress: false, connections: 10000, certificates: { ttl: 1h }, rotation: { overlap: 2h } }\n\
         webhook: { failurePolicy: Ignore, timeoutSeconds: 3, excludedNamespaces: [one, two] }",
    ),
    (
        "telemetry and sidecars",
        "telemetry: { otlpEndpoint: 'http://jaeger.mesh-viz:4317', traceRatio: 1 }\n\
         proxy: { accessLog: true, logLevel: 'info,mesh_proxy=debug', native: 'true', skipOutboundPorts: '25,8000-8010', \
         resources: { requests: { cpu: 1, memory: 64Mi }, limits: { cpu: 1.5 } } }",
    ),
    (
        "where pods run",
        "controlPlane: { podAnnotations: { a.example/b: 'true', c: d e }, podDisruptionBudget: { enabled: true }, \
         antiAffinity: required, tolerations: [{ key: a, operator: Equal, value: b, effect: NoSchedule }], \
         nodeSelector: { disk: ssd }, networkPolicy: { metricsFrom: [{ namespaceSelector: { matchLabels: { a: b } } }] } }\n\
         controller: { replicas: 2, resources: { limits: { memory: null } }, terminationGracePeriodSeconds: 60 }",
    ),
];

/// How meshctl is asked for the control plane alone.
const CONTROL_PLANE: [&str; 2] = ["install", "--skip-crds"];
/// And for the chart mesh-viz.
const VIZ: [&str; 2] = ["viz", "install"];
/// Its values that bring every branch about.
const VIZ_VALUES: [(&str, &str); 4] = [
    ("the defaults", "{}"),
    ("Prometheus alone", "jaeger: { enabled: false }\nnamespace: { create: false }"),
    (
        "other images",
        "imagePullPolicy: Always\nprometheus: { image: 'registry.example/prometheus@sha256:00' }\n\
         jaeger: { image: 'jaegertracing/all-in-one:1.76.0', args: [--memory.max-traces=5, 'a: b'] }",
    ),
    (
        "other measures",
        "prometheus: { retention: 2h, scrapeInterval: 30s, resources: { limits: { memory: null, cpu: 1.5 } } }\n\
         jaeger: { resources: { requests: { cpu: 1, memory: 1Gi } } }",
    ),
];

type Objects = BTreeMap<String, Value>;

fn charts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts")
}

fn helm(chart: &str, namespace: &str, values: &Path) -> Objects {
    let program = Recipe::go("helm", "tools/helm", &["helm"], "").program("helm").unwrap();
    let mut helm = Command::new(program);
    helm.args(["template", "mesh"]).arg(charts().join(chart)).args(["--namespace", namespace, "-f"]).arg(values);
    objects(&must_run(&helm, SOON).unwrap().text())
}

fn meshctl(install: &[&str], values: &Path) -> Objects {
    let mut meshctl = Command::new(bin::meshctl().unwrap());
    meshctl.args(install).args(["--dry-run", "-f"]).arg(values);
    objects(&must_run(&meshctl, SOON).unwrap().text())
}

fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let mut objects = Objects::new();
    for document in documents.into_iter().filter(|document| !document.is_null()) {
        let text = |path: &str| document.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let key = format!("{} {}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        assert!(objects.insert(key.clone(), document).is_none(), "{key} is there twice");
    }
    objects
}

fn same(what: &str, left: &Objects, right: &Objects) {
    assert!(left.len() > 5, "{what}: only {} objects", left.len());
    assert_eq!(left.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>(), "{what}");
    for (key, value) in left {
        assert_eq!(Some(value), right.get(key), "{what}: {key}");
    }
}

#[test]
fn meshctl_installs_what_helm_renders() {
    let dir = tempfile::tempdir().unwrap();
    for (what, text) in VALUES {
        let values = dir.path().join("values.yaml");
        std::fs::write(&values, text).unwrap();
        same(what, &meshctl(&CONTROL_PLANE, &values), &helm("mesh", "mesh-system", &values));
    }
    let ha = charts().join("mesh/values-ha.yaml");
    same("values-ha.yaml", &meshctl(&CONTROL_PLANE, &ha), &helm("mesh", "mesh-system", &ha));
    for (what, text) in VIZ_VALUES {
        let values = dir.path().join("values.yaml");
        std::fs::write(&values, text).unwrap();
        same(what, &meshctl(&VIZ, &values), &helm("mesh-viz", "mesh-viz", &values));
    }
}

#[test]
fn a_short_way_is_the_long_one() {
    let dir = tempfile::tempdir().unwrap();
    let values = dir.path().join("values.yaml");
    std::fs::write(&values, "cni: { enabled: true }\nca: { replicas: 5 }\nproxy: { logLevel: debug }\n").unwrap();
    let mut merged = Command::new(bin::meshctl().unwrap());
    merged.args([
        "install",
        "--dry-run",
        "--skip-crds",
        "--ha",
        "--cni",
        "--set",
        "ca.replicas=5,proxy.logLevel=debug",
    ]);
    let mut files = Command::new(bin::meshctl().unwrap());
    files
        .args(["install", "--dry-run", "--skip-crds", "-f"])
        .arg(charts().join("mesh/values-ha.yaml"))
        .arg("-f")
        .arg(&values);
    same(
        "flags",
        &objects(&must_run(&merged, SOON).unwrap().text()),
        &objects(&must_run(&files, SOON).unwrap().text()),
    );
}

/// Both refuse the same values: Helm by the schema, meshctl by its own reading of it.
#[test]
fn wrong_values_are_refused_by_both() {
    let program = Recipe::go("helm", "tools/helm", &["helm"], "").program("helm").unwrap();
    let of_the_mesh = [
        "ca.replica=3",
        "ca.replicas=0",
        "ca.replicas=x",
        "defaults.transport=strikt",
        "telemetry.traceRatio=2",
        "ca.certificates.ttl=soon",
        "trustDomain=UPPER",
        "image.tag=a b",
        "webhook.timeoutSeconds=31",
        "proxy.skipOutboundPorts=a",
    ];
    let of_viz = ["jaeger.enable=true", "prometheus.retention=long", "imagePullPolicy=Sometimes"];
    let of_the_mesh = of_the_mesh.map(|wrong| ("mesh", CONTROL_PLANE, wrong));
    for (chart, install, wrong) in of_viz.map(|wrong| ("mesh-viz", VIZ, wrong)).into_iter().chain(of_the_mesh) {
        let mut helm = Command::new(&program);
        helm.args(["template", "mesh"]).arg(charts().join(chart)).args(["--set", wrong]);
        assert!(must_run(&helm, SOON).is_err(), "helm takes {wrong}");
        let mut meshctl = Command::new(bin::meshctl().unwrap());
        meshctl.args(install).args(["--dry-run", "--set", wrong]);
        let key = wrong.split_once('=').unwrap().0;
        let refused = run(&meshctl, SOON).unwrap();
        assert!(!refused.status.success(), "meshctl takes {wrong}");
        assert!(refused.error_text().contains(key), "{wrong}: {}", refused.error_text());
    }
}

#[test]
fn the_charts_are_clean() {
    let program = Recipe::go("helm", "tools/helm", &["helm"], "").program("helm").unwrap();
    for chart in ["mesh", "mesh-viz"] {
        let mut lint = Command::new(&program);
        lint.args(["lint", "--strict"]).arg(charts().join(chart));
        must_run(&lint, SOON).unwrap();
    }
}
