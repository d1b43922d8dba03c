//! The cluster that is pretended: what it is made of, by number, and what each simulated proxy uses. Pure.

/// Endpoints of each service.
pub const ENDPOINTS: usize = 10;
/// Services of each namespace, unless somebody wishes otherwise.
pub const PER_NAMESPACE: usize = 100;
/// Pods of each node: what a kubelet takes.
pub(super) const PER_NODE: usize = 110;
/// Services that each proxy uses: the first of all, which every proxy uses, and others.
pub const USED: usize = 10;
/// Services at the end that no proxy uses.
pub const UNUSED: usize = 10;
/// Port of every service, and of the application behind it.
pub const PORTS: [u16; 2] = [80, 8080];

/// A kind of which the cluster has objects by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1`.
    Namespace,
    /// `v1`.
    Node,
    /// `v1`.
    Pod,
    /// `v1`.
    Service,
    /// `discovery.k8s.io/v1`; one for each service.
    EndpointSlice,
    /// Strict, one for each namespace.
    TransportPolicy,
    /// Lets the namespace's own members in; one for each namespace.
    AuthorizationPolicy,
}

impl Kind {
    /// By the plural that stands in paths.
    #[must_use]
    pub fn of(plural: &str) -> Option<Self> {
        Some(match plural {
            "namespaces" => Self::Namespace,
            "nodes" => Self::Node,
            "pods" => Self::Pod,
            "services" => Self::Service,
            "endpointslices" => Self::EndpointSlice,
            "transportpolicies" => Self::TransportPolicy,
            "authorizationpolicies" => Self::AuthorizationPolicy,
            _ => return None,
        })
    }
}

/// The cluster.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Services.
    pub services: usize,
    /// Services of each namespace.
    pub per_namespace: usize,
}

impl Plan {
    /// How many objects of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace | Kind::TransportPolicy | Kind::AuthorizationPolicy => {
                self.services.div_ceil(self.per_namespace)
            }
            Kind::Node => (self.services * ENDPOINTS).div_ceil(PER_NODE),
            Kind::Pod => self.services * ENDPOINTS,
            Kind::Service | Kind::EndpointSlice => self.services,
        }
    }

    /// Namespace of a service.
    #[must_use]
    pub fn namespace(&self, service: usize) -> String {
        format!("ns-{}", service / self.per_namespace)
    }

    /// What a proxy asks for a service by.
    #[must_use]
    pub fn target(&self, service: usize) -> String {
        format!("{}.{}.svc:{}", service_name(service), self.namespace(service), PORTS[0])
    }

    /// The pod that a proxy stands beside: they are spread over all services, the first pod of each coming first.
    #[must_use]
    pub fn pod_of_proxy(&self, proxy: usize) -> usize {
        proxy % self.services * ENDPOINTS + proxy / self.services % ENDPOINTS
    }

    /// The services that a proxy uses: the first one, and others at even distances from a place of its own.
    #[must_use]
    pub fn uses(&self, proxy: usize) -> Vec<usize> {
        let others = self.services.saturating_sub(UNUSED + 1).max(1);
        let step = (others / (USED - 1)).max(1);
        let at = |nth: usize| 1 + (proxy * 7 + nth * step) % others;
        std::iter::once(0).chain((0..USED - 1).map(at)).collect()
    }
}

/// Name of a service, of its account and of its label.
#[must_use]
pub fn service_name(service: usize) -> String {
    format!("svc-{service}")
}

/// Name of a pod.
#[must_use]
pub fn pod_name(pod: usize) -> String {
    format!("{}-7c9f8d6b5-{:05}", service_name(pod / ENDPOINTS), pod % ENDPOINTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { services: 1000, per_namespace: 100 };

    #[test]
    fn a_proxy_uses_ten_services_of_which_all_use_the_first() {
        for plan in [PLAN, Plan { services: 100, per_namespace: 100 }] {
            for proxy in 0..1000 {
                let mut used = plan.uses(proxy);
                assert_eq!(used[0], 0);
                used.sort_unstable();
                used.dedup();
                assert_eq!(used.len(), USED);
                assert!(used.iter().all(|service| *service < plan.services - UNUSED));
            }
        }
        let pods: std::collections::BTreeSet<usize> = (0..1000).map(|proxy| PLAN.pod_of_proxy(proxy)).collect();
        assert_eq!(pods.len(), 1000, "each beside a pod of its own");
    }
}
