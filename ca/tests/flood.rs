//! Peers that open connections without end, or say nothing over them: members from elsewhere are certified all the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its premises fail")]

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_api::{
    identity::{IdentityConfig, Member},
    names,
    spiffe::SpiffeId,
    sys::Sys,
    tls::{self, Credentials, Keeper, TrustBundle},
};
use mesh_ca::{
    app::{App, Shared},
    authn::JoinTokens,
    config::Config,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const LIMIT: Duration = Duration::from_secs(60);

fn ip(last: u8) -> IpAddr {
    [127, 0, 0, last].into()
}

async fn tcp(to: SocketAddr, from: IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// An authority, and what whoever connects to it must know.
struct Scene {
    folder: tempfile::TempDir,
    address: SocketAddr,
    tokens: Arc<JoinTokens>,
    tls: TlsConnector,
    /// The authority, and whatever goes on around it.
    work: JoinSet<()>,
}

impl Scene {
    async fn new(limits: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config { listen: anywhere, admin: anywhere, ..Config::default() };
        config.state_folder = folder.path().join("ca");
        limits(&mut config);
        let app = App::start(config, Sys::host(), Shared::default()).await.unwrap();
        let (address, tokens) = (app.address(), app.tokens().unwrap());
        let mut work = JoinSet::new();
        work.spawn(async move { app.run(std::future::pending()).await.unwrap() });
        let tls = client(&folder.path().join("ca/trust.pem"));
        Self { folder, address, tokens, tls, work }
    }

    async fn connect(&self, from: IpAddr) -> std::io::Result<TlsStream<TcpStream>> {
        connect(&self.tls, self.address, from).await
    }

    /// Has a peer follow the bundle by `count` connections, each of which is opened again when it is closed.
    async fn follow(&mut self, from: IpAddr, count: usize) {
        let (said, mut heard) = tokio::sync::watch::channel(0_usize);
        for _ in 0..count {
            let (tls, address, said) = (self.tls.clone(), self.address, said.clone());
            self.work.spawn(async move {
                loop {
                    if let Ok(stream) = connect(&tls, address, from).await {
                        watch(stream, || said.send_modify(|said| *said += 1)).await;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        timeout(LIMIT, heard.wait_for(|said| *said >= count)).await.unwrap().unwrap();
    }

    /// How long a member at that address waits for its certificate.
    async fn certified(&mut self, from: IpAddr) -> Duration {
        // Members connect from wherever; this one by way of somebody.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (way, to) = (listener.local_addr().unwrap(), self.address);
        self.work.spawn(async move {
            let mut relayed = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                relayed.spawn(async move {
                    if let Ok(mut far) = tcp(to, from).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        let token_file = self.folder.path().join("token");
        let token = self.tokens.mint("shop", "web", LIMIT * 60, std::time::SystemTime::now().into()).unwrap();
        std::fs::write(&token_file, token).unwrap();
        let roots_file = self.folder.path().join("ca/trust.pem");
        let config = IdentityConfig { ca: way.into(), token_file, roots_file, ..IdentityConfig::default() };
        let member = Member::new(Sys::host(), config).unwrap();
        let mut ready = member.ready();
        let began = tokio::time::Instant::now();
        self.work.spawn(member.run());
        timeout(LIMIT, ready.wait_for(|ready| *ready)).await.expect("a member was kept out").unwrap();
        began.elapsed()
    }
}

/// Trusts the authority and shows no certificate, as a member that has none yet.
fn client(roots: &Path) -> TlsConnector {
    let domain: mesh_api::spiffe::TrustDomain = names::DEFAULT_TRUST_DOMAIN.parse().unwrap();
    let roots: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(roots).unwrap().map(|root| root.unwrap()).collect();
    let expected = SpiffeId::workload(&domain, names::SYSTEM_NAMESPACE, names::CA_ACCOUNT).unwrap();
    let trust = TrustBundle::new(domain, roots).unwrap();
    let keeper = Keeper::new(Credentials { identity: None, trust: Arc::new(trust) });
    TlsConnector::from(tls::client_config(&keeper, Sys::host().clock, expected, &[names::ALPN_GRPC]).unwrap())
}

async fn connect(tls: &TlsConnector, to: SocketAddr, from: IpAddr) -> std::io::Result<TlsStream<TcpStream>> {
    tls.connect(tls::no_name(), tcp(to, from).await?).await
}

/// Follows the bundle by this connection until it ends.
async fn watch(stream: TlsStream<TcpStream>, told: impl FnOnce()) {
    let Ok((mut sender, connection)) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await
    else {
        return;
    };
    let asking = async {
        let request = http::Request::post("http://ca/mesh.v1.Identity/WatchTrust")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::new(Bytes::from_static(&[0; 5])))
            .unwrap();
        let answer = sender.send_request(request).await;
        told();
        let _answer = answer;
        std::future::pending::<()>().await
    };
    tokio::select! {
        _ = connection => {}
        () = asking => {}
    }
}

/// An address has its share and no more, whatever it does with it.
#[tokio::test]
async fn one_address_takes_no_more_than_its_share() {
    let mut scene = Scene::new(|config| config.limits.connections_per_address = 16).await;
    scene.follow(ip(1), 100).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.extend(scene.connect(ip(1)).await);
    }
    let waited = scene.certified(ip(2)).await;
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    // Those that gave way are closed.
    silent.truncate(silent.len().saturating_sub(16));
    for tls in &mut silent {
        let ended = timeout(Duration::from_secs(10), tls.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "more than a share is held");
    }
}

/// Together several take all places; who comes from elsewhere gets one of whoever has most.
#[tokio::test]
async fn where_all_places_are_taken_a_member_gets_one() {
    let mut scene =
        Scene::new(|config| (config.limits.connections, config.limits.connections_per_address) = (40, 16)).await;
    for last in [1, 3, 4, 5] {
        scene.follow(ip(last), 16).await;
    }
    let waited = scene.certified(ip(2)).await;
    assert!(waited < Duration::from_secs(10), "{waited:?}");
}

#[tokio::test]
async fn who_asks_for_nothing_is_hung_up_on() {
    let scene = Scene::new(|config| config.limits.first_call = Duration::from_secs(1)).await;
    let mut silent = scene.connect(ip(1)).await.unwrap();
    // What an HTTP/2 client begins with asks for nothing yet.
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut greeting = scene.connect(ip(1)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut greeting, hello).await.unwrap();
    for tls in [&mut silent, &mut greeting] {
        let ended = timeout(Duration::from_secs(10), tls.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "it is waited for");
    }
}
