//! Questions to the index.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_api::model::{Name, ObjectRef, WorkloadId};

use super::{Index, Settings};
use crate::{
    problem::Problem,
    translate::{Authorization, Labels, Route, Service, ServiceId, Slice, Targets, TransportRule, Workload},
};

impl Index {
    /// What holds for the whole mesh.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A Service.
    #[must_use]
    pub fn service(&self, id: &ServiceId) -> Option<&Service> {
        self.services.get(&id.namespace, &id.name)
    }

    /// A workload.
    #[must_use]
    pub fn workload(&self, id: &WorkloadId) -> Option<&Workload> {
        self.workloads.get(&id.namespace, &id.name)
    }

    /// The workloads that a Service selects, by name.
    pub fn members<'a>(&'a self, id: &ServiceId) -> impl Iterator<Item = (WorkloadId, &'a Workload)> + use<'a> {
        let namespace = id.namespace.clone();
        self.members.of(id).filter_map(move |name| {
            let id = WorkloadId { namespace: namespace.clone(), name: name.clone() };
            let workload = self.workload(&id)?;
            Some((id, workload))
        })
    }

    /// The Services that select a workload, by name.
    pub fn services_of<'a>(&'a self, id: &WorkloadId) -> impl Iterator<Item = (ServiceId, &'a Service)> + use<'a> {
        let namespace = id.namespace.clone();
        self.selected_by.of(id).filter_map(move |name| {
            let id = ServiceId { namespace: namespace.clone(), name: name.clone() };
            let service = self.service(&id)?;
            Some((id, service))
        })
    }

    /// The Services with a virtual address, by namespace and name.
    pub fn services_at<'a>(&'a self, ip: IpAddr) -> impl Iterator<Item = (&'a ServiceId, &'a Service)> + use<'a> {
        self.services_at.of(&ip.to_canonical()).filter_map(|id| Some((id, self.service(id)?)))
    }

    /// The workloads whose own an address is, by namespace and name; those on their way out come last.
    #[must_use]
    pub fn workloads_at(&self, ip: IpAddr) -> Vec<(&WorkloadId, &Workload)> {
        let there = self.workloads_at.of(&ip.to_canonical()).filter_map(|id| Some((id, self.workload(id)?)));
        let mut own: Vec<_> = there.filter(|(_, workload)| workload.owns_addresses()).collect();
        own.sort_by_key(|(_, workload)| workload.draining);
        own
    }

    /// The parts of a Service's endpoints, by name.
    pub fn slices_of<'a>(&'a self, id: &ServiceId) -> impl Iterator<Item = &'a Slice> + use<'a> {
        let namespace = id.namespace.clone();
        self.slices_of.of(id).filter_map(move |name| self.slices.get(&namespace, name))
    }

    /// Topology zone of a workload: what it says itself, else its node's. Empty where unknown.
    #[must_use]
    pub fn zone_of(&self, workload: &Workload) -> Name {
        if workload.zone.is_empty()
            && let Some(node) = self.nodes.get(&workload.node)
        {
            return node.zone.clone();
        }
        workload.zone.clone()
    }

    /// ExternalWorkloads that do not hold because a Pod has their name.
    pub fn shadowed(&self) -> impl Iterator<Item = WorkloadId> {
        let ids = self.shadowed.iter();
        ids.map(|(namespace, name, _)| WorkloadId { namespace: namespace.clone(), name: name.clone() })
    }

    /// The routes that name a Service as parent.
    pub fn routes_on<'a>(&'a self, id: &ServiceId) -> impl Iterator<Item = &'a Route> + use<'a> {
        self.routes_on.of(id).filter_map(|(namespace, name)| self.routes.get(namespace, name))
    }

    /// The AuthorizationPolicies of a namespace.
    pub fn authorizations(&self, namespace: &str) -> impl Iterator<Item = &Authorization> {
        self.authorizations.within(namespace).map(|(_, policy)| policy)
    }

    /// The TransportPolicies of a namespace.
    pub fn transports(&self, namespace: &str) -> impl Iterator<Item = &TransportRule> {
        self.transports.within(namespace).map(|(_, policy)| policy)
    }

    /// All TransportPolicies, in no order.
    pub fn all_transports(&self) -> impl Iterator<Item = &TransportRule> {
        self.transports.iter().map(|(_, _, policy)| policy)
    }

    /// All AuthorizationPolicies, in no order.
    pub fn all_authorizations(&self) -> impl Iterator<Item = &Authorization> {
        self.authorizations.iter().map(|(_, _, policy)| policy)
    }

    /// The workloads of a namespace, by name.
    pub fn workloads_within<'a>(&'a self, namespace: &Name) -> impl Iterator<Item = (WorkloadId, &'a Workload)> {
        self.workloads
            .within(namespace)
            .map(move |(name, workload)| (WorkloadId { namespace: namespace.clone(), name: name.clone() }, workload))
    }

    /// All routes, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter().map(|(_, _, route)| route)
    }

    /// All policies: the object, and whom it targets.
    pub fn policies(&self) -> impl Iterator<Item = (&ObjectRef, &Targets)> {
        let authorizations = self.authorizations.iter().map(|(_, _, policy)| (&policy.origin, &policy.targets));
        authorizations.chain(self.transports.iter().map(|(_, _, policy)| (&policy.origin, &policy.targets)))
    }

    /// True where any workload of the namespace has these labels.
    #[must_use]
    pub fn any_workload_with(&self, namespace: &str, labels: &Labels) -> bool {
        self.workloads.within(namespace).any(|(_, workload)| crate::translate::has_labels(&workload.labels, labels))
    }

    /// Addresses with more than one owner: virtual ones of Services.
    pub fn shared_addresses(&self) -> impl Iterator<Item = (&IpAddr, &BTreeSet<ServiceId>)> {
        self.services_at.iter().filter(|(_, owners)| owners.len() > 1)
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = (WorkloadId, &Workload)> {
        self.workloads.iter().map(|(namespace, name, workload)| {
            (WorkloadId { namespace: namespace.clone(), name: name.clone() }, workload)
        })
    }

    /// All Services.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        self.services
            .iter()
            .map(|(namespace, name, service)| (ServiceId { namespace: namespace.clone(), name: name.clone() }, service))
    }

    /// Grows whenever what is wrong, or how many objects there are, may be another than before; not for endpoints that
    /// come and go.
    #[must_use]
    pub fn edition(&self) -> u64 {
        self.edition
    }

    /// Which generation of an object was looked at last; `None` for one that is not there, or has no status.
    #[must_use]
    pub fn generation(&self, object: &ObjectRef) -> Option<i64> {
        self.standings.get(object)?.generation
    }

    /// What translation found wrong with the objects as they are now, by object.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.standings.values().flat_map(|standing| &standing.problems)
    }

    /// True where nothing is left, also in what is derived.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.counts().is_empty()
            && self.services.is_empty()
            && self.workloads.is_empty()
            && self.shadowed.is_empty()
            && self.slices.is_empty()
            && self.nodes.is_empty()
            && self.workloads_on.is_empty()
            && self.slices_of.is_empty()
            && self.slices_at.is_empty()
            && self.routes.is_empty()
            && self.authorizations.is_empty()
            && self.transports.is_empty()
            && self.members.is_empty()
            && self.selected_by.is_empty()
            && self.services_at.is_empty()
            && self.workloads_at.is_empty()
            && self.routes_on.is_empty()
            && self.routes_to.is_empty()
    }

    /// How many objects there are, by kind; kinds without any are left out.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<Name, usize> {
        let mut counts = BTreeMap::new();
        for object in self.standings.keys() {
            *counts.entry(object.kind.clone()).or_default() += 1;
        }
        counts
    }
}
