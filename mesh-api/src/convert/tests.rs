//! model -> proto -> model is the identity; what is impossible is refused with its field.

use super::*;
use crate::model::{
    destination::{Backend, BackendId, Destination, Endpoint},
    policy::{
        Action, AuthorizationPolicy, AuthorizationRule, InboundPolicy, Operation, PortPolicy, Probe, Source, Transport,
    },
    route::{
        Filter, HeaderModifier, HttpMatch, PathMatch, RouteEntry, Rule, ValueMatch, ValuePattern, WeightedBackend,
    },
    *,
};

fn id(port: u16) -> BackendId {
    BackendId { namespace: "shop".into(), name: "web".into(), port }
}

fn endpoint(last: u8) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, last], 8080).into(),
        identity: Some("spiffe://td/ns/shop/sa/web".parse().unwrap()),
        workload: WorkloadId { namespace: "shop".into(), name: format!("web-{last}").into() },
        owner: "web".into(),
        zone: "a".into(),
        weight: 1,
        ready: true,
    }
}

fn destination() -> Destination {
    let value = |text: &str| ValueMatch { name: "x".into(), value: ValuePattern::Regex(text.into()) };
    let filters = vec![
        Filter::RequestHeaders(HeaderModifier {
            set: vec![("a".into(), "b".into())],
            add: vec![],
            remove: vec!["c".into()],
        }),
        Filter::Fail { status: 500, reason: "why".into() },
    ];
    let weighted = WeightedBackend { backend: id(80), weight: 9, filters: filters.clone() };
    Destination {
        id: id(80),
        protocol: Protocol::Http1,
        routes: vec![RouteEntry {
            rule: 0,
            matches: HttpMatch {
                hosts: vec!["*.shop".into()],
                path: Some(PathMatch::Prefix("/a".into())),
                method: Some("GET".into()),
                headers: vec![value("[0-9]+")],
                query: vec![],
            },
        }],
        rules: vec![Rule {
            origin: ObjectRef { kind: "HTTPRoute".into(), namespace: "shop".into(), name: "r".into() },
            name: "0".into(),
            filters,
            backends: vec![weighted.clone()],
            request_timeout: Some(std::time::Duration::from_millis(1500)),
            backend_timeout: None,
        }],
        routed: true,
        default_backends: vec![weighted],
        backends: [(
            id(80),
            Backend {
                protocol: Protocol::Grpc,
                endpoints: [1, 2].map(|n| (endpoint(n).address, endpoint(n))).into_iter().collect(),
            },
        )]
        .into(),
    }
}

#[test]
fn destination_round_trip() {
    let before = destination();
    let wire = destination_to_proto(&before);
    assert_eq!(version_of(&wire), version_of(&wire.clone()));
    assert_eq!(destination_from_proto(wire).unwrap(), before);
}

#[test]
fn delta_makes_old_into_new() {
    let old = destination();
    let mut new = old.clone();
    let backend = new.backends.get_mut(&id(80)).unwrap();
    backend.endpoints.remove(&endpoint(1).address);
    backend.endpoints.insert(endpoint(3).address, endpoint(3));
    let delta = new.delta_from(&old).unwrap();
    let delta = delta_from_proto(delta_to_proto(&delta, "v")).unwrap();
    let mut applied = old.clone();
    applied.apply(delta).unwrap();
    assert_eq!(applied, new);
    new.routed = false;
    assert_eq!(new.delta_from(&old), None, "more than endpoints changed");
}

#[test]
fn impossible_destinations_name_the_field() {
    let mut wire = destination_to_proto(&destination());
    wire.backends.clear();
    assert_eq!(destination_from_proto(wire).unwrap_err().field, "backends");
    let mut wire = destination_to_proto(&destination());
    wire.routes[0].rule = 7;
    assert_eq!(destination_from_proto(wire).unwrap_err().field, "routes[0].rule");
    let mut wire = destination_to_proto(&destination());
    wire.backends[0].endpoints[1].identity = "spiffe://td".into();
    assert_eq!(destination_from_proto(wire).unwrap_err().field, "backends[0].endpoints[1].identity");
    let mut wire = destination_to_proto(&destination());
    wire.port = 70_000;
    assert_eq!(destination_from_proto(wire).unwrap_err().field, "port");
}

fn inbound() -> InboundPolicy {
    let policy = |action| AuthorizationPolicy {
        origin: ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "shop".into(), name: "p".into() },
        action,
        rules: vec![AuthorizationRule {
            from: vec![Source {
                identities: vec!["spiffe://td/*".into()],
                cidrs: vec!["10.0.0.0/8".parse().unwrap()],
                ..Source::default()
            }],
            to: vec![Operation { methods: vec!["GET".into()], ports: vec![80], ..Operation::default() }],
        }],
    };
    let port = PortPolicy {
        protocol: Protocol::Http1,
        transport: Transport::Strict,
        policies: vec![policy(Action::Deny), policy(Action::Allow), policy(Action::Audit)],
        default_allow: true,
        probes: vec![Probe { method: "GET".into(), path: "/ready".into() }],
    };
    InboundPolicy {
        workload: WorkloadId { namespace: "shop".into(), name: "web-1".into() },
        service_account: "web".into(),
        ports: [(80, port)].into(),
        default_port: PortPolicy::default(),
    }
}

#[test]
fn inbound_round_trip() {
    let before = inbound();
    assert_eq!(inbound_from_proto(inbound_to_proto(&before)).unwrap(), before);
}

#[test]
fn what_an_older_proxy_cannot_read_denies() {
    let mut wire = inbound_to_proto(&inbound());
    wire.ports[0].policies[1].action = 99;
    wire.ports[0].transport = 99;
    let read = inbound_from_proto(wire).unwrap();
    assert_eq!(read.ports[&80].policies[1].action, Action::Deny);
    assert_eq!(read.ports[&80].policies[1].rules, [AuthorizationRule::default()]);
    assert_eq!(read.ports[&80].transport, Transport::Strict);
    let mut wire = inbound_to_proto(&inbound());
    wire.ports[0].policies[0].rules[0].to[0].paths.push(proto::PathMatch { r#match: None });
    assert_eq!(inbound_from_proto(wire).unwrap_err().field, "ports[0].policies[0].rules[0].to[0].paths[0].path");
}
