//! What proxies are told, for configurations as users write them.

use mesh_api::model::{
    Protocol,
    destination::Destination,
    policy::{Action, Transport},
    route::{Filter, PathMatch},
};

use super::*;
use crate::{
    fixtures::{SHOP, client, index, object, target, workload_id},
    problem::{Problem, Reason},
    review::review,
};

mod cluster;

fn shop(more: &str) -> crate::index::Index {
    index(&format!("{SHOP}---\n{more}"))
}

fn route(name: &str, spec: &str) -> String {
    route_in("shop", name, spec)
}

fn route_in(namespace: &str, name: &str, spec: &str) -> String {
    let spec = spec.replace('\n', "\n  ");
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
         metadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web, namespace: shop, port: 80}}]\n  {spec}\n"
    )
}

fn endpoints(destination: &Destination) -> Vec<String> {
    let all = destination.backends.values().flat_map(|backend| backend.endpoints.values());
    all.map(|endpoint| format!("{} {} {}", endpoint.address, endpoint.workload.name, endpoint.ready)).collect()
}

#[test]
fn a_service_by_name_and_by_address() {
    let index = shop("");
    let by_name = destination(&index, &target("web.shop:80"), &client("front")).unwrap();
    assert_eq!(by_name.id.to_string(), "web.shop.svc:80");
    assert_eq!((by_name.protocol, by_name.routed), (Protocol::Http1, false));
    assert_eq!(endpoints(&by_name), ["10.0.0.1:8080 web-1 true", "10.0.0.2:8081 web-2 true"]);
    let identity = by_name.backends.values().next().unwrap().endpoints.values().next().unwrap().identity.clone();
    assert_eq!(identity.unwrap().as_str(), "spiffe://td/ns/shop/sa/web");
    assert_eq!(destination(&index, &target("10.96.0.1:80"), &client("front")).unwrap(), by_name);
    assert_eq!(destination(&index, &target("[::ffff:10.96.0.1]:80"), &client("front")).unwrap(), by_name);
    let grpc = destination(&index, &target("api.shop:80"), &client("front")).unwrap();
    assert_eq!(grpc.protocol, Protocol::Grpc, "said by its workloads");
}

#[test]
fn what_is_not_there_is_not_found() {
    let index = shop("");
    for text in ["web.other:80", "web.shop:81", "10.96.0.1:81", "10.96.9.9:80", "10.0.0.1:81", "169.254.169.254:80"] {
        assert!(destination(&index, &target(text), &client("shop")).is_err(), "{text}");
        assert!(scope(&index, &target(text), &client("shop")).is_err(), "{text}");
    }
    assert!(inbound(&index, &workload_id("other", "web-1")).is_err());
}

#[test]
fn a_workload_by_its_own_address() {
    let index = shop("");
    let found = destination(&index, &target("10.0.0.2:8081"), &client("shop")).unwrap();
    assert_eq!(endpoints(&found), ["10.0.0.2:8081 web-2 true"]);
    assert_eq!((found.protocol, found.id.to_string().as_str()), (Protocol::Http1, "web.shop.svc:80"));
    assert_eq!(found.default_backends[0].backend, found.id);
}

#[test]
fn drained_and_plain_workloads() {
    let index = shop(
        "apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: web-3, namespace: shop, labels: {app: web}}
spec: {address: 10.0.0.3, sidecar: false, draining: true, weight: 7, ports: [{name: http, port: 1}]}
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: web-4, namespace: shop, labels: {app: web}}
spec: {address: 10.0.0.4, ports: [{name: other, port: 1}]}
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: web-5, namespace: front, labels: {app: web}}
spec: {address: 10.0.0.5, ports: [{name: http, port: 1}]}",
    );
    let found = destination(&index, &target("web.shop:80"), &client("shop")).unwrap();
    assert_eq!(endpoints(&found).len(), 3, "no port of that name, and another namespace's, are not in it");
    let plain = &found.backends[&found.id].endpoints[&"10.0.0.3:1".parse().unwrap()];
    assert_eq!((plain.ready, plain.weight, &plain.identity), (false, 7, &None));
}

#[test]
fn export_limits_who_may_know() {
    let mut index = shop("");
    index.apply(&object(
        "apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {mesh.dev/export-to: '., front'}}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, targetPort: http}]}",
    ));
    for text in ["web.shop:80", "10.96.0.1:80", "10.0.0.1:8080"] {
        assert!(destination(&index, &target(text), &client("front")).is_ok(), "{text}");
        assert!(destination(&index, &target(text), &client("shop")).is_ok(), "{text}");
        assert!(destination(&index, &target(text), &client("evil")).is_err(), "{text}");
    }
}

/// Gateway API's rules of precedence, as one list: first to last.
#[test]
fn precedence_of_matches() {
    let rules = "
- {name: r1, matches: [{path: {value: /}}]}
- {name: r2, matches: [{path: {type: RegularExpression, value: '/a/.*'}}]}
- {name: r3, matches: [{path: {value: /a}}]}
- {name: r4, matches: [{path: {value: /a/long}}]}
- {name: r5, matches: [{path: {value: /a}, method: GET}]}
- {name: r6, matches: [{path: {value: /a}, headers: [{name: x, value: y}]}]}
- {name: r7, matches: [{path: {value: /a}, headers: [{name: x, value: y}, {name: z, value: y}]}]}
- {name: r8, matches: [{path: {value: /a}, queryParams: [{name: q, value: v}]}]}
- {name: r9, matches: [{path: {type: Exact, value: /a}}]}
- {name: r10, matches: [{path: {type: Exact, value: /a/long}, method: GET}, {path: {value: /b}}]}
- {name: r11, matches: [{path: {value: /a}}]}";
    let index = shop(&route("all", &format!("rules:{}", rules)));
    let found = destination(&index, &target("web.shop:80"), &client("shop")).unwrap();
    let order: Vec<&str> = found.routes.iter().map(|entry| &*found.rules[entry.rule].name).collect();
    assert_eq!(order, ["r10", "r9", "r4", "r5", "r7", "r6", "r8", "r3", "r10", "r11", "r1", "r2"]);
    assert!(found.routed);
}

#[test]
fn precedence_of_routes_is_age_then_name_and_hosts_come_first() {
    let dated = |name: &str, time: &str, hosts: &str| {
        route(name, &format!("{hosts}rules: [{{backendRefs: [{{name: api, port: 80}}]}}]"))
            .replace("namespace: shop}\nspec", &format!("namespace: shop, creationTimestamp: '{time}'}}\nspec"))
    };
    let index = shop(
        &[
            dated("young", "2024-02-01T00:00:00Z", ""),
            dated("old", "2024-01-01T00:00:00Z", ""),
            dated("a-twin", "2024-02-01T00:00:00Z", ""),
            dated("wild", "2025-01-01T00:00:00Z", "hostnames: ['*.example.org']\n"),
            dated("wilder", "2025-01-01T00:00:00Z", "hostnames: ['*.org', exact.example.org]\n"),
            route("undated", "rules: [{}]"),
        ]
        .concat(),
    );
    let found = destination(&index, &target("web.shop:80"), &client("shop")).unwrap();
    let order: Vec<&str> = found.routes.iter().map(|entry| &*found.rules[entry.rule].origin.name).collect();
    assert_eq!(order, ["wilder", "wild", "wilder", "old", "a-twin", "young", "undated"]);
}

#[test]
fn consumer_routes_replace_producer_routes_for_their_clients() {
    let index = shop(
        &[
            route("producer", "rules: [{matches: [{path: {value: /p}}]}]"),
            route_in("front", "consumer", "rules: [{matches: [{path: {value: /c}}]}]"),
        ]
        .concat(),
    );
    let first = |namespace: &str| {
        let found = destination(&index, &target("web.shop:80"), &client(namespace)).unwrap();
        assert_eq!(found.routes.len(), 1);
        match &found.routes[0].matches.path {
            Some(PathMatch::Prefix(path)) => path.to_string(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((first("front").as_str(), first("shop").as_str(), first("third").as_str()), ("/c", "/p", "/p"));
    let scope = |namespace| scope(&index, &target("web.shop:80"), &client(namespace)).unwrap();
    assert_eq!(scope("front"), Scope::Namespace("front".into()));
    assert_eq!((scope("shop"), scope("third")), (Scope::Shared, Scope::Shared));
}

#[test]
fn routes_attach_to_the_ports_they_name() {
    let index = index(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: admin, port: 81}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop}
spec: {parentRefs: [{group: '', kind: Service, name: web, sectionName: admin}]}",
    );
    let routed = |port| destination(&index, &target(&format!("web.shop:{port}")), &client("shop")).unwrap().routed;
    assert!(!routed(80) && routed(81));
}

#[test]
fn weights_and_shares_that_lead_nowhere() {
    let more = route(
        "split",
        "rules:
- backendRefs:
  - {name: web, port: 80, weight: 9}
  - {name: gone, port: 80, weight: 1}
  - {name: api, port: 81}
  - {name: hidden, namespace: secret, port: 80}
  - {kind: Bucket, name: x, port: 1}",
    ) + "---
apiVersion: v1
kind: Service
metadata: {name: hidden, namespace: secret, annotations: {mesh.dev/export-to: '.'}}
spec: {ports: [{port: 80}]}";
    let mut index = shop(&more);
    let found = destination(&index, &target("web.shop:80"), &client("shop")).unwrap();
    let shares: Vec<(u32, bool)> = found.rules[0]
        .backends
        .iter()
        .map(|share| (share.weight, matches!(share.filters[..], [Filter::Fail { status: 500, .. }])))
        .collect();
    assert_eq!(shares, [(9, false), (1, true), (1, true), (1, true), (1, true)]);
    assert!(found.rules[0].backends.iter().all(|share| found.backends.contains_key(&share.backend)));
    let problems = review(&index);
    let with = |reason| problems.iter().filter(|problem: &&Problem| problem.reason == reason).count();
    assert_eq!((with(Reason::BackendNotFound), with(Reason::RefNotPermitted), with(Reason::InvalidKind)), (2, 1, 1));
    // The Service comes: its share is served, and nothing has to be said again.
    index.apply(&object(
        "apiVersion: v1\nkind: Service\nmetadata: {name: gone, namespace: shop}\nspec: {ports: [{port: 80}]}",
    ));
    let found = destination(&index, &target("web.shop:80"), &client("shop")).unwrap();
    assert!(found.rules[0].backends[1].filters.is_empty());
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

fn transport(name: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn inbound_of_a_workload() {
    let index = shop(
        &[
            policy("allow", "{rules: [{}]}"),
            policy("deny-web", "{action: Deny, targetRefs: [{kind: Service, name: web}], rules: [{}]}"),
            policy("audit", "{action: Audit, selector: {matchLabels: {track: stable}}, rules: [{}]}"),
            policy("other", "{targetRefs: [{kind: ExternalWorkload, name: web-2}], rules: [{}]}"),
        ]
        .concat(),
    );
    let found = inbound(&index, &workload_id("shop", "web-1")).unwrap();
    assert_eq!((&*found.service_account, found.ports.len()), ("web", 1));
    let port = found.port(8080);
    assert_eq!((port.protocol, port.transport, port.default_allow), (Protocol::Http1, Transport::Permissive, true));
    let names = |port: &mesh_api::model::policy::PortPolicy| -> Vec<(Action, String)> {
        port.policies.iter().map(|policy| (policy.action, policy.origin.name.to_string())).collect()
    };
    assert_eq!(
        names(port),
        [
            (Action::Deny, "deny-web".to_owned()),
            (Action::Allow, "allow".to_owned()),
            (Action::Audit, "audit".to_owned())
        ]
    );
    assert_eq!(names(&found.default_port).len(), 2, "a policy for a Service holds on the Service's ports only");
    let other = inbound(&index, &workload_id("shop", "web-2")).unwrap();
    assert_eq!(names(other.port(8081)).len(), 3);
}

#[test]
fn the_closest_transport_policy_holds() {
    let mode = |more: &[String], port: u16| {
        let found = inbound(&shop(&more.concat()), &workload_id("shop", "web-1")).unwrap();
        found.port(port).transport
    };
    let namespace = transport("namespace", "{mode: Strict}");
    let service = transport("service", "{mode: Permissive, targetRefs: [{kind: Service, name: web}]}");
    let workload = transport(
        "a-workload",
        "{mode: Strict, selector: {matchLabels: {app: web}}, ports: [{port: 9, mode: Permissive}]}",
    );
    assert_eq!(mode(&[], 8080), Transport::Permissive);
    assert_eq!(mode(std::slice::from_ref(&namespace), 8080), Transport::Strict);
    assert_eq!(mode(&[namespace.clone(), service.clone()], 8080), Transport::Permissive);
    assert_eq!(mode(&[namespace.clone(), service.clone()], 1), Transport::Strict);
    assert_eq!(mode(&[namespace.clone(), service.clone(), workload.clone()], 8080), Transport::Strict);
    assert_eq!(mode(&[namespace.clone(), service, workload.clone()], 9), Transport::Permissive);
    let twin = workload.replace("a-workload", "b-workload").replace("Strict", "Permissive");
    assert_eq!(mode(&[twin.clone(), workload.clone()], 8080), Transport::Strict, "the first by name, both undated");
    assert_eq!(mode(&[workload, twin], 8080), Transport::Strict);
}

#[test]
fn conflicts_and_missing_targets_are_told() {
    let index = shop(
        &[
            transport("one", "{mode: Strict}"),
            transport("two", "{mode: Permissive}"),
            policy("lost", "{targetRefs: [{kind: Service, name: nowhere}], rules: [{}]}"),
            route("astray", "rules: []").replace("name: web,", "name: nowhere,"),
            "---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: web-twin, namespace: shop}
spec: {address: 10.0.0.1, ports: [{port: 8080}]}"
                .to_owned(),
        ]
        .concat(),
    );
    let found: Vec<(String, Reason)> =
        review(&index).into_iter().map(|p| (p.object.unwrap().to_string(), p.reason)).collect();
    assert_eq!(
        found,
        [
            ("AuthorizationPolicy/shop/lost".to_owned(), Reason::TargetNotFound),
            ("ExternalWorkload/shop/web-twin".to_owned(), Reason::Conflicted),
            ("HTTPRoute/shop/astray".to_owned(), Reason::NoMatchingParent),
            ("TransportPolicy/shop/two".to_owned(), Reason::Conflicted),
        ]
    );
}

#[test]
fn a_policy_that_turns_bad_keeps_its_last_good_state() {
    let good = policy("p", "{action: Deny, rules: [{from: [{namespaces: [evil]}]}]}");
    let bad = object(&policy("p", "{action: Deny, rules: [{from: [{cidrs: [evil]}]}]}"));
    let mut index = shop(&good);
    let before = inbound(&index, &workload_id("shop", "web-1")).unwrap();
    assert!(index.apply(&bad).is_empty());
    assert_eq!(inbound(&index, &workload_id("shop", "web-1")).unwrap(), before);
    assert_eq!(review(&index).len(), 1);
    index.delete(&bad.object_ref());
    assert!(inbound(&index, &workload_id("shop", "web-1")).unwrap().port(8080).policies.is_empty());
    assert!(!index.apply(&bad).is_empty(), "never good since it came anew: denied by name");
    let port = inbound(&index, &workload_id("shop", "web-1")).unwrap().port(8080).clone();
    assert_eq!((port.policies[0].action, &*port.policies[0].origin.name), (Action::Deny, "p"));
}

#[test]
fn http_rules_where_no_http_can_be_seen_are_told() {
    let index = index(
        "apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {selector: {app: db}, ports: [{port: 5432, appProtocol: postgres}]}
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: db-1, namespace: shop, labels: {app: db}}
spec: {address: 10.0.0.9, ports: [{port: 5432, appProtocol: tcp}]}
---
apiVersion: mesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: by-service, namespace: shop}
spec: {targetRefs: [{kind: Service, name: db}], rules: [{}, {to: [{methods: [GET]}]}]}
---
apiVersion: mesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: by-label, namespace: shop}
spec: {action: Deny, selector: {matchLabels: {app: db}}, rules: [{to: [{paths: [/admin]}]}]}
---
apiVersion: mesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {name: ports-only, namespace: shop}
spec: {selector: {matchLabels: {app: db}}, rules: [{to: [{ports: [5432]}]}]}",
    );
    let found: Vec<String> = review(&index).iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "AuthorizationPolicy shop/by-label: spec.rules[0].to: port 5432 of workload shop/db-1 carries nothing in \
             which requests can be seen; there it denies everything",
            "AuthorizationPolicy shop/by-service: spec.rules[1].to: port 5432 of Service db.shop carries nothing in \
             which requests can be seen; there it matches nothing",
        ]
    );
}
