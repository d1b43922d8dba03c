//! Properties: the order of objects does not matter, what changed is dirty, what is deleted leaves nothing behind, and
//! one bad object changes nothing for others.

use std::collections::BTreeMap;

use mesh_api::model::Target;
use proptest::prelude::*;

use super::*;
use crate::{
    fixtures::{client, object, settings},
    resolve,
    review::review,
};

const NAMESPACES: [&str; 2] = ["one", "two"];

/// A small universe in which names, labels and addresses collide often.
fn any_object() -> impl Strategy<Value = Resource> {
    prop_oneof![
        3 => (0..2usize, 0..3u8, 0..3u8, 0..3u8, 0..3u8).prop_map(|(ns, name, selector, ip, kind)| service(ns, name, selector, ip, kind)),
        4 => (0..2usize, 0..4u8, 0..3u8, 0..4u8, 0..4u8).prop_map(|(ns, name, label, ip, kind)| workload(ns, name, label, ip, kind)),
        3 => (0..2usize, 0..3u8, 0..2usize, 0..3u8, 0..2usize, 0..3u8, 0..3u8)
            .prop_map(|(ns, name, pns, parent, bns, backend, kind)| route(ns, name, (pns, parent), (bns, backend), kind)),
        2 => (0..2usize, 0..3u8, 0..4u8, 0..3u8).prop_map(|(ns, name, target, kind)| policy(ns, name, target, kind)),
        2 => (0..2usize, 0..3u8, 0..4u8, 0..3u8).prop_map(|(ns, name, target, kind)| transport(ns, name, target, kind)),
        4 => (0..2usize, 0..4u8, 0..3u8, 0..4u8, 0..6u8).prop_map(|(ns, name, label, ip, kind)| pod(ns, name, label, ip, kind)),
        4 => (0..2usize, 0..3u8, 0..3u8, proptest::collection::vec((0..4u8, 0..5u8, 0..4u8), 0..4))
            .prop_map(|(ns, name, service, endpoints)| slice(ns, name, service, &endpoints)),
        1 => (0..2u8, 0..3u8).prop_map(|(name, zone)| node(name, zone)),
    ]
}

fn of_cluster(yaml: &str) -> Resource {
    crate::fixtures::cluster(yaml).remove(0)
}

/// Pods have the names of ExternalWorkloads, and their addresses.
fn pod(ns: usize, name: u8, label: u8, ip: u8, kind: u8) -> Resource {
    let injected = if kind == 0 { "" } else { ", mesh.dev/injected: 'true'" };
    let deleted = if kind == 3 { ", deletionTimestamp: '2026-01-01T00:00:00Z'" } else { "" };
    let opaque = if kind == 5 {
        ", annotations: {mesh.dev/opaque-ports: '8081', mesh.dev/skip-inbound-ports: '8080'}"
    } else {
        ""
    };
    of_cluster(&format!(
        "kind: Pod\nmetadata: {{name: w{name}, namespace: {}, labels: {{app: l{label}{injected}}}{deleted}{opaque}}}\n\
         spec: {{serviceAccountName: a{label}, nodeName: n{}, hostNetwork: {}, containers: [{{name: c, ports: [{{name: http, \
         containerPort: 8080}}], livenessProbe: {{httpGet: {{path: /p{label}, port: http}}}}}}]}}\n\
         status: {{phase: {}, podIPs: [{{ip: 10.0.0.{ip}}}, {{ip: 'fd00::{ip}'}}]}}",
        NAMESPACES[ns],
        ip % 2,
        kind == 2,
        if kind == 4 { "Succeeded" } else { "Running" },
    ))
}

fn slice(ns: usize, name: u8, service: u8, endpoints: &[(u8, u8, u8)]) -> Resource {
    let one = |(ip, pod, state): &(u8, u8, u8)| {
        let target = if *pod < 4 { format!(", targetRef: {{kind: Pod, name: w{pod}}}") } else { String::new() };
        let conditions =
            ["ready: true", "ready: false, serving: true, terminating: true", "ready: false", ""][usize::from(*state)];
        format!("{{addresses: [10.0.0.{ip}], conditions: {{{conditions}}}{target}}}")
    };
    let endpoints: Vec<String> = endpoints.iter().map(one).collect();
    of_cluster(&format!(
        "kind: EndpointSlice\nmetadata: {{name: e{name}, namespace: {}, labels: {{kubernetes.io/service-name: s{service}}}}}\n\
         addressType: IPv4\nports: [{{name: '', port: {}}}]\nendpoints: [{}]",
        NAMESPACES[ns],
        if name == 0 { 8080 } else { 8081 },
        endpoints.join(", ")
    ))
}

fn node(name: u8, zone: u8) -> Resource {
    let labels = if zone == 0 { String::new() } else { format!(", labels: {{topology.kubernetes.io/zone: z{zone}}}") };
    of_cluster(&format!("kind: Node\nmetadata: {{name: n{name}{labels}}}"))
}

fn service(ns: usize, name: u8, selector: u8, ip: u8, kind: u8) -> Resource {
    let (export, protocol) = match kind {
        0 => ("", ""),
        1 => (", annotations: {mesh.dev/export-to: '.'}", ", appProtocol: http"),
        _ => (", annotations: {mesh.dev/export-to: 'one'}", ", appProtocol: grpc"),
    };
    object(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{name}, namespace: {}{export}}}\nspec: {{clusterIP: 10.96.0.{ip}, \
         selector: {{app: l{selector}}}, ports: [{{port: 80, targetPort: http{protocol}}}, {{port: 81, targetPort: 8081}}]}}",
        NAMESPACES[ns]
    ))
}

fn workload(ns: usize, name: u8, label: u8, ip: u8, kind: u8) -> Resource {
    let ports = match kind {
        0 => "[]",
        1 => "[{name: http, port: 8080}]",
        2 => "[{name: http, port: 8080, appProtocol: http}, {port: 8081}]",
        _ => "[{name: http, port: 8081, appProtocol: grpc}]",
    };
    object(&format!(
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {{name: w{name}, namespace: {}, labels: {{app: l{label}}}}}\n\
         spec: {{address: 10.0.0.{ip}, draining: {}, ports: {ports}}}",
        NAMESPACES[ns],
        kind == 3
    ))
}

fn route(ns: usize, name: u8, parent: (usize, u8), backend: (usize, u8), kind: u8) -> Resource {
    let port = ["", ", port: 80", ", port: 81"][kind as usize];
    object(&format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{name}, namespace: {}}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: s{}, namespace: {}{port}}}]\n  \
         rules: [{{matches: [{{path: {{value: /p{kind}}}}}], backendRefs: [{{name: s{}, namespace: {}, port: 80}}]}}]",
        NAMESPACES[ns], parent.1, NAMESPACES[parent.0], backend.1, NAMESPACES[backend.0]
    ))
}

fn target_of(target: u8) -> String {
    match target {
        0 => String::new(),
        1 => "selector: {matchLabels: {app: l1}}, ".into(),
        2 => "targetRefs: [{kind: Service, name: s1}, {kind: ServiceAccount, name: a2}], ".into(),
        _ => "targetRefs: [{kind: ExternalWorkload, name: w1}, {kind: Service, name: s0}], ".into(),
    }
}

fn policy(ns: usize, name: u8, target: u8, kind: u8) -> Resource {
    let action = ["Allow", "Deny", "Audit"][kind as usize];
    object(&format!(
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: a{name}, namespace: {}}}\n\
         spec: {{{}action: {action}, rules: [{{to: [{{ports: [8080]}}]}}]}}",
        NAMESPACES[ns],
        target_of(target)
    ))
}

fn transport(ns: usize, name: u8, target: u8, kind: u8) -> Resource {
    let mode = ["Permissive", "Strict", "Strict, ports: [{port: 8080, mode: Permissive}]"][kind as usize];
    object(&format!(
        "apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {{name: t{name}, namespace: {}}}\nspec: {{{}mode: {mode}}}",
        NAMESPACES[ns],
        target_of(target)
    ))
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Apply(Box<Resource>),
    Delete(ObjectRef),
}

pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any_object().prop_map(|object| Step::Apply(Box::new(object))),
        1 => any_object().prop_map(|object| Step::Delete(object.object_ref())),
    ];
    proptest::collection::vec(step, 1..most)
}

/// Every answer there is in the universe, by the topic it depends on.
fn answers(index: &Index) -> BTreeMap<Topic, Vec<String>> {
    let mut all: BTreeMap<Topic, Vec<String>> = BTreeMap::new();
    let mut targets = Vec::new();
    for namespace in NAMESPACES {
        for name in 0..4 {
            let id = WorkloadId { namespace: namespace.into(), name: format!("w{name}").into() };
            let answer = format!("{:?}", resolve::inbound(index, &id));
            all.entry(Topic::Workload(id)).or_default().push(answer);
            for port in [80, 81] {
                let name = format!("s{name}").into();
                targets.push(Target::Service { namespace: namespace.into(), name, port });
            }
        }
    }
    for ip in 0..4 {
        targets.extend([80, 81].map(|port| Target::Address(([10, 96, 0, ip], port).into())));
        targets.extend([8080, 8081].map(|port| Target::Address(([10, 0, 0, ip], port).into())));
        targets.push(Target::Address(([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(ip)], 8080).into()));
    }
    for target in targets {
        for namespace in NAMESPACES {
            let found = resolve::destination(index, &target, &client(namespace));
            let scope = resolve::scope(index, &target, &client(namespace));
            assert_eq!(found.is_err(), scope.is_err());
            all.entry(Topic::of_target(&target)).or_default().push(format!("{target} {found:?}"));
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn only_the_set_of_objects_counts(steps in steps(40), seed in any::<u64>()) {
        let mut index = Index::new(settings());
        let mut last: BTreeMap<ObjectRef, Resource> = BTreeMap::new();
        for step in &steps {
            match step {
                Step::Apply(object) => {
                    index.apply(object);
                    last.insert(object.object_ref(), Resource::clone(object));
                }
                Step::Delete(object) => {
                    index.delete(object);
                    last.remove(object);
                }
            }
        }
        let mut shuffled: Vec<&Resource> = last.values().collect();
        shuffled.sort_by_key(|object| {
            use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
            BuildHasherDefault::<DefaultHasher>::default().hash_one((seed, object.object_ref()))
        });
        let mut fresh = Index::new(settings());
        for object in shuffled {
            fresh.apply(object);
        }
        prop_assert_eq!(answers(&index), answers(&fresh));
        prop_assert_eq!(review(&index), review(&fresh));
        for object in last.keys() {
            index.delete(object);
        }
        prop_assert_eq!(answers(&index), answers(&Index::new(settings())));
        prop_assert!(review(&index).is_empty());
        prop_assert!(index.is_empty());
    }

    #[test]
    fn what_changed_is_dirty_and_what_repeats_is_not(steps in steps(25)) {
        let mut index = Index::new(settings());
        let mut before = answers(&index);
        let mut wrong = (review(&index), index.counts());
        for step in &steps {
            let edition = index.edition();
            let dirty = match step {
                Step::Apply(object) => index.apply(object),
                Step::Delete(object) => index.delete(object),
            };
            let after = answers(&index);
            for (topic, answer) in &after {
                prop_assert!(before[topic] == *answer || dirty.contains(topic), "{:?} changed by {:?}", topic, step);
            }
            let now = (review(&index), index.counts());
            prop_assert!(now == wrong || index.edition() != edition, "unseen: {:?}", step);
            wrong = now;
            let edition = index.edition();
            let again = match step {
                Step::Apply(object) => index.apply(object),
                Step::Delete(object) => index.delete(object),
            };
            prop_assert!(again.is_empty() && index.edition() == edition, "{:?}", again);
            before = after;
        }
    }
}

#[test]
fn a_cluster_in_any_order_is_the_same_cluster() {
    let objects = crate::fixtures::cluster(crate::fixtures::CLUSTER);
    let all = |index: &Index| {
        let asked =
            ["web.shop:80", "db.shop:5432", "10.96.0.1:80", "[fd00:96::1]:80", "10.0.0.1:8080", "[fd00::1]:8080"];
        let found = asked.map(|text| resolve::destination(index, &crate::fixtures::target(text), &client("shop")));
        let inbound = ["web-7d4b9c-aaaaa", "old", "db-0"];
        let inbound = inbound.map(|name| resolve::inbound(index, &crate::fixtures::workload_id("shop", name)));
        format!("{found:#?} {inbound:#?}")
    };
    let expected = all(&crate::fixtures::index_of(&objects));
    for rotated in 0..objects.len() {
        let mut order = objects.clone();
        order.rotate_left(rotated);
        assert_eq!(all(&crate::fixtures::index_of(&order)), expected);
        order.reverse();
        let mut index = crate::fixtures::index_of(&order);
        assert_eq!(all(&index), expected);
        for object in &order {
            index.delete(&object.object_ref());
        }
        assert!(index.is_empty());
    }
}

#[test]
fn heartbeats_change_nothing() {
    let mut index = crate::fixtures::index_of(&crate::fixtures::cluster(crate::fixtures::CLUSTER));
    let before = index.edition();
    for object in crate::fixtures::cluster(crate::fixtures::CLUSTER) {
        assert!(index.apply(&object).is_empty());
    }
    assert_eq!(index.edition(), before);
}

#[test]
fn a_change_reaches_only_what_depends_on_it() {
    let mut index = crate::fixtures::index(crate::fixtures::SHOP);
    let drained = object(
        "apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: api-1, namespace: shop, labels: {app: api}}
spec: {serviceAccount: api, address: 10.0.1.1, draining: true, ports: [{port: 9000, appProtocol: grpc}]}",
    );
    let dirty: Vec<Topic> = index.apply(&drained).topics().cloned().collect();
    assert_eq!(
        dirty,
        [
            Topic::Service(ServiceId { namespace: "shop".into(), name: "api".into() }),
            Topic::Address("10.0.1.1".parse().unwrap()),
            Topic::Address("10.96.0.2".parse().unwrap()),
            Topic::Workload(crate::fixtures::workload_id("shop", "api-1")),
        ]
    );
}

#[test]
fn one_bad_object_among_many_changes_nothing_for_the_others() {
    let good: Vec<Resource> = (0..2)
        .flat_map(|ns| {
            (0..3).flat_map(move |n| {
                [service(ns, n, n, n, n), workload(ns, n, n, n, 2), route(ns, n, (ns, n), (ns, n), 0)]
            })
        })
        .collect();
    let expected = answers(&crate::fixtures::index_of(&good));
    for bad in [
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: bad, namespace: one}\nspec: {parentRefs: [{group: '', kind: Service, name: s0}], rules: [{matches: [{path: {type: RegularExpression, value: '('}}]}]}",
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: bad, namespace: one, labels: {app: l0}}\nspec: {address: nowhere}",
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: bad, namespace: elsewhere}\nspec: {rules: [{to: [{ports: [0]}]}]}",
    ] {
        let mut index = Index::new(settings());
        index.apply(&object(bad));
        for object in &good {
            index.apply(object);
        }
        assert_eq!(answers(&index), expected, "{bad}");
        assert_eq!(
            review(&index).iter().filter(|problem| problem.object.as_ref().unwrap().name.as_ref() == "bad").count(),
            1
        );
    }
}
