//! What proxies in a cluster are told: endpoints of slices, identities of Pods.

use super::*;
use crate::{
    fixtures::{CLUSTER, cluster, index_of},
    index::Index,
    translate::ServiceId,
};

fn with(more: &str) -> Index {
    let mut index = index_of(&cluster(CLUSTER));
    for object in cluster(more) {
        index.apply(&object);
    }
    index
}

/// `ADDRESS ACCOUNT OWNER ZONE`, with `!` where nothing new goes there.
fn all(index: &Index, text: &str) -> Vec<String> {
    let found = destination(index, &target(text), &client("shop")).unwrap();
    let endpoints = found.backends.values().flat_map(|backend| backend.endpoints.values());
    let one = |endpoint: &mesh_api::model::destination::Endpoint| {
        let account = endpoint.identity.as_ref().map_or("-", |id| id.as_str().rsplit('/').next().unwrap());
        let gone = if endpoint.ready { "" } else { " !" };
        format!("{} {account} {} {}{gone}", endpoint.address, endpoint.owner, endpoint.zone)
    };
    endpoints.map(one).collect()
}

const WEB: [&str; 3] = ["10.0.0.1:8080 web web a", "10.0.0.2:8080 web web b", "10.0.0.3:8081 - old b"];

fn slice(name: &str, endpoints: &str) -> String {
    format!(
        "kind: EndpointSlice\nmetadata: {{name: {name}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{endpoints}]"
    )
}

#[test]
fn a_service_by_name_and_by_its_addresses_of_both_families() {
    let index = with("");
    for text in ["web.shop:80", "10.96.0.1:80", "[fd00:96::1]:80"] {
        assert_eq!(all(&index, text), WEB, "{text}");
    }
    let found = destination(&index, &target("web.shop:80"), &client("shop")).unwrap();
    assert_eq!(found.protocol, Protocol::Http1);
    assert_eq!(all(&index, "db.shop:5432"), ["10.0.1.1:5432 db db a"], "headless, by name");
    let found = destination(&index, &target("db.shop:5432"), &client("shop")).unwrap();
    assert_eq!(found.protocol, Protocol::Opaque, "as its Pod says");
}

#[test]
fn a_pod_by_its_own_addresses() {
    let index = with("");
    assert_eq!(all(&index, "10.0.0.1:8080"), ["10.0.0.1:8080 web web a"]);
    assert_eq!(all(&index, "[fd00::1]:8080"), ["[fd00::1]:8080 web web a"]);
    assert_eq!(all(&index, "10.0.1.1:5432"), ["10.0.1.1:5432 db db a"]);
    let found = destination(&index, &target("10.0.0.1:8080"), &client("shop")).unwrap();
    assert_eq!((found.id.to_string().as_str(), found.protocol), ("web.shop.svc:80", Protocol::Http1));
    // A port that nothing declares: a member is a member on all its ports, but for those that its sidecar is not before.
    assert_eq!(all(&index, "10.0.0.1:1234"), ["10.0.0.1:1234 web web a"]);
    assert_eq!(all(&index, "10.0.0.1:15490"), ["10.0.0.1:15490 - web a"]);
    let found = destination(&index, &target("10.0.0.1:1234"), &client("shop")).unwrap();
    assert_eq!(&*found.id.name, "");
    assert_eq!(all(&index, "10.0.0.3:99"), ["10.0.0.3:99 - old b"], "no member: plain");
    assert!(destination(&index, &target("10.0.9.9:80"), &client("shop")).is_err(), "unknown: passed on");
}

#[test]
fn a_pod_with_addresses_of_both_families_is_one_endpoint() {
    let six = "kind: EndpointSlice\nmetadata: {name: web-x6, namespace: shop, labels: {kubernetes.io/service-name: web}}\n\
               addressType: IPv6\nports: [{name: http, port: 8080}]\nendpoints:\n\
               - {addresses: ['fd00::1'], targetRef: {kind: Pod, name: web-7d4b9c-aaaaa}}";
    assert_eq!(all(&with(six), "web.shop:80"), WEB);
    let service = "kind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIPs: ['fd00:96::1', 10.96.0.1], \
                   selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}";
    let found = all(&with(&format!("{six}\n---\n{service}")), "web.shop:80");
    assert_eq!(found, [WEB[1], WEB[2], "[fd00::1]:8080 web web a"], "those that have no other stay");
    let headless =
        service.replace("clusterIPs: ['fd00:96::1', 10.96.0.1]", "clusterIP: None, ipFamilies: [IPv6, IPv4]");
    assert_eq!(all(&with(&format!("{six}\n---\n{headless}")), "web.shop:80"), found);
}

#[test]
fn readiness_of_endpoints() {
    let pod = |name: &str| format!("targetRef: {{kind: Pod, name: web-7d4b9c-{name}}}");
    let (a, b) = (pod("aaaaa"), pod("bbbbb"));
    let leaving = "conditions: {ready: false, serving: true, terminating: true}";
    let index =
        with(&slice("web-x1", &format!("{{addresses: [10.0.0.1], {leaving}, {a}}}, {{addresses: [10.0.0.2], {b}}}")));
    assert_eq!(all(&index, "web.shop:80"), ["10.0.0.1:8080 web web a !", WEB[1], WEB[2]]);
    // Nothing else is left: they still answer.
    let gone = format!(
        "{}\n---\n{}",
        slice(
            "web-x1",
            &format!(
                "{{addresses: [10.0.0.1], {leaving}, {a}}}, {{addresses: [10.0.0.2], conditions: {{ready: false}}, {b}}}"
            )
        ),
        slice("web-x2", "")
    );
    assert_eq!(all(&with(&gone), "web.shop:80"), [WEB[0], "10.0.0.2:8080 web web b !"]);
    // Two slices have one address, as while the controller of slices moves it: the better word holds.
    let twice = slice("web-x3", &format!("{{addresses: [10.0.0.1], conditions: {{ready: false}}, {a}}}"));
    assert_eq!(all(&with(&twice), "web.shop:80"), WEB);
    // A Pod that was told to go is not waited for until its slice says so.
    let pod = cluster(CLUSTER).into_iter().find(|object| object.metadata().name == "web-7d4b9c-aaaaa").unwrap();
    let mut index = with("");
    let mut pod = pod.clone();
    pod.metadata_mut().deletion_timestamp = Some("2026-01-01T00:00:00Z".into());
    index.apply(&pod);
    assert_eq!(all(&index, "web.shop:80")[0], "10.0.0.1:8080 web web a !");
    assert_eq!(all(&index, "10.0.0.1:8080"), [WEB[0]], "whoever asks for it by its address means it");
}

#[test]
fn who_is_behind_an_endpoint_is_known_before_it_is_used() {
    // The slice is newer than what is known of Pods: not plain, but not yet.
    let newer = "targetRef: {kind: Pod, name: web-7d4b9c-ccccc}";
    let index = with(&slice("web-x3", &format!("{{addresses: [10.0.0.9], {newer}}}")));
    assert_eq!(all(&index, "web.shop:80"), WEB);
    // Or older: the Pod of that name has another address by now.
    let older = "targetRef: {kind: Pod, name: web-7d4b9c-aaaaa}";
    let index = with(&slice("web-x3", &format!("{{addresses: [10.0.0.9], {older}}}")));
    assert_eq!(all(&index, "web.shop:80"), WEB);
    // An address that nobody claims to be a Pod's: what is there is looked at.
    let index = with(&slice("web-x3", "{addresses: [10.0.1.1]}, {addresses: [192.0.2.1], zone: c}"));
    assert_eq!(all(&index, "web.shop:80"), [WEB[0], WEB[1], WEB[2], "10.0.1.1:8080 db db a", "192.0.2.1:8080 -  c"]);
}

#[test]
fn an_address_that_changes_hands_has_the_identity_of_who_has_it() {
    let ended = "kind: Pod\nmetadata: {name: web-7d4b9c-aaaaa, namespace: shop}\nspec: {containers: []}\nstatus: {phase: Failed, podIP: 10.0.0.1}";
    let heir = "kind: Pod\nmetadata: {name: job-x, namespace: shop, labels: {mesh.dev/injected: 'true'}}\n\
                spec: {serviceAccountName: job, containers: []}\nstatus: {phase: Running, podIP: 10.0.0.1}";
    let index = with(&format!("{ended}\n---\n{heir}"));
    assert_eq!(all(&index, "10.0.0.1:8080"), ["10.0.0.1:8080 job job-x "]);
    assert_eq!(all(&index, "web.shop:80"), [WEB[1], WEB[2]], "no request for web reaches it");
}

#[test]
fn pods_of_the_nodes_network_are_no_members() {
    let host = "kind: Pod\nmetadata: {name: agent, namespace: shop, labels: {app: agent, mesh.dev/injected: 'true'}}\n\
                spec: {hostNetwork: true, nodeName: n1, containers: [{name: c, ports: [{containerPort: 9100}]}]}\n\
                status: {phase: Running, podIP: 192.168.0.1}";
    let index = with(&format!(
        "{host}\n---\n{}",
        slice("web-x3", "{addresses: [192.168.0.1], targetRef: {kind: Pod, name: agent}}")
    ));
    assert_eq!(all(&index, "web.shop:80")[3], "192.168.0.1:8080 - agent a");
    assert!(destination(&index, &target("192.168.0.1:9100"), &client("shop")).is_err(), "the address is the node's");
}

#[test]
fn services_without_selector_and_aliases() {
    let more = "kind: Service\nmetadata: {name: legacy, namespace: shop}\nspec: {clusterIP: 10.96.0.9, ports: [{port: 80}]}\n---\n\
                kind: EndpointSlice\nmetadata: {name: legacy-1, namespace: shop, labels: {kubernetes.io/service-name: legacy}}\n\
                addressType: IPv4\nports: [{port: 8080, appProtocol: http}]\nendpoints: [{addresses: [192.0.2.7]}]\n---\n\
                kind: Service\nmetadata: {name: alias, namespace: shop}\nspec: {type: ExternalName, externalName: example.com, ports: [{port: 80}]}";
    let index = with(more);
    assert_eq!(all(&index, "10.96.0.9:80"), ["192.0.2.7:8080 -  "]);
    let found = destination(&index, &target("legacy.shop:80"), &client("shop")).unwrap();
    assert_eq!(found.protocol, Protocol::Http1, "as its slice says");
    assert!(destination(&index, &target("alias.shop:80"), &client("shop")).is_err());
}

#[test]
fn members_outside_the_cluster_stand_beside_its_pods() {
    let mut index = with("");
    index.apply(&object(
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: vm, namespace: shop, labels: {app: web}}\n\
         spec: {address: 10.1.0.1, serviceAccount: web, zone: c, ports: [{name: http, port: 9080}]}",
    ));
    assert_eq!(all(&index, "web.shop:80"), [WEB[0], WEB[1], WEB[2], "10.1.0.1:9080 web vm c"]);
    // A Pod of the same name cannot be told to go by another: it holds, and the ExternalWorkload comes back.
    let pod = "kind: Pod\nmetadata: {name: vm, namespace: shop}\nspec: {containers: []}\nstatus: {podIP: 10.0.0.7}";
    index.apply(&cluster(pod)[0]);
    assert_eq!(all(&index, "web.shop:80"), WEB);
    assert!(
        review(&index).iter().any(|problem| problem.field == "metadata.name" && problem.reason == Reason::Conflicted)
    );
    index.delete(&cluster(pod)[0].object_ref());
    assert_eq!(all(&index, "web.shop:80").len(), 4);
}

#[test]
fn what_the_sidecar_of_a_pod_is_told() {
    let mut index = with("");
    for policy in [
        "apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {name: t, namespace: shop}\nspec: {mode: Strict}",
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\n\
         spec: {targetRefs: [{kind: Service, name: web}], action: Deny, rules: [{}]}",
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: b, namespace: shop}\n\
         spec: {selector: {matchLabels: {app: db}}, rules: []}",
    ] {
        index.apply(&object(policy));
    }
    let web = inbound(&index, &workload_id("shop", "web-7d4b9c-aaaaa")).unwrap();
    assert_eq!(&*web.service_account, "web");
    let port = web.port(8080);
    assert_eq!((port.transport, port.protocol), (Transport::Strict, Protocol::Http1));
    assert_eq!(port.policies.iter().map(|policy| policy.action).collect::<Vec<_>>(), [Action::Deny]);
    assert_eq!(port.probes.iter().map(|probe| &*probe.path).collect::<Vec<_>>(), ["/ready"]);
    assert_eq!(web.port(9000).probes.len(), 1, "a port that only probes name");
    assert!(web.port(9000).policies.is_empty(), "the Service does not lead there");
    assert!(web.default_port.probes.is_empty());
    let db = inbound(&index, &workload_id("shop", "db-0")).unwrap();
    assert_eq!((db.port(5432).protocol, db.port(5432).policies.len()), (Protocol::Opaque, 1));
    // Before it has an address it has its policy.
    let pod = "kind: Pod\nmetadata: {name: new, namespace: shop, labels: {app: db}}\nspec: {containers: []}";
    index.apply(&cluster(pod)[0]);
    assert_eq!(inbound(&index, &workload_id("shop", "new")).unwrap().default_port.policies.len(), 1);
}

#[test]
fn policies_for_a_service_account_hold_for_whatever_runs_as_it() {
    let mut index = with("");
    index.apply(&object(
        "apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {name: t, namespace: shop}\n\
         spec: {targetRefs: [{kind: ServiceAccount, name: web}], mode: Strict}",
    ));
    let mode = |index: &Index, name: &str| inbound(index, &workload_id("shop", name)).unwrap().default_port.transport;
    assert_eq!(mode(&index, "web-7d4b9c-aaaaa"), Transport::Strict);
    assert_eq!([mode(&index, "db-0"), mode(&index, "old")], [Transport::Permissive; 2]);
    assert!(review(&index).is_empty());
    index.apply(&object(
        "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a, namespace: shop}\n\
         spec: {targetRefs: [{kind: ServiceAccount, name: nobody}, {kind: ExternalWorkload, name: db-0}], rules: []}",
    ));
    assert_eq!(review(&index).iter().filter(|problem| problem.reason == Reason::TargetNotFound).count(), 1);
    let db = inbound(&index, &workload_id("shop", "db-0")).unwrap();
    assert!(db.default_port.policies.is_empty(), "a Pod is no ExternalWorkload");
}

#[test]
fn a_rolling_update_of_endpoints_marks_the_service_and_its_routes() {
    let mut index = with("");
    let route = route("r", "rules: [{backendRefs: [{name: db, port: 5432}]}]");
    index.apply(&object(&route));
    let dirty =
        index.apply(&cluster(&CLUSTER.replace("topology.kubernetes.io/zone: a", "topology.kubernetes.io/zone: z"))[0]);
    let service = |name: &str| crate::index::Topic::Service(ServiceId { namespace: "shop".into(), name: name.into() });
    assert!(dirty.contains(&service("db")) && dirty.contains(&service("web")));
    assert_eq!(all(&index, "db.shop:5432"), ["10.0.1.1:5432 db db z"]);
}
