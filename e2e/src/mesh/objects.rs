//! Manifests, made from the mesh's own types: what a user would write, in a line of a test.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mesh_api::{
    names,
    resources::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, BackendRef,
        HttpPathMatch, HttpRoute, HttpRouteMatch, HttpRouteRule, HttpRouteSpec, Metadata, OperationRule, ParentRef,
        PathRule, Resource, Service, ServicePort, ServiceSpec, SourceRule, TargetPort, TargetRef, TransportMode,
        TransportPolicy, TransportPolicySpec,
    },
};
use serde_json::{Value, json};

/// An object's manifest.
pub(super) fn document(object: &Resource) -> Result<String> {
    let (version, body) = match object {
        Resource::Namespace(object) => ("v1", serde_json::to_value(object)),
        Resource::Service(object) => ("v1", serde_json::to_value(object)),
        Resource::HttpRoute(object) => (names::GATEWAY_API_VERSION, serde_json::to_value(object)),
        Resource::AuthorizationPolicy(object) => (names::API_VERSION, serde_json::to_value(object)),
        Resource::TransportPolicy(object) => (names::API_VERSION, serde_json::to_value(object)),
        Resource::ExternalWorkload(object) => (names::API_VERSION, serde_json::to_value(object)),
        Resource::Node(object) => ("v1", serde_json::to_value(object)),
        Resource::Pod(object) => ("v1", serde_json::to_value(object)),
        Resource::EndpointSlice(object) => ("discovery.k8s.io/v1", serde_json::to_value(object)),
    };
    let mut document = json!({"apiVersion": version, "kind": object.kind()});
    if let (Value::Object(all), Value::Object(fields)) = (&mut document, body.context("a manifest as JSON")?) {
        all.extend(fields);
    }
    Ok(format!("{document:#}\n"))
}

/// The file that an object's manifest is in.
pub(super) fn file_name(object: &Resource) -> String {
    let metadata = object.metadata();
    format!("{}-{}-{}.json", object.kind().to_ascii_lowercase(), metadata.namespace, metadata.name)
}

pub(super) fn metadata(namespace: &str, name: &str) -> Metadata {
    Metadata { name: name.to_owned(), namespace: namespace.to_owned(), ..Metadata::default() }
}

/// A Service of the workloads with label `app: NAME`; its ports by number, the workloads' port, and protocol.
#[must_use]
pub fn service(namespace: &str, name: &str, ports: &[(u16, u16, Option<&str>)]) -> Resource {
    let port = |(port, target, protocol): &(u16, u16, Option<&str>)| ServicePort {
        name: Some(format!("p{port}")),
        port: *port,
        target_port: Some(TargetPort::Number(*target)),
        app_protocol: protocol.map(str::to_owned),
        ..ServicePort::default()
    };
    Resource::Service(Service {
        metadata: metadata(namespace, name),
        spec: ServiceSpec {
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: ports.iter().map(port).collect(),
            ..ServiceSpec::default()
        },
    })
}

/// A share of the requests for one backend.
#[must_use]
pub fn backend(service: &str, port: u16, weight: i64) -> BackendRef {
    BackendRef { name: service.to_owned(), port: Some(port), weight: Some(weight), ..BackendRef::default() }
}

/// An HTTPRoute of a Service of the same namespace that shares all requests among backends.
#[must_use]
pub fn route(namespace: &str, name: &str, service: &str, backends: &[BackendRef]) -> Resource {
    Resource::HttpRoute(HttpRoute {
        metadata: metadata(namespace, name),
        spec: HttpRouteSpec {
            parent_refs: vec![ParentRef {
                group: Some(String::new()),
                kind: Some("Service".to_owned()),
                name: service.to_owned(),
                ..ParentRef::default()
            }],
            rules: vec![HttpRouteRule {
                matches: vec![HttpRouteMatch {
                    path: Some(HttpPathMatch { kind: Some("PathPrefix".to_owned()), value: Some("/".to_owned()) }),
                    ..HttpRouteMatch::default()
                }],
                backend_refs: backends.to_vec(),
                ..HttpRouteRule::default()
            }],
            ..HttpRouteSpec::default()
        },
    })
}

/// A policy that refuses what matches a rule, at a Service of its namespace.
#[must_use]
pub fn deny(namespace: &str, name: &str, service: &str, rules: Vec<AuthorizationRule>) -> Resource {
    authorization(namespace, name, service, AuthorizationAction::Deny, rules)
}

/// A policy that lets in what matches a rule, at a Service of its namespace, and nothing else.
#[must_use]
pub fn allow(namespace: &str, name: &str, service: &str, rules: Vec<AuthorizationRule>) -> Resource {
    authorization(namespace, name, service, AuthorizationAction::Allow, rules)
}

/// A rule for one path (exact, or a prefix that ends in `/*`), whoever calls.
#[must_use]
pub fn path_is(path: &str) -> AuthorizationRule {
    AuthorizationRule {
        from: Vec::new(),
        to: vec![OperationRule { paths: vec![PathRule::Text(path.to_owned())], ..OperationRule::default() }],
    }
}

/// A rule for one caller, a service account as `NAMESPACE/NAME`, whatever it calls.
#[must_use]
pub fn rule_from_account(account: &str) -> AuthorizationRule {
    AuthorizationRule {
        from: vec![SourceRule { service_accounts: vec![account.to_owned()], ..SourceRule::default() }],
        to: Vec::new(),
    }
}

/// Requires mutual TLS at a whole namespace.
#[must_use]
pub fn strict(namespace: &str) -> Resource {
    Resource::TransportPolicy(TransportPolicy {
        metadata: metadata(namespace, "strict"),
        spec: TransportPolicySpec { mode: TransportMode::Strict, ..TransportPolicySpec::default() },
    })
}

fn authorization(
    namespace: &str,
    name: &str,
    service: &str,
    action: AuthorizationAction,
    rules: Vec<AuthorizationRule>,
) -> Resource {
    Resource::AuthorizationPolicy(AuthorizationPolicy {
        metadata: metadata(namespace, name),
        spec: AuthorizationPolicySpec {
            target_refs: vec![TargetRef { group: String::new(), kind: "Service".to_owned(), name: service.to_owned() }],
            selector: None,
            action,
            rules,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_names_its_kind() {
        let object = service("shop", "web", &[(80, 8080, Some("http"))]);
        let value: Value = serde_json::from_str(&document(&object).unwrap()).unwrap();
        assert_eq!(value["apiVersion"], "v1");
        assert_eq!(value["kind"], "Service");
        assert_eq!(value["metadata"]["namespace"], "shop");
        assert_eq!(value["spec"]["selector"]["app"], "web");
        assert_eq!(value["spec"]["ports"][0]["targetPort"], 8080);
        assert_eq!(file_name(&object), "service-shop-web.json");
        let text = document(&strict("shop")).unwrap();
        assert!(text.contains("\"mesh.dev/v1alpha1\"") && text.contains("\"Strict\""), "{text}");
    }
}
