//! Pods. A fault costs what it is in (an annotation, a probe), never the Pod: its policies must hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_api::{
    model::policy::Probe,
    names,
    resources::{Container, Pod, Probe as Asked, TargetPort},
    spiffe::{SpiffeId, TrustDomain},
};

use super::{Part, PortSet, Verdict, Workload, WorkloadKind, WorkloadPort};
use crate::problem::{Findings, Reason};

/// Most ports that an annotation can make opaque: each stands in the Pod's policy.
const MAX_OPAQUE: usize = 1024;
/// What gRPC's health protocol calls.
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

pub(super) fn translate(object: &Pod, trust_domain: &TrustDomain, findings: &mut Findings) -> Verdict {
    // A Pod that has ended keeps its address in its status, which may be another's by now.
    if matches!(object.status.phase.as_str(), "Succeeded" | "Failed") {
        return Verdict::Gone;
    }
    let (metadata, spec) = (&object.metadata, &object.spec);
    let account = if spec.service_account_name.is_empty() { "default" } else { &spec.service_account_name };
    let kind = if spec.host_network { WorkloadKind::HostPod } else { WorkloadKind::Pod };
    let injected = metadata.labels.get(names::LABEL_INJECTED).is_some_and(|value| value == names::INJECTED_VALUE);
    let identity = if injected && kind == WorkloadKind::Pod {
        let identity = SpiffeId::workload(trust_domain, &metadata.namespace, account);
        let wrong = |error| {
            let message = format!("`{account}` in `{}` makes no identity: {error}", metadata.namespace);
            findings.report("spec.serviceAccountName", Reason::Invalid, message);
        };
        identity.map_err(wrong).ok()
    } else {
        None
    };
    let containers: Vec<&Container> = running(object).collect();
    let direct = direct(object, findings);
    Verdict::Accepted(Part::Workload(Workload {
        kind,
        owner: metadata.workload().into(),
        labels: metadata.labels.clone(),
        account: account.into(),
        identity,
        addresses: addresses(object, findings),
        zone: "".into(),
        node: spec.node_name.as_str().into(),
        weight: 1,
        draining: metadata.deletion_timestamp.is_some(),
        ports: ports(&containers),
        opaque: opaque(object, findings),
        direct: direct.and(&PortSet::of(&[names::PORT_ADMIN])),
        probes: probes(&containers),
    }))
}

/// The application's containers that run for as long as the Pod does.
fn running(object: &Pod) -> impl Iterator<Item = &Container> {
    let stays = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let beside = object.spec.init_containers.iter().filter(stays);
    beside.chain(&object.spec.containers).filter(|container| container.name != names::PROXY_CONTAINER)
}

fn addresses(object: &Pod, findings: &mut Findings) -> BTreeSet<IpAddr> {
    let mut addresses = BTreeSet::new();
    let all = object.status.pod_ips.iter().map(|ip| &ip.ip).chain([&object.status.pod_ip]);
    for text in all.filter(|text| !text.is_empty()) {
        match text.parse::<IpAddr>() {
            Ok(ip) => {
                addresses.insert(ip.to_canonical());
            }
            Err(_) => {
                let message = format!("`{text}` is not an IP address; nobody can reach the Pod by it");
                findings.report("status.podIPs", Reason::Invalid, message);
            }
        }
    }
    addresses
}

/// Ports that the sidecar does not stand before: what was decided when the Pod got it, which is more than its own
/// annotation says where the mesh skips ports everywhere.
fn direct(object: &Pod, findings: &mut Findings) -> PortSet {
    #[derive(serde::Deserialize)]
    struct Record {
        redirect: Vec<String>,
    }
    let record = object.metadata.annotations.get(names::ANNOTATION_INJECTION);
    match record.and_then(|text| serde_json::from_str::<Record>(text).ok()) {
        Some(record) => {
            let skipped = record.redirect.iter().find_map(|flag| flag.strip_prefix("--skip-inbound-ports="));
            PortSet::parse(skipped.unwrap_or_default()).unwrap_or_default()
        }
        None => annotation(object, names::ANNOTATION_SKIP_INBOUND_PORTS, findings),
    }
}

fn annotation(object: &Pod, name: &str, findings: &mut Findings) -> PortSet {
    let Some(text) = object.metadata.annotations.get(name) else { return PortSet::default() };
    PortSet::parse(text).unwrap_or_else(|message| {
        findings.report(format!("metadata.annotations[{name}]"), Reason::Invalid, message);
        PortSet::default()
    })
}

fn opaque(object: &Pod, findings: &mut Findings) -> PortSet {
    let name = names::ANNOTATION_OPAQUE_PORTS;
    let set = annotation(object, name, findings);
    if set.len() <= MAX_OPAQUE {
        return set;
    }
    let message = format!("{} ports, at most {MAX_OPAQUE} are allowed; the annotation is passed over", set.len());
    findings.report(format!("metadata.annotations[{name}]"), Reason::TooLarge, message);
    PortSet::default()
}

fn ports(containers: &[&Container]) -> BTreeMap<u16, WorkloadPort> {
    let mut ports: BTreeMap<u16, WorkloadPort> = BTreeMap::new();
    for port in containers.iter().flat_map(|container| &container.ports) {
        let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        if tcp && port.container_port > 0 {
            // Of two containers that declare one port the first holds, as it does where Kubernetes looks up names.
            let new = || WorkloadPort { name: port.name.as_deref().map(Into::into), protocol: None };
            ports.entry(port.container_port).or_insert_with(new);
        }
    }
    ports
}

/// What the kubelet asks the Pod by. It has no identity, so these requests have to be let in by what they are. For a bare
/// connection, for one over the application's own TLS, and for hooks, it asks the sidecar (`inject/probes.rs`).
fn probes(containers: &[&Container]) -> BTreeMap<u16, BTreeSet<Probe>> {
    let mut probes: BTreeMap<u16, BTreeSet<Probe>> = BTreeMap::new();
    for container in containers {
        let health = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
        for asked in health.into_iter().flatten() {
            if let Some((port, probe)) = probe(container, asked) {
                probes.entry(port).or_default().insert(probe);
            }
        }
    }
    probes
}

fn probe(container: &Container, asked: &Asked) -> Option<(u16, Probe)> {
    if let Some(grpc) = &asked.grpc {
        return Some((grpc.port, Probe { method: "POST".into(), path: GRPC_HEALTH.into() }));
    }
    let get = asked.http_get.as_ref()?;
    let elsewhere = get.host.as_deref().is_some_and(|host| !host.is_empty());
    let encrypted = get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    if elsewhere || encrypted {
        return None;
    }
    let number = match &get.port {
        TargetPort::Number(number) => *number,
        TargetPort::Name(name) => container.ports.iter().find(|port| port.name.as_ref() == Some(name))?.container_port,
    };
    // What the sidecar is asked for does not come by it.
    if number == names::PORT_ADMIN {
        return None;
    }
    let path = get.path.as_deref().unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let path = if path.starts_with('/') { path.into() } else { format!("/{path}").into() };
    Some((number, Probe { method: "GET".into(), path }))
}
