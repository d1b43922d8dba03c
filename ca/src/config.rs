//! Configuration. Floor 3: imports `issuer` and `authn` for what they configure. How it is loaded is `mesh_api::config`'s.

mod keys;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use mesh_api::{
    config::{Validate, duration},
    log::LogConfig,
    names,
    places::{Bounds, Patience},
    spiffe::TrustDomain,
};
use serde::{Deserialize, Serialize};

pub use self::keys::KEYS;
use crate::{
    authn::{Demands, is_dns_label},
    issue,
    issuer::{SuppliedFiles, rotation::Schedule},
    limit::Rate,
    pki::MAX_LEAF_TTL,
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of the one root of trust.
    pub trust_domain: String,
    /// Where members ask for certificates.
    pub listen: SocketAddr,
    /// Where people and monitoring ask. All but health and metrics is for this machine (or pod) only.
    pub admin: SocketAddr,
    /// Where roots and issuers are kept.
    pub store: StoreKind,
    /// How members prove who they are.
    pub authentication: Authentication,
    /// Folder of roots, issuers and the key of join tokens.
    pub state_folder: PathBuf,
    /// Key of join tokens; empty: `join.key` in the state folder.
    pub join_key_file: PathBuf,
    /// The cluster, where it is asked for anything.
    pub kubernetes: Kubernetes,
    /// What is asked of service-account tokens.
    pub token_review: TokenReview,
    /// An issuer that somebody else makes, instead of our own.
    pub supplied: SuppliedFiles,
    /// How long certificates live.
    pub certificates: Certificates,
    /// How long roots and issuers live, and how they change.
    pub rotation: Rotation,
    /// How much is served.
    pub limits: Limits,
    /// Logging.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            trust_domain: names::DEFAULT_TRUST_DOMAIN.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], names::PORT_CA)),
            admin: SocketAddr::from(([127, 0, 0, 1], DEFAULT_ADMIN_PORT)),
            store: StoreKind::Folder,
            authentication: Authentication::Join,
            state_folder: "/var/lib/mesh-ca".into(),
            join_key_file: PathBuf::new(),
            kubernetes: Kubernetes::default(),
            token_review: TokenReview::default(),
            supplied: SuppliedFiles::default(),
            certificates: Certificates::default(),
            rotation: Rotation::default(),
            limits: Limits::default(),
            log: LogConfig::default(),
        }
    }
}

/// Port of the admin server where none is configured.
pub const DEFAULT_ADMIN_PORT: u16 = names::PORT_CA + 1;

/// Where roots and issuers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// A folder of this machine.
    Folder,
    /// A Secret, shared by every replica; their leader hands the roots out to every namespace.
    Kubernetes,
}

/// How members prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// By join tokens, which this authority's key signed.
    Join,
    /// By service-account tokens, which the API server judges.
    Kubernetes,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kubernetes {
    /// How to reach the cluster; empty: as `KUBECONFIG` says, or the pod's service account.
    pub kubeconfig: PathBuf,
    /// Namespace of the Secret and the Lease.
    pub namespace: String,
    /// One call of the API server takes at most this long.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for Kubernetes {
    fn default() -> Self {
        let timeout = Duration::from_secs(4);
        Self { kubeconfig: PathBuf::new(), namespace: names::SYSTEM_NAMESPACE.into(), timeout }
    }
}

/// What is asked of service-account tokens beyond being genuine and the mesh's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenReview {
    /// The call comes from an address of the pod that the token is bound to.
    pub check_address: bool,
    /// Tokens that are bound to no pod are taken as well.
    pub allow_unbound: bool,
}

impl Default for TokenReview {
    fn default() -> Self {
        Self { check_address: true, allow_unbound: false }
    }
}

/// How long certificates live.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Certificates {
    /// Where the member has no wish.
    #[serde(with = "duration")]
    pub default_ttl: Duration,
    /// Shortest.
    #[serde(with = "duration")]
    pub min_ttl: Duration,
    /// Longest, at most a day.
    #[serde(with = "duration")]
    pub max_ttl: Duration,
}

impl Default for Certificates {
    fn default() -> Self {
        Self { default_ttl: MAX_LEAF_TTL, min_ttl: Duration::from_secs(300), max_ttl: MAX_LEAF_TTL }
    }
}

/// How long roots and issuers live, and how they change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rotation {
    /// Validity of a root; its successor is announced at two thirds.
    #[serde(with = "duration")]
    pub root_lifetime: Duration,
    /// Validity of an issuer; its successor signs at two thirds.
    #[serde(with = "duration")]
    pub issuer_lifetime: Duration,
    /// From announcing a new root to signing under it: every member must have heard of it by then.
    #[serde(with = "duration")]
    pub overlap: Duration,
    /// From signing under a new root to forgetting the old one; at least the longest life of a certificate.
    #[serde(with = "duration")]
    pub retire: Duration,
    /// How often to look whether something is due, or was replaced.
    #[serde(with = "duration")]
    pub check_interval: Duration,
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            root_lifetime: 5 * 365 * DAY,
            issuer_lifetime: 60 * DAY,
            overlap: DAY,
            retire: DAY + HOUR,
            check_interval: Duration::from_secs(10),
        }
    }
}

/// How much is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections. For each one more, one that asks for nothing is closed, or one of the address that has most.
    pub connections: usize,
    /// Connections of one address; for each one more, one of its own is closed.
    pub connections_per_address: usize,
    /// A connection without a call is closed after this time.
    #[serde(with = "duration")]
    pub first_call: Duration,
    /// Members that follow the trust bundle.
    pub watchers: usize,
    /// Certificates made at once.
    pub concurrent: usize,
    /// Calls that wait for their turn.
    pub waiting: usize,
    /// A call takes at most this long, waiting included.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// One holder of an identity gets a certificate in this time,
    #[serde(with = "duration")]
    pub refill: Duration,
    /// and so many at once after a pause.
    pub burst: u32,
    /// Holders whose rate is kept at once.
    pub holders: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // About 40 KiB each, where it follows the bundle: they fit 256 MiB, with what calls need besides.
            connections: 4096,
            // Pods have addresses of their own and one connection each. Those on a node's network share its address, and a
            // node has at most 110 pods, 256 where somebody raised it to what a /24 holds.
            connections_per_address: 256,
            first_call: Duration::from_secs(30),
            watchers: 16_384,
            concurrent: 16,
            waiting: 8192,
            deadline: Duration::from_secs(10),
            refill: Duration::from_secs(1),
            burst: 20,
            holders: 65_536,
        }
    }
}

impl Config {
    /// The trust domain.
    ///
    /// # Errors
    /// As [`TrustDomain`] says; a loaded configuration was checked.
    pub fn domain(&self) -> Result<TrustDomain, mesh_api::spiffe::SpiffeError> {
        self.trust_domain.parse()
    }

    /// File of the key of join tokens.
    #[must_use]
    pub fn join_key(&self) -> PathBuf {
        if self.join_key_file.as_os_str().is_empty() {
            return self.state_folder.join("join.key");
        }
        self.join_key_file.clone()
    }

    /// True where the API server is asked for anything.
    #[must_use]
    pub fn asks_kubernetes(&self) -> bool {
        self.store == StoreKind::Kubernetes || self.authentication == Authentication::Kubernetes
    }

    /// What is asked of service-account tokens.
    #[must_use]
    pub fn demands(&self) -> Demands {
        let TokenReview { check_address, allow_unbound } = self.token_review;
        Demands { check_address, allow_unbound }
    }

    /// How long certificates live.
    #[must_use]
    pub fn validity(&self) -> issue::Validity {
        let Certificates { default_ttl, min_ttl, max_ttl } = self.certificates;
        issue::Validity { default_ttl, min_ttl, max_ttl }
    }

    /// When roots and issuers change.
    #[must_use]
    pub fn schedule(&self) -> Schedule {
        let Rotation { root_lifetime, issuer_lifetime, overlap, retire, .. } = self.rotation;
        Schedule { root_lifetime, issuer_lifetime, overlap, retire }
    }

    /// How many connections are held.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        let Limits { connections: total, connections_per_address: per_peer, .. } = self.limits;
        Bounds { total, per_peer, busy_give_way: true }
    }

    /// How long a connection may ask for nothing. Members follow the trust bundle all the time.
    #[must_use]
    pub fn patience(&self) -> Patience {
        let first = self.limits.first_call;
        Patience { first, idle: first.saturating_mul(4) }
    }

    /// Rate of one holder of an identity.
    #[must_use]
    pub fn rate(&self) -> Rate {
        Rate { refill: self.limits.refill, burst: self.limits.burst }
    }
}

impl SuppliedFiles {
    fn paths(&self) -> [(&'static str, &PathBuf); 3] {
        [("roots_file", &self.roots_file), ("chain_file", &self.chain_file), ("key_file", &self.key_file)]
    }

    /// True where the issuer is somebody else's.
    #[must_use]
    pub fn are_set(&self) -> bool {
        self.paths().iter().any(|(_, path)| !path.as_os_str().is_empty())
    }
}

impl Validate for Config {
    fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut wrong = |bad: bool, key: &str, why: &str| {
            if bad {
                mistakes.push((key.to_owned(), why.to_owned()));
            }
        };
        if let Err(error) = self.domain() {
            wrong(true, "trust_domain", &error.to_string());
        }
        let Certificates { default_ttl, min_ttl, max_ttl } = self.certificates;
        wrong(max_ttl > MAX_LEAF_TTL, "certificates.max_ttl", "is more than a day");
        wrong(min_ttl < Duration::from_secs(1), "certificates.min_ttl", "is less than a second");
        wrong(min_ttl > max_ttl, "certificates.min_ttl", "is more than certificates.max_ttl");
        let outside = default_ttl < min_ttl || default_ttl > max_ttl;
        wrong(outside, "certificates.default_ttl", "is not between certificates.min_ttl and certificates.max_ttl");

        let Rotation { root_lifetime, issuer_lifetime, overlap, retire, check_interval } = self.rotation;
        let short = "is less than certificates.max_ttl: the old root would leave before the last certificate under it";
        wrong(retire < max_ttl, "rotation.retire", short);
        let short = "is less than three times certificates.max_ttl: an issuer must have a full certificate's life left \
                     when its successor is made";
        wrong(issuer_lifetime < max_ttl.saturating_mul(3), "rotation.issuer_lifetime", short);
        let short = "is less than three times rotation.overlap and rotation.retire together: a root must outlive the \
                     change to its successor";
        wrong(root_lifetime < overlap.saturating_add(retire).saturating_mul(3), "rotation.root_lifetime", short);
        let limits = &self.limits;
        for (key, value) in [
            ("rotation.check_interval", check_interval),
            ("limits.deadline", limits.deadline),
            ("limits.first_call", limits.first_call),
            ("kubernetes.timeout", self.kubernetes.timeout),
            ("limits.refill", limits.refill),
        ] {
            wrong(value.is_zero() || value > HOUR, key, "is zero or more than an hour");
        }
        for (key, value) in [
            ("limits.connections", limits.connections),
            ("limits.connections_per_address", limits.connections_per_address),
            ("limits.watchers", limits.watchers),
            ("limits.concurrent", limits.concurrent),
            ("limits.holders", limits.holders),
            ("limits.burst", limits.burst as usize),
        ] {
            wrong(value == 0, key, "is zero: nothing would be served");
        }
        wrong(!is_dns_label(&self.kubernetes.namespace), "kubernetes.namespace", "is not the name of a namespace");
        for (key, path) in self.supplied.paths() {
            let missing = self.supplied.are_set() && path.as_os_str().is_empty();
            wrong(missing, &format!("supplied.{key}"), "is missing: the files of `supplied` go together");
        }
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::config::{Sources, load};

    use super::*;

    fn with(flags: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        load(&Sources { flags, ..Sources::default() }).map_err(|errors| errors.lines().to_vec())
    }

    #[test]
    fn defaults_are_right_and_values_are_read() {
        assert_eq!(with(&[]).unwrap(), Config::default());
        let config = with(&[
            ("certificates.max_ttl", "1h"),
            ("certificates.default_ttl", "30m"),
            ("supplied.roots_file", "/a"),
            ("supplied.chain_file", "/b"),
            ("supplied.key_file", "/c"),
            ("join_key_file", "/d"),
            ("limits.burst", "7"),
            ("store", "kubernetes"),
            ("authentication", "kubernetes"),
            ("token_review.allow_unbound", "true"),
        ])
        .unwrap();
        assert!(config.asks_kubernetes() && !Config::default().asks_kubernetes());
        assert_eq!(config.demands(), Demands { check_address: true, allow_unbound: true });
        assert_eq!(config.validity().of(u64::MAX), HOUR);
        assert!(config.supplied.are_set());
        assert_eq!((config.join_key(), config.rate().burst), (PathBuf::from("/d"), 7));
        assert_eq!(Config::default().join_key(), PathBuf::from("/var/lib/mesh-ca/join.key"));
    }

    #[test]
    fn every_mistake_is_named() {
        for (key, value, named) in [
            ("trust_domain", "UPPER", "trust_domain"),
            ("certificates.max_ttl", "2days", "certificates.max_ttl"),
            ("certificates.min_ttl", "0s", "certificates.min_ttl"),
            ("certificates.default_ttl", "1s", "certificates.default_ttl"),
            ("rotation.retire", "1h", "rotation.retire"),
            ("rotation.issuer_lifetime", "1day", "rotation.issuer_lifetime"),
            ("rotation.root_lifetime", "1day", "rotation.root_lifetime"),
            ("rotation.check_interval", "0s", "rotation.check_interval"),
            ("limits.concurrent", "0", "limits.concurrent"),
            ("limits.deadline", "0s", "limits.deadline"),
            ("limits.refill", "1000000000years", "limits.refill"),
            ("rotation.retire", "500000000000years", "rotation.root_lifetime"),
            ("supplied.key_file", "/x", "supplied.roots_file"),
            ("store", "etcd", "store"),
            ("authentication", "none", "authentication"),
            ("kubernetes.namespace", "a/b", "kubernetes.namespace"),
            ("kubernetes.timeout", "0s", "kubernetes.timeout"),
        ] {
            let lines = with(&[(key, value)]).unwrap_err();
            assert!(lines.iter().any(|line| line.starts_with(named)), "{key}={value}: {lines:?}");
        }
    }
}
