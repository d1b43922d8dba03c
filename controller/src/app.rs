//! Puts the controller together and runs it. Floor 6: imports everything.

mod webhooks;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use mesh_api::{
    admin::{self, Admin},
    grpc,
    identity::{IdentityError, Member},
    log::LogLevel,
    names,
    supervise::{Supervisor, TaskEnded},
    sys::{Listener, Sys},
    tls::{self, ClientAuth},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use self::webhooks::{Ground, Webhooks};
use crate::{
    cluster::{self, Clients},
    conditions::Board,
    config::{Config, LeaderConfig, SourceConfig, SourceKind},
    leader,
    pages::Pages,
    reporter::Reporter,
    serve::{DiscoveryService, Hub, Limits, identify_by_tls},
    source::{Event, files, kubernetes},
    telemetry::Telemetry,
};

/// A proxy that does not answer a ping within this time is gone.
const PING: Duration = Duration::from_secs(20);
/// After streams were told that the controller goes, they have this long to end.
const DRAIN: Duration = Duration::from_secs(2);
/// Streams of one connection: a proxy has one, and a second while it renews.
const MAX_STREAMS: u32 = 8;
/// Header list of a request, in bytes.
const MAX_HEADERS: u32 = 16 * 1024;
/// Events of the source that may wait.
const EVENTS: usize = 1024;
/// Metrics are condensed, and those that follow from the state brought up to date, this often.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why the controller does not run (any more).
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The configuration was not checked.
    #[error("identity.trust_domain: {0}")]
    Domain(#[from] mesh_api::spiffe::SpiffeError),
    /// Metrics cannot be set up.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// There is nobody to ask for a certificate.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS cannot be configured.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// There is no way to an API server.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// A task that should have run for ever did not.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}

/// A controller that listens, and serves once it runs.
pub struct App {
    config: Config,
    sys: Sys,
    log: LogLevel,
    hub: Arc<Hub>,
    telemetry: Arc<Telemetry>,
    member: Member,
    clients: Option<Clients>,
    leader: watch::Sender<bool>,
    grpc: (Listener, SocketAddr),
    admin: (Listener, SocketAddr),
    webhooks: Option<Webhooks>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("address", &self.grpc.1).field("admin", &self.admin.1).finish_non_exhaustive()
    }
}

impl App {
    /// Listens; asks and answers nobody yet. `log` is the level that the admin server shows and changes.
    ///
    /// # Errors
    /// [`AppError`]; nothing was served.
    pub async fn start(config: Config, sys: Sys, log: LogLevel) -> Result<Self, AppError> {
        let telemetry = Arc::new(Telemetry::new()?);
        let limits = Limits {
            streams: config.limits.streams,
            subscriptions: config.limits.subscriptions,
            slow_reader: config.limits.slow_reader,
            ..Limits::default()
        };
        let hub = Hub::new(config.settings()?, limits, sys.clock, telemetry.clone());
        let member = Member::new(sys.clone(), config.identity.clone())?;
        let clients = match config.source.kind {
            SourceKind::Files => None,
            SourceKind::Kubernetes => Some(cluster::connect(&config.source).await?),
        };
        let grpc = listen(&sys, config.listen).await?;
        let admin = listen(&sys, config.admin.listen).await?;
        let webhooks = Webhooks::start(&config, &sys).await?;
        let leader = watch::Sender::new(false);
        Ok(Self { config, sys, log, hub, telemetry, member, clients, leader, grpc, admin, webhooks })
    }

    /// Where proxies ask.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.grpc.1
    }

    /// Where people ask.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.1
    }

    /// Where API servers ask, where they do.
    #[must_use]
    pub fn webhook_address(&self) -> Option<SocketAddr> {
        self.webhooks.as_ref().map(Webhooks::address)
    }

    /// What is known, to look into.
    #[must_use]
    pub fn hub(&self) -> Arc<Hub> {
        Arc::clone(&self.hub)
    }

    /// Whether this replica is the leader; never without a cluster.
    #[must_use]
    pub fn leader(&self) -> watch::Receiver<bool> {
        self.leader.subscribe()
    }

    /// Serves until `shutdown`, then tells the streams to go elsewhere.
    ///
    /// # Errors
    /// [`AppError::Task`]: something that must run for ever does not; the process should end.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), AppError> {
        let Self { config, sys, log, hub, telemetry, member, clients, leader, grpc, admin, webhooks } = self;
        tracing::info!(
            address = %grpc.1,
            admin = %admin.1,
            source = ?config.source.kind,
            trust_domain = config.identity.trust_domain,
            "the controller starts"
        );
        let keeper = member.keeper();
        let tls = tls::server_config(&keeper, sys.clock, ClientAuth::Required, &[names::ALPN_GRPC])?;
        let certified = member.ready();
        let (events, to_index) = mpsc::channel(EVENTS);
        let stopping = CancellationToken::new();
        let _at_the_end = stopping.clone().drop_guard();

        let mut tasks = Supervisor::new();
        let mut hooks = webhooks::Serving::default();
        if let (Some(webhooks), Some(clients)) = (webhooks, &clients) {
            let (clock, keeper, certified) = (sys.clock, keeper.clone(), certified.clone());
            let (clients, leader, telemetry) = (clients.clone(), leader.subscribe(), telemetry.clone());
            let ground = Ground { clock, clients, keeper, certified, leader, telemetry };
            hooks = webhooks.run(&config, ground, &mut tasks)?;
        }
        let driver = hub.clone();
        tasks.spawn("index", async move { driver.drive(to_index).await });
        let mut election = None;
        match clients {
            None => {
                let options = files::Options {
                    debounce: config.source.debounce,
                    rescan: config.source.rescan,
                    ..files::Options::new(config.source.folders)
                };
                tasks.spawn_fallible("source", files::watch(options, events));
            }
            Some(clients) => {
                let cluster = Cluster { hub: &hub, clients, sys: &sys, telemetry: &telemetry };
                cluster.read(&config.source, &leader, events, &mut tasks);
                election = Some(cluster.elect(&config.leader, leader, stopping.clone()));
            }
        }
        tasks.spawn("identity", member.run());
        let pages = Pages::new(hub.clone(), certified.clone());
        let metrics = Some(telemetry.handle());
        tasks.spawn("admin", admin::serve(admin.0, Admin { mount: Arc::new(pages), log, metrics }));
        tasks.spawn("metrics", upkeep(hub.clone(), telemetry));

        let elected = async {
            match &mut election {
                Some(election) => election.first_end().await,
                None => std::future::pending().await,
            }
        };
        let (stop, stopped) = oneshot::channel();
        let mut server = Supervisor::new();
        server.spawn_fallible("grpc", serve(hub.clone(), grpc.0, tls, certified, stopped));
        tokio::select! {
            ended = tasks.first_end() => return Err(ended.into()),
            ended = server.first_end() => return Err(ended.into()),
            ended = hooks.first_end() => return Err(ended.into()),
            ended = elected => return Err(ended.into()),
            () = shutdown => {}
        }
        tracing::info!("stopping; proxies keep what they have and look for another controller");
        let _ = stop.send(());
        hub.close();
        stopping.cancel();
        let handed_over = async {
            if let Some(election) = &mut election {
                // The lease is given back, so that another replica need not wait until it runs out.
                let _ = tokio::time::timeout(DRAIN, election.first_end()).await;
            }
            if tokio::time::timeout(DRAIN, server.first_end()).await.is_err() {
                tracing::debug!(waited = ?DRAIN, "connections are cut off");
            }
        };
        tokio::join!(hooks.stop(), handed_over);
        Ok(())
    }
}

/// What only a controller in a cluster does.
struct Cluster<'a> {
    hub: &'a Arc<Hub>,
    clients: Clients,
    sys: &'a Sys,
    telemetry: &'a Arc<Telemetry>,
}

impl Cluster<'_> {
    /// Reads the API server, and reports to it what is wrong.
    fn read(
        &self,
        config: &SourceConfig,
        leader: &watch::Sender<bool>,
        events: mpsc::Sender<Event>,
        tasks: &mut Supervisor,
    ) {
        let board = Arc::new(Board::default());
        let options = kubernetes::Options {
            client: self.clients.watch.clone(),
            discovery: config.discovery,
            sys: self.sys.clone(),
            telemetry: self.telemetry.clone(),
            board: board.clone(),
        };
        tasks.spawn_fallible("source", kubernetes::watch(options, events));
        let reporter = Reporter {
            hub: self.hub.clone(),
            board,
            client: self.clients.call.clone(),
            leader: leader.subscribe(),
            sys: self.sys.clone(),
            telemetry: self.telemetry.clone(),
        };
        tasks.spawn("reporter", reporter.run());
    }

    /// Takes part in the election until `stop`.
    fn elect(&self, config: &LeaderConfig, leader: watch::Sender<bool>, stop: CancellationToken) -> Supervisor {
        let options = leader::Options {
            client: self.clients.call.clone(),
            lease: config.lease.clone(),
            namespace: config.namespace.clone(),
            identity: config.replica(),
            duration: config.duration,
            sys: self.sys.clone(),
            telemetry: self.telemetry.clone(),
        };
        let mut election = Supervisor::new();
        election.spawn("leader", leader::campaign(options, leader, stop));
        election
    }
}

/// Starts and runs a controller.
///
/// # Errors
/// [`AppError`].
pub async fn run(
    config: Config,
    sys: Sys,
    log: LogLevel,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), AppError> {
    App::start(config, sys, log).await?.run(shutdown).await
}

async fn serve(
    hub: Arc<Hub>,
    listener: Listener,
    tls: Arc<rustls::ServerConfig>,
    mut certified: watch::Receiver<bool>,
    stopped: oneshot::Receiver<()>,
) -> Result<(), tonic::transport::Error> {
    // Before there is a certificate, every handshake would fail: the kernel keeps the connections until then.
    if certified.wait_for(|certified| *certified).await.is_err() {
        return Ok(());
    }
    let service = DiscoveryService::new(hub, identify_by_tls()).into_server();
    Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PING))
        .add_service(service)
        .serve_with_incoming_shutdown(grpc::incoming(listener, tls), async {
            let _ = stopped.await;
        })
        .await
}

async fn listen(sys: &Sys, address: SocketAddr) -> Result<(Listener, SocketAddr), AppError> {
    let wrong = |error| AppError::Listen { address, error };
    let listener = sys.net.bind(address, false).await.map_err(wrong)?;
    let bound = listener.local_addr().map_err(wrong)?;
    Ok((listener, bound))
}

/// Histograms grow until somebody condenses them. What follows from the state is measured when it changed.
async fn upkeep(hub: Arc<Hub>, telemetry: Arc<Telemetry>) {
    let (handle, mut measured) = (telemetry.handle(), None);
    loop {
        let revision = hub.revision();
        if measured != Some(revision) {
            hub.measure();
            measured = Some(revision);
        }
        handle.run_upkeep();
        tokio::time::sleep(UPKEEP).await;
    }
}
