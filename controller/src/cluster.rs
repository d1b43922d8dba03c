//! The way to an API server. Floor 1: imports `config`.

use std::time::Duration;

use kube::{
    Client, Config as KubeConfig,
    config::{KubeConfigOptions, Kubeconfig},
};

use crate::config::SourceConfig;

/// A connection is made, and a request sent, within this time.
const CONNECT: Duration = Duration::from_secs(5);
/// What is asked for once is answered within this time. It is less than a third of any lease.
const CALL: Duration = Duration::from_secs(3);

/// Why there is no way to an API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be used.
    #[error("source.kubeconfig: {0}")]
    Kubeconfig(#[from] kube::config::KubeconfigError),
    /// None was given, and this is no pod either.
    #[error("no API server is known: this is no pod, and there is no kubeconfig ({0})")]
    Unknown(#[from] kube::config::InferConfigError),
    /// TLS or the like.
    #[error("the API server cannot be spoken to: {0}")]
    Client(#[from] kube::Error),
}

/// Ways to one API server.
#[derive(Clone)]
pub struct Clients {
    /// For watches, which last.
    pub watch: Client,
    /// For single calls: each has a deadline.
    pub call: Client,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").finish_non_exhaustive()
    }
}

/// From a kubeconfig, or from where this runs.
///
/// # Errors
/// [`ClusterError`]; the API server itself has not been asked anything yet.
pub async fn connect(source: &SourceConfig) -> Result<Clients, ClusterError> {
    let mut config = if source.kubeconfig.as_os_str().is_empty() {
        KubeConfig::infer().await?
    } else {
        let kubeconfig = Kubeconfig::read_from(&source.kubeconfig)?;
        KubeConfig::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?
    };
    config.connect_timeout = Some(CONNECT);
    config.write_timeout = Some(CONNECT);
    // Who asks waits as long as suits what is asked.
    config.default_retry = false;
    let watch = Client::try_from(config.clone())?;
    config.read_timeout = Some(CALL);
    Ok(Clients { watch, call: Client::try_from(config)? })
}
