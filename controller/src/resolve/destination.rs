//! Destinations: where an outbound connection or request may go.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh_api::model::{
    Name, Target, WorkloadId,
    destination::{Backend, BackendId, Destination, Endpoint},
    route::{Filter, RouteEntry, Rule, WeightedBackend},
};

use super::{
    Client, NotFound,
    endpoints::{backend, endpoint, protocol},
    precedence::Precedence,
};
use crate::{
    index::Index,
    translate::{Route, RouteBackend, Service, ServiceId, ServicePort, Workload, WorkloadKind},
};

/// Which clients share one answer. Equal scope, equal answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All clients that may know the target.
    Shared,
    /// Clients of this namespace, which has routes of its own for the target (consumer routes, GEP-1294).
    Namespace(Name),
}

/// What a target turns out to be.
enum Place<'a> {
    Service { id: ServiceId, number: u16, port: &'a ServicePort },
    Workload { id: WorkloadId, workload: &'a Workload, address: SocketAddr },
}

/// All about one target, for one client.
///
/// # Errors
/// [`NotFound`], also where the client may not know the target.
pub fn destination(index: &Index, target: &Target, client: &Client) -> Result<Destination, NotFound> {
    Ok(match locate(index, target, client)? {
        Place::Service { id, number, port } => of_service(index, &id, number, port, client),
        Place::Workload { id, workload, address } => of_workload(index, &id, workload, address, client),
    })
}

/// Which clients share the answer that this one gets. Much cheaper than the answer.
///
/// # Errors
/// [`NotFound`], exactly where [`destination`] fails.
pub fn scope(index: &Index, target: &Target, client: &Client) -> Result<Scope, NotFound> {
    Ok(match locate(index, target, client)? {
        Place::Service { id, number, port, .. } if has_consumer_routes(index, &id, number, port, client) => {
            Scope::Namespace(client.namespace.clone())
        }
        Place::Service { .. } => Scope::Shared,
        // Which Service gives the protocol depends on what the client may know.
        Place::Workload { .. } => Scope::Namespace(client.namespace.clone()),
    })
}

fn locate<'a>(index: &'a Index, target: &Target, client: &Client) -> Result<Place<'a>, NotFound> {
    match target {
        Target::Service { namespace, name, port: number } => {
            let id = ServiceId { namespace: namespace.clone(), name: name.clone() };
            let known = index.service(&id).filter(|service| service.export.allows(&client.namespace));
            let service = known.ok_or_else(|| NotFound::Service(id.to_string()))?;
            let port = service.ports.get(number);
            let port = port.ok_or_else(|| NotFound::Port { service: id.to_string(), port: *number })?;
            Ok(Place::Service { id, number: *number, port })
        }
        Target::Address(address) => at_address(index, *address, client),
    }
}

fn at_address<'a>(index: &'a Index, address: SocketAddr, client: &Client) -> Result<Place<'a>, NotFound> {
    let number = address.port();
    let mut undeclared = None;
    for (id, service) in index.services_at(address.ip()).filter(|(_, service)| service.export.allows(&client.namespace))
    {
        if let Some(port) = service.ports.get(&number) {
            return Ok(Place::Service { id: id.clone(), number, port });
        }
        undeclared.get_or_insert_with(|| NotFound::Port { service: id.to_string(), port: number });
    }
    for (id, workload) in index.workloads_at(address.ip()) {
        let mut fronts = fronts(index, id, workload, number).peekable();
        // What a Pod declares is for people to read; it listens where it likes.
        let pod = workload.kind == WorkloadKind::Pod;
        let listens = pod || workload.ports.contains_key(&number) || fronts.peek().is_some();
        // Behind Services of which the client may know none, it may not know the workload either.
        let hidden = fronts.peek().is_some() && !fronts.any(|front| front.service.export.allows(&client.namespace));
        if listens && !hidden {
            return Ok(Place::Workload { id: id.clone(), workload, address });
        }
    }
    Err(undeclared.unwrap_or(NotFound::Address(address)))
}

/// A port of a Service that leads to a given port of a workload.
pub(super) struct Front<'a> {
    pub(super) id: ServiceId,
    pub(super) number: u16,
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePort,
}

/// The ports of Services that lead to a workload's port, by name and number of the Service's.
pub(super) fn fronts<'a>(
    index: &'a Index,
    id: &WorkloadId,
    workload: &'a Workload,
    number: u16,
) -> impl Iterator<Item = Front<'a>> {
    index.services_of(id).flat_map(move |(id, service)| {
        let leading = service.ports.iter().filter(move |(_, port)| workload.port(&port.target) == Some(number));
        leading.map(move |(number, port)| Front { id: id.clone(), number: *number, service, port })
    })
}

fn of_service(index: &Index, id: &ServiceId, number: u16, port: &ServicePort, client: &Client) -> Destination {
    let own = backend_id(id, number);
    let routes = routes(index, id, number, port, client);
    let mut out = Destination {
        id: own.clone(),
        protocol: protocol(index, id, port),
        routes: Vec::new(),
        rules: Vec::new(),
        routed: !routes.is_empty(),
        default_backends: vec![WeightedBackend { backend: own.clone(), weight: 1, filters: Vec::new() }],
        backends: BTreeMap::from([(own, backend(index, id, number, port))]),
    };
    let mut entries: Vec<(Precedence, RouteEntry)> = Vec::new();
    for route in routes {
        for (at, rule) in route.rules.iter().enumerate() {
            let number = out.rules.len();
            let backends = rule.backends.iter().map(|used| weighted(index, route, used, &mut out.backends)).collect();
            out.rules.push(Rule {
                origin: route.origin.clone(),
                name: rule.name.clone(),
                filters: rule.filters.clone(),
                backends,
                request_timeout: rule.request_timeout,
                backend_timeout: rule.backend_timeout,
            });
            entries.extend(entries_of(route, at, number));
        }
    }
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    out.routes = entries.into_iter().map(|(_, entry)| entry).collect();
    out
}

/// The matches of a rule, each with one host, so that each can stand where its host puts it.
fn entries_of(route: &Route, at: usize, number: usize) -> impl Iterator<Item = (Precedence, RouteEntry)> {
    let matches = route.rules.get(at).map(|rule| rule.matches.as_slice()).unwrap_or_default();
    matches.iter().enumerate().flat_map(move |(position, matches)| {
        let hosts: Vec<Vec<Name>> = match route.hosts.as_slice() {
            [] => vec![Vec::new()],
            hosts => hosts.iter().map(|host| vec![host.clone()]).collect(),
        };
        hosts.into_iter().map(move |hosts| {
            let matches = mesh_api::model::route::HttpMatch { hosts, ..matches.clone() };
            (Precedence::of(&matches, &route.rank, at, position), RouteEntry { matches, rule: number })
        })
    })
}

/// The routes that hold for a client: those of its own namespace where it has any (consumer routes), else those of the
/// Service's (producer routes). In order of rank, so that the rules too stand in an order that depends on nothing else.
fn routes<'a>(index: &'a Index, id: &ServiceId, number: u16, port: &ServicePort, client: &Client) -> Vec<&'a Route> {
    let consumer = has_consumer_routes(index, id, number, port, client);
    let namespace = if consumer { &client.namespace } else { &id.namespace };
    let mut routes: Vec<&Route> =
        attached(index, id, number, port).filter(|r| r.origin.namespace == *namespace).collect();
    routes.sort_by(|one, other| one.rank.cmp(&other.rank));
    routes
}

fn has_consumer_routes(index: &Index, id: &ServiceId, number: u16, port: &ServicePort, client: &Client) -> bool {
    client.namespace != id.namespace
        && attached(index, id, number, port).any(|route| route.origin.namespace == client.namespace)
}

fn attached<'a>(index: &'a Index, id: &ServiceId, number: u16, port: &ServicePort) -> impl Iterator<Item = &'a Route> {
    let covers =
        move |route: &&Route| route.parents.iter().any(|parent| parent.service == *id && parent.covers(number, port));
    let routes: Vec<&Route> = index.routes_on(id).filter(covers).collect();
    routes.into_iter()
}

/// One backend of a rule. A reference that leads nowhere keeps its share, which is answered 500.
fn weighted(
    index: &Index,
    route: &Route,
    used: &RouteBackend,
    backends: &mut BTreeMap<BackendId, Backend>,
) -> WeightedBackend {
    let id = backend_id(&used.service, used.port);
    let mut filters = used.filters.clone();
    match usable(index, route, used) {
        Ok(port) => {
            backends.entry(id.clone()).or_insert_with(|| backend(index, &used.service, used.port, port));
        }
        Err(reason) => {
            filters = vec![Filter::Fail { status: 500, reason }];
            backends.entry(id.clone()).or_default();
        }
    }
    WeightedBackend { backend: id, weight: used.weight, filters }
}

/// The port behind a backend reference.
///
/// A reference into another namespace is allowed where the Service is exported to the route's namespace.
pub(crate) fn usable<'a>(index: &'a Index, route: &Route, used: &RouteBackend) -> Result<&'a ServicePort, Name> {
    if let Some(reason) = &used.broken {
        return Err(reason.clone());
    }
    let known = index.service(&used.service).filter(|service| service.export.allows(&route.origin.namespace));
    let service = known.ok_or_else(|| {
        Name::from(format!("{}: there is no Service {}, or it is not exported", route.origin, used.service))
    })?;
    service
        .ports
        .get(&used.port)
        .ok_or_else(|| Name::from(format!("{}: Service {} has no TCP port {}", route.origin, used.service, used.port)))
}

/// A workload's own address: one endpoint, no routes. It belongs to the first Service in front of it that the client
/// may know, which also says what it speaks where the workload itself does not.
fn of_workload(
    index: &Index,
    id: &WorkloadId,
    workload: &Workload,
    address: SocketAddr,
    client: &Client,
) -> Destination {
    let number = address.port();
    let mut known =
        fronts(index, id, workload, number).filter(|front| front.service.export.allows(&client.namespace)).peekable();
    let own = known.peek().map_or_else(
        || BackendId { namespace: id.namespace.clone(), name: "".into(), port: number },
        |front| backend_id(&front.id, front.number),
    );
    let said = known.find_map(|front| front.port.protocol);
    let protocol = said.or_else(|| workload.protocol(number)).unwrap_or_default();
    // The only one there is, also where it is on its way out.
    let ready = workload.kind == WorkloadKind::Pod || !workload.draining;
    let ip = address.ip().to_canonical();
    let endpoint = Endpoint { ready, ..endpoint(index, id.clone(), workload, SocketAddr::new(ip, number)) };
    let backend = Backend { protocol, endpoints: BTreeMap::from([(endpoint.address, endpoint)]) };
    Destination {
        id: own.clone(),
        protocol,
        routes: Vec::new(),
        rules: Vec::new(),
        routed: false,
        default_backends: vec![WeightedBackend { backend: own.clone(), weight: 1, filters: Vec::new() }],
        backends: BTreeMap::from([(own, backend)]),
    }
}

pub(super) fn backend_id(id: &ServiceId, port: u16) -> BackendId {
    BackendId { namespace: id.namespace.clone(), name: id.name.clone(), port }
}
