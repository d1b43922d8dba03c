//! The chart of the mesh's own kinds is made from the table of their fields; this holds it fresh, and the schemas right.
//! `make docs` writes it anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{fmt::Write, path::Path};

use mesh_api::resources::{
    AuthorizationPolicySpec, ExternalWorkloadSpec, Resource, TransportPolicySpec,
    schema::{definitions, plural},
};
use serde_json::{Value, json};

const NOTE: &str = "# Made from the code; `make docs` writes it anew.\n";

fn check(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/mesh-crds").join(name);
    if std::env::var_os("MESH_UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == text, "charts/mesh-crds/{name} is not what the code says; run `make docs`");
}

/// Plain YAML of JSON: texts are quoted as JSON quotes them, which YAML reads.
fn yaml(value: &Value, indent: usize, out: &mut String) {
    let pad = "  ".repeat(indent);
    match value {
        Value::Object(entries) if !entries.is_empty() => {
            for (name, value) in entries {
                write!(out, "{pad}{name}:").unwrap();
                nested(value, indent + 1, out);
            }
        }
        Value::Array(entries) if !entries.is_empty() => {
            for entry in entries {
                let mut inner = String::new();
                yaml(entry, indent + 1, &mut inner);
                writeln!(out, "{pad}- {}", inner.trim()).unwrap();
            }
        }
        scalar => writeln!(out, "{pad}{}", text(scalar)).unwrap(),
    }
}

fn nested(value: &Value, indent: usize, out: &mut String) {
    let is_nested =
        value.as_object().is_some_and(|all| !all.is_empty()) || value.as_array().is_some_and(|all| !all.is_empty());
    if is_nested {
        out.push('\n');
        yaml(value, indent, out);
    } else {
        writeln!(out, " {}", text(value)).unwrap();
    }
}

fn text(value: &Value) -> String {
    let plain = |text: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"./-_".contains(&byte);
        text.bytes().all(good)
            && text.starts_with(|c: char| c.is_ascii_alphabetic())
            && !["True", "False"].contains(&text)
    };
    match value {
        Value::String(text) if plain(text) => text.clone(),
        other => other.to_string(),
    }
}

#[test]
fn reference_definitions() {
    for (plural, definition) in definitions() {
        let mut page = NOTE.to_owned();
        yaml(&definition, 0, &mut page);
        assert!(!page.contains("{{"), "Helm would take it for its own");
        check(&format!("templates/{plural}.yaml"), &page);
    }
    let version = env!("CARGO_PKG_VERSION");
    let chart = format!(
        "{NOTE}apiVersion: v2\nname: mesh-crds\ndescription: The mesh's own kinds\ntype: application\nversion: {version}\n\
         appVersion: {version}\nkubeVersion: \">=1.29.0-0\"\n"
    );
    check("Chart.yaml", &chart);
}

#[test]
fn every_template_is_of_a_kind() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/mesh-crds/templates");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(definitions().contains_key(name.trim_end_matches(".yaml")), "{name}");
    }
}

fn spec_of(kind: &str) -> Value {
    definitions()[&plural(kind)]["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// What an API server requires of a schema (structural schemas).
fn structural(at: &str, schema: &Value) {
    let flag = |name: &str| schema[name] == json!(true);
    let typed = schema["type"].is_string();
    assert!(
        typed || flag("x-kubernetes-int-or-string") || flag("x-kubernetes-preserve-unknown-fields"),
        "{at} has no type"
    );
    if schema["type"] == "array" {
        structural(&format!("{at}[]"), &schema["items"]);
    }
    assert!(schema["properties"].is_null() || schema["additionalProperties"].is_null(), "{at}");
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        assert!(child["description"].is_string() || !at.starts_with("spec"), "{at}.{name} says nothing");
        structural(&format!("{at}.{name}"), child);
    }
    if at.starts_with("spec") && schema["properties"].is_object() {
        assert!(flag("x-kubernetes-preserve-unknown-fields"), "{at} would lose mistyped fields");
    }
}

/// Whether a value fits, as far as these schemas go.
fn fits(at: &str, schema: &Value, value: &Value) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{at}: {why}"));
    match (schema["type"].as_str(), value) {
        (None, _) => return Ok(()),
        (Some("string"), Value::String(text)) => {
            let known = schema["enum"].as_array();
            if known.is_some_and(|known| !known.iter().any(|one| one == text)) {
                return wrong("not one of the known");
            }
        }
        (Some("integer"), Value::Number(number)) => {
            let number = number.as_i64().unwrap();
            if number < schema["minimum"].as_i64().unwrap() || number > schema["maximum"].as_i64().unwrap() {
                return wrong("out of range");
            }
        }
        (Some("boolean"), Value::Bool(_)) => {}
        (Some("array"), Value::Array(entries)) => {
            for entry in entries {
                fits(&format!("{at}[]"), &schema["items"], entry)?;
            }
        }
        (Some("object"), Value::Object(entries)) => {
            for required in schema["required"].as_array().into_iter().flatten() {
                if !entries.contains_key(required.as_str().unwrap()) {
                    return wrong(&format!("{required} is missing"));
                }
            }
            for (name, value) in entries {
                match (&schema["properties"][name], &schema["additionalProperties"]) {
                    (Value::Null, Value::Null) => return wrong(&format!("{name} is unknown")),
                    (Value::Null, rest) => fits(&format!("{at}.{name}"), rest, value)?,
                    (child, _) => fits(&format!("{at}.{name}"), child, value)?,
                }
            }
        }
        _ => return wrong("another type"),
    }
    Ok(())
}

#[test]
fn schemas_are_what_an_api_server_takes() {
    for (plural, definition) in definitions() {
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        structural(&plural, schema);
        structural("spec", &schema["properties"]["spec"]);
        assert_eq!(definition["metadata"]["name"], format!("{plural}.mesh.dev"));
    }
}

#[test]
fn what_the_types_take_fits_and_what_they_refuse_does_not() {
    let policy = json!({
        "targetRefs": [{"kind": "Service", "name": "web"}],
        "action": "Deny",
        "rules": [{
            "from": [{"identities": ["*"], "serviceAccounts": ["a/b"], "namespaces": ["a"], "cidrs": ["10.0.0.0/8"], "notIdentities": ["spiffe://td/x"]}],
            "to": [{"hosts": ["*.a"], "methods": ["GET"], "paths": ["/a/*", {"type": "Exact", "value": "/b"}], "ports": [80],
                    "headers": [{"type": "Exact", "name": "a", "value": "b"}], "notPaths": ["/c"]}],
        }],
    });
    let workload = json!({
        "address": "10.0.0.1", "serviceAccount": "a", "sidecar": true, "weight": 0,
        "ports": [{"name": "http", "port": 80, "app": "127.0.0.1:8080"}, {"port": 81, "app": 8081}],
        "upstreams": [{"service": "web:80", "listen": 9000}],
        "run": {"command": ["a"], "env": {"A": "b"}},
    });
    let transport = json!({"selector": {"matchLabels": {"app": "web"}}, "mode": "Strict", "ports": [{"port": 80, "mode": "Permissive"}]});
    for (kind, value) in
        [("AuthorizationPolicy", &policy), ("ExternalWorkload", &workload), ("TransportPolicy", &transport)]
    {
        fits("spec", &spec_of(kind), value).unwrap();
        let object = json!({"metadata": {"name": "x", "namespace": "ns"}, "spec": value});
        let read = match kind {
            "AuthorizationPolicy" => serde_json::from_value(object).map(Resource::AuthorizationPolicy),
            "TransportPolicy" => serde_json::from_value(object).map(Resource::TransportPolicy),
            _ => serde_json::from_value(object).map(Resource::ExternalWorkload),
        };
        assert_eq!(read.unwrap().kind(), kind);
    }
    let refused = [
        ("TransportPolicy", json!({})),
        ("TransportPolicy", json!({"mode": "strict"})),
        ("TransportPolicy", json!({"mode": "Strict", "ports": [{"port": 80}]})),
        ("AuthorizationPolicy", json!({"action": "allow"})),
        ("AuthorizationPolicy", json!({"targetRefs": [{"name": "web"}]})),
        ("AuthorizationPolicy", json!({"rules": [{"to": [{"ports": ["80"]}]}]})),
        ("ExternalWorkload", json!({"address": 7})),
    ];
    for (kind, value) in refused {
        assert!(fits("spec", &spec_of(kind), &value).is_err(), "{kind} {value}");
        let read = match kind {
            "AuthorizationPolicy" => serde_json::from_value::<AuthorizationPolicySpec>(value.clone()).is_ok(),
            "TransportPolicy" => serde_json::from_value::<TransportPolicySpec>(value.clone()).is_ok(),
            _ => serde_json::from_value::<ExternalWorkloadSpec>(value.clone()).is_ok(),
        };
        assert!(!read, "{kind} {value}");
    }
}
