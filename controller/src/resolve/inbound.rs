//! Inbound policy: who may call a workload, and how.

use std::collections::{BTreeMap, BTreeSet};

use mesh_api::model::{
    Name, Protocol, WorkloadId,
    policy::{AuthorizationPolicy, InboundPolicy, PortPolicy, Transport},
};

use super::{NotFound, destination::fronts};
use crate::{
    index::Index,
    translate::{Authorization, Closeness, Targets, Workload},
};

/// All that the inbound side of one workload must know.
///
/// A policy for a Service holds on the ports of the workload to which that Service leads, and on no others.
///
/// # Errors
/// [`NotFound`] where there is no such workload.
pub fn inbound(index: &Index, id: &WorkloadId) -> Result<InboundPolicy, NotFound> {
    let workload = index.workload(id).ok_or_else(|| NotFound::Workload(id.to_string()))?;
    let mut ports: BTreeMap<u16, PortPolicy> = BTreeMap::new();
    for number in served_ports(index, id, workload) {
        ports.insert(number, port_policy(index, id, workload, Some(number)));
    }
    Ok(InboundPolicy {
        workload: id.clone(),
        service_account: workload.account.clone(),
        ports,
        default_port: port_policy(index, id, workload, None),
    })
}

/// Ports that the workload declares, those it is asked by for its health, and those that Services lead to.
fn served_ports(index: &Index, id: &WorkloadId, workload: &Workload) -> BTreeSet<u16> {
    let mut ports: BTreeSet<u16> = workload.ports.keys().chain(workload.probes.keys()).copied().collect();
    ports.extend(workload.opaque.ports());
    for (_, service) in index.services_of(id) {
        ports.extend(service.ports.values().filter_map(|port| workload.port(&port.target)));
    }
    // Exceptions of transport policies name ports too.
    for policy in index.transports(&id.namespace) {
        if policy.targets.workload(id, workload).is_some() {
            ports.extend(policy.ports.keys());
        }
    }
    ports
}

/// What holds on one port; `None`: on every port that nothing names.
fn port_policy(index: &Index, id: &WorkloadId, workload: &Workload, number: Option<u16>) -> PortPolicy {
    let mut services: BTreeSet<Name> = BTreeSet::new();
    let mut said: Option<Protocol> = None;
    if let Some(number) = number {
        said = workload.protocol(number);
        for front in fronts(index, id, workload, number) {
            said = said.or(front.port.protocol);
            services.insert(front.id.name);
        }
    }
    let closeness = |targets: &Targets| {
        let by_service = targets.services.iter().any(|name| services.contains(name)).then_some(Closeness::Service);
        targets.workload(id, workload).max(by_service)
    };
    PortPolicy {
        protocol: said.unwrap_or_default(),
        transport: transport(index, &id.namespace, number, closeness),
        policies: authorizations(index, &id.namespace, closeness),
        default_allow: index.settings().default_allow,
        probes: number.and_then(|number| workload.probes.get(&number)).into_iter().flatten().cloned().collect(),
    }
}

/// The closest policy holds; of several that are as close, the oldest.
fn transport(
    index: &Index,
    namespace: &str,
    number: Option<u16>,
    closeness: impl Fn(&Targets) -> Option<Closeness>,
) -> Transport {
    let candidates = index.transports(namespace).filter_map(|policy| Some((closeness(&policy.targets)?, policy)));
    let closest = candidates.max_by(|(one, this), (other, that)| one.cmp(other).then(that.rank.cmp(&this.rank)));
    closest.map_or(index.settings().default_transport, |(_, policy)| number.map_or(policy.mode, |n| policy.mode(n)))
}

/// Deny, then allow, then audit; within each the oldest first.
fn authorizations(
    index: &Index,
    namespace: &str,
    closeness: impl Fn(&Targets) -> Option<Closeness>,
) -> Vec<AuthorizationPolicy> {
    let targeting = index.authorizations(namespace).filter(|policy| closeness(&policy.targets).is_some());
    let mut policies: Vec<&Authorization> = targeting.collect();
    policies.sort_by(|one, other| (one.action, &one.rank).cmp(&(other.action, &other.rank)));
    let model = |policy: &Authorization| AuthorizationPolicy {
        origin: policy.origin.clone(),
        action: policy.action,
        rules: policy.rules.clone(),
    };
    policies.into_iter().map(model).collect()
}
