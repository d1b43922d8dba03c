//! The mesh's own kinds, `mesh.dev/v1alpha1`. An unknown field is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Metadata;

/// Allows, denies or audits calls.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AuthorizationPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: AuthorizationPolicySpec,
}

/// What an AuthorizationPolicy wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthorizationPolicySpec {
    /// What it protects: a Service, a ServiceAccount, an ExternalWorkload, a Namespace. None and no selector: its own
    /// namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// What it protects, by labels of workloads in its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// What a match means.
    #[serde(default)]
    pub action: AuthorizationAction,
    /// Any rule that matches is enough; none matches nothing (an `Allow` without rules thus denies everything).
    #[serde(default)]
    pub rules: Vec<AuthorizationRule>,
}

/// What a match means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthorizationAction {
    /// Let in.
    #[default]
    Allow,
    /// Refuse; stronger than every allow.
    Deny,
    /// Note, and decide nothing.
    Audit,
}

/// An object in the policy's namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TargetRef {
    /// API group; empty for the core group.
    #[serde(default)]
    pub group: String,
    /// `Service`, `ServiceAccount`, `ExternalWorkload` or `Namespace`.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// Labels that a workload has, all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
}

/// Who, and what. Both must match; what is not given matches everything.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationRule {
    /// Any of these callers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from: Vec<SourceRule>,
    /// Any of these operations.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<OperationRule>,
}

/// A caller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SourceRule {
    /// SPIFFE IDs, `*` at the end for any rest; `*` alone for every verified identity.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<String>,
    /// Service accounts of the mesh's trust domain, as `NAMESPACE/NAME`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<String>,
    /// Namespaces of verified identities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Networks of the peer's socket address.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cidrs: Vec<String>,
    /// None of these identities.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_identities: Vec<String>,
    /// None of these service accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_service_accounts: Vec<String>,
    /// None of these namespaces.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_namespaces: Vec<String>,
    /// None of these networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_cidrs: Vec<String>,
}

/// What the caller wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct OperationRule {
    /// Host names; `*.` in front for one label or more.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathRule>,
    /// Ports of the workload.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
    /// Header fields, all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<super::ValueMatch>,
    /// None of these methods.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_methods: Vec<String>,
    /// None of these paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_paths: Vec<PathRule>,
}

/// How a path must look: a text (exact, or a prefix of whole segments where it ends in `/*`), or `{type, value}` as
/// in an HTTPRoute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PathRule {
    /// `/exact` or `/prefix/*`.
    Text(String),
    /// As in an HTTPRoute.
    Match(super::HttpPathMatch),
}

/// Strict or permissive mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TransportPolicy {
    /// Metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: TransportPolicySpec,
}

/// What a TransportPolicy wants. Of several, the most specific holds: workload, then Service, then namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransportPolicySpec {
    /// What it is for: a Service, a ServiceAccount, an ExternalWorkload, a Namespace. None and no selector: its own
    /// namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_refs: Vec<TargetRef>,
    /// What it is for, by labels of workloads in its own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// For every port.
    pub mode: TransportMode,
    /// Exceptions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortMode>,
}

/// Whether mutual TLS is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TransportMode {
    /// Plain connections are let in too.
    #[default]
    Permissive,
    /// Only mutual TLS.
    Strict,
}

/// An exception for one port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PortMode {
    /// Port of the workload.
    pub port: u16,
    /// What holds there.
    pub mode: TransportMode,
}

/// A member of the mesh outside Kubernetes: one process on some machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExternalWorkload {
    /// Metadata.
    pub metadata: Metadata,
    /// What is wanted.
    pub spec: ExternalWorkloadSpec,
}

/// What an ExternalWorkload is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalWorkloadSpec {
    /// Service account, which makes its identity; `default` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// IP address on which peers reach it: its sidecar's, where it has one.
    pub address: String,
    /// Topology zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// False: it has no sidecar, peers reach it in plain. True where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecar: Option<bool>,
    /// Relative share of the load; 1 where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// True: on its way out, nothing new goes there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Its ports.
    #[serde(default)]
    pub ports: Vec<WorkloadPort>,
    /// What its program calls, each with a local address of its own (where nothing is redirected).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<Upstream>,
    /// The program itself, where `meshctl up` starts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<Run>,
}

/// A port of a workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadPort {
    /// Name, to which a Service's `targetPort` can refer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Number on which peers reach it.
    pub port: u16,
    /// Where the program listens, `IP:PORT` or a port of 127.0.0.1, where that is not the same number on 127.0.0.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppAddress>,
    /// What it speaks, as in a Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// Where a program listens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AppAddress {
    /// Port of 127.0.0.1.
    Port(u16),
    /// `IP:PORT`.
    Address(String),
}

/// Something that a workload's program calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// `NAME:PORT` (the workload's own namespace), `NAME.NAMESPACE:PORT` or `NAME.NAMESPACE.svc:PORT`.
    pub service: String,
    /// Local address for it, `IP:PORT` or a port of 127.0.0.1.
    pub listen: AppAddress,
}

/// A program to start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Run {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Environment, on top of `meshctl`'s own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Working directory; the manifest's folder where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
}
