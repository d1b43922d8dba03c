//! A mesh within one process: a certificate authority and a controller that say what the test wants, real proxies.
//!
//! The two servers speak the real protocols over real mutual TLS; only what they answer is scripted.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use mesh_api::{
    convert::{destination_to_proto, inbound_to_proto, version_of},
    grpc,
    model::{
        Protocol, Target, WorkloadId,
        destination::{Backend, BackendId, Destination, Endpoint},
        policy::{InboundPolicy, PortPolicy},
        route::WeightedBackend,
    },
    names,
    proto::{self, discovery_server, identity_server, watch_request::Message, watch_response::Body},
    spiffe::{SpiffeId, TrustDomain},
    sys::Sys,
    tls::{self, ClientAuth, Credentials, Identity, Keeper, TrustBundle},
};
use mesh_proxy::config::{Config, InboundListener, OutboundListener};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::{mpsc, watch};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

pub const DOMAIN: &str = "test.mesh";

/// The identity of a service account of the namespace `shop`.
pub fn id(account: &str) -> SpiffeId {
    let domain: TrustDomain = DOMAIN.parse().unwrap();
    SpiffeId::workload(&domain, "shop", account).unwrap()
}

/// A root that signs leaves itself.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    /// What everybody is told to trust: at first this root alone.
    pub trust: watch::Sender<proto::TrustBundle>,
    pub der: CertificateDer<'static>,
    pub pem: String,
}

impl Root {
    pub fn new() -> Arc<Self> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let cert = params.self_signed(&key).unwrap();
        let (der, pem) = (cert.der().clone(), cert.pem());
        let (trust, _) = watch::channel(trust(&[&der]));
        Arc::new(Self { issuer: Issuer::new(params, key), trust, der, pem })
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new(DOMAIN.parse().unwrap(), vec![self.der.clone()]).unwrap()
    }

    pub fn params(&self, id: &SpiffeId, life: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
        params.not_after = (SystemTime::now() + life).into();
        params
    }

    /// A keeper with a certificate of `id`, trusting this root.
    pub fn keeper(&self, id: &SpiffeId) -> Arc<Keeper> {
        self.keeper_of(&self.params(id, Duration::from_secs(3600)))
    }

    pub fn keeper_of(&self, params: &CertificateParams) -> Arc<Keeper> {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = Identity::new(vec![leaf.der().clone()], key).unwrap();
        Keeper::new(Credentials { identity: Some(Arc::new(identity)), trust: Arc::new(self.bundle()) })
    }
}

/// Signs what a token (`ACCOUNT`) asks for.
struct Authority(Arc<Root>);

#[tonic::async_trait]
impl identity_server::Identity for Authority {
    async fn certify(
        &self,
        request: Request<proto::CertifyRequest>,
    ) -> Result<Response<proto::CertifyResponse>, Status> {
        let request = request.into_inner();
        let csr = CertificateSigningRequestParams::from_der(&request.csr.as_slice().into())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let id = if request.token == names::CONTROLLER_ACCOUNT { system(&request.token) } else { id(&request.token) };
        let csr = CertificateSigningRequestParams { params: self.0.params(&id, Duration::from_secs(3600)), ..csr };
        let leaf = csr.signed_by(&self.0.issuer).map_err(|error| Status::internal(error.to_string()))?;
        let chain = vec![leaf.der().to_vec()];
        let trust = Some(self.0.trust.borrow().clone());
        Ok(Response::new(proto::CertifyResponse { chain, trust, identity: id.to_string() }))
    }

    type WatchTrustStream = ReceiverStream<Result<proto::TrustBundle, Status>>;

    async fn watch_trust(
        &self,
        _: Request<proto::WatchTrustRequest>,
    ) -> Result<Response<Self::WatchTrustStream>, Status> {
        let (sender, stream) = mpsc::channel(1);
        let mut trust = self.0.trust.subscribe();
        tokio::spawn(async move {
            loop {
                let now = trust.borrow_and_update().clone();
                if sender.send(Ok(now)).await.is_err() || trust.changed().await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// The bundle of these roots.
pub fn trust(roots: &[&CertificateDer<'static>]) -> proto::TrustBundle {
    let roots = roots.iter().map(|root| root.to_vec()).collect();
    proto::TrustBundle { trust_domain: DOMAIN.into(), roots, issuer: "1".into() }
}

fn system(account: &str) -> SpiffeId {
    SpiffeId::workload(&DOMAIN.parse().unwrap(), names::SYSTEM_NAMESPACE, account).unwrap()
}

/// What the controller says: by destination, and by workload.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub destinations: BTreeMap<Target, Destination>,
    pub inbound: BTreeMap<String, InboundPolicy>,
}

#[derive(Clone)]
struct Controller(watch::Receiver<Arc<World>>);

#[tonic::async_trait]
impl discovery_server::Discovery for Controller {
    type WatchStream = ReceiverStream<Result<proto::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<proto::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, stream) = mpsc::channel(16);
        let mut world = self.0.clone();
        tokio::spawn(async move {
            let (mut workload, mut keys) = (String::new(), Vec::<proto::Key>::new());
            loop {
                let fresh = tokio::select! {
                    request = requests.next() => match request {
                        Some(Ok(proto::WatchRequest { message: Some(message) })) => match message {
                            Message::Hello(hello) => { workload = hello.workload; Vec::new() }
                            Message::Subscribe(subscribe) => {
                                let key = subscribe.key.unwrap();
                                keys.push(key.clone());
                                vec![key]
                            }
                            Message::Unsubscribe(gone) => { keys.retain(|key| Some(key) != gone.key.as_ref()); Vec::new() }
                            Message::Ack(_) | Message::Nack(_) => Vec::new(),
                        },
                        _ => return,
                    },
                    changed = world.changed() => {
                        if changed.is_err() { return }
                        keys.clone()
                    }
                };
                let now = Arc::clone(&world.borrow_and_update());
                for key in fresh {
                    if sender.send(Ok(answer(&now, &workload, key))).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn answer(world: &World, workload: &str, key: proto::Key) -> proto::WatchResponse {
    let missing = || (String::new(), Body::NotFound(proto::NotFound { reason: "not scripted".into() }));
    let (version, body) = match key.key.as_ref().unwrap() {
        proto::key::Key::Inbound(_) => world.inbound.get(workload).map_or_else(missing, |policy| {
            let wire = inbound_to_proto(policy);
            (version_of(&wire), Body::Inbound(wire))
        }),
        proto::key::Key::Destination(text) => {
            let target: Target = text.parse().unwrap();
            world.destinations.get(&target).map_or_else(missing, |destination| {
                let wire = destination_to_proto(destination);
                (version_of(&wire), Body::Destination(wire))
            })
        }
    };
    proto::WatchResponse { key: Some(key), version, body: Some(body) }
}

/// The control plane of a test.
pub struct Plane {
    pub root: Arc<Root>,
    pub world: watch::Sender<Arc<World>>,
    pub ca: SocketAddr,
    pub controller: SocketAddr,
    folder: tempfile::TempDir,
    names: Mutex<u32>,
}

impl Plane {
    pub async fn start() -> Self {
        Self::start_with(Sys::host(), [0, 0].map(|port| ([127, 0, 0, 1], port).into())).await
    }

    pub async fn start_with(sys: Sys, listen: [SocketAddr; 2]) -> Self {
        let mut plane = Self::at(listen);
        plane.ca = serve_authority(&sys, listen[0], &plane.root).await;
        plane.controller = serve_controller(&sys, listen[1], &plane.root, plane.world.subscribe()).await;
        plane
    }

    /// With servers that somebody else starts: [`serve_authority`] and [`serve_controller`].
    pub fn at([ca, controller]: [SocketAddr; 2]) -> Self {
        let (world, _) = watch::channel(Arc::new(World::default()));
        Self { root: Root::new(), world, ca, controller, folder: tempfile::tempdir().unwrap(), names: Mutex::new(0) }
    }

    /// Changes what the controller says.
    pub fn change(&self, change: impl FnOnce(&mut World)) {
        self.world.send_modify(|world| change(Arc::make_mut(world)));
    }

    /// Configuration of a proxy beside `workload`, with `account` as its service account.
    pub fn config(&self, workload: &str, account: &str) -> Config {
        let nth = {
            let mut names = self.names.lock().unwrap();
            *names += 1;
            *names
        };
        let roots = self.folder.path().join("roots.pem");
        std::fs::write(&roots, &self.root.pem).unwrap();
        let token = self.folder.path().join(format!("token-{nth}"));
        std::fs::write(&token, account).unwrap();
        let mut config = Config { workload: workload.into(), namespace: "shop".into(), ..Config::default() };
        config.identity.trust_domain = DOMAIN.into();
        config.identity.ca = self.ca.into();
        config.identity.token_file = token;
        config.identity.roots_file = roots;
        config.discovery.address = self.controller.into();
        config.admin.listen = free_port();
        config.drain = Duration::from_secs(5);
        config
    }
}

/// Starts the certificate authority; answers where.
pub async fn serve_authority(sys: &Sys, listen: SocketAddr, root: &Arc<Root>) -> SocketAddr {
    let authority = identity_server::IdentityServer::new(Authority(Arc::clone(root)));
    serve(sys, listen, root.keeper(&system(names::CA_ACCOUNT)), ClientAuth::None, authority).await
}

/// Starts the controller, which says what `world` holds; answers where.
pub async fn serve_controller(
    sys: &Sys,
    listen: SocketAddr,
    root: &Arc<Root>,
    world: watch::Receiver<Arc<World>>,
) -> SocketAddr {
    let discovery = discovery_server::DiscoveryServer::new(Controller(world));
    serve(sys, listen, root.keeper(&system(names::CONTROLLER_ACCOUNT)), ClientAuth::Required, discovery).await
}

async fn serve<S>(sys: &Sys, listen: SocketAddr, keeper: Arc<Keeper>, auth: ClientAuth, service: S) -> SocketAddr
where
    S: tonic::codegen::Service<
            http::Request<tonic::body::Body>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        > + tonic::server::NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
{
    let listener = sys.net.bind(listen, false).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::server_config(&keeper, sys.clock, auth, &[names::ALPN_GRPC]).unwrap();
    let incoming = grpc::incoming(listener, config);
    tokio::spawn(async move {
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
    address
}

/// A port of 127.0.0.1 on which nobody listens, and that is given to one caller of this process only. It lies below the
/// kernel's ephemeral range: no outgoing connection takes it between its choice and its use.
pub fn free_port() -> SocketAddr {
    const FIRST: u16 = 30_000;
    const PORTS: u16 = 2_700;
    static NEXT: std::sync::OnceLock<std::sync::atomic::AtomicU16> = std::sync::OnceLock::new();
    // Processes that run side by side begin apart.
    let start = || u16::try_from(std::process::id() * 97 % u32::from(PORTS)).unwrap().into();
    let next = NEXT.get_or_init(start);
    (0..PORTS)
        .map(|_| FIRST + next.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % PORTS)
        .find_map(|port| std::net::TcpListener::bind(("127.0.0.1", port)).ok())
        .expect("a free port below the ephemeral range")
        .local_addr()
        .unwrap()
}

/// A destination with one backend.
pub fn destination(service: &str, protocol: Protocol, endpoints: Vec<Endpoint>) -> (Target, Destination) {
    let id = BackendId { namespace: "shop".into(), name: service.into(), port: 80 };
    let backend = Backend { protocol, endpoints: endpoints.into_iter().map(|one| (one.address, one)).collect() };
    let target = format!("{service}.shop.svc:80").parse().unwrap();
    let destination = Destination {
        id: id.clone(),
        protocol,
        routes: Vec::new(),
        rules: Vec::new(),
        routed: false,
        default_backends: vec![WeightedBackend { backend: id.clone(), weight: 1, filters: Vec::new() }],
        backends: [(id, backend)].into(),
    };
    (target, destination)
}

/// An endpoint; with an account it is a member.
pub fn endpoint(address: SocketAddr, account: Option<&str>) -> Endpoint {
    Endpoint {
        address,
        identity: account.map(id),
        workload: WorkloadId { namespace: "shop".into(), name: "w".into() },
        owner: "w".into(),
        zone: "".into(),
        weight: 1,
        ready: true,
    }
}

/// The policy of a workload: one for all its ports.
pub fn policy(workload: &str, account: &str, port: PortPolicy) -> InboundPolicy {
    InboundPolicy {
        workload: WorkloadId { namespace: "shop".into(), name: workload.into() },
        service_account: account.into(),
        ports: BTreeMap::new(),
        default_port: port,
    }
}

/// Everybody may come.
pub fn open(protocol: Protocol) -> PortPolicy {
    PortPolicy { protocol, default_allow: true, ..PortPolicy::default() }
}

/// A running proxy; dropped, it drains.
pub struct Proxy {
    pub admin: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    ended: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Proxy {
    pub async fn start(config: Config) -> Self {
        let mut proxy = Self::start_unready(config).await;
        proxy.until_ready().await;
        proxy
    }

    /// Without waiting until it is ready, for where it is not to be.
    pub async fn start_unready(config: Config) -> Self {
        let admin = config.admin.listen;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let stopping = async move {
            let _ = stopped.await;
        };
        let running = mesh_proxy::app::run(config, Sys::host(), mesh_api::log::LogLevel::default(), stopping);
        Self { admin, stop: Some(stop), ended: Some(tokio::spawn(running)) }
    }

    async fn until_ready(&mut self) {
        let mut last = String::new();
        for _ in 0..200 {
            if self.ended.as_ref().is_some_and(tokio::task::JoinHandle::is_finished) {
                panic!("the proxy ended: {:?}", self.ended.take().unwrap().await);
            }
            match get(self.admin, "/ready").await {
                Ok((200, _)) => return,
                Ok((_, reason)) => last = reason,
                Err(error) => last = error.to_string(),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the proxy was not ready in time: {last}");
    }

    /// Drains and ends it.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let ended = tokio::time::timeout(Duration::from_secs(20), self.ended.take().unwrap()).await;
        ended.expect("the proxy did not end in time").unwrap().unwrap();
    }

    /// Value of the first line of metrics that contains all the parts.
    pub async fn metric(&self, parts: &[&str]) -> Option<f64> {
        let (_, page) = get(self.admin, "/metrics").await.unwrap();
        let line = page.lines().find(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// A small GET over a connection of its own.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let answer = raw(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")).await?;
    let status = answer.get(9..12).and_then(|text| text.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((status, body))
}

/// Sends bytes and reads to the end.
pub async fn raw(address: SocketAddr, bytes: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(bytes.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    tokio::time::timeout(Duration::from_secs(10), exchange).await.map_err(std::io::Error::other)?
}

/// One client proxy (`web`), one server proxy (`cart`) beside an application.
pub struct Pair {
    pub plane: Plane,
    pub client: Proxy,
    pub server: Proxy,
    /// Where the client's application connects to.
    pub entry: SocketAddr,
    /// The server proxy's own address.
    pub inbound: SocketAddr,
}

impl Pair {
    /// With the application at `app`, whose port speaks `protocol`.
    pub async fn start(app: SocketAddr, protocol: Protocol, port: PortPolicy) -> Self {
        let plane = Plane::start().await;
        let (entry, inbound) = (free_port(), free_port());
        let (target, destination) = destination("cart", protocol, vec![endpoint(inbound, Some("cart"))]);
        plane.change(|world| {
            world.destinations.insert(target, destination);
            world.inbound.insert("cart-1".into(), policy("cart-1", "cart", port));
            world.inbound.insert("web-1".into(), policy("web-1", "web", open(Protocol::Detect)));
        });
        let mut server = plane.config("cart-1", "cart");
        server.inbound.listeners.push(InboundListener { listen: inbound, app });
        let mut client = plane.config("web-1", "web");
        client.outbound.listeners.push(OutboundListener { listen: entry, to: "cart.shop:80".into() });
        let server = Proxy::start(server).await;
        let client = Proxy::start(client).await;
        Self { plane, client, server, entry, inbound }
    }
}
