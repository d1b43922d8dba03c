//! What `meshctl run` registers: which ports and labels a workload must have so that a Service selects it. Pure.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    path::Path,
};

use mesh_api::{
    model::Target,
    names,
    resources::{
        AppAddress, ExternalWorkload, ExternalWorkloadSpec, Metadata, Resource, Service, TargetPort, Upstream,
        WorkloadPort,
    },
};
use mesh_controller::source::load_dir;
use serde_json::{Value, json};

/// Label of workloads whose Service is made here.
const SERVICE_LABEL: &str = "mesh.dev/service";

/// What somebody wants to run.
#[derive(Clone, Debug)]
pub struct Joining {
    /// Namespace.
    pub namespace: String,
    /// Name of the workload.
    pub name: String,
    /// Service that it belongs to.
    pub service: String,
    /// Service account.
    pub account: String,
    /// Where the program listens.
    pub app: SocketAddr,
    /// Where it reaches others.
    pub upstreams: Vec<(Target, SocketAddr)>,
}

/// What is known of a mesh's manifests.
#[derive(Clone, Debug, Default)]
pub struct Known {
    services: Vec<Service>,
    /// Addresses that workloads have.
    pub addresses: HashSet<IpAddr>,
}

impl Known {
    /// Reads folders of manifests.
    #[must_use]
    pub fn read(folders: &[&Path]) -> Self {
        let mut known = Self::default();
        for located in folders.iter().flat_map(|folder| load_dir(folder).0) {
            match located.value {
                Resource::Service(service) => known.services.push(service),
                Resource::ExternalWorkload(workload) => known.addresses.extend(workload.spec.address.parse::<IpAddr>()),
                _ => {}
            }
        }
        known
    }

    fn service(&self, namespace: &str, name: &str) -> Option<&Service> {
        self.services.iter().find(|one| one.metadata.namespace == namespace && one.metadata.name == name)
    }

    /// The port on which peers reach the workload, which its own address must have free.
    ///
    /// # Errors
    /// Where the Service leaves open which port is meant.
    pub fn port(&self, joining: &Joining) -> Result<WorkloadPort, String> {
        let wanted = joining.app.port();
        let port = |port, name| WorkloadPort {
            name,
            port,
            app: Some(AppAddress::Address(joining.app.to_string())),
            app_protocol: None,
        };
        let Some(service) = self.service(&joining.namespace, &joining.service) else { return Ok(port(wanted, None)) };
        let target = |one: &mesh_api::resources::ServicePort| match &one.target_port {
            Some(TargetPort::Name(name)) => port(wanted, Some(name.clone())),
            Some(TargetPort::Number(number)) => port(*number, None),
            None => port(one.port, None),
        };
        let ports = &service.spec.ports;
        let meant = ports.iter().find(|one| target(one).port == wanted || one.port == wanted);
        match (meant, ports.as_slice()) {
            (Some(one), _) | (None, [one]) => Ok(target(one)),
            _ => {
                let all: Vec<_> = ports.iter().map(|one| one.port.to_string()).collect();
                let (name, all) = (&joining.service, all.join(", "));
                Err(format!(
                    "Service {name} has the ports {all}; none is {wanted}: let --port be one of them, and --app-port the program's"
                ))
            }
        }
    }

    /// The labels by which the Service selects the workload, and the Service itself where it has to be made.
    ///
    /// # Errors
    /// Where the Service selects nothing.
    pub fn labels(&self, joining: &Joining) -> Result<(BTreeMap<String, String>, Option<Value>), String> {
        match self.service(&joining.namespace, &joining.service) {
            Some(service) if service.spec.selector.is_empty() => {
                Err(format!("Service {} has no selector, so that no workload can belong to it", joining.service))
            }
            Some(service) => Ok((service.spec.selector.clone(), None)),
            None => {
                let labels = BTreeMap::from([(SERVICE_LABEL.to_owned(), joining.service.clone())]);
                let service = json!({
                    "apiVersion": "v1",
                    "kind": "Service",
                    "metadata": { "name": joining.service, "namespace": joining.namespace },
                    "spec": { "selector": labels, "ports": [{ "port": joining.app.port() }] },
                });
                Ok((labels, Some(service)))
            }
        }
    }
}

/// The workload as an object.
#[must_use]
pub fn workload(
    joining: &Joining,
    address: IpAddr,
    port: WorkloadPort,
    labels: BTreeMap<String, String>,
) -> ExternalWorkload {
    let upstreams = joining.upstreams.iter();
    ExternalWorkload {
        metadata: Metadata {
            name: joining.name.clone(),
            namespace: joining.namespace.clone(),
            labels,
            ..Metadata::default()
        },
        spec: ExternalWorkloadSpec {
            service_account: Some(joining.account.clone()),
            address: address.to_string(),
            ports: vec![port],
            upstreams: upstreams
                .map(|(target, listen)| Upstream {
                    service: target.to_string(),
                    listen: AppAddress::Address(listen.to_string()),
                })
                .collect(),
            ..ExternalWorkloadSpec::default()
        },
    }
}

/// A manifest of the workload, and of its Service where that is made here. While it is not `ready`, peers know it and
/// do not call it.
#[must_use]
pub fn manifest(workload: &ExternalWorkload, service: Option<&Value>, ready: bool) -> String {
    let mut spec = workload.spec.clone();
    spec.draining = !ready;
    let workload = json!({
        "apiVersion": names::API_VERSION,
        "kind": "ExternalWorkload",
        "metadata": workload.metadata,
        "spec": spec,
    });
    // A JSON object is a YAML document.
    service.into_iter().chain([&workload]).map(|object| format!("---\n{object:#}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::plan::plan;

    fn known(services: &str) -> (tempfile::TempDir, Known) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("s.yaml"), services).unwrap();
        let known = Known::read(&[dir.path()]);
        (dir, known)
    }

    fn joining(port: u16) -> Joining {
        Joining {
            namespace: "shop".into(),
            name: "pay-7".into(),
            service: "pay".into(),
            account: "pay".into(),
            app: SocketAddr::from(([127, 0, 0, 1], port)),
            upstreams: vec![("db.data:5432".parse().unwrap(), "127.0.0.1:15432".parse().unwrap())],
        }
    }

    fn service(ports: &str, selector: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: pay, namespace: shop}}\nspec: {{selector: {selector}, ports: {ports}}}\n"
        )
    }

    #[test]
    fn a_service_that_is_there_says_labels_and_port() {
        for (ports, wanted) in [
            ("[{port: 80, targetPort: 8080}]", Ok((8080, None))),
            ("[{port: 80, targetPort: 9999}]", Ok((9999, None))),
            ("[{port: 80, targetPort: web}]", Ok((8080, Some("web")))),
            ("[{port: 80}, {port: 8080, targetPort: 7}]", Ok((7, None))),
            ("[{port: 80}, {port: 81}]", Err("has the ports 80, 81; none is 8080")),
        ] {
            let (_dir, known) = known(&service(ports, "{app: pay}"));
            let got = known.port(&joining(8080));
            match (got, wanted) {
                (Ok(got), Ok((port, name))) => assert_eq!((got.port, got.name.as_deref()), (port, name), "{ports}"),
                (Err(got), Err(wanted)) => assert!(got.contains(wanted), "{got}"),
                (got, _) => panic!("{ports}: {got:?}"),
            }
            let (labels, made) = known.labels(&joining(8080)).unwrap();
            assert_eq!((labels["app"].as_str(), made), ("pay", None));
        }
        let (_dir, known) = known(&service("[]", "{}"));
        assert!(known.labels(&joining(8080)).unwrap_err().contains("no selector"));
    }

    #[test]
    fn what_is_registered_is_good_for_the_controller_and_for_the_runner() {
        let joining = joining(8080);
        let (dir, known) = known("");
        let (labels, service) = known.labels(&joining).unwrap();
        let port = known.port(&joining).unwrap();
        let workload = workload(&joining, "127.64.0.9".parse().unwrap(), port, labels);
        for ready in [false, true] {
            std::fs::write(dir.path().join("s.yaml"), manifest(&workload, service.as_ref(), ready)).unwrap();
            let (objects, problems) = load_dir(dir.path());
            assert!(problems.is_empty(), "{problems:?}");
            let objects: Vec<_> = objects.into_iter().map(|object| object.value).collect();
            let [Resource::Service(service), Resource::ExternalWorkload(read)] = objects.as_slice() else {
                panic!("{objects:?}")
            };
            assert_eq!(read.spec.draining, !ready);
            assert!(service.spec.selector.iter().all(|pair| read.metadata.labels.iter().any(|label| label == pair)));
            let sidecar = plan(read, dir.path()).unwrap().sidecar.unwrap();
            let wanted = ("127.64.0.9:8080".parse().unwrap(), "127.0.0.1:8080".parse().unwrap());
            assert_eq!((sidecar.inbound, sidecar.outbound.len()), (vec![wanted], 1));
        }
    }
}
