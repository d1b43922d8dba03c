//! Objects for tests, from YAML as users write it.

use std::sync::Arc;

use mesh_api::{
    model::{ObjectRef, Target, WorkloadId, policy::Transport},
    resources::Resource,
};

use crate::{
    index::{Index, Settings},
    resolve::Client,
    source::decode::decode,
};

/// All objects of a text that must be good.
pub fn objects(yaml: &str) -> Vec<Resource> {
    let decoded = decode(&Arc::new("test.yaml".into()), yaml);
    assert!(decoded.problems.is_empty(), "{:#?}", decoded.problems);
    decoded.objects.into_iter().map(|located| located.value).collect()
}

/// All objects of a text, as an API server holds them; they must be good.
pub fn cluster(yaml: &str) -> Vec<Resource> {
    let documents = yaml.split("\n---\n").filter(|text| !text.trim().is_empty());
    let read = |text: &str| {
        let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
        let read = crate::source::object::read(value["kind"].as_str().unwrap(), &value);
        *read.outcome.unwrap_or_else(|problem| panic!("{problem}"))
    };
    documents.map(read).collect()
}

/// The one object of a text that must be good.
pub fn object(yaml: &str) -> Resource {
    let mut objects = objects(yaml);
    assert_eq!(objects.len(), 1);
    objects.remove(0)
}

/// Settings of a permissive mesh with trust domain `td`.
pub fn settings() -> Settings {
    Settings { trust_domain: "td".parse().unwrap(), default_transport: Transport::Permissive, default_allow: true }
}

/// An index of these objects.
pub fn index(yaml: &str) -> Index {
    index_of(&objects(yaml))
}

/// An index of these objects.
pub fn index_of(objects: &[Resource]) -> Index {
    let mut index = Index::new(settings());
    for object in objects {
        index.apply(object);
    }
    index
}

pub fn client(namespace: &str) -> Client {
    Client { namespace: namespace.into() }
}

pub fn target(text: &str) -> Target {
    text.parse().unwrap()
}

pub fn workload_id(namespace: &str, name: &str) -> WorkloadId {
    WorkloadId { namespace: namespace.into(), name: name.into() }
}

pub fn object_ref(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

/// A Service `web` in `shop`, port 80 to port 8080, with two workloads; and a Service `api` beside it.
pub const SHOP: &str = r"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, appProtocol: http}]
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: web-1, namespace: shop, labels: {app: web, track: stable}}
spec: {serviceAccount: web, address: 10.0.0.1, zone: a, ports: [{name: http, port: 8080}]}
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: web-2, namespace: shop, labels: {app: web, track: canary}}
spec: {serviceAccount: web, address: 10.0.0.2, zone: b, ports: [{name: http, port: 8081}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.96.0.2
  selector: {app: api}
  ports: [{port: 80, targetPort: 9000}]
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {name: api-1, namespace: shop, labels: {app: api}}
spec: {serviceAccount: api, address: 10.0.1.1, ports: [{port: 9000, appProtocol: grpc}]}
";

/// What a cluster holds of two Services in `shop`: `web`, port 80 to the port named `http`, with two members and one Pod
/// without a sidecar, on two nodes; and headless `db` with two members.
pub const CLUSTER: &str = r"
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: a}}
---
kind: Node
metadata: {name: n2, labels: {topology.kubernetes.io/zone: b}}
---
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, 'fd00:96::1']
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, appProtocol: http}]
---
kind: Pod
metadata:
  name: web-7d4b9c-aaaaa
  namespace: shop
  labels: {app: web, pod-template-hash: 7d4b9c, mesh.dev/injected: 'true'}
  ownerReferences: [{kind: ReplicaSet, name: web-7d4b9c, controller: true}]
spec:
  serviceAccountName: web
  nodeName: n1
  initContainers: [{name: mesh-proxy, restartPolicy: Always, ports: [{containerPort: 15490}]}]
  containers:
  - name: app
    ports: [{name: http, containerPort: 8080}, {name: dns, containerPort: 53, protocol: UDP}]
    readinessProbe: {httpGet: {path: '/ready?full=1', port: http}}
    livenessProbe: {grpc: {port: 9000}}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
kind: Pod
metadata:
  name: web-7d4b9c-bbbbb
  namespace: shop
  labels: {app: web, pod-template-hash: 7d4b9c, mesh.dev/injected: 'true'}
  ownerReferences: [{kind: ReplicaSet, name: web-7d4b9c, controller: true}]
spec: {serviceAccountName: web, nodeName: n2, containers: [{name: app, ports: [{name: http, containerPort: 8080}]}]}
status: {phase: Running, podIP: 10.0.0.2}
---
kind: Pod
metadata: {name: old, namespace: shop, labels: {app: web}}
spec: {nodeName: n2, containers: [{name: app, ports: [{name: http, containerPort: 8081}]}]}
status: {phase: Running, podIP: 10.0.0.3}
---
kind: EndpointSlice
metadata: {name: web-x1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP, appProtocol: http}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: web-7d4b9c-aaaaa}, zone: a}
- {addresses: [10.0.0.2], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: web-7d4b9c-bbbbb}}
---
kind: EndpointSlice
metadata: {name: web-x2, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8081, protocol: TCP}]
endpoints:
- {addresses: [10.0.0.3], conditions: {ready: true}, targetRef: {kind: Pod, name: old}}
---
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 5432, targetPort: 5432}]}
---
kind: Pod
metadata:
  name: db-0
  namespace: shop
  labels: {app: db, mesh.dev/injected: 'true'}
  annotations: {mesh.dev/opaque-ports: '5432'}
  ownerReferences: [{kind: StatefulSet, name: db, controller: true}]
spec: {serviceAccountName: db, nodeName: n1, containers: [{name: db}]}
status: {phase: Running, podIP: 10.0.1.1}
---
kind: EndpointSlice
metadata: {name: db-x1, namespace: shop, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: '', port: 5432}]
endpoints:
- {addresses: [10.0.1.1], conditions: {ready: true}, targetRef: {kind: Pod, namespace: shop, name: db-0}}
";
