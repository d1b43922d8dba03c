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
