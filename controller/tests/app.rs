//! The whole controller on loopback: a folder of manifests, a certificate authority, proxies over mutual TLS.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test, to panic is to fail")]

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use mesh_api::{
    grpc,
    log::LogLevel,
    names,
    proto::{
        self, CertifyRequest, CertifyResponse, TrustBundle, WatchRequest, WatchResponse, WatchTrustRequest,
        discovery_client::DiscoveryClient,
        identity_server::{Identity, IdentityServer},
        watch_request::Message,
        watch_response::Body,
    },
    spiffe::SpiffeId,
    sys::{Clock, Sys},
    tls::{self, ClientAuth, Credentials, Keeper},
};
use mesh_controller::{
    app::App,
    config::Config,
    status::{ProblemView, ProxyStatus},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DistinguishedName,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{mpsc, oneshot},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(30);
const DOMAIN: &str = "cluster.local";

fn id(namespace: &str, account: &str) -> SpiffeId {
    SpiffeId::workload(&DOMAIN.parse().unwrap(), namespace, account).unwrap()
}

/// A certificate authority that certifies everybody who asks as the controller.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Arc<Self> {
        let mut params = params();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(rcgen::DnType::CommonName, "root");
        Arc::new(Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()))
    }

    fn bundle(&self) -> tls::TrustBundle {
        tls::TrustBundle::new(DOMAIN.parse().unwrap(), vec![self.0.der().clone()]).unwrap()
    }

    /// Credentials of a member.
    fn keeper(&self, id: &SpiffeId) -> Arc<Keeper> {
        let key = KeyPair::generate().unwrap();
        let leaf = leaf(id).signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let identity = tls::Identity::new(vec![leaf.der().clone()], key).unwrap();
        Keeper::new(Credentials { identity: Some(Arc::new(identity)), trust: Arc::new(self.bundle()) })
    }

    async fn serve(self: Arc<Self>) -> SocketAddr {
        let keeper = self.keeper(&id(names::SYSTEM_NAMESPACE, names::CA_ACCOUNT));
        let config = tls::server_config(&keeper, Clock::Host, ClientAuth::None, &[names::ALPN_GRPC]).unwrap();
        let listener = Sys::host().net.bind(([127, 0, 0, 1], 0).into(), false).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(IdentityServer::new(Desk(self)));
        tokio::spawn(server.serve_with_incoming(grpc::incoming(listener, config)));
        address
    }
}

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = date_time_ymd(1970, 1, 1) + Clock::Host.unix();
    (params.not_before, params.not_after) = (now - Duration::from_secs(60), now + Duration::from_secs(3600));
    params.distinguished_name = DistinguishedName::new();
    params
}

fn leaf(id: &SpiffeId) -> CertificateParams {
    let mut params = params();
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

struct Desk(Arc<Authority>);

#[tonic::async_trait]
impl Identity for Desk {
    async fn certify(&self, request: Request<CertifyRequest>) -> Result<Response<CertifyResponse>, Status> {
        let request = request.into_inner();
        assert_eq!(request.token, "a token");
        let controller = id(names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT);
        let mut csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request.csr)).unwrap();
        csr.params = leaf(&controller);
        let chain = vec![csr.signed_by(&self.0.0).unwrap().der().to_vec()];
        let roots = vec![self.0.0.der().to_vec()];
        let trust = Some(TrustBundle { trust_domain: DOMAIN.into(), roots, issuer: "one".into() });
        Ok(Response::new(CertifyResponse { chain, trust, identity: controller.to_string() }))
    }

    type WatchTrustStream = tokio_stream::Pending<Result<TrustBundle, Status>>;

    async fn watch_trust(&self, _: Request<WatchTrustRequest>) -> Result<Response<Self::WatchTrustStream>, Status> {
        Ok(Response::new(tokio_stream::pending()))
    }
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\n\
                       spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n";

fn workload(n: u8) -> String {
    format!(
        "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\n\
         metadata: {{name: web-{n}, namespace: shop, labels: {{app: web}}}}\n\
         spec: {{serviceAccount: web, address: 127.0.1.{n}, ports: [{{port: 8080}}]}}\n"
    )
}

struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: tokio::task::JoinHandle<Result<(), mesh_controller::app::AppError>>,
}

async fn start(authority: &Arc<Authority>, files: &Path, manifests: &Path) -> Running {
    fs::write(files.join("token"), "a token\n").unwrap();
    fs::write(files.join("roots.pem"), authority.0.pem()).unwrap();
    let mut config = Config::default();
    config.listen.set_port(0);
    config.admin.listen.set_port(0);
    config.source.folders = vec![manifests.to_owned()];
    config.identity.ca = authority.clone().serve().await.into();
    config.identity.token_file = files.join("token");
    config.identity.roots_file = files.join("roots.pem");
    let app = App::start(config, Sys::host(), LogLevel::default()).await.unwrap();
    let (address, admin) = (app.address(), app.admin_address());
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(app.run(async {
        let _ = stopped.await;
    }));
    Running { address, admin, stop, ended }
}

async fn get(admin: SocketAddr, path: &str) -> (u16, String) {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(admin).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    };
    tokio::time::timeout(LIMIT, ask).await.unwrap()
}

async fn until_ready(admin: SocketAddr) {
    let wait = async {
        while get(admin, "/ready").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("ready in time");
}

struct Proxy {
    requests: mpsc::Sender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

async fn connect(running: &Running, keeper: &Arc<Keeper>) -> Result<Proxy, Status> {
    let controller = id(names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT);
    let channel = grpc::channel(&Sys::host(), keeper, running.address, controller);
    let (requests, receiver) = mpsc::channel(16);
    let hello = proto::Hello { namespace: "shop".into(), workload: "web-1".into(), ..proto::Hello::default() };
    requests.try_send(WatchRequest { message: Some(Message::Hello(hello)) }).unwrap();
    let watch =
        tokio::time::timeout(LIMIT, async { DiscoveryClient::new(channel).watch(ReceiverStream::new(receiver)).await });
    Ok(Proxy { requests, responses: watch.await.expect("in time")?.into_inner() })
}

impl Proxy {
    async fn subscribe(&self, key: proto::key::Key) {
        let subscribe = proto::Subscribe { key: Some(proto::Key { key: Some(key) }), version: String::new() };
        self.requests.send(WatchRequest { message: Some(Message::Subscribe(subscribe)) }).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        tokio::time::timeout(LIMIT, self.responses.message()).await.expect("in time")
    }
}

#[tokio::test]
async fn from_a_file_to_a_proxy_over_mutual_tls() {
    let (files, manifests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(manifests.path().join("web.yaml"), format!("{SERVICE}---\n{}", workload(1))).unwrap();
    let authority = Authority::new();
    let running = start(&authority, files.path(), manifests.path()).await;
    until_ready(running.admin).await;
    let keeper = authority.keeper(&id("shop", "web"));
    let mut proxy = connect(&running, &keeper).await.unwrap();
    proxy.subscribe(proto::key::Key::Destination("web.shop.svc:80".into())).await;
    let first = proxy.next().await.unwrap().unwrap();
    assert!(
        matches!(first.body, Some(Body::Destination(ref all)) if all.backends[0].endpoints.len() == 1),
        "{first:?}"
    );
    fs::write(manifests.path().join("more.yaml"), workload(2)).unwrap();
    let second = proxy.next().await.unwrap().unwrap();
    assert!(matches!(second.body, Some(Body::Delta(ref delta)) if delta.base_version == first.version), "{second:?}");
    proxy.subscribe(proto::key::Key::Inbound(true)).await;
    assert!(matches!(proxy.next().await.unwrap().unwrap().body, Some(Body::Inbound(_))));

    let (_, text) = get(running.admin, "/proxies").await;
    let proxies: Vec<ProxyStatus> = serde_json::from_str(&text).unwrap();
    assert_eq!(proxies[0].identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(proxies[0].keys["web.shop.svc:80"].sent, second.version);
    fs::write(manifests.path().join("more.yaml"), "kind: [oops").unwrap();
    let told = async {
        loop {
            let (_, text) = get(running.admin, "/problems").await;
            let problems: Vec<ProblemView> = serde_json::from_str(&text).unwrap();
            if let Some(problem) = problems.into_iter().next() {
                return problem;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let problem = tokio::time::timeout(LIMIT, told).await.expect("told in time");
    assert_eq!((problem.reason.as_str(), problem.line), ("Syntax", Some(1)));
    let (_, metrics) = get(running.admin, "/metrics").await;
    assert!(metrics.contains("mesh_controller_streams 1"), "{metrics}");
    assert!(metrics.contains("mesh_controller_messages_total{kind=\"delta\"} 1"), "{metrics}");
    let (_, overview) = get(running.admin, "/status").await;
    assert!(overview.contains("\"ExternalWorkload\": 2"), "{overview}");

    running.stop.send(()).unwrap();
    assert_eq!(proxy.next().await.unwrap_err().code(), Code::Unavailable);
    drop(proxy);
    tokio::time::timeout(LIMIT, running.ended).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn strangers_do_not_get_past_the_handshake() {
    let (files, manifests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, stranger) = (Authority::new(), Authority::new());
    let running = start(&authority, files.path(), manifests.path()).await;
    until_ready(running.admin).await;
    // Of another root, though it trusts ours.
    let other = stranger.keeper(&id("shop", "web"));
    other.set_trust(authority.bundle());
    assert!(refused(&running, &other).await);
    let nobody = Keeper::new(Credentials { identity: None, trust: Arc::new(authority.bundle()) });
    assert!(refused(&running, &nobody).await);
}

async fn refused(running: &Running, keeper: &Arc<Keeper>) -> bool {
    match connect(running, keeper).await {
        Err(_) => true,
        Ok(mut proxy) => proxy.next().await.is_err(),
    }
}

#[tokio::test]
async fn without_an_authority_it_says_why_it_is_not_ready() {
    let (files, manifests) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let authority = Authority::new();
    let running = start(&authority, files.path(), manifests.path()).await;
    // No token: the authority is never asked.
    fs::remove_file(files.path().join("token")).unwrap();
    let (status, text) = get(running.admin, "/ready").await;
    assert!(status == 503 && text.contains("certificate"), "{status} {text}");
    fs::write(files.path().join("token"), "a token").unwrap();
    until_ready(running.admin).await;
}
