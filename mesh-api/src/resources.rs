//! The kinds that users write: Kubernetes' and Gateway API's as far as the mesh reads them, and the mesh's own
//! (`mesh.dev/v1alpha1`); and the kinds that say what runs in a cluster. Floor 1: imports `names`.
//!
//! The standard's kinds are read leniently (an unknown field is somebody else's), the mesh's own strictly (an unknown
//! field is a typing error that would otherwise change who may call whom).

mod cluster;
mod core;
mod gateway;
mod mesh;
pub mod reference;
pub mod schema;

pub use self::{
    cluster::{
        Container, ContainerPort, EndpointSlice, GrpcProbe, HttpGet, LABEL_SERVICE, LABEL_ZONE, Node, ObjectReference,
        OwnerReference, Pod, PodIp, PodSpec, PodStatus, Probe, SliceConditions, SliceEndpoint, SlicePort, TcpSocket,
    },
    core::{Metadata, Namespace, Service, ServicePort, ServiceSpec, TargetPort},
    gateway::{
        BackendRef, HeaderEdit, HeaderFilter, HttpPathMatch, HttpRoute, HttpRouteFilter, HttpRouteMatch, HttpRouteRule,
        HttpRouteSpec, ParentRef, RouteTimeouts, ValueMatch,
    },
    mesh::{
        AppAddress, AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule,
        ExternalWorkload, ExternalWorkloadSpec, LabelSelector, OperationRule, PathRule, PortMode, Run, SourceRule,
        TargetRef, TransportMode, TransportPolicy, TransportPolicySpec, Upstream, WorkloadPort,
    },
};

use crate::model::ObjectRef;

/// One object of a kind that the mesh reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// `v1` Namespace.
    Namespace(Namespace),
    /// `v1` Service.
    Service(Service),
    /// `gateway.networking.k8s.io` HTTPRoute.
    HttpRoute(HttpRoute),
    /// `mesh.dev` AuthorizationPolicy.
    AuthorizationPolicy(AuthorizationPolicy),
    /// `mesh.dev` TransportPolicy.
    TransportPolicy(TransportPolicy),
    /// `mesh.dev` ExternalWorkload.
    ExternalWorkload(ExternalWorkload),
    /// `v1` Node; only of a cluster.
    Node(Node),
    /// `v1` Pod; only of a cluster.
    Pod(Pod),
    /// `discovery.k8s.io` EndpointSlice; only of a cluster.
    EndpointSlice(EndpointSlice),
}

/// Every kind that users write, with its API group (the core group is empty).
pub const KINDS: [(&str, &str); 6] = [
    ("", "Namespace"),
    ("", "Service"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
    ("mesh.dev", "AuthorizationPolicy"),
    ("mesh.dev", "TransportPolicy"),
    ("mesh.dev", "ExternalWorkload"),
];

/// Every kind beside [`KINDS`] that only a cluster's API server holds, with its API group.
pub const CLUSTER_KINDS: [(&str, &str); 3] = [("", "Node"), ("", "Pod"), ("discovery.k8s.io", "EndpointSlice")];

impl Resource {
    /// The object's metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::TransportPolicy(object) => &object.metadata,
            Self::ExternalWorkload(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
        }
    }

    /// The object's metadata, to complete it.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Self::Namespace(object) => &mut object.metadata,
            Self::Service(object) => &mut object.metadata,
            Self::HttpRoute(object) => &mut object.metadata,
            Self::AuthorizationPolicy(object) => &mut object.metadata,
            Self::TransportPolicy(object) => &mut object.metadata,
            Self::ExternalWorkload(object) => &mut object.metadata,
            Self::Node(object) => &mut object.metadata,
            Self::Pod(object) => &mut object.metadata,
            Self::EndpointSlice(object) => &mut object.metadata,
        }
    }

    /// The kind, as in manifests.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Namespace(_) => "Namespace",
            Self::Service(_) => "Service",
            Self::HttpRoute(_) => "HTTPRoute",
            Self::AuthorizationPolicy(_) => "AuthorizationPolicy",
            Self::TransportPolicy(_) => "TransportPolicy",
            Self::ExternalWorkload(_) => "ExternalWorkload",
            Self::Node(_) => "Node",
            Self::Pod(_) => "Pod",
            Self::EndpointSlice(_) => "EndpointSlice",
        }
    }

    /// Names the object.
    #[must_use]
    pub fn object_ref(&self) -> ObjectRef {
        let metadata = self.metadata();
        ObjectRef {
            kind: self.kind().into(),
            namespace: metadata.namespace.as_str().into(),
            name: metadata.name.as_str().into(),
        }
    }
}
