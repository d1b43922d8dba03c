use super::*;
use crate::commands::uninject;

const STREAM: &str = "\
# A comment of the whole.
apiVersion: v1
kind: Service
metadata: {name: web}   # stays
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  template:
    metadata:
      labels:
        app: web
    spec:
      containers:
        - name: app   # ours
          image: web:1
---
{{ not yaml
---
# nothing
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: report
spec:
  jobTemplate:
    spec:
      template:
        spec:
          containers:
            - name: report
              image: report:1
";

fn injector(namespace: &str) -> Injector<'_> {
    Injector { settings: Settings::default(), version: None, namespace }
}

fn input(text: &str) -> Vec<Input> {
    vec![Input { name: "a.yaml".into(), text: text.into() }]
}

#[test]
fn workloads_get_sidecars_and_nothing_else_is_touched() {
    let changed = injector("default").inject(&input(STREAM));
    assert_eq!(changed.refused, 0);
    let before = documents(STREAM);
    let after = documents(&changed.text);
    assert_eq!(before.len(), after.len());
    for at in [0, 2, 3] {
        assert_eq!(before[at].text, after[at].text);
    }
    assert!(after[1].text.contains("- name: app   # ours\n"), "{}", after[1].text);
    assert!(after[1].text.contains("- name: mesh-proxy\n") && after[4].text.contains("- name: mesh-init\n"));
    let report = after[4].read().unwrap().unwrap();
    let environment = &report["spec"]["jobTemplate"]["spec"]["template"]["spec"]["initContainers"][1]["env"];
    assert!(environment.as_array().unwrap().contains(&serde_json::json!({ "name": "MESH_OWNER", "value": "report" })));
    let told = changed.notes.join("\n");
    for wanted in
        ["Deployment shop/web: injected", "CronJob default/report: injected", "a.yaml:20: cannot be read", "1 other"]
    {
        assert!(told.contains(wanted), "{wanted}: {told}");
    }
}

#[test]
fn twice_is_once_and_back_is_where_it_began() {
    let once = injector("default").inject(&input(STREAM)).text;
    let twice = injector("default").inject(&input(&once));
    assert_eq!(twice.text, once);
    assert!(twice.notes.iter().any(|note| note.ends_with("has its sidecar")), "{:?}", twice.notes);
    assert_eq!(uninject::uninject(&input(&once), "default").text, STREAM);
}

#[test]
fn what_a_manifest_says_of_its_namespace_holds() {
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: quiet}\nspec: {containers: [{name: a, image: b}]}\n";
    let space = "apiVersion: v1\nkind: Namespace\nmetadata: {name: quiet, labels: {mesh.dev/inject: disabled}}\n";
    let text = format!("{space}{pod}");
    let changed = injector("default").inject(&input(&text));
    assert_eq!(changed.text, text);
    assert!(changed.notes[0].contains("asks to have no sidecars"), "{:?}", changed.notes);
    assert!(injector("default").inject(&input(pod)).text.contains("mesh-proxy"));
    let system = injector("kube-system").inject(&input(&pod.replace(", namespace: quiet", "")));
    assert!(system.notes[0].contains("never get a sidecar"), "{:?}", system.notes);
}

#[test]
fn mistakes_are_told_and_counted() {
    let text =
        STREAM.replace("      labels:\n        app: web\n", "      annotations: {mesh.dev/skip-inbound-ports: x}\n");
    let changed = injector("default").inject(&input(&text));
    assert_eq!(changed.refused, 1);
    assert!(
        changed.notes.iter().any(|note| note.contains("[mesh.dev/skip-inbound-ports]: `x` is not PORT")),
        "{:?}",
        changed.notes
    );
}

#[test]
fn several_files_become_one_stream() {
    let pod = |name: &str| {
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: [{{name: a, image: b}}]}}")
    };
    let inputs = ["a", "b"].map(|name| Input { name: name.into(), text: pod(name) });
    let text = injector("default").inject(&inputs).text;
    let names: Vec<_> =
        documents(&text).iter().map(|one| one.read().unwrap().unwrap()["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
}
