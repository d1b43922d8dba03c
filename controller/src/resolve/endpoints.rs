//! Endpoints: what is behind a port of a Service. ExternalWorkloads are there by their labels; what runs in a cluster is
//! there because EndpointSlices say so.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::{IpAddr, SocketAddr},
};

use mesh_api::model::{
    Protocol, WorkloadId,
    destination::{Backend, Endpoint},
};

use crate::{
    index::Index,
    translate::{EndpointState, ServiceId, ServicePort, Slice, SliceEndpoint, SlicePort, Workload, WorkloadKind},
};

/// The endpoints behind port `number` of a Service.
///
/// Those that are on their way out are used only where nothing else is left; whoever is connected to one may stay.
pub(super) fn backend(index: &Index, id: &ServiceId, number: u16, port: &ServicePort) -> Backend {
    let mut found: BTreeMap<SocketAddr, (EndpointState, Endpoint)> = BTreeMap::new();
    // Where two claim one address, the better one has it, then the first by name.
    let mut add = |state: EndpointState, endpoint: Endpoint| match found.entry(endpoint.address) {
        Entry::Vacant(entry) => {
            entry.insert((state, endpoint));
        }
        Entry::Occupied(mut entry) if entry.get().0 < state => {
            entry.insert((state, endpoint));
        }
        Entry::Occupied(_) => {}
    };
    for (id, workload) in index.members(id).filter(|(_, workload)| workload.kind == WorkloadKind::External) {
        let state = if workload.draining { EndpointState::Out } else { EndpointState::Ready };
        if let Some(number) = workload.port(&port.target) {
            for ip in &workload.addresses {
                add(state, endpoint(index, id.clone(), workload, SocketAddr::new(*ip, number)));
            }
        }
    }
    for slice in index.slices_of(id) {
        let Some(given) = slice_port(slice, port) else { continue };
        let number = given.number.unwrap_or(number);
        for (ip, given) in &slice.endpoints {
            if let Some((state, endpoint)) = of_slice(index, id, *ip, number, given) {
                add(state, endpoint);
            }
        }
    }
    let best = found.values().map(|(state, _)| *state).max().filter(|state| *state > EndpointState::Out);
    let endpoints = found.into_iter().map(|(address, (state, endpoint))| {
        let ready = Some(state) == best;
        (address, Endpoint { ready, ..endpoint })
    });
    Backend { protocol: protocol(index, id, port), endpoints: endpoints.collect() }
}

fn slice_port<'a>(slice: &'a Slice, port: &ServicePort) -> Option<&'a SlicePort> {
    slice.ports.get(port.name.as_deref().unwrap_or_default())
}

/// An endpoint of a slice. `None` while the Pod that is said to be there is not known to be: the slice is older than
/// what is known of Pods, or newer, and to take a member for somebody else would send to it in plain.
fn of_slice(
    index: &Index,
    service: &ServiceId,
    ip: IpAddr,
    number: u16,
    given: &SliceEndpoint,
) -> Option<(EndpointState, Endpoint)> {
    let address = SocketAddr::new(ip, number);
    let there = match &given.pod {
        Some(id) => {
            let is_there = |pod: &&Workload| pod.kind != WorkloadKind::External && pod.addresses.contains(&ip);
            Some((id, index.workload(id).filter(is_there)?))
        }
        None => index.workloads_at(ip).first().copied(),
    };
    let Some((id, workload)) = there else {
        let workload = WorkloadId { namespace: service.namespace.clone(), name: "".into() };
        let (owner, zone) = ("".into(), given.zone.clone());
        let plain = Endpoint { address, identity: None, workload, owner, zone, weight: 1, ready: true };
        return Some((given.state, plain));
    };
    let state = if workload.draining { given.state.min(EndpointState::Leaving) } else { given.state };
    let mut endpoint = endpoint(index, id.clone(), workload, address);
    if !given.zone.is_empty() {
        endpoint.zone = given.zone.clone();
    }
    Some((state, endpoint))
}

/// An instance as an endpoint.
pub(super) fn endpoint(index: &Index, id: WorkloadId, workload: &Workload, address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        identity: workload.identity_at(address.port()).cloned(),
        workload: id,
        owner: workload.owner.clone(),
        zone: index.zone_of(workload),
        weight: workload.weight,
        ready: !workload.draining,
    }
}

/// What a Service's port speaks: what the Service says, else what all its workloads that say anything agree on.
pub(super) fn protocol(index: &Index, id: &ServiceId, port: &ServicePort) -> Protocol {
    if let Some(protocol) = port.protocol {
        return protocol;
    }
    let by_workloads = index.members(id).filter_map(|(_, workload)| workload.protocol(workload.port(&port.target)?));
    let by_slices = index.slices_of(id).filter_map(|slice| slice_port(slice, port)?.protocol);
    let said: BTreeSet<Protocol> = by_workloads.chain(by_slices).collect();
    let mut said = said.into_iter();
    said.next().filter(|_| said.next().is_none()).unwrap_or_default()
}
