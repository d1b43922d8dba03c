//! EndpointSlices. A fault costs the endpoint or the port it is in, never the slice.

use std::{collections::BTreeMap, net::IpAddr};

use mesh_api::{
    model::{Name, Protocol, WorkloadId},
    resources::{EndpointSlice, LABEL_SERVICE, SliceConditions, SliceEndpoint as Given},
};

use super::{EndpointState, Part, ServiceId, Slice, SliceEndpoint, SlicePort, Verdict};
use crate::problem::{Findings, Reason};

pub(super) fn translate(object: &EndpointSlice, findings: &mut Findings) -> Verdict {
    let namespace: Name = object.metadata.namespace.as_str().into();
    // One of no Service is somebody else's; names (`FQDN`) are nothing that the mesh can connect to.
    let Some(service) = object.metadata.labels.get(LABEL_SERVICE).filter(|_| object.address_type != "FQDN") else {
        return Verdict::Gone;
    };
    let service = ServiceId { namespace: namespace.clone(), name: service.as_str().into() };
    let mut endpoints: BTreeMap<IpAddr, SliceEndpoint> = BTreeMap::new();
    for (at, given) in object.endpoints.iter().enumerate() {
        // Of several addresses the first counts, as it does for everybody else.
        let Some(text) = given.addresses.first() else { continue };
        let Ok(ip) = text.parse::<IpAddr>() else {
            let message = format!("`{text}` is not an IP address; nobody can reach the endpoint");
            findings.report(format!("endpoints[{at}].addresses"), Reason::Invalid, message);
            continue;
        };
        let new = endpoint(given, &namespace);
        let known = endpoints.entry(ip.to_canonical()).or_insert_with(|| new.clone());
        if known.state < new.state {
            *known = new;
        }
    }
    Verdict::Accepted(Part::Slice(Slice { service, ports: ports(object), endpoints }))
}

fn endpoint(given: &Given, namespace: &Name) -> SliceEndpoint {
    let pod = given.target_ref.as_ref().filter(|target| target.kind == "Pod").map(|target| WorkloadId {
        namespace: if target.namespace.is_empty() { namespace.clone() } else { target.namespace.as_str().into() },
        name: target.name.as_str().into(),
    });
    SliceEndpoint { state: state(given.conditions), pod, zone: given.zone.as_deref().unwrap_or_default().into() }
}

/// What the standard says of conditions that are not given: ready is true, serving is as ready, terminating is false.
fn state(given: SliceConditions) -> EndpointState {
    let ready = given.ready.unwrap_or(true);
    let serving = given.serving.unwrap_or(ready);
    match (ready, serving, given.terminating.unwrap_or(false)) {
        (true, ..) => EndpointState::Ready,
        (false, true, true) => EndpointState::Leaving,
        _ => EndpointState::Out,
    }
}

fn ports(object: &EndpointSlice) -> BTreeMap<Name, SlicePort> {
    let tcp = object.ports.iter().filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    let one = |port: &mesh_api::resources::SlicePort| {
        let protocol = port.app_protocol.as_deref().and_then(Protocol::from_app_protocol);
        let number = port.port.filter(|number| *number > 0);
        (port.name.as_deref().unwrap_or_default().into(), SlicePort { number, protocol })
    };
    tcp.map(one).collect()
}
