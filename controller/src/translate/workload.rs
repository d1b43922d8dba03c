//! ExternalWorkloads.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_api::{
    model::{Name, is_dns_label},
    resources,
    spiffe::{SpiffeId, TrustDomain},
};

use super::{Part, PortSet, Verdict, Workload, WorkloadKind, WorkloadPort, service::protocol};
use crate::problem::{Findings, Reason};

/// Most ports of a workload.
const MAX_PORTS: usize = 256;
/// Largest weight; as in Gateway API.
const MAX_WEIGHT: u32 = 1_000_000;

pub(super) fn translate(
    object: &resources::ExternalWorkload,
    trust_domain: &TrustDomain,
    findings: &mut Findings,
) -> Verdict {
    let spec = &object.spec;
    let account: Name = spec.service_account.as_deref().unwrap_or("default").into();
    let identity =
        identity(trust_domain, &object.metadata.namespace, &account, findings).filter(|_| spec.sidecar.unwrap_or(true));
    let weight = spec.weight.unwrap_or(1);
    if weight > MAX_WEIGHT {
        findings.refuse("spec.weight", Reason::Invalid, format!("{weight} is more than {MAX_WEIGHT}"));
    }
    let ports = ports(&spec.ports, findings);
    let Some(address) = address(&spec.address, findings) else { return Verdict::Refused { stand_in: None } };
    let part = Part::Workload(Workload {
        kind: WorkloadKind::External,
        owner: object.metadata.name.as_str().into(),
        labels: object.metadata.labels.clone(),
        account,
        identity,
        addresses: [address].into(),
        zone: spec.zone.as_deref().unwrap_or_default().into(),
        node: "".into(),
        weight,
        draining: spec.draining,
        ports,
        opaque: PortSet::default(),
        direct: PortSet::default(),
        probes: BTreeMap::new(),
    });
    Verdict::of(findings, part, None)
}

fn identity(trust_domain: &TrustDomain, namespace: &str, account: &str, findings: &mut Findings) -> Option<SpiffeId> {
    match SpiffeId::workload(trust_domain, namespace, account) {
        Ok(identity) => Some(identity),
        Err(error) => {
            let message = format!("`{account}` in `{namespace}` makes no identity: {error}");
            findings.refuse("spec.serviceAccount", Reason::Invalid, message);
            None
        }
    }
}

fn address(text: &str, findings: &mut Findings) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    let usable = address.filter(|ip| !ip.is_unspecified() && !ip.is_multicast());
    if usable.is_none() {
        let message = format!("`{text}` is not the IP address of one host");
        findings.refuse("spec.address", Reason::Invalid, message);
    }
    usable
}

fn ports(ports: &[resources::WorkloadPort], findings: &mut Findings) -> BTreeMap<u16, WorkloadPort> {
    let mut out: BTreeMap<u16, WorkloadPort> = BTreeMap::new();
    if ports.len() > MAX_PORTS {
        findings.refuse("spec.ports", Reason::TooLarge, format!("{} ports, at most {MAX_PORTS}", ports.len()));
    }
    for (at, port) in ports.iter().take(MAX_PORTS).enumerate() {
        let field = format!("spec.ports[{at}]");
        if port.port == 0 {
            findings.refuse(format!("{field}.port"), Reason::Invalid, "a port is a number from 1 to 65535");
        }
        if let Some(name) = &port.name {
            if !is_dns_label(name) {
                let message = format!("`{name}` is not a port name (a-z, 0-9 and -)");
                findings.refuse(format!("{field}.name"), Reason::Invalid, message);
            }
            if out.values().any(|other| other.name.as_deref() == Some(name)) {
                findings.refuse(format!("{field}.name"), Reason::Invalid, format!("`{name}` is there twice"));
            }
        }
        let protocol = protocol(port.app_protocol.as_deref(), &field, findings);
        let new = WorkloadPort { name: port.name.as_deref().map(Into::into), protocol };
        if out.insert(port.port, new).is_some() {
            findings.refuse(format!("{field}.port"), Reason::Invalid, format!("port {} is there twice", port.port));
        }
    }
    out
}
