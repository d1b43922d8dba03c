//! From what users write to what the mesh can carry out: one object at a time, pure. Floor 1: imports `problem`.
//!
//! One bad object hurts only itself. What becomes of it:
//!
//! | object | a fault in | becomes |
//! |---|---|---|
//! | Service | one port, one address | that port or address is left out |
//! | ExternalWorkload | address, ports, account | refused: last good state, else it does not exist |
//! | HTTPRoute | a filter | the rule (or the backend's share) answers 500 and names the filter |
//! | HTTPRoute | a backend reference | that backend's share is answered 500 |
//! | HTTPRoute | a match, a time, a limit | refused: last good state, else it is not attached |
//! | AuthorizationPolicy | anything | refused: last good state, else a denial of everything for its targets |
//! | TransportPolicy | anything | refused: last good state, else strict for its targets |
//! | Pod | an address, an annotation | that address or annotation is left out |
//! | EndpointSlice | an endpoint | that endpoint is left out |
//!
//! A policy that was never good must not leave open what its author meant to close. So a refused `Allow` or `Deny`
//! stands in as "deny everything" for its targets, under its own name, so that each refusal names the object to mend;
//! a refused `Audit`, which decides nothing, stands in as nothing. Where a target itself cannot be read, the name in it
//! is taken for a Service and for a workload, never for the whole namespace.

mod authorization;
mod filter;
mod parts;
mod pod;
mod ports;
mod route;
mod service;
mod slice;
mod target;
mod transport;
mod value;
mod workload;

use mesh_api::{
    resources::{LABEL_ZONE, Resource},
    spiffe::TrustDomain,
};

pub use self::parts::{
    Authorization, Closeness, EndpointState, Export, Labels, Node, Parent, Part, PortSet, Rank, Route, RouteBackend,
    RouteRule, Service, ServiceId, ServicePort, Slice, SliceEndpoint, SlicePort, Target, Targets, TransportRule,
    Workload, WorkloadKind, WorkloadPort, has_labels,
};
use crate::problem::{Findings, Problem};

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    /// The object's meaning, or what stands in for it.
    pub verdict: Verdict,
    /// What is wrong with it; warnings too.
    pub problems: Vec<Problem>,
}

/// Whether an object is obeyed.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It is, as this.
    Accepted(Part),
    /// It is there and means nothing: a Pod that has ended.
    Gone,
    /// It is not. Where no earlier good state of it is in force, this holds in its place.
    Refused {
        /// What holds; `None`: as if the object were not there.
        stand_in: Option<Part>,
    },
}

impl Verdict {
    fn of(findings: &Findings, part: Part, stand_in: Option<Part>) -> Self {
        if findings.refused() { Self::Refused { stand_in } } else { Self::Accepted(part) }
    }
}

/// Translates one object. Nothing but the object and the trust domain is looked at: whether what it refers to is there
/// is found when it is used, and told by [`crate::review`].
#[must_use]
pub fn translate(resource: &Resource, trust_domain: &TrustDomain) -> Translated {
    let mut findings = Findings::new(resource.object_ref());
    let verdict = match resource {
        Resource::Namespace(_) => Verdict::Accepted(Part::Namespace),
        Resource::Service(object) => Verdict::Accepted(Part::Service(service::translate(object, &mut findings))),
        Resource::ExternalWorkload(object) => workload::translate(object, trust_domain, &mut findings),
        Resource::HttpRoute(object) => route::translate(object, &mut findings),
        Resource::AuthorizationPolicy(object) => authorization::translate(object, trust_domain, &mut findings),
        Resource::TransportPolicy(object) => transport::translate(object, &mut findings),
        Resource::Pod(object) => pod::translate(object, trust_domain, &mut findings),
        Resource::EndpointSlice(object) => slice::translate(object, &mut findings),
        Resource::Node(object) => {
            let zone = object.metadata.labels.get(LABEL_ZONE).map(String::as_str).unwrap_or_default().into();
            Verdict::Accepted(Part::Node(Node { zone }))
        }
    };
    Translated { verdict, problems: findings.into_problems() }
}

#[cfg(test)]
mod tests;
