//! All objects, ready for questions. Incremental and pure: an object comes or goes, and the index says which answers
//! that may have changed. Floor 1: imports `translate`, `problem`.
//!
//! The order in which objects come does not matter: the index depends on the set of objects alone. The one exception
//! is wanted: an object that turns bad keeps its last good state in force, so for such an object history counts.

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
        Authorization, Part, Route, Service, ServiceId, Translated, TransportRule, Verdict, Workload, translate,
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
    /// A good state of it is in force.
    good: bool,
    problems: Vec<Problem>,
}

/// Names an HTTPRoute.
type RouteId = (Name, Name);

/// All objects.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    standings: BTreeMap<ObjectRef, Standing>,
    services: Namespaced<Service>,
    workloads: Namespaced<Workload>,
    routes: Namespaced<Route>,
    authorizations: Namespaced<Authorization>,
    transports: Namespaced<TransportRule>,
    /// Which workloads a Service selects, and the other way round.
    members: Many<ServiceId, Name>,
    selected_by: Many<WorkloadId, Name>,
    services_at: Many<IpAddr, ServiceId>,
    workloads_at: Many<IpAddr, WorkloadId>,
    routes_on: Many<ServiceId, RouteId>,
    routes_to: Many<ServiceId, RouteId>,
}

impl Index {
    /// Empty.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            standings: BTreeMap::new(),
            services: Namespaced::default(),
            workloads: Namespaced::default(),
            routes: Namespaced::default(),
            authorizations: Namespaced::default(),
            transports: Namespaced::default(),
            members: Many::default(),
            selected_by: Many::default(),
            services_at: Many::default(),
            workloads_at: Many::default(),
            routes_on: Many::default(),
            routes_to: Many::default(),
        }
    }

    /// An object is there, or has changed.
    pub fn apply(&mut self, resource: &Resource) -> Dirty {
        let object = resource.object_ref();
        let Translated { verdict, problems } = translate(resource, &self.settings.trust_domain);
        let standing = self.standings.entry(object.clone()).or_default();
        standing.problems = problems;
        let part = match verdict {
            Verdict::Accepted(part) => {
                standing.good = true;
                Some(part)
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
            ("ExternalWorkload", part) => {
                let part = part.and_then(|part| if let Part::Workload(part) = part { Some(part) } else { None });
                self.put_workload(&WorkloadId { namespace: namespace.clone(), name: name.clone() }, part, &mut dirty);
            }
            ("HTTPRoute", part) => {
                let part = part.and_then(|part| if let Part::Route(part) = part { Some(part) } else { None });
                self.put_route(&(namespace.clone(), name.clone()), part, &mut dirty);
            }
            ("AuthorizationPolicy", part) => {
                let part = part.and_then(|part| if let Part::Authorization(part) = part { Some(part) } else { None });
                let new = part.as_ref().map(|part| part.targets.clone());
                if self.authorizations.get(namespace, name) != part.as_ref() {
                    let old = self.authorizations.set(namespace, name, part);
                    self.mark_targets(namespace, old.map(|old| old.targets), new, &mut dirty);
                }
            }
            ("TransportPolicy", part) => {
                let part = part.and_then(|part| if let Part::Transport(part) = part { Some(part) } else { None });
                let new = part.as_ref().map(|part| part.targets.clone());
                if self.transports.get(namespace, name) != part.as_ref() {
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

    fn put_workload(&mut self, id: &WorkloadId, new: Option<Workload>, dirty: &mut Dirty) {
        if self.workloads.get(&id.namespace, &id.name) == new.as_ref() {
            return;
        }
        self.mark_workload_and_services(id, dirty);
        let services: BTreeSet<Name> = match &new {
            None => BTreeSet::new(),
            Some(workload) => {
                let inside = self.services.within(&id.namespace);
                inside.filter(|(_, service)| service.selects(&workload.labels)).map(|(name, _)| name.clone()).collect()
            }
        };
        let address = new.as_ref().map(|workload| workload.address);
        if let Some(old) = self.workloads.set(&id.namespace, &id.name, new) {
            self.workloads_at.remove(&old.address, id);
        }
        if let Some(ip) = address {
            self.workloads_at.add(&ip, id.clone());
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
