//! All objects, ready for questions. Incremental and pure: an object comes or goes, and the index says which answers
//! that may have changed. Floor 1: imports `translate`, `problem`.
//!
//! The order in which objects come does not matter: the index depends on the set of objects alone. The one exception
//! is wanted: an object that turns bad keeps its last good state in force, so for such an object history counts.

mod bearing;
mod dirty;
mod namespaced;
mod query;
mod reach;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_api::{
    model::{Name, ObjectRef, WorkloadId, policy::Transport},
    resources::Resource,
    spiffe::TrustDomain,
};

pub use self::dirty::{Dirty, Topic};
use self::namespaced::{Many, Namespaced};
use crate::{
    problem::Problem,
    translate::{
        Authorization, Node, Part, Route, Service, ServiceId, Slice, Translated, TransportRule, Verdict, Workload,
        WorkloadKind, translate,
    },
};

/// What holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whose identities the mesh's members have.
    pub trust_domain: TrustDomain,
    /// Where no TransportPolicy speaks.
    pub default_transport: Transport,
    /// Where no AuthorizationPolicy speaks.
    pub default_allow: bool,
}

/// What is known of one object.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Counts changes of the spec, where somebody asks for it.
    generation: Option<i64>,
    /// A good state of it is in force.
    good: bool,
    problems: Vec<Problem>,
}

/// Names an HTTPRoute.
type RouteId = (Name, Name);
/// Names an EndpointSlice.
type SliceId = (Name, Name);

/// All objects.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    edition: u64,
    standings: BTreeMap<ObjectRef, Standing>,
    services: Namespaced<Service>,
    workloads: Namespaced<Workload>,
    /// ExternalWorkloads whose name a Pod has: a Pod cannot be told to go by another.
    shadowed: Namespaced<Workload>,
    slices: Namespaced<Slice>,
    nodes: BTreeMap<Name, Node>,
    routes: Namespaced<Route>,
    authorizations: Namespaced<Authorization>,
    transports: Namespaced<TransportRule>,
    /// Which workloads a Service selects, and the other way round.
    members: Many<ServiceId, Name>,
    selected_by: Many<WorkloadId, Name>,
    services_at: Many<IpAddr, ServiceId>,
    workloads_at: Many<IpAddr, WorkloadId>,
    workloads_on: Many<Name, WorkloadId>,
    slices_of: Many<ServiceId, Name>,
    slices_at: Many<IpAddr, SliceId>,
    routes_on: Many<ServiceId, RouteId>,
    routes_to: Many<ServiceId, RouteId>,
}

impl Index {
    /// Empty.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            edition: 0,
            standings: BTreeMap::new(),
            services: Namespaced::default(),
            workloads: Namespaced::default(),
            shadowed: Namespaced::default(),
            slices: Namespaced::default(),
            nodes: BTreeMap::new(),
            routes: Namespaced::default(),
            authorizations: Namespaced::default(),
            transports: Namespaced::default(),
            members: Many::default(),
            selected_by: Many::default(),
            services_at: Many::default(),
            workloads_at: Many::default(),
            workloads_on: Many::default(),
            slices_of: Many::default(),
            slices_at: Many::default(),
            routes_on: Many::default(),
            routes_to: Many::default(),
        }
    }

    /// An object is there, or has changed.
    pub fn apply(&mut self, resource: &Resource) -> Dirty {
        let object = resource.object_ref();
        let Translated { verdict, problems } = translate(resource, &self.settings.trust_domain);
        let is_new = !self.standings.contains_key(&object);
        let standing = self.standings.entry(object.clone()).or_default();
        let generation = resource.metadata().generation.filter(|_| bearing::counts_generations(&object.kind));
        if is_new || standing.problems != problems || standing.generation != generation {
            (standing.problems, standing.generation) = (problems, generation);
            self.edition += 1;
        }
        let part = match verdict {
            Verdict::Accepted(part) => {
                standing.good = true;
                Some(part)
            }
            Verdict::Gone => {
                standing.good = true;
                None
            }
            // What was good stays in force; what never was is stood in for.
            Verdict::Refused { .. } if standing.good => return Dirty::default(),
            Verdict::Refused { stand_in } => stand_in,
        };
        self.put(&object, part)
    }

    /// An object is gone.
    pub fn delete(&mut self, object: &ObjectRef) -> Dirty {
        if self.standings.remove(object).is_none() {
            return Dirty::default();
        }
        self.edition += 1;
        self.put(object, None)
    }

    fn put(&mut self, object: &ObjectRef, part: Option<Part>) -> Dirty {
        let (namespace, name) = (&object.namespace, &object.name);
        let mut dirty = Dirty::default();
        match (&*object.kind, part) {
            ("Service", part) => {
                let part = part.and_then(|part| if let Part::Service(part) = part { Some(part) } else { None });
                self.put_service(&ServiceId { namespace: namespace.clone(), name: name.clone() }, part, &mut dirty);
            }
            ("ExternalWorkload" | "Pod", part) => {
                let part = part.and_then(|part| if let Part::Workload(part) = part { Some(part) } else { None });
                let id = WorkloadId { namespace: namespace.clone(), name: name.clone() };
                self.put_named(&id, &*object.kind == "Pod", part, &mut dirty);
            }
            ("EndpointSlice", part) => {
                let part = part.and_then(|part| if let Part::Slice(part) = part { Some(part) } else { None });
                self.put_slice(&(namespace.clone(), name.clone()), part, &mut dirty);
            }
            ("Node", part) => {
                let part = part.and_then(|part| if let Part::Node(part) = part { Some(part) } else { None });
                self.put_node(name, part, &mut dirty);
            }
            ("HTTPRoute", part) => {
                let part = part.and_then(|part| if let Part::Route(part) = part { Some(part) } else { None });
                self.put_route(&(namespace.clone(), name.clone()), part, &mut dirty);
            }
            ("AuthorizationPolicy", part) => {
                let part = part.and_then(|part| if let Part::Authorization(part) = part { Some(part) } else { None });
                let new = part.as_ref().map(|part| part.targets.clone());
                if self.authorizations.get(namespace, name) != part.as_ref() {
                    self.edition += 1;
                    let old = self.authorizations.set(namespace, name, part);
                    self.mark_targets(namespace, old.map(|old| old.targets), new, &mut dirty);
                }
            }
            ("TransportPolicy", part) => {
                let part = part.and_then(|part| if let Part::Transport(part) = part { Some(part) } else { None });
                let new = part.as_ref().map(|part| part.targets.clone());
                if self.transports.get(namespace, name) != part.as_ref() {
                    self.edition += 1;
                    let old = self.transports.set(namespace, name, part);
                    self.mark_targets(namespace, old.map(|old| old.targets), new, &mut dirty);
                }
            }
            _ => {}
        }
        dirty
    }

    fn put_service(&mut self, id: &ServiceId, new: Option<Service>, dirty: &mut Dirty) {
        if self.services.get(&id.namespace, &id.name) == new.as_ref() {
            return;
        }
        self.edition += 1;
        self.mark_service_and_members(id, dirty);
        let members: BTreeSet<Name> = match &new {
            None => BTreeSet::new(),
            Some(service) => {
                let inside = self.workloads.within(&id.namespace);
                inside.filter(|(_, workload)| service.selects(&workload.labels)).map(|(name, _)| name.clone()).collect()
            }
        };
        let addresses = new.as_ref().map(|service| service.addresses.clone()).unwrap_or_default();
        let old = self.services.set(&id.namespace, &id.name, new);
        for ip in old.iter().flat_map(|service| &service.addresses) {
            self.services_at.remove(ip, id);
        }
        for ip in &addresses {
            self.services_at.add(ip, id.clone());
        }
        let before: Vec<Name> = self.members.of(id).cloned().collect();
        for name in before.iter().filter(|name| !members.contains(*name)) {
            self.part(id, name);
        }
        for name in &members {
            self.join(id, name);
        }
        self.mark_service_and_members(id, dirty);
    }

    /// Pods and ExternalWorkloads share their names: of two the Pod holds.
    fn put_named(&mut self, id: &WorkloadId, is_pod: bool, new: Option<Workload>, dirty: &mut Dirty) {
        let held = self.workload(id).is_some_and(|workload| workload.kind != WorkloadKind::External);
        match (is_pod, held, new) {
            (false, true, new) => {
                self.shadowed.set(&id.namespace, &id.name, new);
            }
            (true, true, None) => {
                let shadowed = self.shadowed.set(&id.namespace, &id.name, None);
                self.put_workload(id, shadowed, dirty);
            }
            // A Pod that means nothing takes no name.
            (true, false, None) => {}
            (true, false, Some(new)) => {
                let shadowed = self.workload(id).cloned();
                self.shadowed.set(&id.namespace, &id.name, shadowed);
                self.put_workload(id, Some(new), dirty);
            }
            (_, _, new) => self.put_workload(id, new, dirty),
        }
    }

    fn put_slice(&mut self, id: &SliceId, new: Option<Slice>, dirty: &mut Dirty) {
        let (namespace, name) = id;
        if self.slices.get(namespace, name) == new.as_ref() {
            return;
        }
        if let Some(new) = &new {
            self.mark_endpoints(&new.service, dirty);
        }
        let old = self.slices.set(namespace, name, new);
        if let Some(old) = old {
            self.mark_endpoints(&old.service, dirty);
            self.slices_of.remove(&old.service, name);
            for ip in old.endpoints.keys() {
                self.slices_at.remove(ip, id);
            }
        }
        if let Some(new) = self.slices.get(namespace, name) {
            self.slices_of.add(&new.service, name.clone());
            for ip in new.endpoints.keys() {
                self.slices_at.add(ip, id.clone());
            }
        }
    }

    fn put_node(&mut self, name: &Name, new: Option<Node>, dirty: &mut Dirty) {
        if self.nodes.get(name) == new.as_ref() {
            return;
        }
        match new {
            Some(new) => self.nodes.insert(name.clone(), new),
            None => self.nodes.remove(name),
        };
        for id in self.workloads_on.of(name) {
            self.mark_workload_and_services(id, dirty);
        }
    }

    fn put_workload(&mut self, id: &WorkloadId, new: Option<Workload>, dirty: &mut Dirty) {
        let old = self.workloads.get(&id.namespace, &id.name);
        if old == new.as_ref() {
            return;
        }
        self.edition += u64::from(bearing::bears(old, new.as_ref()));
        self.mark_workload_and_services(id, dirty);
        let services: BTreeSet<Name> = match &new {
            None => BTreeSet::new(),
            Some(workload) => {
                let inside = self.services.within(&id.namespace);
                inside.filter(|(_, service)| service.selects(&workload.labels)).map(|(name, _)| name.clone()).collect()
            }
        };
        if let Some(old) = self.workloads.set(&id.namespace, &id.name, new) {
            old.addresses.iter().for_each(|ip| self.workloads_at.remove(ip, id));
            self.workloads_on.remove(&old.node, id);
        }
        if let Some(new) = self.workloads.get(&id.namespace, &id.name) {
            new.addresses.iter().for_each(|ip| self.workloads_at.add(ip, id.clone()));
            if !new.node.is_empty() {
                self.workloads_on.add(&new.node, id.clone());
            }
        }
        let before: Vec<Name> = self.selected_by.of(id).cloned().collect();
        for name in before.iter().filter(|name| !services.contains(*name)) {
            self.part(&ServiceId { namespace: id.namespace.clone(), name: name.clone() }, &id.name);
        }
        for name in services {
            self.join(&ServiceId { namespace: id.namespace.clone(), name }, &id.name);
        }
        self.mark_workload_and_services(id, dirty);
    }

    fn put_route(&mut self, id: &RouteId, new: Option<Route>, dirty: &mut Dirty) {
        if self.routes.get(&id.0, &id.1) == new.as_ref() {
            return;
        }
        self.edition += 1;
        for parent in new.iter().flat_map(|route| &route.parents) {
            self.routes_on.add(&parent.service, id.clone());
            self.mark_service(&parent.service, dirty);
        }
        let old = self.routes.set(&id.0, &id.1, new);
        let new = self.routes.get(&id.0, &id.1);
        let backends = |route: &Route| -> BTreeSet<ServiceId> {
            route.rules.iter().flat_map(|rule| &rule.backends).map(|backend| backend.service.clone()).collect()
        };
        let new_backends = new.map(backends).unwrap_or_default();
        let new_parents: BTreeSet<ServiceId> =
            new.iter().flat_map(|route| &route.parents).map(|parent| parent.service.clone()).collect();
        for service in &new_backends {
            self.routes_to.add(service, id.clone());
        }
        for parent in old.iter().flat_map(|route| &route.parents) {
            self.mark_service(&parent.service, dirty);
            if !new_parents.contains(&parent.service) {
                self.routes_on.remove(&parent.service, id);
            }
        }
        for service in old.as_ref().map(backends).unwrap_or_default().difference(&new_backends) {
            self.routes_to.remove(service, id);
        }
    }

    fn join(&mut self, service: &ServiceId, workload: &Name) {
        let id = WorkloadId { namespace: service.namespace.clone(), name: workload.clone() };
        self.members.add(service, workload.clone());
        self.selected_by.add(&id, service.name.clone());
    }

    fn part(&mut self, service: &ServiceId, workload: &Name) {
        let id = WorkloadId { namespace: service.namespace.clone(), name: workload.clone() };
        self.members.remove(service, workload);
        self.selected_by.remove(&id, &service.name);
    }
}

#[cfg(test)]
pub(crate) mod tests;
