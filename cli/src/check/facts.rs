//! What is known of a cluster when it is judged. Floor 0 of `check`: imports nothing of it.
//!
//! Each fact is known or [`Missing`], and a missing one says whose fault that is. Judges are given all of them and ask
//! for nothing.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration},
        apps::v1::{DaemonSet, Deployment},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Namespace, Node, Pod},
        discovery::v1::EndpointSlice,
    },
    jiff::Timestamp,
};
use mesh_controller::{
    inject::Settings,
    status::{Overview, ProblemView, ProxyStatus},
};
use serde::Deserialize;

use super::verdict::Verdict;
use crate::{cluster::Version, query::prometheus::Sample};

/// Whose fault it is that something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nobody asked, because what it stands on is missing.
    Unasked,
    /// The user has not the rights.
    Rights,
    /// The API server, or what is behind it, does not answer as it should.
    Server,
    /// A part of the mesh does not answer as it should.
    Mesh,
}

/// Why something is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What was asked for, as in `pods`.
    pub what: String,
    /// Whose fault it is.
    pub fault: Fault,
    /// What happened, for people.
    pub why: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.what.is_empty() { f.write_str(&self.why) } else { write!(f, "{}: {}", self.what, self.why) }
    }
}

impl Missing {
    /// Nobody asked.
    #[must_use]
    pub fn unasked(why: &str) -> Self {
        Self { what: String::new(), fault: Fault::Unasked, why: why.to_owned() }
    }

    /// What a check says that needs the fact: not having looked is never taken for being well.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let Self { what, why, .. } = self;
        match self.fault {
            Fault::Unasked => Verdict::skipped(why.clone()),
            Fault::Rights => Verdict::warning(
                format!("cannot be looked at, {what}: {why}"),
                "check with an account that may read this, or ask the cluster's administrator for the right",
            ),
            Fault::Server => Verdict::error(
                format!("cannot be looked at, {what}: {why}"),
                "the API server is at fault, not the mesh: look at its health, then check again",
            ),
            Fault::Mesh => Verdict::error(
                format!("cannot be looked at, {what}: {why}"),
                format!("look at the logs of the pod: kubectl logs -n {}", mesh_api::names::SYSTEM_NAMESPACE),
            ),
        }
    }
}

/// Something known, or why not.
pub type Fact<T> = Result<T, Missing>;

/// The API server, as it answered first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// URL.
    pub url: String,
    /// Context of the kubeconfig.
    pub context: String,
    /// Version.
    pub version: Version,
    /// Its clock against this machine's, where it tells the time.
    pub clock: Option<Clock>,
}

/// One look at another clock: both readings belong to the same moment, but for `slack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The other clock's reading minus the reference's, in milliseconds.
    pub ahead_ms: i64,
    /// How far off that can be: half the answer's way and the resolution of the reading, in milliseconds.
    pub slack_ms: i64,
}

/// Something that an account may do or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// Verb.
    pub verb: &'static str,
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resource, plural.
    pub resource: &'static str,
    /// Namespace; empty for the whole cluster.
    pub namespace: &'static str,
    /// Whether it may.
    pub allowed: bool,
}

/// One replica of a part of the control plane, as its admin server shows it.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Pod.
    pub pod: String,
    /// `mesh-ca`, `mesh-controller` or `mesh-cni`.
    pub part: &'static str,
    /// Why it is not ready, in its own words; `Ok(None)`: it is.
    pub not_ready: Fact<Option<String>>,
    /// Its metrics.
    pub metrics: Fact<Vec<Sample>>,
    /// Its clock against the API server's.
    pub clock: Option<Clock>,
    /// Pages of a controller.
    pub controller: Option<ControllerPages>,
    /// Pages of a certificate authority.
    pub ca: Option<CaPages>,
    /// Certificates that the webhook's port shows, the leaf first, in DER. Controllers only.
    pub webhook: Option<Fact<Vec<Vec<u8>>>>,
}

/// What a controller shows.
#[derive(Clone, Debug)]
pub struct ControllerPages {
    /// `/status`.
    pub overview: Fact<Overview>,
    /// `/proxies`.
    pub proxies: Fact<Vec<ProxyStatus>>,
    /// `/problems`.
    pub problems: Fact<Vec<ProblemView>>,
}

/// What a certificate authority shows.
#[derive(Clone, Debug)]
pub struct CaPages {
    /// `/trust`: PEM.
    pub trust: Fact<String>,
    /// `/issuers`.
    pub issuers: Fact<Issuers>,
}

/// The page `/issuers`, as far as it is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Issuers {
    /// Trusted roots.
    pub roots: Vec<Authority>,
    /// What signs.
    pub issuer: Authority,
}

/// A root or an issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Authority {
    /// Counts up; none where somebody else makes them.
    pub generation: Option<u64>,
    /// Subject.
    pub name: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// SHA-256 in hexadecimal.
    pub fingerprint: String,
}

/// How the API server fared when it was asked to try out the creation of something, without creating it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trial {
    /// It would be created; the containers that it would have.
    Created(BTreeSet<String>),
    /// It was refused, with what was said.
    Refused(String),
}

/// A condition of an object of the mesh or of the Gateway API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Kind NAMESPACE/NAME`.
    pub object: String,
    /// Type, as `Accepted`.
    pub kind: String,
    /// True, false, or not known.
    pub status: Option<bool>,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// Everything.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Version of `meshctl`.
    pub meshctl: String,
    /// This machine's clock.
    pub now: Timestamp,
    /// The one namespace whose pods are looked at; none: all.
    pub scope: Option<String>,
    /// The API server.
    pub server: Fact<Server>,
    /// What installing needs, and whether the user may.
    pub rights: Fact<Vec<Right>>,
    /// Nodes.
    pub nodes: Fact<Vec<Node>>,
    /// Leases with which the nodes say that they are alive.
    pub node_leases: Fact<Vec<Lease>>,
    /// Served API groups, each with its versions.
    pub groups: Fact<BTreeMap<String, Vec<String>>>,
    /// Kinds that are served of `mesh.dev/v1alpha1` and of `gateway.networking.k8s.io/v1`, by that group and version.
    pub kinds: BTreeMap<&'static str, Fact<Vec<String>>>,
    /// Mutating webhooks.
    pub mutating: Fact<Vec<MutatingWebhookConfiguration>>,
    /// Validating webhooks.
    pub validating: Fact<Vec<ValidatingWebhookConfiguration>>,
    /// Services that other meshes' webhooks call, as `NAMESPACE/NAME`, and whether they are there.
    pub webhook_services: BTreeMap<String, Fact<bool>>,
    /// Namespaces.
    pub namespaces: Fact<Vec<Namespace>>,
    /// Deployments of the control plane's namespace.
    pub deployments: Fact<Vec<Deployment>>,
    /// DaemonSets of the control plane's namespace.
    pub daemon_sets: Fact<Vec<DaemonSet>>,
    /// Pods of the control plane's namespace.
    pub system_pods: Fact<Vec<Pod>>,
    /// Endpoints of the control plane's Services.
    pub endpoints: Fact<Vec<EndpointSlice>>,
    /// Leases of the control plane's namespace.
    pub leases: Fact<Vec<Lease>>,
    /// What sidecars are made from, as the controller is configured.
    pub inject: Fact<Box<Settings>>,
    /// The trust bundles of all namespaces.
    pub trust: Fact<Vec<ConfigMap>>,
    /// Replicas of the control plane.
    pub replicas: Vec<Replica>,
    /// What came of trying out a pod that wants a sidecar.
    pub trial: Fact<Trial>,
    /// Conditions of the objects that the mesh reads.
    pub conditions: Fact<Vec<Condition>>,
    /// Pods outside the control plane's namespace.
    pub pods: Fact<Vec<Pod>>,
    /// Metrics of proxies by `NAMESPACE/POD`, of at most as many as are asked.
    pub proxies: BTreeMap<String, Fact<Vec<Sample>>>,
}

impl Facts {
    /// Nothing is known yet, for this reason.
    #[must_use]
    pub fn none(now: Timestamp, why: &str) -> Self {
        let missing = Missing::unasked(why);
        Self {
            meshctl: env!("CARGO_PKG_VERSION").to_owned(),
            now,
            scope: None,
            server: Err(missing.clone()),
            rights: Err(missing.clone()),
            nodes: Err(missing.clone()),
            node_leases: Err(missing.clone()),
            groups: Err(missing.clone()),
            kinds: BTreeMap::new(),
            mutating: Err(missing.clone()),
            validating: Err(missing.clone()),
            webhook_services: BTreeMap::new(),
            namespaces: Err(missing.clone()),
            deployments: Err(missing.clone()),
            daemon_sets: Err(missing.clone()),
            system_pods: Err(missing.clone()),
            endpoints: Err(missing.clone()),
            leases: Err(missing.clone()),
            inject: Err(missing.clone()),
            trust: Err(missing.clone()),
            replicas: Vec::new(),
            trial: Err(missing.clone()),
            conditions: Err(missing.clone()),
            pods: Err(missing),
            proxies: BTreeMap::new(),
        }
    }

    /// The moment by the API server's clock, by which everything in the cluster is dated; this machine's where the
    /// server does not tell the time.
    #[must_use]
    pub fn cluster_now(&self) -> Timestamp {
        let ahead = self.server.as_ref().ok().and_then(|server| server.clock).map_or(0, |clock| clock.ahead_ms);
        Timestamp::from_millisecond(self.now.as_millisecond().saturating_add(ahead)).unwrap_or(self.now)
    }

    /// Replicas of one part.
    pub fn replicas_of(&self, part: &str) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(move |replica| replica.part == part)
    }
}
