//! Puts the authority together and runs it. Floor 5: imports everything.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

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
    admin::Pages,
    authn::{JoinKeyError, JoinTokens},
    config::Config,
    issuer::{Control, Driver, IssuerError, Issuing, Source, Store, StoreError, Supplied, TRUST_FILE, rotation::Order},
    own::{Own, OwnError},
    serve::{Service, bounded},
    telemetry,
};

/// A member that does not answer a ping within this time is gone.
const PING: Duration = Duration::from_secs(20);
/// Calls in flight at the end may take this long.
const DRAIN: Duration = Duration::from_secs(5);
/// Streams of one connection: a member follows the bundle and asks for one certificate at a time.
const MAX_STREAMS: u32 = 32;
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
    shared: Shared,
    driver: Driver,
    control: Control,
    issuing: watch::Receiver<Arc<Issuing>>,
    own: Own,
    tokens: Arc<JoinTokens>,
    tls: Arc<ServerConfig>,
    grpc: (Listener, SocketAddr),
    admin: (Listener, SocketAddr),
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("address", &self.grpc.1).field("admin", &self.admin.1).finish_non_exhaustive()
    }
}

impl App {
    /// Opens the state, makes what is missing, and listens.
    ///
    /// # Errors
    /// [`AppError`]; nothing was served.
    pub async fn start(config: Config, sys: Sys, shared: Shared) -> Result<Self, AppError> {
        let source = open(&config, &sys)?;
        let tokens = Arc::new(JoinTokens::open_or_create(&config.join_key())?);
        let (driver, control, issuing) = Driver::start(source, sys.clock, config.rotation.check_interval)?;
        let own = Own::start(issuing.clone(), sys.clock, config.certificates.max_ttl)?;
        let tls = tls::server_config(&own.keeper(), sys.clock, ClientAuth::None, &[names::ALPN_GRPC])?;
        let grpc = listen(&sys, config.listen).await?;
        let admin = listen(&sys, config.admin).await?;
        Ok(Self { config, sys, shared, driver, control, issuing, own, tokens, tls, grpc, admin })
    }

    /// Where members ask.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.grpc.1
    }

    /// Where people ask.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.1
    }

    /// Makes tokens for members.
    #[must_use]
    pub fn tokens(&self) -> Arc<JoinTokens> {
        Arc::clone(&self.tokens)
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
            admin = %self.admin.1,
            trust_domain = config.trust_domain,
            issuer = self.issuing.borrow().signer().cert().name(),
            not_after = %self.issuing.borrow().signer().cert().not_after(),
            "the certificate authority serves"
        );
        let service =
            Service::new(self.tokens, self.issuing.clone(), config.validity(), clock, &config.limits).into_server();
        let connections = bounded(grpc::incoming(self.grpc.0, self.tls), config.limits.connections);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Server::builder()
            .timeout(config.limits.deadline + DRAIN)
            .max_concurrent_streams(MAX_STREAMS)
            .http2_max_header_list_size(MAX_HEADERS)
            .http2_keepalive_interval(Some(PING))
            .http2_keepalive_timeout(Some(PING))
            .add_service(service)
            .serve_with_incoming_shutdown(connections, async {
                let _ = stopped.await;
            });

        let mut tasks = Supervisor::new();
        tasks.spawn_fallible("issuer", self.driver.run());
        let own = self.own.keeper();
        tasks.spawn("own certificate", self.own.run());
        let orders = config.admin.ip().is_loopback();
        let pages = Pages::new(self.issuing, self.control, own, clock, orders);
        let handle = self.shared.metrics.clone();
        let admin = Admin { mount: Arc::new(pages), log: self.shared.log, metrics: self.shared.metrics };
        tasks.spawn("admin", admin::serve(self.admin.0, admin));
        if let Some(handle) = handle {
            tasks.spawn("metrics", condense(handle));
        }

        let mut server = Supervisor::new();
        server.spawn_fallible("grpc", serving);
        tokio::select! {
            ended = tasks.first_end() => return Err(ended.into()),
            ended = server.first_end() => return Err(ended.into()),
            () = shutdown => {}
        }
        tracing::info!("stopping");
        // Without the driver the streams of members end, and without streams the server does.
        drop(tasks);
        let _ = stop.send(());
        if tokio::time::timeout(DRAIN, server.first_end()).await.is_err() {
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
    App::start(config, sys, shared).await?.run(shutdown).await
}

/// Begins anew after everything expired: a new root and issuer. The authority must not run.
///
/// # Errors
/// [`AppError`], as well where nothing expired or the issuer is not ours.
pub fn repair(config: &Config, sys: &Sys) -> Result<Issuing, AppError> {
    let mut source = open(config, sys)?;
    let now = sys.clock.now().into();
    match source.tick(now, Some(Order::Repair))? {
        Some(issuing) => Ok(issuing),
        None => Ok(source.start(now)?),
    }
}

fn open(config: &Config, sys: &Sys) -> Result<Source, AppError> {
    let domain = config.domain()?;
    if config.supplied.are_set() {
        crate::files::create_folder(&config.state_folder).map_err(JoinKeyError::from)?;
        let publish = config.state_folder.join(TRUST_FILE);
        return Ok(Source::Supplied(Supplied::new(config.supplied.clone(), domain, publish)));
    }
    let store = Store::open(&config.state_folder, domain, config.schedule(), sys.clock.now().into())?;
    Ok(Source::Own(Box::new(store)))
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
