//! Cases F05, F27, F28, F30 to F34 and F36: handshakes that are not the mesh's, and credentials that change.

use std::{io::Write as _, sync::Arc};

use mesh_api::{
    names::{ALPN_MESH_HTTP, ALPN_MESH_TCP},
    sys::Clock,
    tls::{self, ClientAuth, Keeper, TrustBundle},
};
use rustls::{
    AlertDescription::{CertificateRequired, CertificateUnknown, NoApplicationProtocol, UnknownCA},
    ClientConfig, HandshakeKind, ServerConfig,
    client::Resumption,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::{
    forge::{Authority, DOMAIN, Leaf, WEB},
    link::{LIMIT, Member, OURS, client_showing, client_showing_nothing, meet, server_showing},
    wire::{
        answer_to, client_hello, extension, extensions_of, old_server_hello, plain_alert, records, session, shout_at,
        version,
    },
};

const PROTOCOL_VERSION: u8 = 70;

#[tokio::test]
async fn f05_client_without_certificate_is_refused() {
    let member = Member::new();
    let met = meet(member.server(), client_showing_nothing(&[ALPN_MESH_HTTP])).await;
    assert!(met.server.fault.is_some(), "{met:?}");
    assert_eq!(met.client.alert(), Some(CertificateRequired));
    met.assert_silent();
    member.assert_still_good().await;
}

#[tokio::test]
async fn f05_where_no_certificate_is_asked_for_nobody_has_an_identity() {
    let member = Member::new();
    let server = tls::server_config(&member.keeper, Clock::Host, ClientAuth::None, &[ALPN_MESH_HTTP]).unwrap();
    // Not even one who would show a certificate, good or bad.
    let clients = [
        client_showing_nothing(&[ALPN_MESH_HTTP]),
        client_showing(&member.root.issue(&Leaf::of(WEB)), &[ALPN_MESH_HTTP]),
        client_showing(&Authority::root("other").issue(&Leaf::of(WEB)), &[ALPN_MESH_HTTP]),
    ];
    for client in clients {
        let met = meet(Arc::clone(&server), client).await;
        met.assert_good();
        assert_eq!(met.server.peer, None);
    }
}

#[tokio::test]
async fn f27_client_of_an_older_version_is_refused() {
    let member = Member::new();
    let versions = |list: &[u16]| {
        let list: Vec<u8> = list.iter().flat_map(|version| version.to_be_bytes()).collect();
        vec![(extension::SUPPORTED_VERSIONS, [&[list.len() as u8], list.as_slice()].concat())]
    };
    for (case, hello) in [
        ("TLS 1.2", client_hello(version::TLS12, &[])),
        ("TLS 1.2 by extension", client_hello(version::TLS12, &versions(&[version::TLS12]))),
        ("TLS 1.2 and 1.1 by extension", client_hello(version::TLS12, &versions(&[version::TLS12, version::TLS11]))),
        ("TLS 1.1", client_hello(version::TLS11, &[])),
        ("TLS 1.3 said in the old place only", client_hello(version::TLS13, &[])),
    ] {
        let (error, answer) = shout_at(&member, &records(&hello)).await;
        assert_eq!(plain_alert(&answer), Some(PROTOCOL_VERSION), "{case}: {error}: {answer:?}");
    }
    member.assert_still_good().await;
}

#[tokio::test]
async fn f27_server_of_an_older_version_is_refused() {
    let member = Member::new();
    for sentinel in [false, true] {
        let (error, hello, after) = answer_to(&member, &old_server_hello(sentinel)).await;
        assert_eq!(plain_alert(&after), Some(PROTOCOL_VERSION), "{error}: {after:?}");
        let offered = extensions_of(&hello);
        let versions = offered.iter().find(|(kind, _)| *kind == extension::SUPPORTED_VERSIONS).unwrap();
        assert_eq!(versions.1, [2, 3, 4], "TLS 1.3 and nothing else is offered");
    }
    member.assert_still_good().await;
}

#[tokio::test]
async fn f28_client_without_our_protocol_is_refused() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    let names: Vec<Vec<u8>> = (0..235).map(|nth| vec![nth; 255]).collect();
    let many: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let cases: [(&str, &[&[u8]]); 5] = [
        ("h2", &[b"h2"]),
        ("http/1.1", &[b"http/1.1"]),
        ("a protocol of the mesh, but not this port's", &[ALPN_MESH_TCP]),
        ("ours, longer", &[b"mesh-http/11"]),
        ("60 kB of others", &many),
    ];
    for (case, alpn) in cases {
        let met = meet(member.server(), client_showing(&shown, alpn)).await;
        assert_eq!(met.client.alert(), Some(NoApplicationProtocol), "{case}: {met:?}");
        met.assert_silent();
    }
    let among_others = client_showing(&shown, &[b"h2", ALPN_MESH_HTTP]);
    meet(member.server(), among_others).await.assert_good();
}

#[tokio::test]
async fn f28_client_that_offers_no_protocol_is_refused() {
    let member = Member::new();
    let met = meet(member.server(), client_showing(&member.root.issue(&Leaf::of(WEB)), &[])).await;
    assert!(met.server.broken.is_some(), "{met:?}");
    met.assert_silent();
    member.assert_still_good().await;
}

#[tokio::test]
async fn f28_server_that_chooses_no_protocol_is_refused() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    let met = meet(server_showing(&shown, &[]), member.client(WEB)).await;
    assert!(met.client.broken.is_some(), "{met:?}");
    met.assert_silent();
    let met = meet(server_showing(&shown, &[b"h2"]), member.client(WEB)).await;
    assert_eq!(met.client.alert(), Some(NoApplicationProtocol));
    met.assert_silent();
}

#[tokio::test]
async fn f28_hello_of_more_than_64_kilobytes_ends_the_connection() {
    let member = Member::new();
    let mut hello = client_hello(version::TLS12, &[]);
    hello.resize(70_000, 0);
    hello[1..4].copy_from_slice(&69_996_u32.to_be_bytes()[1..]);
    let (error, answer) = shout_at(&member, &records(&hello)).await;
    assert!(answer.is_empty() || plain_alert(&answer).is_some(), "{error}: {answer:?}");
    member.assert_still_good().await;
}

/// A server of the same certificate that hands out tickets for early data.
fn server_with_tickets(member: &Member) -> Arc<ServerConfig> {
    let shown = member.root.issue(&Leaf::of(WEB));
    let mut config = ServerConfig::clone(&server_showing(&shown, &[ALPN_MESH_HTTP]));
    config.max_early_data_size = 1024;
    config.send_tls13_tickets = 2;
    Arc::new(config)
}

#[tokio::test]
async fn f30_early_data_is_not_accepted() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    let mut config = ClientConfig::clone(&client_showing(&shown, &[ALPN_MESH_HTTP]));
    config.enable_early_data = true;
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    // Elsewhere the client gets tickets; from the member it gets none.
    meet(member.server(), Arc::clone(&config)).await.assert_good();
    let (_, client) = early(member.server(), &config).await;
    assert!(!client.early, "the member gave a ticket");
    meet(server_with_tickets(&member), Arc::clone(&config)).await.assert_good();
    let (server, client) = early(member.server(), &config).await;
    assert!(client.early, "there was no ticket to misuse");
    assert!(!client.accepted);
    assert_eq!((server.kind, server.got.as_slice()), (Some(HandshakeKind::Full), b"late".as_slice()));
}

struct EarlyServer {
    kind: Option<HandshakeKind>,
    got: Vec<u8>,
}

struct EarlyClient {
    /// Whether early data was sent.
    early: bool,
    accepted: bool,
}

/// A client says `early` as soon as it can, and `late` after the handshake.
async fn early(server: Arc<ServerConfig>, client: &Arc<ClientConfig>) -> (EarlyServer, EarlyClient) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(server).accept(tcp).await.unwrap();
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.unwrap();
        EarlyServer { kind: stream.get_ref().1.handshake_kind(), got }
    };
    let calling = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut early = false;
        let connecting = TlsConnector::from(Arc::clone(client)).connect_with(tls::no_name(), tcp, |connection| {
            if let Some(mut data) = connection.early_data() {
                data.write_all(b"early").unwrap();
                early = true;
            }
        });
        let mut stream = connecting.await.unwrap();
        let accepted = stream.get_ref().1.is_early_data_accepted();
        stream.write_all(b"late").await.unwrap();
        stream.shutdown().await.unwrap();
        EarlyClient { early, accepted }
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(serving, calling) }).await.unwrap()
}

#[tokio::test]
async fn f30_early_data_and_resumption_are_not_offered() {
    let member = Member::new();
    let config = member.client(WEB);
    let server = server_with_tickets(&member);
    for _ in 0..2 {
        meet(Arc::clone(&server), Arc::clone(&config)).await.assert_good();
    }
    let (_, hello, _) = answer_to(&member, b"").await;
    let offered: Vec<u16> = extensions_of(&hello).into_iter().map(|(kind, _)| kind).collect();
    for kind in [extension::PRE_SHARED_KEY, extension::EARLY_DATA, extension::SERVER_NAME] {
        assert!(!offered.contains(&kind), "extension {kind} in {offered:?}");
    }
    assert!(offered.contains(&extension::ALPN), "{offered:?}");
}

#[tokio::test]
async fn f31_plain_http_to_a_port_of_the_mesh_is_refused() {
    let member = Member::new();
    for plain in [
        b"GET / HTTP/1.1\r\nHost: app.ns.svc\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"EHLO app\r\nSTARTTLS\r\n",
        b"\0\0\0\0\0\0\0\0",
    ] {
        let (error, answer) = shout_at(&member, plain).await;
        assert!(answer.is_empty() || plain_alert(&answer).is_some(), "{error}: {answer:?}");
    }
    // Plain text first, a good hello behind it.
    let (_, hello, _) = answer_to(&member, b"").await;
    let (error, answer) = shout_at(&member, &[b"STARTTLS\r\n", hello.as_slice()].concat()).await;
    assert!(answer.is_empty() || plain_alert(&answer).is_some(), "{error}: {answer:?}");
    member.assert_still_good().await;
}

#[tokio::test]
async fn f32_server_of_another_identity_is_refused() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    for expected in [
        "spiffe://td/ns/shop/sa/other",
        "spiffe://td/ns/shop/sa/web2",
        "spiffe://td/ns/shop/sa/we",
        "spiffe://td/ns/other/sa/web",
        "spiffe://other/ns/shop/sa/web",
        OURS,
    ] {
        member.assert_refuses_server(&shown, expected, CertificateUnknown, expected).await;
    }
    member.assert_still_good().await;
}

#[tokio::test]
async fn f33_server_that_answers_in_plain_text_gets_nothing() {
    let member = Member::new();
    for plain in [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".as_slice(), b"", b"220 smtp.example.test\r\n"] {
        let (error, hello, after) = answer_to(&member, plain).await;
        assert_eq!(hello[0], 22, "{error}");
        assert!(after.is_empty() || plain_alert(&after).is_some(), "{error}: {after:?}");
    }
    member.assert_still_good().await;
}

#[tokio::test]
async fn f34_without_roots_nobody_is_trusted() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    member.keeper.set_trust(TrustBundle::default());
    member.assert_refuses_client(&shown, UnknownCA, "no roots").await;
    member.assert_refuses_server(&shown, WEB, UnknownCA, "no roots").await;
    // The other domain's roots are no substitute.
    member.keeper.set_trust(member.root.bundle("other"));
    member.assert_refuses_client(&shown, UnknownCA, "another domain's").await;
    member.assert_refuses_server(&shown, WEB, UnknownCA, "another domain's").await;
    member.keeper.set_trust(member.root.bundle(DOMAIN));
    member.assert_still_good().await;
}

#[tokio::test]
async fn f34_unusable_roots_make_no_bundle() {
    let domain = || DOMAIN.parse().unwrap();
    let garbage = rustls::pki_types::CertificateDer::from(b"garbage".as_slice());
    let good = Authority::root("root").der().clone();
    assert!(TrustBundle::new(domain(), vec![]).is_err());
    assert!(TrustBundle::new(domain(), vec![garbage.clone()]).is_err());
    assert!(TrustBundle::new(domain(), vec![good.clone(), garbage.clone()]).is_err());
    assert!(TrustBundle::from_pem(domain(), b"").is_err());
    assert!(
        TrustBundle::from_pem(domain(), b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err()
    );
    // What was there before stays.
    let mut bundle = TrustBundle::new(domain(), vec![good]).unwrap();
    assert!(bundle.insert(domain(), vec![garbage]).is_err());
    assert_eq!(bundle.roots().count(), 1);
}

#[tokio::test]
async fn f34_without_a_certificate_of_its_own_a_member_serves_and_calls_nobody() {
    let member = Member::new();
    let trust = member.keeper.current().trust.clone();
    let keeper = Keeper::new(tls::Credentials { identity: None, trust });
    let bare = tls::server_config(&keeper, Clock::Host, ClientAuth::Required, &[ALPN_MESH_HTTP]).unwrap();
    let met = meet(bare, member.client(WEB)).await;
    assert!(met.server.fault.is_some() && met.client.alert().is_some(), "{met:?}");
    met.assert_silent();
    let bare = tls::client_config(&keeper, Clock::Host, OURS.parse().unwrap(), &[ALPN_MESH_HTTP]).unwrap();
    let met = meet(member.server(), bare).await;
    assert_eq!(met.client.alert(), Some(CertificateRequired));
    met.assert_silent();
}

type Pair = (server::TlsStream<TcpStream>, client::TlsStream<TcpStream>);

async fn open(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Pair {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async { TlsAcceptor::from(server).accept(listener.accept().await.unwrap().0).await.unwrap() };
    let calling = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        TlsConnector::from(client).connect(tls::no_name(), tcp).await.unwrap()
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(serving, calling) }).await.unwrap()
}

async fn still_carries((server, client): &mut Pair) {
    let exchange = async {
        let mut got = [0; 2];
        client.write_all(b"up").await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"up");
        server.write_all(b"dn").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"dn");
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap();
}

#[tokio::test]
async fn f36_root_that_left_the_bundle_is_refused_at_once() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    let (as_client, as_server) = (client_showing(&shown, &[ALPN_MESH_HTTP]), member.client(WEB));
    let mut before = open(member.server(), Arc::clone(&as_client)).await;
    member.assert_takes(&shown, WEB).await;

    let next = Authority::root("next");
    // Overlap: both are trusted.
    let both = vec![member.root.der().clone(), next.der().clone()];
    member.keeper.set_trust(TrustBundle::new(DOMAIN.parse().unwrap(), both).unwrap());
    member.assert_takes(&shown, WEB).await;
    member.assert_takes(&next.issue(&Leaf::of(WEB)), WEB).await;

    member.keeper.set_trust(next.bundle(DOMAIN));
    member.assert_refuses_client(&shown, UnknownCA, "under the old root").await;
    member.assert_refuses_server(&shown, WEB, UnknownCA, "under the old root").await;
    // The very configurations from before the change see it, too.
    let met = meet(server_showing(&shown, &[ALPN_MESH_HTTP]), as_server).await;
    assert_eq!(met.server.alert(), Some(UnknownCA));
    member.assert_takes(&next.issue(&Leaf::of(WEB)), WEB).await;
    still_carries(&mut before).await;
}

#[tokio::test]
async fn f36_new_certificate_closes_no_connection_and_holds_for_the_next() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    let stranger = server_showing(&shown, &[ALPN_MESH_HTTP]);
    let seen = |pair: &Pair| pair.1.get_ref().1.peer_certificates().unwrap()[0].clone();
    let client = client_showing(&shown, &[ALPN_MESH_HTTP]);
    let mut inbound = open(member.server(), Arc::clone(&client)).await;
    let mut outbound = open(stranger, member.client(WEB)).await;
    let before = seen(&inbound);
    for _ in 0..3 {
        let next = member.root.issue(&Leaf::of(OURS));
        member.keeper.set_identity(next.identity());
        still_carries(&mut inbound).await;
        still_carries(&mut outbound).await;
        let after = open(member.server(), Arc::clone(&client)).await;
        assert_eq!(seen(&after), next.chain[0]);
        assert_ne!(seen(&after), before);
    }
}

#[tokio::test]
async fn f36_sessions_are_never_resumed() {
    let member = Member::new();
    let (server, _, connection) = session(&member).await;
    assert_eq!(server.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    assert_eq!(connection.tls13_tickets_received(), 0);
    assert_eq!(connection.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
}
