//! Each kind's faults, and what becomes of them.

use mesh_api::model::{
    Protocol,
    policy::{Action, AuthorizationRule, Transport},
    route::{Filter, PathMatch},
};

use super::*;
use crate::{
    fixtures::object,
    problem::{Reason, Severity},
};

fn run(yaml: &str) -> Translated {
    translate(&object(yaml), &"td".parse().unwrap())
}

fn faults(translated: &Translated) -> Vec<(&str, Reason)> {
    translated.problems.iter().map(|problem| (problem.field.as_str(), problem.reason)).collect()
}

fn route(spec: &str) -> Translated {
    let spec = spec.replace('\n', "\n  ");
    run(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec:\n  {spec}"
    ))
}

fn accepted_route(translated: Translated) -> Route {
    match translated.verdict {
        Verdict::Accepted(Part::Route(route)) => route,
        other => panic!("{other:?} {:?}", translated.problems),
    }
}

fn policy(spec: &str) -> Translated {
    run(&format!(
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}"
    ))
}

#[test]
fn a_service_loses_only_what_is_wrong() {
    let translated = run("
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {mesh.dev/export-to: '., front, Bad!'}}
spec:
  clusterIPs: [10.0.0.1, 'fd00::1', nonsense]
  ports:
  - {port: 80, appProtocol: http}
  - {port: 0}
  - {port: 80, targetPort: 1}
  - {port: 53, protocol: UDP}
  - {port: 81, targetPort: http, appProtocol: quic}
  - {port: 82, targetPort: '8082'}
");
    assert_eq!(
        faults(&translated),
        [
            ("spec.clusterIP", Reason::Invalid),
            ("spec.ports[1].port", Reason::Invalid),
            ("spec.ports[2].port", Reason::Invalid),
            ("spec.ports[4].appProtocol", Reason::UnsupportedValue),
            ("metadata.annotations[mesh.dev/export-to]", Reason::Invalid),
        ]
    );
    let Verdict::Accepted(Part::Service(service)) = translated.verdict else { panic!() };
    assert_eq!(service.addresses.len(), 2);
    assert_eq!(service.ports.keys().copied().collect::<Vec<_>>(), [80, 81, 82]);
    assert_eq!(service.ports[&80].target, Target::Number(80));
    assert_eq!(service.ports[&82].target, Target::Number(8082));
    assert_eq!((service.ports[&80].protocol, service.ports[&81].protocol), (Some(Protocol::Http1), None));
    assert!(service.export.allows("shop") && service.export.allows("front") && !service.export.allows("other"));
    assert_eq!(service.selector, None, "no selector selects nothing, not everything");
}

#[test]
fn a_workload_is_whole_or_not_at_all() {
    let good = run("
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: w, namespace: shop}
spec: {address: '::ffff:10.0.0.1', sidecar: false, ports: [{port: 80}]}
");
    let Verdict::Accepted(Part::Workload(workload)) = good.verdict else { panic!("{:?}", good.problems) };
    assert_eq!(
        (workload.addresses.iter().next().unwrap().to_string().as_str(), workload.identity, &*workload.account),
        ("10.0.0.1", None, "default")
    );
    for (spec, field) in [
        ("{address: host.example}", "spec.address"),
        ("{address: 0.0.0.0}", "spec.address"),
        ("{address: 10.0.0.1, serviceAccount: a/b}", "spec.serviceAccount"),
        ("{address: 10.0.0.1, weight: 1000001}", "spec.weight"),
        ("{address: 10.0.0.1, ports: [{port: 0}]}", "spec.ports[0].port"),
        ("{address: 10.0.0.1, ports: [{port: 1}, {port: 1}]}", "spec.ports[1].port"),
        ("{address: 10.0.0.1, ports: [{port: 1, name: a}, {port: 2, name: a}]}", "spec.ports[1].name"),
    ] {
        let bad = run(&format!(
            "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: w, namespace: shop}}\nspec: {spec}"
        ));
        assert_eq!(faults(&bad), [(field, Reason::Invalid)], "{spec}");
        assert_eq!(bad.verdict, Verdict::Refused { stand_in: None });
    }
}

#[test]
fn a_filter_that_cannot_be_carried_out_fails_its_rule_by_name() {
    let translated = route(
        "parentRefs: [{group: '', kind: Service, name: web}]
rules:
- filters: [{type: URLRewrite}]
  backendRefs: [{name: a, port: 80}]
- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Mesh_Client-Id, value: x}]}}]
- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {remove: [Transfer-Encoding]}}]
- filters: [{type: RequestHeaderModifier, requestHeaderModifier: {add: [{name: a, value: \"b\\r\\nc: d\"}]}}]
- filters: [{type: ResponseHeaderModifier}]
- backendRefs: [{name: a, port: 80, filters: [{type: RequestMirror}]}]
- filters: [{type: ResponseHeaderModifier, responseHeaderModifier: {set: [{name: X-A, value: b}], remove: [X-B]}}]",
    );
    assert_eq!(translated.problems.len(), 6);
    assert!(translated.problems.iter().all(|problem| problem.reason == Reason::PartiallyInvalid));
    assert_eq!(translated.problems[0].field, "spec.rules[0].filters[0].type");
    let route = accepted_route(translated);
    for rule in &route.rules[..5] {
        assert!(matches!(rule.filters[..], [Filter::Fail { status: 500, .. }]), "{:?}", rule.filters);
    }
    let Filter::Fail { reason, .. } = &route.rules[0].filters[0] else { panic!() };
    assert!(reason.contains("HTTPRoute/shop/r") && reason.contains("URLRewrite"), "{reason}");
    assert!(matches!(route.rules[5].backends[0].filters[..], [Filter::Fail { .. }]));
    let Filter::ResponseHeaders(modifier) = &route.rules[6].filters[0] else { panic!() };
    assert_eq!(modifier.set, [("x-a".into(), "b".into())]);
}

#[test]
fn backends_that_cannot_be_used_keep_their_share() {
    let translated = route(
        "parentRefs: [{group: '', kind: Service, name: web}]
rules: [{backendRefs: [{kind: Bucket, group: x.y, name: a, port: 1}, {name: b}, {name: c, port: 80, weight: 3}]}]",
    );
    let fields: Vec<_> = translated.problems.iter().map(|problem| (problem.field.clone(), problem.reason)).collect();
    assert_eq!(
        fields,
        [
            ("spec.rules[0].backendRefs[0].kind".to_owned(), Reason::InvalidKind),
            ("spec.rules[0].backendRefs[1].port".to_owned(), Reason::BackendNotFound),
        ]
    );
    let route = accepted_route(translated);
    let shares: Vec<_> = route.rules[0].backends.iter().map(|b| (b.weight, b.broken.is_some())).collect();
    assert_eq!(shares, [(1, true), (1, true), (3, false)]);
}

#[test]
fn a_match_that_cannot_be_read_refuses_the_route() {
    for (rule, field) in [
        ("{matches: [{path: {type: RegularExpression, value: '('}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{path: {type: RegularExpression, value: '(a{1000}){1000}'}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{path: {type: Glob, value: /}}]}", "spec.rules[0].matches[0].path.type"),
        ("{matches: [{path: {value: no-slash}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{path: {value: /a/../b}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{path: {value: /a%2fb}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{path: {value: /%61}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{path: {value: /a?b}}]}", "spec.rules[0].matches[0].path"),
        ("{matches: [{headers: [{name: 'a b', value: x}]}]}", "spec.rules[0].matches[0].headers[0].name"),
        ("{matches: [{headers: [{name: a}]}]}", "spec.rules[0].matches[0].headers[0].value"),
        ("{matches: [{method: 'G T'}]}", "spec.rules[0].matches[0].method"),
        ("{backendRefs: [{name: a, port: 1, weight: -1}]}", "spec.rules[0].backendRefs[0].weight"),
        ("{backendRefs: [{name: a, port: 1, weight: 1000000000}]}", "spec.rules[0].backendRefs[0].weight"),
        ("{timeouts: {request: 1e99s}}", "spec.rules[0].timeouts.request"),
        ("{timeouts: {request: 1s, backendRequest: 2s}}", "spec.rules[0].timeouts.backendRequest"),
    ] {
        let bad = route(&format!("parentRefs: [{{group: '', kind: Service, name: web}}]\nrules: [{rule}]"));
        assert_eq!(bad.problems.len(), 1, "{rule}: {:?}", bad.problems);
        assert_eq!(bad.problems[0].field, field);
        assert_eq!(bad.verdict, Verdict::Refused { stand_in: None }, "{rule}");
    }
    let huge = format!("parentRefs: []\nrules: [{}]", "{},".repeat(65));
    assert_eq!(faults(&route(&huge)), [("spec.rules", Reason::TooLarge)]);
}

#[test]
fn parents_hosts_times_and_defaults() {
    let translated = route(
        "parentRefs:
- {group: '', kind: Service, name: web, port: 80}
- {kind: Service, name: api, namespace: other}
- {name: gateway}
- {group: apps, kind: Service, name: x}
hostnames: [WEB.example, '*.example']",
    );
    assert_eq!(
        faults(&translated),
        [("spec.parentRefs[1].group", Reason::Invalid), ("spec.parentRefs[3].group", Reason::NoMatchingParent)]
    );
    assert_eq!(translated.problems[0].severity, Severity::Warning);
    let route = accepted_route(translated);
    let parents: Vec<_> = route.parents.iter().map(|p| (p.service.to_string(), p.port)).collect();
    assert_eq!(parents, [("web.shop".to_owned(), Some(80)), ("api.other".to_owned(), None)]);
    assert_eq!(route.hosts, ["web.example".into(), "*.example".into()] as [mesh_api::model::Name; 2]);
    assert_eq!(route.rules.len(), 1, "no rule is one that matches everything");
    assert_eq!(route.rules[0].matches[0].path, Some(PathMatch::Prefix("/".into())));
    let zero = accepted_route(self::route("parentRefs: []\nrules: [{timeouts: {request: 0s, backendRequest: 5s}}]"));
    assert_eq!(zero.rules[0].request_timeout, None);
    assert_eq!(zero.rules[0].backend_timeout, Some(std::time::Duration::from_secs(5)));
}

#[test]
fn a_policy_that_never_was_good_denies_what_it_points_at() {
    for spec in [
        "{action: Allow, rules: [{from: [{identities: ['https://x']}]}]}",
        "{action: Deny, rules: [{from: [{cidrs: [10.0.0.0/99]}]}]}",
        "{rules: [{from: [{serviceAccounts: [web]}]}]}",
        "{rules: [{from: [{namespaces: ['*']}]}]}",
        "{rules: [{to: [{paths: ['/admin*']}]}]}",
        "{rules: [{to: [{paths: [{value: /x}]}]}]}",
        "{rules: [{to: [{paths: ['/a/../b']}]}]}",
        "{rules: [{to: [{hosts: ['a:80']}]}]}",
        "{rules: [{to: [{methods: ['']}]}]}",
        "{rules: [{to: [{ports: [0]}]}]}",
        "{rules: [{to: [{headers: [{name: a, type: Glob, value: x}]}]}]}",
        "{targetRefs: [{kind: Service, name: web}], selector: {matchLabels: {a: b}}}",
        "{targetRefs: [{kind: Namespace, name: other}]}",
    ] {
        let translated = policy(spec);
        assert!(!translated.problems.is_empty(), "{spec}");
        let Verdict::Refused { stand_in: Some(Part::Authorization(stand_in)) } = translated.verdict else {
            panic!("{spec} {:?}", translated.verdict)
        };
        assert_eq!((stand_in.action, stand_in.rules), (Action::Deny, vec![AuthorizationRule::default()]));
    }
    let audit = policy("{action: Audit, rules: [{to: [{ports: [0]}]}]}");
    assert_eq!(audit.verdict, Verdict::Refused { stand_in: None });
    let unknown = policy("{targetRefs: [{group: apps, kind: Deployment, name: web}]}");
    let Verdict::Refused { stand_in: Some(Part::Authorization(stand_in)) } = unknown.verdict else { panic!() };
    assert!(!stand_in.targets.namespace, "one name mistyped does not close a namespace");
    assert!(stand_in.targets.services.contains("web") && stand_in.targets.workloads.contains("web"));
}

#[test]
fn a_good_policy_says_what_it_says() {
    let translated = policy(
        "
  selector: {matchLabels: {app: web}}
  rules:
  - from:
    - serviceAccounts: [shop/front]
      identities: ['spiffe://other/*', '*']
      cidrs: [10.1.2.3/8, '::1']
    to:
    - paths: [/exact, /tree/*, /*, {type: RegularExpression, value: '/x/[0-9]+'}]
      hosts: ['*.Example']",
    );
    assert_eq!(translated.problems, []);
    let Verdict::Accepted(Part::Authorization(policy)) = translated.verdict else { panic!() };
    let source = &policy.rules[0].from[0];
    let text = |names: &[mesh_api::model::Name]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(text(&source.identities), ["spiffe://other/*", "*", "spiffe://td/ns/shop/sa/front"]);
    assert_eq!(source.cidrs, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    let operation = &policy.rules[0].to[0];
    assert_eq!(
        operation.paths,
        [
            PathMatch::Exact("/exact".into()),
            PathMatch::Prefix("/tree".into()),
            PathMatch::Prefix("/".into()),
            PathMatch::Regex("/x/[0-9]+".into()),
        ]
    );
    assert_eq!(text(&operation.hosts), ["*.example"]);
    assert_eq!(policy.action, Action::Allow);
}

#[test]
fn a_transport_policy_that_never_was_good_is_strict() {
    let bad = run("
apiVersion: mesh.dev/v1alpha1
kind: TransportPolicy
metadata: {name: t, namespace: shop}
spec: {mode: Permissive, ports: [{port: 1, mode: Permissive}, {port: 1, mode: Strict}]}
");
    let Verdict::Refused { stand_in: Some(Part::Transport(stand_in)) } = bad.verdict else { panic!() };
    assert_eq!((stand_in.mode, stand_in.mode(1)), (Transport::Strict, Transport::Strict));
}

#[test]
fn problems_are_bounded() {
    let many = "{ports: [0]},".repeat(100);
    assert_eq!(policy(&format!("{{rules: [{{to: [{many}]}}]}}")).problems.len(), crate::problem::MAX_PER_OBJECT);
}

#[test]
fn rank_is_age_then_name() {
    let of = |time: Option<&str>, name: &str| Rank::new(time, &crate::fixtures::object_ref("HTTPRoute", "shop", name));
    let mut ranks = [
        of(None, "a"),
        of(Some("2024-01-02T00:00:00Z"), "b"),
        of(Some("2024-01-01T00:00:00.5Z"), "d"),
        of(Some("2024-01-01T00:00:00Z"), "c"),
        of(Some("yesterday"), "b"),
    ];
    let expected = [ranks[3].clone(), ranks[2].clone(), ranks[1].clone(), ranks[0].clone(), ranks[4].clone()];
    ranks.sort();
    assert_eq!(ranks, expected);
}

fn pod(metadata: &str, spec: &str, status: &str) -> Translated {
    let yaml = format!(
        "kind: Pod\nmetadata: {{name: p, namespace: shop, labels: {{mesh.dev/injected: 'true'}}{metadata}}}\nspec: {spec}\nstatus: {status}"
    );
    translate(&crate::fixtures::cluster(&yaml)[0], &"td".parse().unwrap())
}

fn workload(translated: Translated) -> Workload {
    match translated.verdict {
        Verdict::Accepted(Part::Workload(workload)) => workload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_is_an_instance_of_a_workload() {
    let found = workload(pod(
        ", ownerReferences: [{kind: StatefulSet, name: db, controller: true}]",
        "{nodeName: n1, containers: [{name: c, ports: [{name: web, containerPort: 80}, {containerPort: 80}, {containerPort: 53, protocol: UDP}]}]}",
        "{phase: Pending, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}",
    ));
    assert_eq!((&*found.owner, &*found.account, &*found.node), ("db", "default", "n1"));
    assert_eq!(found.identity.as_ref().unwrap().as_str(), "spiffe://td/ns/shop/sa/default");
    assert_eq!(found.addresses.len(), 2);
    assert_eq!(found.port(&Target::Name("web".into())), Some(80));
    assert_eq!(found.ports.len(), 1);
    assert!(found.identity_at(80).is_some() && found.identity_at(15490).is_none(), "the admin server is its own");
    assert!(!found.draining);
    let host = workload(pod("", "{hostNetwork: true, containers: []}", "{podIP: 192.168.0.1}"));
    assert_eq!((host.kind, host.identity.as_ref()), (WorkloadKind::HostPod, None), "never a member");
    let leaving = workload(pod(", deletionTimestamp: '2026-01-01T00:00:00Z'", "{containers: []}", "{}"));
    assert!(leaving.draining && leaving.addresses.is_empty());
    for phase in ["Succeeded", "Failed"] {
        assert_eq!(pod("", "{containers: []}", &format!("{{phase: {phase}, podIP: 10.0.0.1}}")).verdict, Verdict::Gone);
    }
}

#[test]
fn ports_of_annotations_and_of_the_record_of_injection() {
    let found = workload(pod(
        ", annotations: {mesh.dev/opaque-ports: '3306,9000-9001', mesh.dev/skip-inbound-ports: '9100'}",
        "{containers: []}",
        "{}",
    ));
    assert_eq!(
        [3306, 9001, 9002].map(|port| found.protocol(port)),
        [Some(Protocol::Opaque), Some(Protocol::Opaque), None]
    );
    assert!(found.identity_at(9100).is_none() && found.identity_at(80).is_some());
    let record = r#"{"redirect": ["--admin-port=15490", "--skip-inbound-ports=22,9200"]}"#;
    let found = workload(pod(
        &format!(", annotations: {{mesh.dev/skip-inbound-ports: '9100', mesh.dev/injection: '{record}'}}"),
        "{containers: []}",
        "{}",
    ));
    assert!(found.identity_at(22).is_none() && found.identity_at(9100).is_some(), "what was decided holds");
    let translated = pod(
        ", annotations: {mesh.dev/opaque-ports: '1-65535', mesh.dev/skip-inbound-ports: 'x'}",
        "{containers: []}",
        "{podIP: nonsense}",
    );
    assert_eq!(
        faults(&translated),
        [
            ("metadata.annotations[mesh.dev/skip-inbound-ports]", Reason::Invalid),
            ("status.podIPs", Reason::Invalid),
            ("metadata.annotations[mesh.dev/opaque-ports]", Reason::TooLarge),
        ]
    );
    assert!(workload(translated).opaque.is_empty(), "the Pod itself holds");
}

#[test]
fn health_probes_of_all_containers_are_known() {
    let found = workload(pod(
        "",
        "
  initContainers:
  - {name: mesh-proxy, restartPolicy: Always, startupProbe: {httpGet: {path: /ready, port: 15490}}}
  - {name: once, readinessProbe: {httpGet: {path: /never, port: 1}}}
  - {name: beside, restartPolicy: Always, startupProbe: {httpGet: {path: /beside, port: 81}}}
  containers:
  - name: a
    ports: [{name: web, containerPort: 80}]
    livenessProbe: {httpGet: {path: '/live?x=1', port: web}}
    readinessProbe: {httpGet: {path: ready, port: 80}}
    startupProbe: {grpc: {port: 9000, service: x}}
    lifecycle: {preStop: {httpGet: {path: /shutdown, port: 80}}, postStart: {httpGet: {path: /begin, port: web}}}
  - name: b
    livenessProbe: {tcpSocket: {port: 5432}}
    readinessProbe: {httpGet: {path: /tls, port: 443, scheme: HTTPS}}
    startupProbe: {httpGet: {path: /away, port: 80, host: example.com}}
  - {name: c, livenessProbe: {httpGet: {path: /unknown, port: web}}}",
        "{}",
    ));
    let probes: Vec<String> = found
        .probes
        .iter()
        .flat_map(|(port, probes)| probes.iter().map(move |probe| format!("{port} {} {}", probe.method, probe.path)))
        .collect();
    assert_eq!(probes, ["80 GET /live", "80 GET /ready", "81 GET /beside", "9000 POST /grpc.health.v1.Health/Check"]);
}

#[test]
fn endpoints_are_ready_leaving_or_out() {
    let slice = |rest: &str| {
        let yaml = format!(
            "kind: EndpointSlice\nmetadata: {{name: e, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n{rest}"
        );
        translate(&crate::fixtures::cluster(&yaml)[0], &"td".parse().unwrap())
    };
    let translated = slice(
        "addressType: IPv4
ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}, {port: 81, appProtocol: grpc}, {name: any, port: null}]
endpoints:
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.2], conditions: {ready: null, serving: null}}
- {addresses: [10.0.0.3], conditions: {ready: false}}
- {addresses: [10.0.0.4], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.0.0.5], conditions: {ready: false, serving: false, terminating: true}}
- {addresses: [10.0.0.5], conditions: {ready: true}, targetRef: {kind: Pod, name: p}}
- {addresses: [nonsense]}
- {addresses: []}",
    );
    assert_eq!(faults(&translated), [("endpoints[6].addresses", Reason::Invalid)]);
    let Verdict::Accepted(Part::Slice(found)) = translated.verdict else { panic!() };
    let states: Vec<EndpointState> = found.endpoints.values().map(|endpoint| endpoint.state).collect();
    use EndpointState::{Leaving, Out, Ready};
    assert_eq!(states, [Ready, Ready, Out, Leaving, Ready]);
    let ports: Vec<(&str, Option<u16>)> = found.ports.iter().map(|(name, port)| (&**name, port.number)).collect();
    assert_eq!(ports, [("", Some(81)), ("any", None), ("http", Some(80))]);
    assert_eq!(found.ports[""].protocol, Some(Protocol::Grpc));
    assert_eq!(slice("addressType: FQDN\nendpoints: [{addresses: [example.com]}]").verdict, Verdict::Gone);
}

#[test]
fn what_a_services_port_speaks() {
    let translated = run("
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {mesh.dev/opaque-ports: '81,90-91'}}
spec:
  ports:
  - {name: http, port: 80}
  - {name: http-x, port: 81, appProtocol: http}
  - {name: mysql-main, port: 82}
  - {name: https, port: 83}
  - {name: tcp, port: 84, appProtocol: grpc}
  - {name: tcpdump, port: 85}
  - {name: redis, port: 86, appProtocol: quic}
");
    let Verdict::Accepted(Part::Service(service)) = translated.verdict else { panic!() };
    let said: Vec<Option<Protocol>> = service.ports.values().map(|port| port.protocol).collect();
    use Protocol::{Grpc, Opaque, Tls};
    assert_eq!(said, [None, Some(Opaque), Some(Opaque), Some(Tls), Some(Grpc), None, None]);
    let alias = run(
        "apiVersion: v1\nkind: Service\nmetadata: {name: x, namespace: shop}\nspec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}",
    );
    let Verdict::Accepted(Part::Service(alias)) = alias.verdict else { panic!() };
    assert!(alias.ports.is_empty() && alias.addresses.is_empty());
}
