use std::sync::LazyLock;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use mesh_api::{
    names,
    spiffe::SpiffeId,
    sys::{Clock, Sys},
    tls::{self, ClientAuth, Credentials, Identity, Keeper, TrustBundle},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    inject::Settings,
    telemetry::Telemetry,
    webhook::{
        Known as Facts, StaticNamespaces,
        caller::{FIRST_REQUEST, IDLE},
    },
};

const LIMIT: Duration = Duration::from_secs(30);
const NAME: &str = "mesh-webhook.mesh-system.svc";

static ROOT: LazyLock<CertifiedIssuer<'static, KeyPair>> = LazyLock::new(|| {
    let mut params = params();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(rcgen::DnType::CommonName, "root");
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
});

fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let now = date_time_ymd(1970, 1, 1) + Clock::Host.unix();
    (params.not_before, params.not_after) = (now - Duration::from_secs(60), now + Duration::from_secs(3600));
    params
}

/// As the certificate authority makes it for the controller: an identity, and the names of its Services.
fn keeper() -> Arc<Keeper> {
    let domain = names::DEFAULT_TRUST_DOMAIN.parse().unwrap();
    let id = SpiffeId::workload(&domain, names::SYSTEM_NAMESPACE, names::CONTROLLER_ACCOUNT).unwrap();
    let mut params = params();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names =
        vec![SanType::URI(id.as_str().try_into().unwrap()), SanType::DnsName(NAME.try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let leaf = params.signed_by(&key, &*ROOT).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let identity = Identity::new(vec![leaf.der().clone()], key).unwrap();
    let trust = TrustBundle::new(domain, vec![ROOT.der().clone()]).unwrap();
    Keeper::new(Credentials { identity: Some(Arc::new(identity)), trust: Arc::new(trust) })
}

struct Bench {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<io::Result<()>>,
}

async fn bench() -> Bench {
    let listener = Sys::host().net.bind(([127, 0, 0, 1], 0).into(), false).await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::server_config(&keeper(), Clock::Host, ClientAuth::None, &[b"h2", b"http/1.1"]).unwrap();
    let known = Facts { version: tokio::sync::watch::channel(None).1, addresses: tokio::sync::watch::channel(None).1 };
    let domain = names::DEFAULT_TRUST_DOMAIN.parse().unwrap();
    let telemetry = Arc::new(Telemetry::new().unwrap());
    let spaces = Arc::new(StaticNamespaces::default());
    let hook = Webhook::new(Settings::default(), domain, spaces, known, telemetry);
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, config, hook, async {
        let _ = stopped.await;
    }));
    Bench { address, stop: Some(stop), server }
}

/// Connects from this address.
async fn connect(
    to: SocketAddr,
    from: IpAddr,
    alpn: &[&[u8]],
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(ROOT.der().to_vec())).unwrap();
    let builder = ClientConfig::builder_with_provider(tls::provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(NAME).unwrap(), stream).await
}

impl Bench {
    /// Connects as an API server does: to a name, trusting the roots that `caBundle` has.
    async fn connect(&self, alpn: &[&[u8]]) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        connect(self.address, [127, 0, 0, 1].into(), alpn).await
    }

    async fn live(&self, alpn: &[&[u8]]) -> StatusCode {
        let stream = self.connect(alpn).await.unwrap();
        let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let request = http::Request::get(format!("https://{NAME}/live")).header("host", NAME);
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = if is_h2 {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap()
        };
        let status = response.status();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "live\n");
        status
    }
}

#[tokio::test]
async fn both_protocols_and_neither_by_name() {
    let bench = bench().await;
    for alpn in [&[b"http/1.1".as_slice()][..], &[b"h2".as_slice()], &[b"h2", b"http/1.1"], &[]] {
        let live = timeout(LIMIT, bench.live(alpn)).await.unwrap();
        assert_eq!(live, StatusCode::OK, "{alpn:?}");
    }
    assert!(timeout(LIMIT, bench.connect(&[b"mesh-http/1"])).await.unwrap().is_err());
}

#[tokio::test]
async fn it_answers_on_for_a_while_after_the_end_was_asked_for() {
    let mut bench = bench().await;
    bench.stop.take().unwrap().send(()).unwrap();
    assert_eq!(timeout(LIMIT, bench.live(&[b"http/1.1"])).await.unwrap(), StatusCode::OK);
    timeout(LIMIT, &mut bench.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn connections_that_say_nothing_keep_nobody_out() {
    let bench = bench().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS + 20 {
        silent.push(TcpStream::connect(bench.address).await.unwrap());
    }
    let mut plain = TcpStream::connect(bench.address).await.unwrap();
    plain.write_all(b"GET /live HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert_eq!(timeout(LIMIT, bench.live(&[b"http/1.1"])).await.unwrap(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_end_after_the_first_request_later_than_before_it() {
    let caller = Caller::new(Arc::default());
    let begun = Instant::now();
    caller.over().await;
    assert!(begun.elapsed() >= FIRST_REQUEST && begun.elapsed() < FIRST_REQUEST * 2);
    let busy = caller.request();
    let waiting = timeout(IDLE * 2, caller.over());
    assert!(waiting.await.is_err(), "it is busy");
    drop(busy);
    let begun = Instant::now();
    caller.over().await;
    assert!(begun.elapsed() >= IDLE - Duration::from_secs(1) && begun.elapsed() < IDLE * 2);
}

/// Sends bodies byte by byte, over one connection after the other, until it is dropped.
async fn drip(to: SocketAddr, begun: watch::Sender<usize>) {
    let head = format!(
        "POST /inject HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
    );
    let mut first = true;
    loop {
        let Ok(mut stream) = connect(to, [127, 0, 0, 1].into(), &[b"http/1.1"]).await else { continue };
        if stream.write_all(head.as_bytes()).await.is_err() {
            continue;
        }
        if std::mem::take(&mut first) {
            begun.send_modify(|count| *count += 1);
        }
        while stream.write_all(b" ").await.is_ok() && stream.flush().await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn who_sends_slowly_keeps_no_other_waiting() {
    let bench = bench().await;
    let (sender, mut begun) = watch::channel(0);
    let mut dripping = JoinSet::new();
    for _ in 0..MAX_OF_SOURCE + 16 {
        dripping.spawn(drip(bench.address, sender.clone()));
    }
    // Before, as many as there was room for held it for the time that a whole review has.
    timeout(LIMIT, begun.wait_for(|count| *count >= MAX_OF_SOURCE)).await.unwrap().unwrap();
    let object =
        r#"{"metadata":{"labels":{"mesh.dev/inject":"enabled"}},"spec":{"containers":[{"name":"a","image":"a"}]}}"#;
    let review = format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"705ab4f5-6393-41e8-b7cc-42010a800002","operation":"CREATE",
           "namespace":"shop","kind":{{"version":"v1","kind":"Pod"}},"object":{object}}}}}"#
    );
    let asked = async {
        let mut stream = connect(bench.address, [127, 0, 0, 2].into(), &[b"http/1.1"]).await.unwrap();
        let head = format!(
            "POST /inject HTTP/1.1\r\nhost: {NAME}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            review.len()
        );
        stream.write_all((head + &review).as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
    };
    timeout(Duration::from_secs(2), asked).await.unwrap();
}

#[tokio::test]
async fn an_address_that_has_its_share_gives_way_to_itself() {
    let mut all = Connections::default();
    let address = |last: u8| IpAddr::from([127, 0, 0, last]);
    let mut open = |from: u8| {
        let caller = all.admit(address(from));
        if let Some(caller) = &caller {
            all.start(address(from), caller.clone(), std::future::pending());
        }
        (caller, all.known.len())
    };
    let kept = open(1).0.unwrap();
    let busy: Vec<_> = (0..MAX_OF_SOURCE).map(|_| open(2).0.unwrap()).collect();
    assert_eq!(open(2).1, MAX_OF_SOURCE + 1, "one gave way");
    assert!(Arc::ptr_eq(&busy[0].source, &busy[1].source) && !Arc::ptr_eq(&busy[0].source, &kept.source));
    for from in 3..=9 {
        for _ in 0..MAX_OF_SOURCE {
            open(from);
        }
    }
    assert_eq!(open(10).1, MAX_CONNECTIONS);
    // The oldest of all is of an address that has few.
    assert!(all.known.iter().any(|one| Arc::ptr_eq(&one.caller, &kept)));
    let full: Vec<_> = all.known.iter().map(|one| one.caller.clone()).collect();
    let mut requests: Vec<_> = full.iter().map(|caller| caller.request()).collect();
    requests.iter_mut().for_each(|request| request.is_whole());
    assert!(all.admit(address(11)).is_none(), "all are being answered");
    drop(requests);
    assert!(all.admit(address(11)).is_some());
}
