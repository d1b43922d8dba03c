//! What a change reaches: every topic whose answer looks at the object.

use mesh_api::model::{Name, WorkloadId};

use super::{Dirty, Index, Topic};
use crate::translate::{ServiceId, Targets};

impl Index {
    /// The Service's own destinations, by name and by address.
    pub(super) fn mark_service(&self, id: &ServiceId, dirty: &mut Dirty) {
        dirty.mark(Topic::Service(id.clone()));
        for ip in self.service(id).iter().flat_map(|service| &service.addresses) {
            dirty.mark(Topic::Address(*ip));
        }
    }

    /// The Service's own destinations, and those of every Service with a route that leads to this one.
    pub(super) fn mark_endpoints(&self, id: &ServiceId, dirty: &mut Dirty) {
        self.mark_service(id, dirty);
        for (namespace, name) in self.routes_to.of(id) {
            for parent in self.routes.get(namespace, name).iter().flat_map(|route| &route.parents) {
                self.mark_service(&parent.service, dirty);
            }
        }
    }

    pub(super) fn mark_service_and_members(&self, id: &ServiceId, dirty: &mut Dirty) {
        self.mark_endpoints(id, dirty);
        for name in self.members.of(id) {
            self.mark_workload(&WorkloadId { namespace: id.namespace.clone(), name: name.clone() }, dirty);
        }
    }

    pub(super) fn mark_workload(&self, id: &WorkloadId, dirty: &mut Dirty) {
        dirty.mark(Topic::Workload(id.clone()));
        for ip in self.workload(id).iter().flat_map(|workload| &workload.addresses) {
            dirty.mark(Topic::Address(*ip));
        }
    }

    pub(super) fn mark_workload_and_services(&self, id: &WorkloadId, dirty: &mut Dirty) {
        self.mark_workload(id, dirty);
        for name in self.selected_by.of(id) {
            self.mark_endpoints(&ServiceId { namespace: id.namespace.clone(), name: name.clone() }, dirty);
        }
        // Who is at an address is asked when a slice names it.
        for ip in self.workload(id).iter().flat_map(|workload| &workload.addresses) {
            for (namespace, name) in self.slices_at.of(ip) {
                if let Some(slice) = self.slices.get(namespace, name) {
                    self.mark_endpoints(&slice.service, dirty);
                }
            }
        }
    }

    pub(super) fn mark_targets(&self, namespace: &Name, old: Option<Targets>, new: Option<Targets>, dirty: &mut Dirty) {
        for targets in [old, new].into_iter().flatten() {
            for (name, workload) in self.workloads.within(namespace) {
                let id = WorkloadId { namespace: namespace.clone(), name: name.clone() };
                let direct = targets.workload(&id, workload).is_some();
                if direct || self.selected_by.of(&id).any(|service| targets.services.contains(service)) {
                    dirty.mark(Topic::Workload(id));
                }
            }
        }
    }
}
