//! The objects of the cluster as an API server shows them. Pure; each is worked out when it is asked for, so that a cluster of
//! a hundred thousand pods takes no memory here.

use std::net::Ipv4Addr;

use mesh_api::names;
use serde_json::{Value, json};

use super::plan::{ENDPOINTS, Kind, PER_NODE, PORTS, Plan, pod_name, service_name};

/// First virtual address of services, and first address of pods.
const ADDRESSES: [u32; 2] = [0x0a60_0001, 0x0a80_0001];

/// What became of one object since the start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Version of the object.
    pub version: u64,
    /// How often its spec changed.
    pub changes: i64,
    /// Status that was written to it.
    pub status: Option<Value>,
}

impl Plan {
    /// An object as an API server shows it. A pod or slice that changed an odd number of times has its (last) endpoint
    /// on its way out.
    #[must_use]
    pub fn object(&self, kind: Kind, number: usize, state: &State) -> Value {
        let mut object = match kind {
            Kind::Namespace => json!({"metadata": {"name": format!("ns-{number}")}}),
            Kind::Node => node(number),
            Kind::Pod => self.pod(number, state.changes % 2 == 1),
            Kind::Service => self.service(number),
            Kind::EndpointSlice => self.slice(number, state.changes % 2 == 1),
            Kind::TransportPolicy => policy(number, kind, &json!({"mode": "Strict"})),
            Kind::AuthorizationPolicy => {
                let from = json!([{"namespaces": [format!("ns-{number}")]}]);
                policy(number, kind, &json!({"action": "Allow", "rules": [{"from": from}]}))
            }
        };
        let metadata = &mut object["metadata"];
        metadata["uid"] = format!("{:08x}-0000-4000-8000-{number:012x}", kind as u32).into();
        metadata["resourceVersion"] = state.version.to_string().into();
        metadata["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        // As API servers do: these have a generation, and what is under `status` or `metadata` does not count.
        if matches!(kind, Kind::EndpointSlice | Kind::TransportPolicy | Kind::AuthorizationPolicy) {
            metadata["generation"] = (1 + state.changes).into();
        } else if kind == Kind::Pod {
            metadata["generation"] = (1 + state.changes % 2).into();
        }
        if let Some(status) = &state.status {
            object["status"] = status.clone();
        }
        object
    }

    fn pod(&self, number: usize, leaves: bool) -> Value {
        let (service, nth) = (number / ENDPOINTS, number % ENDPOINTS);
        let (app, ip) = (service_name(service), address(ADDRESSES[1], number));
        let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"].map(condition);
        let mut pod = json!({
            "metadata": {
                "name": pod_name(number), "generateName": format!("{app}-7c9f8d6b5-"), "namespace": self.namespace(service),
                "labels": {"app": app, "pod-template-hash": "7c9f8d6b5", (names::LABEL_INJECTED): names::INJECTED_VALUE},
                "annotations": {
                    (names::ANNOTATION_INJECTION): "{\"redirect\":[\"--proxy-uid=15400\"]}",
                    "prometheus.io/scrape": "true", "prometheus.io/port": "9090",
                },
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7c9f8d6b5"), "controller": true,
                    "blockOwnerDeletion": true, "uid": format!("00000000-0000-4000-9000-{service:012x}"),
                }],
            },
            "spec": {
                "serviceAccountName": app, "nodeName": node_name(number), "restartPolicy": "Always",
                "initContainers": [container(names::PROXY_CONTAINER, &json!([]))],
                "containers": [container("app", &json!([{"name": "http", "containerPort": PORTS[1], "protocol": "TCP"}]))],
                "tolerations": [
                    {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
                    {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
                ],
            },
            "status": {
                "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": "192.168.0.1", "qosClass": "Burstable",
                "startTime": "2026-01-01T00:00:00Z",
                "conditions": conditions,
                "containerStatuses": [{"name": "app", "ready": true, "restartCount": nth, "image": "registry.example/app:1"}],
            },
        });
        if leaves {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T01:00:00Z".into();
            pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        }
        pod
    }

    fn service(&self, number: usize) -> Value {
        let (app, ip) = (service_name(number), address(ADDRESSES[0], number));
        let port =
            json!({"name": "http", "port": PORTS[0], "targetPort": PORTS[1], "appProtocol": "http", "protocol": "TCP"});
        json!({
            "metadata": {"name": app, "namespace": self.namespace(number), "labels": {"app": app}},
            "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": app}, "ports": [port]},
        })
    }

    fn slice(&self, number: usize, leaves: bool) -> Value {
        let (app, namespace) = (service_name(number), self.namespace(number));
        let endpoint = |nth: usize| {
            let pod = number * ENDPOINTS + nth;
            let ready = !(leaves && nth == ENDPOINTS - 1);
            json!({
                "addresses": [address(ADDRESSES[1], pod)], "nodeName": node_name(pod), "zone": zone(pod),
                "conditions": {"ready": ready, "serving": ready, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": namespace, "name": pod_name(pod)},
            })
        };
        json!({
            "metadata": {
                "name": format!("{app}-x2kq9"), "namespace": namespace,
                "labels": {
                    "kubernetes.io/service-name": app,
                    "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                },
            },
            "addressType": "IPv4",
            "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": PORTS[1], "protocol": "TCP", "appProtocol": "http"}],
        })
    }
}

fn node_name(pod: usize) -> String {
    format!("node-{}", pod / PER_NODE)
}

fn zone(pod: usize) -> String {
    format!("zone-{}", pod / PER_NODE % 3)
}

fn address(first: u32, number: usize) -> String {
    Ipv4Addr::from(first.wrapping_add(u32::try_from(number).unwrap_or(0))).to_string()
}

fn node(number: usize) -> Value {
    let zone = zone(number * PER_NODE);
    json!({"metadata": {"name": format!("node-{number}"), "labels": {"topology.kubernetes.io/zone": zone}}})
}

fn policy(namespace: usize, kind: Kind, spec: &Value) -> Value {
    json!({
        "apiVersion": names::API_VERSION, "kind": format!("{kind:?}"), "spec": spec,
        "metadata": {"name": "all", "namespace": format!("ns-{namespace}")},
    })
}

fn container(name: &str, ports: &Value) -> Value {
    json!({
        "name": name, "image": "registry.example/app:1", "imagePullPolicy": "IfNotPresent", "ports": ports,
        "restartPolicy": if name == names::PROXY_CONTAINER { Value::from("Always") } else { Value::Null },
        "env": [{"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, {"name": "MODE", "value": "x"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets", "readOnly": true}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { services: 1000, per_namespace: 100 };

    #[test]
    fn what_changes_is_one_endpoint_and_its_version() {
        let [before, after] =
            [0, 1].map(|changes| PLAN.object(Kind::EndpointSlice, 3, &State { version: 7, changes, status: None }));
        assert_eq!(before["endpoints"].as_array().unwrap().len(), ENDPOINTS);
        let ready = |slice: &Value| {
            let all = slice["endpoints"].as_array().unwrap().iter();
            all.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
        };
        assert_eq!((ready(&before), ready(&after)), (10, 9));
        assert_eq!((&before["metadata"]["generation"], &after["metadata"]["generation"]), (&json!(1), &json!(2)));
        let address = before["endpoints"][9]["addresses"][0].clone();
        assert_eq!(PLAN.object(Kind::Pod, 39, &State::default())["status"]["podIP"], address);
    }
}
