//! Configuration. Floor 1: imports `index` and `inject` for what it configures. How it is loaded is `mesh_api::config`'s.

mod keys;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use mesh_api::{
    config::{Validate, duration},
    identity::IdentityConfig,
    log::LogConfig,
    model::{is_dns_label, policy::Transport},
    names,
    spiffe::{SpiffeError, TrustDomain},
};
use serde::{Deserialize, Serialize};

pub use self::keys::KEYS;
use crate::{index::Settings, inject::InjectConfig};

/// Port of the admin server where none is configured.
pub const DEFAULT_ADMIN_PORT: u16 = names::PORT_DISCOVERY + 1;

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where proxies ask.
    pub listen: SocketAddr,
    /// Where objects come from.
    pub source: SourceConfig,
    /// Which of several replicas writes.
    pub leader: LeaderConfig,
    /// What holds where no policy speaks.
    pub defaults: Defaults,
    /// Who the controller is; its trust domain is the mesh's.
    pub identity: IdentityConfig,
    /// Where people and monitoring ask.
    pub admin: AdminConfig,
    /// How much is served.
    pub limits: LimitsConfig,
    /// What sidecars are made from.
    pub inject: InjectConfig,
    /// Where API servers ask.
    pub webhook: WebhookConfig,
    /// Logging.
    pub log: LogConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], names::PORT_DISCOVERY)),
            source: SourceConfig::default(),
            leader: LeaderConfig::default(),
            defaults: Defaults::default(),
            identity: IdentityConfig::default(),
            admin: AdminConfig::default(),
            limits: LimitsConfig::default(),
            inject: InjectConfig::default(),
            webhook: WebhookConfig::default(),
            log: LogConfig::default(),
        }
    }
}

/// Where objects come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceConfig {
    /// What they come from.
    pub kind: SourceKind,
    /// Folders of manifests (or single files), read with all folders below them.
    pub folders: Vec<PathBuf>,
    /// How long to wait for more after a file changed.
    #[serde(with = "duration")]
    pub debounce: Duration,
    /// How often to look although no change was heard of.
    #[serde(with = "duration")]
    pub rescan: Duration,
    /// How the API server is reached; empty: as a pod, or by the kubeconfig of whoever runs it.
    pub kubeconfig: PathBuf,
    /// How often to ask the API server which kinds it has.
    #[serde(with = "duration")]
    pub discovery: Duration,
}

/// What objects come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    /// Folders of manifests.
    Files,
    /// An API server.
    Kubernetes,
}

impl Default for SourceConfig {
    fn default() -> Self {
        Self {
            kind: SourceKind::Files,
            kubeconfig: PathBuf::new(),
            discovery: Duration::from_secs(10),
            folders: vec!["/etc/mesh/manifests".into()],
            debounce: Duration::from_millis(50),
            rescan: Duration::from_secs(5),
        }
    }
}

/// Which of several replicas writes statuses and the like; only with the source `kubernetes`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaderConfig {
    /// Name of the Lease.
    pub lease: String,
    /// Its namespace.
    pub namespace: String,
    /// Name of this replica; empty: the machine's.
    pub identity: String,
    /// How long a lease holds that is not renewed.
    #[serde(with = "duration")]
    pub duration: Duration,
}

impl Default for LeaderConfig {
    fn default() -> Self {
        Self {
            lease: names::CONTROLLER_LEASE.into(),
            namespace: names::SYSTEM_NAMESPACE.into(),
            identity: String::new(),
            duration: Duration::from_secs(15),
        }
    }
}

/// What holds where no policy speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// Where no TransportPolicy speaks: `permissive` or `strict`.
    pub transport: DefaultTransport,
    /// Where no AuthorizationPolicy speaks: whether calls are let in.
    pub allow: bool,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { transport: DefaultTransport::Permissive, allow: true }
    }
}

/// Where no TransportPolicy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefaultTransport {
    /// Plain connections are let in too.
    Permissive,
    /// Only mutual TLS.
    Strict,
}

/// The admin server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Where it listens. All but health and metrics is for this machine (or pod) only.
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], DEFAULT_ADMIN_PORT)) }
    }
}

/// How much is served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Streams of proxies at once.
    pub streams: usize,
    /// Keys that one stream watches.
    pub subscriptions: usize,
    /// How long a proxy may take nothing while there is something to take.
    #[serde(with = "duration")]
    pub slow_reader: Duration,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { streams: 20_000, subscriptions: 4096, slow_reader: Duration::from_secs(30) }
    }
}

/// The webhooks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Where they listen; `None`: there are none, as outside of a cluster.
    pub listen: Option<SocketAddr>,
}

/// Longest name of a replica, in bytes: it is part of a name that an API server takes only so long.
const MAX_REPLICA: usize = 100;

impl LeaderConfig {
    /// Name of this replica: the configured one, else the machine's with this process's number. Of a name that is too
    /// long the end holds, which is what tells the pods of a Deployment apart.
    #[must_use]
    pub fn replica(&self) -> String {
        let name = match self.identity.as_str() {
            "" => {
                let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
                format!("{}-{}", machine.trim(), std::process::id())
            }
            given => given.to_owned(),
        };
        let start = name.ceil_char_boundary(name.len().saturating_sub(MAX_REPLICA));
        name.get(start..).unwrap_or_default().to_owned()
    }
}

impl Config {
    /// What holds for the whole mesh.
    ///
    /// # Errors
    /// Where the trust domain is malformed.
    pub fn settings(&self) -> Result<Settings, SpiffeError> {
        Ok(Settings {
            trust_domain: self.identity.trust_domain.parse()?,
            default_transport: match self.defaults.transport {
                DefaultTransport::Permissive => Transport::Permissive,
                DefaultTransport::Strict => Transport::Strict,
            },
            default_allow: self.defaults.allow,
        })
    }
}

impl Validate for Config {
    fn mistakes(&self) -> Vec<(String, String)> {
        let mut mistakes = Vec::new();
        let mut wrong = |key: &str, reason: String| mistakes.push((key.to_owned(), reason));
        if let Err(error) = self.identity.trust_domain.parse::<TrustDomain>() {
            wrong("identity.trust_domain", error.to_string());
        }
        if self.source.kind == SourceKind::Files && self.source.folders.is_empty() {
            wrong("source.folders", "at least one folder is needed".into());
        }
        if self.source.debounce > Duration::from_secs(10) {
            wrong("source.debounce", "at most 10s: changes would hardly ever arrive".into());
        }
        if self.source.rescan < Duration::from_millis(100) {
            wrong("source.rescan", "at least 100ms".into());
        }
        if self.source.discovery < Duration::from_secs(1) {
            wrong("source.discovery", "at least 1s".into());
        }
        if self.leader.duration < Duration::from_secs(10) || self.leader.duration > Duration::from_secs(600) {
            wrong("leader.duration", "from 10s to 10m".into());
        }
        for (key, name) in [("leader.lease", &self.leader.lease), ("leader.namespace", &self.leader.namespace)] {
            if !is_dns_label(name) {
                wrong(key, format!("`{name}` is not a name: a-z, 0-9 and `-`"));
            }
        }
        if self.limits.streams == 0 || self.limits.subscriptions == 0 {
            wrong("limits", "streams and subscriptions must be at least 1".into());
        }
        if self.limits.slow_reader < Duration::from_secs(1) {
            wrong("limits.slow_reader", "at least 1s: a busy proxy would be let go".into());
        }
        if self.webhook.listen.is_some() && self.source.kind != SourceKind::Kubernetes {
            wrong("webhook.listen", "webhooks need a cluster: source.kind is `files`".into());
        }
        let inject = self.inject.mistakes().into_iter();
        mistakes.extend(inject.map(|(key, reason)| (format!("inject.{key}"), reason)));
        mistakes
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::config::{Sources, load};

    use super::*;

    #[test]
    fn defaults_are_right_and_mistakes_are_told_at_once() {
        let config: Config = load(&Sources::default()).unwrap();
        assert_eq!(config, Config::default());
        let flag = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let sources = Sources {
            flags: vec![
                flag("source.folders", "[\"/a\", \"/b\"]"),
                flag("defaults.transport", "strict"),
                flag("defaults.allow", "false"),
                flag("source.rescan", "1s"),
            ],
            ..Sources::default()
        };
        let config: Config = load(&sources).unwrap();
        assert_eq!(config.source.folders, [PathBuf::from("/a"), PathBuf::from("/b")]);
        let settings = config.settings().unwrap();
        assert_eq!((settings.default_transport, settings.default_allow), (Transport::Strict, false));
        let sources = Sources {
            flags: vec![flag("identity.trust_domain", "Not Good"), flag("source.rescan", "1ms")],
            ..Sources::default()
        };
        assert_eq!(load::<Config>(&sources).unwrap_err().lines().len(), 2);
    }
}
