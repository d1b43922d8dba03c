//! A cluster: which one is meant, a connection to it, and what it says when it refuses. Floor 1.
//!
//! Every command that talks to a cluster takes [`ClusterArgs`] (`--kubeconfig`, `--context`) and calls [`Cluster::connect`].

pub mod error;
pub mod objects;
pub mod rollout;

pub use error::{ClusterError, said};

use std::{env, fmt, path::PathBuf, time::Duration};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::time::timeout;

/// Connecting takes at most this long.
const CONNECT: Duration = Duration::from_secs(5);
/// The first answer takes at most this long.
const FIRST_ANSWER: Duration = Duration::from_secs(10);
/// Who the mesh's fields of objects belong to.
pub const FIELD_MANAGER: &str = "meshctl";

/// Which cluster is meant: arguments that all commands of a cluster share.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Kubeconfig file [default: $KUBECONFIG, else ~/.kube/config, else the cluster that this pod runs in].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// Version of an API server, as far as it decides anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Always 1 so far.
    pub major: u32,
    /// Such as 36.
    pub minor: u32,
}

impl Version {
    /// Oldest cluster that can hold a mesh: before it there are no containers that start before and end after the others
    /// (native sidecars) without being switched on. The charts say the same.
    pub const OLDEST: Self = Self { major: 1, minor: 29 };
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A cluster that has answered.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    name: String,
    server: String,
    namespace: String,
    version: Version,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("name", &self.name).field("server", &self.server).finish_non_exhaustive()
    }
}

impl Cluster {
    /// Connects to the cluster that is meant and asks for its version, so that everything after this speaks of the
    /// cluster and not of the way to it.
    ///
    /// # Errors
    /// [`ClusterError`]: no or a broken kubeconfig, an unknown context, a server that is not reached or takes nobody in.
    pub async fn connect(args: &ClusterArgs) -> Result<Self, ClusterError> {
        let (name, mut config) = load(args).await?;
        config.connect_timeout = Some(CONNECT);
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let namespace = config.default_namespace.clone();
        let unusable = |error| ClusterError::Unusable { context: name.clone(), why: said(&error) };
        let client = Client::try_from(config).map_err(unusable)?;
        let version = first_answer(&client, &name, &server).await?;
        Ok(Self { client, name, server, namespace, version })
    }

    /// A cluster behind a client that stands already; for tests.
    #[must_use]
    pub fn new(client: Client, name: &str, version: Version) -> Self {
        let namespace = client.default_namespace().to_owned();
        Self { client, name: name.to_owned(), server: String::new(), namespace, version }
    }

    /// A client; cheap, they share connections.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Name of the context, `in-cluster` within a pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// URL of the API server.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Namespace that the context names, `default` where it names none.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Version of the API server.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }
}

async fn load(args: &ClusterArgs) -> Result<(String, Config), ClusterError> {
    let kubeconfig = match &args.kubeconfig {
        Some(path) => Kubeconfig::read_from(path).map_err(|error| ClusterError::Kubeconfig(said_of(&error)))?,
        None if has_kubeconfig() => Kubeconfig::read().map_err(|error| ClusterError::Kubeconfig(said_of(&error)))?,
        None if args.context.is_none() => {
            let config = Config::incluster().map_err(|_| ClusterError::None)?;
            return Ok(("in-cluster".to_owned(), config));
        }
        None => return Err(ClusterError::None),
    };
    let known: Vec<String> = kubeconfig.contexts.iter().map(|context| context.name.clone()).collect();
    let chosen = args.context.clone().or_else(|| kubeconfig.current_context.clone()).filter(|name| !name.is_empty());
    let Some(chosen) = chosen else { return Err(ClusterError::NoContext { known: error::listed(&known) }) };
    if !known.contains(&chosen) {
        return Err(ClusterError::UnknownContext { context: chosen, known: error::listed(&known) });
    }
    let options = KubeConfigOptions { context: Some(chosen.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    let config = config.map_err(|error| ClusterError::Unusable { context: chosen.clone(), why: said_of(&error) })?;
    Ok((chosen, config))
}

/// True where the environment or the home folder has a kubeconfig.
fn has_kubeconfig() -> bool {
    let named = env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty());
    named || env::home_dir().is_some_and(|home| home.join(".kube/config").exists())
}

async fn first_answer(client: &Client, context: &str, server: &str) -> Result<Version, ClusterError> {
    let (context, server) = (context.to_owned(), server.to_owned());
    match timeout(FIRST_ANSWER, client.apiserver_version()).await {
        Err(_) => {
            let why = format!("no answer within {}s", FIRST_ANSWER.as_secs());
            Err(ClusterError::Unreachable { context, server, why })
        }
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 401 | 403) => {
            Err(ClusterError::Stranger { context, server, why: status.message.clone() })
        }
        Ok(Err(error)) => Err(ClusterError::Unreachable { context, server, why: said(&error) }),
        Ok(Ok(info)) => {
            // Some providers write "36+".
            let number = |text: &str| text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0);
            Ok(Version { major: number(&info.major), minor: number(&info.minor) })
        }
    }
}

fn said_of(error: &(dyn std::error::Error + 'static)) -> String {
    error::chain(error)
}
