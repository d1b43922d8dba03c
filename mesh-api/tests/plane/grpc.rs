//! `grpc::incoming` and `grpc::channel`: who calls is known, who cannot prove it never gets to call, and a peer that
//! dawdles in its handshake holds up nobody.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_api::{
    address::HostPort,
    grpc,
    names::ALPN_GRPC,
    proto::{CertifyRequest, identity_client::IdentityClient},
    sys::{Clock, Sys},
    tls::{self, ClientAuth, Credentials, Keeper},
};
use rustls::{ServerConfig, sign::CertifiedKey};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::{Code, Status};

use crate::{
    authority::{LIMIT, Mood, Office, Serving, anywhere, authority_id, keeper, until},
    forge::{Authority, DOMAIN, Leaf, WEB},
};

struct Scene {
    root: Arc<Authority>,
    office: Office,
    serving: Serving,
}

impl Scene {
    async fn new(auth: ClientAuth) -> Self {
        let root = Arc::new(Authority::root("root"));
        let office = Office::new(&root);
        // Who calls is all that these tests look at.
        office.set_mood(Mood::Answers(vec![]));
        let serving = Serving::start(&office, &keeper(&root, &authority_id()), auth, anywhere()).await;
        Self { root, office, serving }
    }

    async fn call(&self, keeper: &Arc<Keeper>) -> Result<(), Status> {
        call(keeper, self.serving.address, &authority_id()).await
    }

    async fn assert_still_good(&self) {
        self.call(&keeper(&self.root, WEB)).await.unwrap();
    }
}

async fn call(keeper: &Arc<Keeper>, target: impl Into<HostPort>, expected: &str) -> Result<(), Status> {
    let channel = grpc::channel(&Sys::host(), keeper, target, expected.parse().unwrap());
    let mut client = IdentityClient::new(channel);
    timeout(LIMIT, client.certify(CertifyRequest::default())).await.unwrap().map(|_| ())
}

/// `localhost` may stand for `::1` as well, where nobody listens: the other address is tried.
#[tokio::test]
async fn a_host_name_is_resolved_at_each_connection() {
    let scene = Scene::new(ClientAuth::Required).await;
    let named = |name: &str| -> HostPort { format!("{name}:{}", scene.serving.address.port()).parse().unwrap() };
    let keeper = keeper(&scene.root, WEB);
    call(&keeper, named("localhost"), &authority_id()).await.unwrap();
    let begin = Instant::now();
    let nobody = call(&keeper, named("no-such-host.invalid"), &authority_id()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unavailable, "{nobody}");
    assert!(begin.elapsed() < Duration::from_secs(20));
    let mut all = String::new();
    let mut error: Option<&dyn std::error::Error> = Some(&nobody);
    while let Some(one) = error {
        all.push_str(&one.to_string());
        error = one.source();
    }
    assert!(all.contains("cannot resolve no-such-host.invalid:"), "{all}");
}

#[tokio::test]
async fn the_caller_is_known_by_its_certificate() {
    let scene = Scene::new(ClientAuth::Required).await;
    let other = "spiffe://td/ns/shop/sa/other";
    for id in [WEB, other] {
        scene.call(&keeper(&scene.root, id)).await.unwrap();
        let peer = scene.office.desk.lock().unwrap().peers.pop().unwrap();
        assert_eq!(peer.id.unwrap().as_str(), id);
        assert!(peer.address.ip().is_loopback());
    }
}

#[tokio::test]
async fn where_no_certificate_is_asked_for_nobody_is_known() {
    let scene = Scene::new(ClientAuth::None).await;
    let trust = Arc::new(scene.root.bundle(DOMAIN));
    for keeper in [keeper(&scene.root, WEB), Keeper::new(Credentials { identity: None, trust })] {
        scene.call(&keeper).await.unwrap();
        assert_eq!(scene.office.desk.lock().unwrap().peers.pop().unwrap().id, None);
    }
}

#[tokio::test]
async fn a_client_that_cannot_prove_itself_never_calls() {
    let scene = Scene::new(ClientAuth::Required).await;
    let trust = Arc::new(scene.root.bundle(DOMAIN));
    let with = |identity| Keeper::new(Credentials { identity, trust: Arc::clone(&trust) });
    let foreign = Authority::root("other").issue(&Leaf::of(WEB)).identity();
    let expired = scene.root.issue(&Leaf::web(|leaf| (leaf.from, leaf.until) = (-120, -60))).identity();
    for keeper in [with(None), with(Some(Arc::new(foreign))), with(Some(Arc::new(expired)))] {
        scene.call(&keeper).await.unwrap_err();
    }
    assert_eq!(scene.office.asked(), 0);
    scene.assert_still_good().await;
}

#[tokio::test]
async fn a_server_of_another_identity_is_never_called() {
    let scene = Scene::new(ClientAuth::None).await;
    let keeper = keeper(&scene.root, WEB);
    let refused = call(&keeper, scene.serving.address, "spiffe://td/ns/mesh-system/sa/other").await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(scene.office.asked(), 0);
}

#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl rustls::server::ResolvesServerCert for Always {
    fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_server_that_agrees_on_no_protocol_gets_no_byte() {
    let root = Authority::root("root");
    let shown = root.issue(&Leaf::of(authority_id()));
    let config = ServerConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Always(shown.certified())));
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let mut stream = TlsAcceptor::from(Arc::new(config)).accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut got = Vec::new();
        let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut got)).await;
        got
    };
    let keeper = keeper(&root, WEB);
    let authority = authority_id();
    let (got, called) = tokio::join!(serving, call(&keeper, address, &authority));
    assert_eq!(String::from_utf8_lossy(&got), "");
    assert_eq!(called.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_client_that_offers_no_protocol_gets_no_byte() {
    let scene = Scene::new(ClientAuth::None).await;
    let expected = authority_id().parse().unwrap();
    let config = tls::client_config(&keeper(&scene.root, WEB), Clock::Host, expected, &[]).unwrap();
    let tcp = TcpStream::connect(scene.serving.address).await.unwrap();
    let mut stream = TlsConnector::from(config).connect(tls::no_name(), tcp).await.unwrap();
    let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut got = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut got)).await.unwrap();
    assert_eq!(got, b"");
    scene.assert_still_good().await;
}

#[tokio::test]
async fn bytes_that_are_no_handshake_concern_nobody_else() {
    let scene = Scene::new(ClientAuth::Required).await;
    for junk in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"", &[0x16, 3, 1, 0xff, 0xff], &[0xff; 5000]] {
        let mut tcp = TcpStream::connect(scene.serving.address).await.unwrap();
        tcp.write_all(junk).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _ = timeout(LIMIT, tcp.read_to_end(&mut Vec::new())).await.unwrap();
        scene.assert_still_good().await;
    }
}

/// As many silent peers as there may be handshakes, and more: none of them may keep a good one waiting.
#[tokio::test]
async fn silent_peers_hold_up_nobody_and_are_hung_up_on() {
    let scene = Scene::new(ClientAuth::Required).await;
    let mut silent = Vec::new();
    for count in [1, 300] {
        while silent.len() < count {
            silent.push(TcpStream::connect(scene.serving.address).await.unwrap());
        }
        let good = timeout(Duration::from_secs(5), scene.call(&keeper(&scene.root, WEB))).await;
        good.expect("held up").unwrap();
    }
    for mut tcp in silent {
        let ended = timeout(LIMIT, tcp.read(&mut [0; 16])).await.expect("still open");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    scene.assert_still_good().await;
}

#[tokio::test]
async fn a_stopped_server_hangs_up_and_frees_its_address() {
    let root = Authority::root("root");
    let config =
        tls::server_config(&keeper(&root, &authority_id()), Clock::Host, ClientAuth::Required, &[ALPN_GRPC]).unwrap();
    let listener = Sys::host().net.bind(anywhere(), false).await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = grpc::incoming(listener, config);
    let mut waiting = TcpStream::connect(address).await.unwrap();
    drop(incoming);
    let ended = timeout(LIMIT, waiting.read(&mut [0; 16])).await.expect("still open");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    until("the address is free", || std::net::TcpListener::bind(address).is_ok()).await;
}

#[tokio::test]
async fn a_channel_outlives_its_server() {
    let scene = Scene::new(ClientAuth::Required).await;
    let keeper_of_server = keeper(&scene.root, &authority_id());
    let keeper = keeper(&scene.root, WEB);
    let expected = authority_id().parse().unwrap();
    let mut client = IdentityClient::new(grpc::channel(&Sys::host(), &keeper, scene.serving.address, expected));
    client.certify(CertifyRequest::default()).await.unwrap();
    let address = scene.serving.stop();
    let away = timeout(LIMIT, client.certify(CertifyRequest::default())).await.unwrap().unwrap_err();
    assert!(matches!(away.code(), Code::Unavailable | Code::Unknown | Code::Cancelled), "{away:?}");
    // Who calls is decided anew with each connection.
    let other = "spiffe://td/ns/shop/sa/other";
    keeper.set_identity(scene.root.issue(&Leaf::of(other)).identity());
    let _serving = Serving::start(&scene.office, &keeper_of_server, ClientAuth::Required, address).await;
    let again = async {
        while client.certify(CertifyRequest::default()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, again).await.unwrap();
    let peer = scene.office.desk.lock().unwrap().peers.pop().unwrap();
    assert_eq!(peer.id.unwrap().as_str(), other);
}
