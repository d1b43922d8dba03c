//! Puts the authority together and runs it. Floor 5: imports everything.

mod begin;

pub use begin::repair;

use std::{future::Future, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use mesh_api::{
    admin::{self, Admin},
    grpc,
    log::LogLevel,
    names,
    supervise::{Supervisor, TaskEnded},
    sys::{Listener, Sys},
    tls::{self, ClientAuth},
};
use metrics_exporter_prometheus::PrometheusHandle;
use rustls::ServerConfig;
use tokio::sync::{oneshot, watch};
use tonic::transport::Server;

use crate::{
    admin::{Pages, Parts},
    authn::{Authenticator, JoinKeyError, JoinTokens},
    bundle::Bundles,
    cluster::ClusterError,
    config::Config,
    issuer::{Control, Driver, IssuerError, Issuing, StoreError},
    own::{Own, OwnError},
    replicas::{Replicas, watch_secret},
    serve::{Service, bounded},
    telemetry,
};

/// A member that does not answer a ping within this time is gone.
const PING: Duration = Duration::from_secs(20);
/// Calls in flight at the end may take this long.
const DRAIN: Duration = Duration::from_secs(5);
/// Streams of one connection: a member follows the bundle and asks for one certificate at a time.
const MAX_STREAMS: u32 = 4;
/// What may be on its way to calls of one connection, in bytes: a request at its limits, and no more for those that do not
/// read what is sent to them.
const WINDOW: u32 = 65_535;
/// Header list of a request, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// Metrics are condensed this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the authority does not run (any more).
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration was not checked.
    #[error("trust_domain: {0}")]
    Domain(#[from] mesh_api::spiffe::SpiffeError),
    /// Nothing can be signed.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// There is no cluster to ask.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Join tokens cannot be verified.
    #[error(transparent)]
    JoinKey(#[from] JoinKeyError),
    /// There is no own certificate.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// TLS cannot be configured.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: std::io::Error,
    },
    /// A task that should have run for ever did not.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        Self::Issuer(error.into())
    }
}

/// What a process shares between everything that runs in it.
#[derive(Clone, Default)]
pub struct Shared {
    /// The log level, for the admin server.
    pub log: LogLevel,
    /// The metrics, for the admin server.
    pub metrics: Option<PrometheusHandle>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// An authority that listens, and serves once it runs.
pub struct App {
    config: Config,
    sys: Sys,
    metrics: Option<PrometheusHandle>,
    driver: Driver,
    control: Control,
    issuing: watch::Receiver<Arc<Issuing>>,
    own: Own,
    authenticator: Arc<dyn Authenticator>,
    tokens: Option<Arc<JoinTokens>>,
    tls: Arc<ServerConfig>,
    grpc: (Listener, SocketAddr),
    admin: SocketAddr,
    replicas: Option<Replicas>,
    /// What runs already.
    tasks: Supervisor,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("address", &self.grpc.1).field("admin", &self.admin).finish_non_exhaustive()
    }
}

impl App {
    /// Opens the state, makes what is missing, and listens. With its state in a cluster it waits for that, for as long
    /// as it takes; the admin server says meanwhile what is waited for.
    ///
    /// # Errors
    /// [`AppError`]; nothing was served.
    pub async fn start(config: Config, sys: Sys, shared: Shared) -> Result<Self, AppError> {
        let mut ground = begin::Ground::open(&config, &sys).await?;
        let (listener, admin) = listen(&sys, config.admin).await?;
        let pages = Arc::new(Pages::default());
        let mut tasks = Supervisor::new();
        let mount = Arc::clone(&pages) as Arc<dyn admin::Mount>;
        let metrics = shared.metrics.clone();
        tasks.spawn("admin", admin::serve(listener, Admin { mount, log: shared.log, metrics: shared.metrics }));
        let wake = ground.replicas.as_ref().map(Replicas::wake);
        if let Some(replicas) = &ground.replicas {
            tasks.spawn("watch of the Secret", watch_secret(replicas.cluster(), replicas.wake()));
        }
        let (source, first) = ground.first(&sys, &pages, wake.as_deref()).await?;
        let (driver, control, issuing) = Driver::with(source, first, sys.clock, config.rotation.check_interval);
        let driver = match wake {
            Some(wake) => driver.woken_by(wake),
            None => driver,
        };
        let own = Own::start(issuing.clone(), sys.clock, config.certificates.max_ttl)?;
        let tls = tls::server_config(&own.keeper(), sys.clock, ClientAuth::None, &[names::ALPN_GRPC])?;
        let grpc = listen(&sys, config.listen).await?;
        pages.open(Parts {
            issuing: issuing.clone(),
            control: control.clone(),
            own: own.keeper(),
            clock: sys.clock,
            leading: ground.replicas.as_ref().map(Replicas::leading),
        });
        let begin::Ground { authenticator, tokens, replicas, .. } = ground;
        Ok(Self {
            config,
            sys,
            metrics,
            driver,
            control,
            issuing,
            own,
            authenticator,
            tokens,
            tls,
            grpc,
            admin,
            replicas,
            tasks,
        })
    }

    /// Where members ask.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.grpc.1
    }

    /// Where people ask.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Makes tokens for members, where these join by such.
    #[must_use]
    pub fn tokens(&self) -> Option<Arc<JoinTokens>> {
        self.tokens.clone()
    }

    /// What signs and what is trusted, now and later.
    #[must_use]
    pub fn issuing(&self) -> watch::Receiver<Arc<Issuing>> {
        self.issuing.clone()
    }

    /// Orders rotations.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Serves until `shutdown`, then lets calls in flight end.
    ///
    /// # Errors
    /// [`AppError::Task`]: something that must run for ever does not; the process should end.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AppError> {
        let (config, clock) = (&self.config, self.sys.clock);
        tracing::info!(
            address = %self.grpc.1,
            admin = %self.admin,
            trust_domain = config.trust_domain,
            issuer = self.issuing.borrow().signer().cert().name(),
            not_after = %self.issuing.borrow().signer().cert().not_after(),
            "the certificate authority serves"
        );
        let service = Service::new(self.authenticator, self.issuing.clone(), config.validity(), clock, &config.limits)
            .into_server();
        let connections = bounded(grpc::incoming(self.grpc.0, self.tls), config.bounds(), config.patience());
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Server::builder()
            .timeout(config.limits.deadline + DRAIN)
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING))
            .add_service(service)
            .serve_with_incoming_shutdown(connections, async {
                let _ = stopped.await;
            });

        let (mut tasks, mut replicas) = (self.tasks, self.replicas);
        if let Some(replicas) = &replicas {
            let bundles = Bundles::new(replicas.cluster(), self.issuing.clone(), replicas.leading());
            tasks.spawn("roots of namespaces", bundles.run());
        }
        tasks.spawn_fallible("issuer", self.driver.run());
        tasks.spawn("own certificate", self.own.run());
        if let Some(handle) = self.metrics {
            tasks.spawn("metrics", condense(handle));
        }
        // Orders come over the pages; without this one, nobody else keeps the driver from ending.
        let _control = self.control;

        let mut server = Supervisor::new();
        server.spawn_fallible("grpc", serving);
        let striving = async {
            match &mut replicas {
                Some(replicas) => replicas.first_end().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = tasks.first_end() => return Err(ended.into()),
            ended = server.first_end() => return Err(ended.into()),
            ended = striving => return Err(ended.into()),
            () = shutdown => {}
        }
        tracing::info!("stopping");
        // Without the driver the streams of members end, and without streams the server does.
        drop(tasks);
        let _ = stop.send(());
        let farewell = async {
            if let Some(replicas) = replicas {
                replicas.end().await;
            }
        };
        let (drained, ()) = tokio::join!(tokio::time::timeout(DRAIN, server.first_end()), farewell);
        if drained.is_err() {
            tracing::warn!(waited = ?DRAIN, "calls in flight are cut off");
        }
        Ok(())
    }
}

/// Starts and runs an authority.
///
/// # Errors
/// [`AppError`].
pub async fn run(
    config: Config,
    sys: Sys,
    shared: Shared,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AppError> {
    let mut shutdown = pin!(shutdown);
    // It may have to wait for the cluster.
    let app = tokio::select! {
        started = App::start(config, sys, shared) => started?,
        () = &mut shutdown => return Ok(()),
    };
    app.run(shutdown).await
}

async fn listen(sys: &Sys, address: SocketAddr) -> Result<(Listener, SocketAddr), AppError> {
    let wrong = |error| AppError::Listen { address, error };
    let listener = sys.net.bind(address, false).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

/// Histograms grow until somebody condenses them.
async fn condense(handle: PrometheusHandle) {
    loop {
        tokio::time::sleep(UPKEEP).await;
        handle.run_upkeep();
    }
}

/// Sets up metrics for this process.
///
/// # Errors
/// Where the process has a recorder already.
pub fn install_metrics() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    let handle = metrics_exporter_prometheus::PrometheusBuilder::new()
        .set_buckets_for_metric(
            metrics_exporter_prometheus::Matcher::Full(telemetry::DURATION.into()),
            &telemetry::DURATION_BUCKETS,
        )?
        .install_recorder()?;
    telemetry::describe();
    Ok(handle)
}
