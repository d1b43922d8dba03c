//! The reference page of the kinds that users write is made from a table; this holds the page fresh and the table
//! complete. `make docs` writes the page anew.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    path::Path,
};

use mesh_api::{
    names::{MARKS, Mark, OWN_MARKS},
    resources::{
        self, AppAddress, AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule,
        BackendRef, ExternalWorkload, ExternalWorkloadSpec, HeaderEdit, HeaderFilter, HttpPathMatch, HttpRoute,
        HttpRouteFilter, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, LabelSelector, Metadata, Namespace,
        OperationRule, ParentRef, PathRule, PortMode, RouteTimeouts, Run, Service, ServicePort, ServiceSpec,
        SourceRule, TargetPort, TargetRef, TransportMode, TransportPolicy, TransportPolicySpec, Upstream, ValueMatch,
        WorkloadPort,
        reference::{Field, KINDS, METADATA, REQUIRED},
    },
};
use serde_json::Value;

fn check(name: &str, page: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference").join(name);
    if std::env::var_os("MESH_UPDATE_DOCS").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "docs/reference/{name} is not what the code says; run `make docs`");
}

fn table(page: &mut String, fields: &[Field]) {
    page.push_str("\n| field | type | default | meaning |\n|---|---|---|---|\n");
    for Field { path, ty, default, meaning } in fields {
        let default = if *default == REQUIRED { "**required**" } else { default };
        writeln!(page, "| `{path}` | {ty} | {default} | {meaning} |").unwrap();
    }
}

#[test]
fn reference_resources() {
    let mut page = String::from(
        "# Kinds that the mesh reads\n\nOther kinds are passed over. The standard's kinds are read leniently: an unknown \
         field is somebody else's. In the `spec` of the mesh's own an unknown field is an error that names it and the \
         nearest right one. `[]` stands for each entry of a list. Examples are in [docs/examples](../examples).\n\nMade \
         from the code; `make docs` writes it anew.\n\n## Metadata\n\nOf every kind.\n",
    );
    table(&mut page, METADATA);
    for kind in KINDS {
        write!(page, "\n## {}\n\n`{}`. {}\n", kind.name, kind.api_version, kind.meaning).unwrap();
        if !kind.fields.is_empty() {
            table(&mut page, kind.fields);
        }
    }
    check("resources.md", &page);
}

#[test]
fn reference_labels_and_annotations() {
    let mut page = String::from(
        "# Labels and annotations\n\nBy which users tell the mesh what they want. A wrong value of a Pod is refused when the \
         Pod is made, with its name and what would be right, and `meshctl check-inject` explains the decision; one of a \
         Service is reported by `meshctl check`. Annotations of a Pod stand in the template of its Deployment, \
         StatefulSet, DaemonSet, Job or CronJob.\n\nMade from the code; `make docs` writes it anew.\n",
    );
    for (title, marks) in [("What users write", MARKS), ("What the mesh writes", OWN_MARKS)] {
        write!(page, "\n## {title}\n\n| name | on | value | meaning |\n|---|---|---|---|\n").unwrap();
        for Mark { name, on, value, meaning } in marks {
            writeln!(page, "| `{name}` | {on} | {value} | {meaning} |").unwrap();
        }
    }
    check("annotations.md", &page);
}

#[test]
fn every_label_and_annotation_is_on_the_page() {
    let source = include_str!("../src/names.rs");
    let constants = source.lines().filter(|line| line.starts_with("pub const ") && line.contains("\"mesh.dev/"));
    let named = constants.filter_map(|line| line.split('"').nth(1)).filter(|name| {
        // A group with its version, and the controller's name in statuses.
        !["mesh.dev/v1alpha1", mesh_api::names::CONTROLLER_NAME].contains(name)
    });
    let known: BTreeSet<&str> = MARKS.iter().chain(OWN_MARKS).map(|mark| mark.name).collect();
    assert_eq!(named.collect::<BTreeSet<_>>(), known);
}

fn text() -> String {
    "x".into()
}

fn some() -> Option<String> {
    Some(text())
}

fn texts() -> Vec<String> {
    vec![text()]
}

fn map() -> BTreeMap<String, String> {
    BTreeMap::from([(text(), text())])
}

// No value below leaves a field to a default: a new field does not compile until it is here, and then is missing in the
// table.

fn metadata() -> Metadata {
    Metadata {
        name: text(),
        namespace: text(),
        labels: map(),
        annotations: map(),
        creation_timestamp: some(),
        generation: Some(1),
        // An API server's own, which nobody writes.
        owner_references: Vec::new(),
        deletion_timestamp: None,
    }
}

fn value_match() -> ValueMatch {
    ValueMatch { kind: some(), name: text(), value: text() }
}

fn path_match() -> HttpPathMatch {
    HttpPathMatch { kind: some(), value: some() }
}

fn target_refs() -> Vec<TargetRef> {
    vec![TargetRef { group: text(), kind: text(), name: text() }]
}

fn selector() -> Option<LabelSelector> {
    Some(LabelSelector { match_labels: map() })
}

fn authorization_policy() -> AuthorizationPolicy {
    let paths = vec![PathRule::Text(text()), PathRule::Match(path_match())];
    let source = SourceRule {
        identities: texts(),
        service_accounts: texts(),
        namespaces: texts(),
        cidrs: texts(),
        not_identities: texts(),
        not_service_accounts: texts(),
        not_namespaces: texts(),
        not_cidrs: texts(),
    };
    let operation = OperationRule {
        hosts: texts(),
        methods: texts(),
        paths: paths.clone(),
        ports: vec![1],
        headers: vec![value_match()],
        not_methods: texts(),
        not_paths: paths,
    };
    AuthorizationPolicy {
        metadata: metadata(),
        spec: AuthorizationPolicySpec {
            target_refs: target_refs(),
            selector: selector(),
            action: AuthorizationAction::Deny,
            rules: vec![AuthorizationRule { from: vec![source], to: vec![operation] }],
        },
    }
}

fn transport_policy() -> TransportPolicy {
    TransportPolicy {
        metadata: metadata(),
        spec: TransportPolicySpec {
            target_refs: target_refs(),
            selector: selector(),
            mode: TransportMode::Strict,
            ports: vec![PortMode { port: 1, mode: TransportMode::Strict }],
        },
    }
}

fn external_workload() -> ExternalWorkload {
    ExternalWorkload {
        metadata: metadata(),
        spec: ExternalWorkloadSpec {
            service_account: some(),
            address: text(),
            zone: some(),
            sidecar: Some(false),
            weight: Some(2),
            draining: true,
            ports: vec![WorkloadPort { name: some(), port: 1, app: Some(AppAddress::Port(1)), app_protocol: some() }],
            upstreams: vec![Upstream { service: text(), listen: AppAddress::Address(text()) }],
            run: Some(Run { command: texts(), env: map(), working_dir: some() }),
        },
    }
}

fn service() -> Service {
    let port = ServicePort {
        name: some(),
        port: 1,
        target_port: Some(TargetPort::Number(1)),
        app_protocol: some(),
        protocol: some(),
    };
    Service {
        metadata: metadata(),
        spec: ServiceSpec {
            kind: some(),
            ip_families: texts(),
            cluster_ip: some(),
            cluster_ips: texts(),
            selector: map(),
            ports: vec![port],
        },
    }
}

fn http_route() -> HttpRoute {
    let edits = || vec![HeaderEdit { name: text(), value: text() }];
    let edit = || Some(HeaderFilter { set: edits(), add: edits(), remove: texts() });
    let filter = || HttpRouteFilter { kind: text(), request_header_modifier: edit(), response_header_modifier: edit() };
    let parent =
        ParentRef { group: some(), kind: some(), namespace: some(), name: text(), port: Some(1), section_name: some() };
    let backend = BackendRef {
        group: some(),
        kind: some(),
        namespace: some(),
        name: text(),
        port: Some(1),
        weight: Some(2),
        filters: vec![filter()],
    };
    let one = HttpRouteMatch {
        path: Some(path_match()),
        headers: vec![value_match()],
        query_params: vec![value_match()],
        method: some(),
    };
    let rule = HttpRouteRule {
        name: some(),
        matches: vec![one],
        filters: vec![filter()],
        backend_refs: vec![backend],
        timeouts: Some(RouteTimeouts { request: some(), backend_request: some() }),
    };
    HttpRoute {
        metadata: metadata(),
        spec: HttpRouteSpec { parent_refs: vec![parent], hostnames: texts(), rules: vec![rule] },
    }
}

/// A value of a kind in which every field is set.
fn full(kind: &str) -> Value {
    let value = match kind {
        "AuthorizationPolicy" => serde_json::to_value(authorization_policy()),
        "TransportPolicy" => serde_json::to_value(transport_policy()),
        "ExternalWorkload" => serde_json::to_value(external_workload()),
        "Service" => serde_json::to_value(service()),
        "HTTPRoute" => serde_json::to_value(http_route()),
        "Namespace" => serde_json::to_value(Namespace { metadata: metadata() }),
        other => panic!("a kind {other} is in the table, and not here"),
    };
    value.unwrap()
}

fn decodes(kind: &str, value: Value) -> bool {
    match kind {
        "AuthorizationPolicy" => serde_json::from_value::<AuthorizationPolicy>(value).is_ok(),
        "TransportPolicy" => serde_json::from_value::<TransportPolicy>(value).is_ok(),
        "ExternalWorkload" => serde_json::from_value::<ExternalWorkload>(value).is_ok(),
        "Service" => serde_json::from_value::<Service>(value).is_ok(),
        "HTTPRoute" => serde_json::from_value::<HttpRoute>(value).is_ok(),
        _ => serde_json::from_value::<Namespace>(value).is_ok(),
    }
}

/// Every path below `value`; below what the table says is a map, or like another field, there is nothing to tell.
fn paths(prefix: &str, value: &Value, table: &[&Field], out: &mut BTreeSet<String>) {
    match value {
        Value::Object(entries) => {
            for (name, value) in entries {
                let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                let ends = |field: &&&Field| field.ty.starts_with("map ") || field.ty.starts_with("as ");
                let end = table.iter().filter(ends).any(|field| field.path == path);
                if path != "metadata" && path != "spec" {
                    out.insert(path.clone());
                }
                if !end {
                    paths(&path, value, table, out);
                }
            }
        }
        Value::Array(entries) => entries.iter().for_each(|entry| paths(&format!("{prefix}[]"), entry, table, out)),
        _ => {}
    }
}

/// Takes the field at `path` out, of each entry of the lists on the way.
fn take_out(value: &mut Value, path: &str) {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let name = first.trim_end_matches("[]");
    let Some(entries) = value.as_object_mut() else { return };
    let Some(rest) = rest else {
        entries.remove(name);
        return;
    };
    match entries.get_mut(name) {
        Some(Value::Array(list)) => list.iter_mut().for_each(|entry| take_out(entry, rest)),
        Some(inner) => take_out(inner, rest),
        None => {}
    }
}

#[test]
fn every_kind_and_field_is_in_the_table_and_no_other() {
    let told: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(told, resources::KINDS.iter().map(|(_, kind)| *kind).collect());
    for kind in KINDS {
        let table: Vec<&Field> = METADATA.iter().chain(kind.fields).collect();
        let mut found = BTreeSet::new();
        paths("", &full(kind.name), &table, &mut found);
        let told: BTreeSet<String> = table.iter().map(|field| field.path.to_owned()).collect();
        assert_eq!(told.len(), table.len(), "{}: a field is told twice", kind.name);
        assert_eq!(found, told, "{}", kind.name);
    }
}

#[test]
fn what_is_required_is_what_the_types_require() {
    // What these leave to the controller, which refuses it by name: it is read leniently, as the standard's kinds are.
    let lenient = ["paths[].type", "paths[].value", "headers[].name", "headers[].value"];
    for kind in KINDS {
        for field in METADATA.iter().chain(kind.fields) {
            let mut value = full(kind.name);
            take_out(&mut value, field.path);
            assert_ne!(value, full(kind.name), "{}: {} was not taken out", kind.name, field.path);
            let standard = kind.api_version != mesh_api::names::API_VERSION || field.path.starts_with("metadata.");
            let lenient = standard || lenient.iter().any(|end| field.path.ends_with(end));
            let wanted = lenient || field.default != REQUIRED;
            assert_eq!(decodes(kind.name, value), wanted, "{} without {}", kind.name, field.path);
        }
    }
}
