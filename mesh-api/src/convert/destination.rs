//! Destinations and their changes between the model and the wire.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{Invalid, port_from, protocol_from, protocol_to, route};
use crate::{
    model::{
        WorkloadId,
        destination::{Backend, BackendDelta, BackendId, Destination, DestinationDelta, Endpoint},
        route::WeightedBackend,
    },
    proto,
};

/// From the wire.
///
/// # Errors
/// [`Invalid`] where a field says something impossible, or a rule names a backend that is not in the message.
pub fn destination_from_proto(value: proto::Destination) -> Result<Destination, Invalid> {
    let rule_count = value.rules.len();
    let destination = Destination {
        id: BackendId {
            namespace: value.namespace.into(),
            name: value.service.into(),
            port: port_from("port", value.port)?,
        },
        protocol: protocol_from(value.protocol),
        routes: collect("routes", value.routes, |entry| route::entry_from(entry, rule_count))?,
        rules: collect("rules", value.rules, route::rule_from)?,
        routed: value.routed,
        default_backends: collect("default_backends", value.default_backends, route::weighted_from)?,
        backends: collect("backends", value.backends, backend_from)?.into_iter().collect(),
    };
    let named = destination.rules.iter().flat_map(|rule| &rule.backends).chain(&destination.default_backends);
    if let Some(WeightedBackend { backend, .. }) =
        { named }.find(|used| !destination.backends.contains_key(&used.backend))
    {
        return Err(Invalid::new("backends", format!("{backend} is named by a rule and missing")));
    }
    Ok(destination)
}

/// To the wire.
#[must_use]
pub fn destination_to_proto(value: &Destination) -> proto::Destination {
    proto::Destination {
        namespace: value.id.namespace.to_string(),
        service: value.id.name.to_string(),
        port: u32::from(value.id.port),
        protocol: protocol_to(value.protocol),
        routes: value.routes.iter().map(route::entry_to).collect(),
        rules: value.rules.iter().map(route::rule_to).collect(),
        default_backends: value.default_backends.iter().map(route::weighted_to).collect(),
        backends: value.backends.iter().map(backend_to).collect(),
        routed: value.routed,
    }
}

/// From the wire.
///
/// # Errors
/// [`Invalid`] where a field says something impossible.
pub fn delta_from_proto(value: proto::DestinationDelta) -> Result<DestinationDelta, Invalid> {
    let backends = collect("backends", value.backends, |change| {
        let id = backend_id_from(change.id.ok_or_else(|| Invalid::new("id", "missing"))?)?;
        let change = BackendDelta {
            upsert: endpoints_from(change.upsert)?,
            remove: collect("remove", change.remove, |text| address_from(&text))?,
        };
        Ok((id, change))
    })?;
    Ok(DestinationDelta { backends: backends.into_iter().collect() })
}

/// To the wire; `base_version` is the version that the change applies to.
#[must_use]
pub fn delta_to_proto(value: &DestinationDelta, base_version: &str) -> proto::DestinationDelta {
    let backends = value.backends.iter().map(|(id, change)| proto::BackendDelta {
        id: Some(backend_id_to(id)),
        upsert: change.upsert.values().map(endpoint_to).collect(),
        remove: change.remove.iter().map(ToString::to_string).collect(),
    });
    proto::DestinationDelta { base_version: base_version.to_owned(), backends: backends.collect() }
}

pub(super) fn backend_id_from(value: proto::BackendId) -> Result<BackendId, Invalid> {
    Ok(BackendId {
        namespace: value.namespace.into(),
        name: value.name.into(),
        port: port_from("backend.port", value.port)?,
    })
}

pub(super) fn backend_id_to(value: &BackendId) -> proto::BackendId {
    proto::BackendId {
        namespace: value.namespace.to_string(),
        name: value.name.to_string(),
        port: u32::from(value.port),
    }
}

fn backend_from(value: proto::Backend) -> Result<(BackendId, Backend), Invalid> {
    let id = backend_id_from(value.id.ok_or_else(|| Invalid::new("id", "missing"))?)?;
    let endpoints = endpoints_from(value.endpoints)?;
    Ok((id, Backend { protocol: protocol_from(value.protocol), endpoints }))
}

fn backend_to((id, value): (&BackendId, &Backend)) -> proto::Backend {
    proto::Backend {
        id: Some(backend_id_to(id)),
        protocol: protocol_to(value.protocol),
        endpoints: value.endpoints.values().map(endpoint_to).collect(),
    }
}

fn endpoints_from(value: Vec<proto::Endpoint>) -> Result<BTreeMap<SocketAddr, Endpoint>, Invalid> {
    let endpoints = collect("endpoints", value, endpoint_from)?;
    Ok(endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint)).collect())
}

fn endpoint_from(value: proto::Endpoint) -> Result<Endpoint, Invalid> {
    // An identity that cannot be read must not turn the endpoint into a plain one.
    let identity = match value.identity.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| Invalid::new("identity", error))?),
    };
    Ok(Endpoint {
        address: address_from(&value.address)?,
        identity,
        workload: WorkloadId { namespace: value.namespace.into(), name: value.workload.into() },
        owner: value.owner.into(),
        zone: value.zone.into(),
        weight: value.weight,
        ready: value.ready,
    })
}

fn endpoint_to(value: &Endpoint) -> proto::Endpoint {
    proto::Endpoint {
        address: value.address.to_string(),
        identity: value.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        namespace: value.workload.namespace.to_string(),
        workload: value.workload.name.to_string(),
        owner: value.owner.to_string(),
        zone: value.zone.to_string(),
        weight: value.weight,
        ready: value.ready,
    }
}

fn address_from(text: &str) -> Result<SocketAddr, Invalid> {
    text.parse().map_err(|_| Invalid::new("address", format!("`{text}` is not IP:PORT")))
}

pub(super) fn collect<In, Out>(
    field: &str,
    values: Vec<In>,
    mut convert: impl FnMut(In) -> Result<Out, Invalid>,
) -> Result<Vec<Out>, Invalid> {
    let numbered = values.into_iter().enumerate();
    numbered.map(|(at, value)| convert(value).map_err(|invalid| invalid.within(&format!("{field}[{at}]")))).collect()
}
