//! The charts themselves: what comes of them, and what they refuse.

use serde_json::json;

use super::*;

fn rendered(given: &Value) -> Vec<Object> {
    Chart::carried(MESH).unwrap().render(given, &Release::default()).unwrap()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Value {
    let found = objects.iter().find(|object| object.key.kind == kind && object.key.name == name);
    &found.unwrap_or_else(|| panic!("no {kind} {name}")).value
}

#[test]
fn the_defaults_render() {
    let objects = rendered(&json!({}));
    for (kind, name) in [("Deployment", "mesh-ca"), ("Deployment", "mesh-controller"), ("Service", "mesh-webhook")] {
        find(&objects, kind, name);
    }
    let image = "/spec/template/spec/containers/0/image";
    assert_eq!(find(&objects, "Deployment", "mesh-ca").pointer(image), Some(&json!("mesh.dev/ca:0.1.0")));
    assert!(objects.iter().all(|object| object.key.kind != "Secret"), "a chart holds no secret");
    assert!(objects.iter().all(|object| object.label(mesh_api::names::LABEL_CHART) == Some("mesh")));
    let webhooks = find(&objects, "MutatingWebhookConfiguration", "mesh");
    assert!(webhooks["webhooks"].as_array().unwrap().iter().all(|hook| hook["clientConfig"].get("caBundle").is_none()));
}

#[test]
fn every_preset_and_switch_renders() {
    let chart = Chart::carried(MESH).unwrap();
    let ha = rendered(&chart.preset("values-ha.yaml").unwrap());
    assert_eq!(find(&ha, "Deployment", "mesh-ca")["spec"]["replicas"], 3);
    find(&ha, "PodDisruptionBudget", "mesh-controller");
    let cni = rendered(&json!({ "cni": { "enabled": true } }));
    find(&cni, "DaemonSet", "mesh-cni");
    let bare = rendered(&json!({
        "namespace": { "create": false },
        "controlPlane": { "networkPolicy": { "enabled": false }, "priorityClassName": "", "antiAffinity": "none" },
    }));
    assert!(bare.iter().all(|object| !["Namespace", "NetworkPolicy"].contains(&object.key.kind.as_str())));
}

#[test]
fn wrong_values_are_told_all_at_once() {
    let chart = Chart::carried(MESH).unwrap();
    let wrong =
        json!({ "ca": { "replica": 3 }, "defaults": { "transport": "strikt" }, "telemetry": { "traceRatio": 2 } });
    let said = chart.render(&wrong, &Release::default()).unwrap_err().to_string();
    for part in ["did you mean ca.replicas?", "not one of permissive, strict", "telemetry.traceRatio: 2 is too large"] {
        assert!(said.contains(part), "{said}");
    }
}

/// Every value has a sentence, and the schema knows each value and nothing else.
#[test]
fn values_schema_and_comments_agree() {
    for name in [MESH, MESH_VIZ] {
        let chart = Chart::carried(name).unwrap();
        let schema = chart.schema.clone().unwrap();
        same_keys(&schema, &schema, &chart.defaults, name);
        let text = chart.files.get("values.yaml").unwrap();
        let mut before = "";
        for line in text.lines() {
            let entry = line.trim_start();
            let is_value =
                !entry.starts_with(['#', '-']) && entry.split_once(": ").is_some_and(|(_, value)| !value.is_empty());
            let inside_resources = ["cpu", "memory", "kubernetes.io/os"].iter().any(|key| entry.starts_with(key));
            let told = before.trim_start().starts_with('#');
            assert!(!is_value || inside_resources || told, "{name}: no sentence about `{entry}`");
            before = line;
        }
        chart.values(&json!({})).unwrap();
    }
}

fn same_keys(root: &Value, schema: &Value, values: &Value, path: &str) {
    const KNOWN: [&str; 14] = [
        "$schema",
        "title",
        "type",
        "properties",
        "additionalProperties",
        "required",
        "enum",
        "pattern",
        "minimum",
        "maximum",
        "minLength",
        "items",
        "description",
        "definitions",
    ];
    if let Some(reference) = schema.get("$ref") {
        return same_keys(root, root.pointer(&reference.as_str().unwrap()[1..]).unwrap(), values, path);
    }
    for rule in schema.as_object().unwrap().keys() {
        assert!(KNOWN.contains(&rule.as_str()), "{path}: the schema says `{rule}`, which is not checked");
    }
    let Some(known) = schema.get("properties").and_then(Value::as_object) else { return };
    assert_eq!(schema["additionalProperties"], false, "{path} lets anything in");
    let have = values.as_object().unwrap();
    let mut names: Vec<_> = have.keys().collect();
    let mut expected: Vec<_> =
        known.keys().filter(|key| have.contains_key(*key) || !path.contains("resources")).collect();
    names.sort();
    expected.sort();
    assert_eq!(names, expected, "{path}");
    for (key, value) in have {
        same_keys(root, &known[key], value, &format!("{path}.{key}"));
    }
}

#[test]
fn charts_and_program_refuse_the_same_clusters() {
    for name in [MESH, MESH_CRDS, MESH_VIZ] {
        let chart = Chart::carried(name).unwrap();
        let about = chart.files.get("Chart.yaml").unwrap();
        let wanted = format!("kubeVersion: \">={}.0-0\"", crate::cluster::Version::OLDEST);
        assert!(about.contains(&wanted), "{name} has not {wanted}:\n{about}");
    }
}

#[test]
fn replicas_are_spread_over_the_nodes_that_there_are() {
    let chart = Chart::carried(MESH).unwrap();
    let ha = rendered(&chart.preset("values-ha.yaml").unwrap());
    for name in ["mesh-ca", "mesh-controller"] {
        let pod = &find(&ha, "Deployment", name)["spec"]["template"]["spec"];
        let keys: Vec<_> = pod["topologySpreadConstraints"].as_array().unwrap().iter().collect();
        let said =
            |at: usize| (keys[at]["topologyKey"].as_str().unwrap(), keys[at]["whenUnsatisfiable"].as_str().unwrap());
        assert_eq!(said(0), ("kubernetes.io/hostname", "DoNotSchedule"));
        assert_eq!(said(1), ("topology.kubernetes.io/zone", "ScheduleAnyway"));
        assert!(pod.get("affinity").is_none());
    }
}
