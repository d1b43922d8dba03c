//! What an authority stands on: its source of roots and issuers, its way to know members, and the other replicas.

use std::{sync::Arc, time::Duration};

use mesh_api::{backoff::Backoff, sys::Sys};
use rand::Rng as _;
use tokio::sync::{Notify, watch};

use super::AppError;
use crate::{
    admin::Pages,
    authn::{Authenticator, JoinKeyError, JoinTokens, Review},
    cluster::Cluster,
    config::{Authentication, Config, Kubernetes, StoreKind},
    issuer::{IssuerError, Issuing, SecretStore, Source, Store, Supplied, TRUST_FILE, keyring::Frame, rotation::Order},
    replicas::Replicas,
    time::Time,
};

/// Waits before the cluster is asked again grow from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What an authority stands on.
pub(super) struct Ground {
    source: Option<Source>,
    pub(super) authenticator: Arc<dyn Authenticator>,
    pub(super) tokens: Option<Arc<JoinTokens>>,
    pub(super) replicas: Option<Replicas>,
}

impl Ground {
    /// Opens what is local; the cluster is not asked yet.
    pub(super) async fn open(config: &Config, sys: &Sys) -> Result<Self, AppError> {
        let cluster = if config.asks_kubernetes() { Some(connect(config).await?) } else { None };
        let shared = cluster.clone().filter(|_| config.store == StoreKind::Kubernetes);
        let replicas = shared.clone().map(|cluster| Replicas::start(cluster, sys));
        let leading = replicas.as_ref().map(Replicas::leading);
        let source = Some(open(config, sys, shared.zip(leading))?);
        let (authenticator, tokens): (Arc<dyn Authenticator>, _) = match (config.authentication, cluster) {
            (Authentication::Kubernetes, Some(cluster)) => (Arc::new(Review::new(cluster, config.demands())), None),
            _ => {
                let tokens = Arc::new(JoinTokens::open_or_create(&config.join_key())?);
                (Arc::clone(&tokens) as Arc<dyn Authenticator>, Some(tokens))
            }
        };
        Ok(Self { source, authenticator, tokens, replicas })
    }

    /// The source with what it says first. One that is in the cluster is waited for.
    pub(super) async fn first(
        &mut self,
        sys: &Sys,
        pages: &Pages,
        wake: Option<&Notify>,
    ) -> Result<(Source, Issuing), AppError> {
        let mut source = self.source.take().ok_or(IssuerError::Waiting)?;
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let mut rng = sys.entropy.rng();
        let mut said = String::new();
        loop {
            let (back, outcome) = source.start(sys.clock.now().into()).await.map_err(IssuerError::from)?;
            source = back;
            let error = match outcome {
                Ok(Some(first)) => return Ok((source, first)),
                Ok(None) => IssuerError::Waiting,
                Err(error) => error,
            };
            let Some(wake) = wake.filter(|_| matches!(source, Source::Secret(_))) else { return Err(error.into()) };
            let why = error.to_string();
            pages.wait_for(why.as_str());
            if why != said {
                tracing::warn!(error = why, "there is nothing to sign with yet; trying again");
                said = why;
            }
            let wait = backoff.next_wait(rng.next_u32());
            // Whichever comes first.
            let _ = tokio::time::timeout(wait, wake.notified()).await;
        }
    }
}

/// Begins anew after everything expired: a new root and issuer. With a folder, the authority must not run.
///
/// # Errors
/// [`AppError`], as well where nothing expired or the issuer is not ours.
pub async fn repair(config: &Config, sys: &Sys) -> Result<Issuing, AppError> {
    let shared = match config.store {
        StoreKind::Folder => None,
        // What it writes is tied to what it read: no leadership is needed for that.
        StoreKind::Kubernetes => Some((connect(config).await?, watch::channel(true).1)),
    };
    let source = open(config, sys, shared)?;
    let now = Time::from(sys.clock.now());
    let (source, repaired) = source.tick(now, Some(Order::Repair)).await.map_err(IssuerError::from)?;
    if let Some(issuing) = repaired? {
        return Ok(issuing);
    }
    let (_, outcome) = source.start(now).await.map_err(IssuerError::from)?;
    Ok(outcome?.ok_or(IssuerError::Waiting)?)
}

async fn connect(config: &Config) -> Result<Cluster, AppError> {
    let Kubernetes { kubeconfig, namespace, timeout } = &config.kubernetes;
    Ok(if kubeconfig.as_os_str().is_empty() {
        Cluster::infer(namespace, *timeout).await?
    } else {
        Cluster::from_file(kubeconfig, namespace, *timeout).await?
    })
}

fn open(config: &Config, sys: &Sys, shared: Option<(Cluster, watch::Receiver<bool>)>) -> Result<Source, AppError> {
    let domain = config.domain()?;
    if config.supplied.are_set() {
        // In a cluster the roots reach members in another way, and nothing may be writable.
        let publish = match &shared {
            Some(_) => None,
            None => {
                crate::files::create_folder(&config.state_folder).map_err(JoinKeyError::from)?;
                Some(config.state_folder.join(TRUST_FILE))
            }
        };
        return Ok(Source::Supplied(Supplied::new(config.supplied.clone(), domain, publish)));
    }
    if let Some((cluster, leading)) = shared {
        let frame = Frame { domain, schedule: config.schedule() };
        return Ok(Source::Secret(Box::new(SecretStore::new(cluster, frame, leading))));
    }
    let store = Store::open(&config.state_folder, domain, config.schedule(), sys.clock.now().into())?;
    Ok(Source::Own(Box::new(store)))
}
