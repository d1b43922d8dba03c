//! The service without a network: who gets what, who is refused how, and what a flood does.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use mesh_api::spiffe::TrustDomain;
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Code;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::*;
use crate::{
    authn::{Authenticating, JoinTokens},
    config::Config,
    issuer::{
        Store,
        rotation::{Order, Schedule},
    },
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn clock() -> Clock {
    let epoch = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    Clock::Virtual { epoch, start: Instant::now() }
}

struct World {
    _folder: tempfile::TempDir,
    store: Store,
    tokens: Arc<JoinTokens>,
    clock: Clock,
    issuing: watch::Sender<Arc<Issuing>>,
    limits: Limits,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = clock();
        let schedule = Schedule { root_lifetime: 300 * DAY, issuer_lifetime: 30 * DAY, overlap: DAY, retire: DAY };
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let store = Store::open(folder.path(), domain, schedule, clock.now().into()).unwrap();
        let tokens = Arc::new(JoinTokens::open_or_create(&folder.path().join("join.key")).unwrap());
        let (issuing, _) = watch::channel(Arc::new(store.issuing(clock.now().into()).unwrap()));
        Self { _folder: folder, store, tokens, clock, issuing, limits: Limits::default() }
    }

    fn service(&self) -> Arc<Service> {
        self.service_with(Arc::clone(&self.tokens) as Arc<dyn Authenticator>)
    }

    fn service_with(&self, authenticator: Arc<dyn Authenticator>) -> Arc<Service> {
        let validity = Config::default().validity();
        Arc::new(Service::new(authenticator, self.issuing.subscribe(), validity, self.clock, &self.limits))
    }

    fn token(&self, namespace: &str, account: &str) -> String {
        self.tokens.mint(namespace, account, 1000 * DAY / 10, self.clock.now().into()).unwrap()
    }

    fn rotate(&mut self, order: Order) {
        let now = Time::from(self.clock.now());
        self.store.advance(now, Some(order)).unwrap().unwrap();
        self.issuing.send_replace(Arc::new(self.store.issuing(now).unwrap()));
    }
}

fn csr() -> Vec<u8> {
    let params = rcgen::CertificateParams::default();
    params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

async fn ask(service: &Service, token: &str, csr: Vec<u8>) -> Result<CertifyResponse, Status> {
    let request = CertifyRequest { token: token.into(), csr, validity_seconds: 0 };
    service.certify(Request::new(request)).await.map(Response::into_inner)
}

fn uri_of(der: &[u8]) -> String {
    let (_, cert) = X509Certificate::from_der(der).unwrap();
    match cert.subject_alternative_name().unwrap().unwrap().value.general_names.as_slice() {
        [GeneralName::URI(uri)] => (*uri).to_owned(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_and_a_request_give_a_certificate() {
    let world = World::new();
    let answer = ask(&world.service(), &world.token("shop", "web"), csr()).await.unwrap();
    assert_eq!(answer.identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(uri_of(&answer.chain[0]), answer.identity);
    let issuing = world.issuing.borrow();
    assert_eq!(answer.chain[1..], [issuing.chain()[0].to_vec()]);
    assert_eq!(answer.trust, Some(issuing.bundle()));
    assert_eq!(issuing.bundle().roots.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn i05_the_request_does_not_choose_the_identity() {
    let world = World::new();
    let mut params = rcgen::CertificateParams::default();
    let wish = "spiffe://cluster.local/ns/a/sa/admin".try_into().unwrap();
    params.subject_alt_names.push(rcgen::SanType::URI(wish));
    let csr = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let answer = ask(&world.service(), &world.token("a", "b"), csr).await.unwrap();
    assert_eq!(uri_of(&answer.chain[0]), "spiffe://cluster.local/ns/a/sa/b");
}

/// The API server asks the controller's webhooks by name; members know it by its identity all the same.
#[tokio::test(start_paused = true)]
async fn the_controller_is_certified_by_name_as_well() {
    let world = World::new();
    // What the request wishes is not looked at.
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names.push(rcgen::SanType::DnsName("kubernetes.default.svc".try_into().unwrap()));
    let csr = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec();
    let answer = ask(&world.service(), &world.token("mesh-system", "mesh-controller"), csr.clone()).await.unwrap();
    let (_, cert) = X509Certificate::from_der(&answer.chain[0]).unwrap();
    let names = &cert.subject_alternative_name().unwrap().unwrap().value.general_names;
    let services = ["mesh-webhook.mesh-system.svc", "mesh-controller.mesh-system.svc"];
    let dns = services.into_iter().flat_map(|name| [name.to_owned(), format!("{name}.cluster.local")]);
    let dns: Vec<String> = dns.collect();
    let mut expected = vec![GeneralName::URI(&answer.identity)];
    expected.extend(dns.iter().map(|name| GeneralName::DNSName(name)));
    assert_eq!(*names, expected);
    let issuing = world.issuing.borrow();
    let roots = issuing.roots().iter().map(|root| root.der().clone()).collect();
    let trust = mesh_api::tls::TrustBundle::new(issuing.domain().clone(), roots).unwrap();
    let leaf = answer.chain[0].clone().into();
    let now = rustls_pki_types::UnixTime::since_unix_epoch(world.clock.unix());
    let known = mesh_api::tls::verify_peer(&trust, &leaf, issuing.chain(), mesh_api::tls::Usage::Server, now).unwrap();
    assert_eq!(known.as_str(), "spiffe://cluster.local/ns/mesh-system/sa/mesh-controller");
    // Nobody else has any.
    for (namespace, account) in [("mesh-system", "mesh-ca"), ("shop", "mesh-controller")] {
        let other = ask(&world.service(), &world.token(namespace, account), csr.clone()).await.unwrap();
        assert_eq!(uri_of(&other.chain[0]), other.identity);
    }
}

#[tokio::test(start_paused = true)]
async fn every_refusal_has_its_code() {
    let world = World::new();
    let service = world.service();
    let good = world.token("shop", "web");
    let old = world.tokens.mint("shop", "web", HOUR, Time::from(world.clock.now()).minus(2 * HOUR)).unwrap();
    let long = "a".repeat(MAX_TOKEN + 1);
    for (token, csr, code, told) in [
        ("", csr(), Code::Unauthenticated, "no token"),
        ("junk", csr(), Code::Unauthenticated, "malformed"),
        (&long, csr(), Code::InvalidArgument, "longer than"),
        (&old, csr(), Code::Unauthenticated, "expired"),
        (&good, vec![], Code::InvalidArgument, "PKCS #10"),
        (&good, vec![0; MAX_CSR + 1], Code::InvalidArgument, "longer than"),
    ] {
        let status = ask(&service, token, csr).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(told), "{status}");
    }
    let fixed = |answer| world.service_with(Arc::new(Fixed(answer)));
    for (error, code) in [
        (AuthnError::Names, Code::PermissionDenied),
        (AuthnError::Audience, Code::Unauthenticated),
        (AuthnError::Signature, Code::Unauthenticated),
        (AuthnError::Unavailable, Code::Unavailable),
        (AuthnError::AddressUnknown, Code::Unavailable),
        (AuthnError::Rejected, Code::Unauthenticated),
        (AuthnError::Pod, Code::Unauthenticated),
        (AuthnError::Unbound, Code::PermissionDenied),
        (AuthnError::Address, Code::PermissionDenied),
        (AuthnError::TooOften(HOUR), Code::ResourceExhausted),
    ] {
        assert_eq!(ask(&fixed(error), "x", csr()).await.unwrap_err().code(), code);
    }
}

/// Always the same answer.
struct Fixed(AuthnError);

impl Authenticator for Fixed {
    fn authenticate<'a>(&'a self, _token: &'a str, _peer: Option<IpAddr>, _now: Time) -> Authenticating<'a> {
        Box::pin(std::future::ready(Err(self.0)))
    }
}

#[tokio::test(start_paused = true)]
async fn i12_an_expired_issuer_signs_nothing() {
    let world = World::new();
    let (service, token) = (world.service(), world.token("shop", "web"));
    tokio::time::advance(31 * DAY).await;
    let status = ask(&service, &token, csr()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("expired at 2026-12-"), "{status}");
}

#[tokio::test]
async fn i14_a_thousand_at_once() {
    let world = World::new();
    let service = world.service();
    let began = std::time::Instant::now();
    let mut calls = JoinSet::new();
    for member in 0..1000 {
        let (service, token) = (Arc::clone(&service), world.token("shop", &format!("m{member}")));
        calls.spawn(async move { ask(&service, &token, csr()).await.unwrap() });
    }
    let answers = calls.join_all().await;
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let serials: HashSet<Vec<u8>> = answers
        .iter()
        .map(|answer| X509Certificate::from_der(&answer.chain[0]).unwrap().1.raw_serial().to_vec())
        .collect();
    let identities: HashSet<&str> = answers.iter().map(|answer| answer.identity.as_str()).collect();
    assert_eq!((serials.len(), identities.len()), (1000, 1000));
}

#[tokio::test(start_paused = true)]
async fn i15_one_holder_is_held_to_its_rate() {
    let world = World::new();
    let service = world.service();
    let (greedy, modest) = (world.token("shop", "web"), world.token("shop", "web"));
    let request = csr();
    let mut served = 0;
    for _ in 0..600 {
        match ask(&service, &greedy, request.clone()).await {
            Ok(_) => served += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                let wait: u64 =
                    status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap().parse().unwrap();
                assert!((1..=1000).contains(&wait));
            }
        }
        tokio::time::advance(Duration::from_millis(100)).await;
    }
    assert!((79..=81).contains(&served), "{served}");
    assert!(ask(&service, &modest, request).await.is_ok(), "another holder of the same account");
}

/// Answers after a while, and counts.
#[derive(Default)]
struct Slow {
    takes: Duration,
    now: AtomicUsize,
    most: AtomicUsize,
}

struct Busy<'a>(&'a Slow);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Authenticator for Slow {
    fn authenticate<'a>(&'a self, token: &'a str, _peer: Option<IpAddr>, _now: Time) -> Authenticating<'a> {
        Box::pin(async move {
            let running = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            let _busy = Busy(self);
            self.most.fetch_max(running, Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            Caller::new("shop", "web", token)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn i17_a_slow_check_of_tokens_is_bounded_in_time_and_number() {
    let mut world = World::new();
    world.limits = Limits { concurrent: 4, waiting: 8, ..Limits::default() };
    let slow = Arc::new(Slow { takes: 30 * Duration::from_secs(1), ..Slow::default() });
    let service = world.service_with(Arc::clone(&slow) as Arc<dyn Authenticator>);
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for member in 0..20 {
        let service = Arc::clone(&service);
        calls.spawn(async move { ask(&service, &member.to_string(), vec![]).await.unwrap_err().code() });
    }
    let codes = calls.join_all().await;
    assert_eq!(began.elapsed().as_secs(), 10, "the deadline");
    assert_eq!(codes.iter().filter(|code| **code == Code::ResourceExhausted).count(), 8, "no place to wait");
    assert_eq!(codes.iter().filter(|code| **code == Code::DeadlineExceeded).count(), 12);
    assert_eq!(slow.most.load(Ordering::SeqCst), 4);
    assert_eq!(slow.now.load(Ordering::SeqCst), 0, "nothing goes on in secret");
}

#[tokio::test(start_paused = true)]
async fn i21_calls_that_are_given_up_leave_nothing() {
    let mut world = World::new();
    world.limits = Limits { concurrent: 2, waiting: 10, ..Limits::default() };
    let slow = Arc::new(Slow { takes: HOUR, ..Slow::default() });
    let service = world.service_with(Arc::clone(&slow) as Arc<dyn Authenticator>);
    for _ in 0..10_000 {
        let given_up = tokio::time::timeout(Duration::ZERO, ask(&service, "x", vec![])).await;
        assert!(given_up.is_err(), "every one of them got a slot, so none leaked");
    }
    assert_eq!(slow.now.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn the_bundle_is_sent_at_once_and_when_it_changes() {
    let mut world = World::new();
    let service = world.service();
    let follow = || service.watch_trust(Request::new(WatchTrustRequest {}));
    let mut bundles = follow().await.unwrap().into_inner();
    let first = bundles.next().await.unwrap().unwrap();
    assert_eq!(first, world.issuing.borrow().bundle());

    // No change, no message.
    let same = Arc::clone(&world.issuing.borrow());
    world.issuing.send_replace(same);
    assert!(tokio::time::timeout(HOUR, bundles.next()).await.is_err());

    world.rotate(Order::RotateRoot);
    let announced = bundles.next().await.unwrap().unwrap();
    assert_eq!((announced.roots.len(), &announced.issuer), (2, &first.issuer));
    // Who does not read gets the newest, not all of them.
    world.rotate(Order::RotateIssuer);
    world.rotate(Order::RotateIssuer);
    let newest = bundles.next().await.unwrap().unwrap();
    assert_eq!(newest, world.issuing.borrow().bundle());
    assert!(tokio::time::timeout(HOUR, bundles.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn followers_are_bounded() {
    let mut world = World::new();
    world.limits.watchers = 3;
    let service = world.service();
    let follow = || service.watch_trust(Request::new(WatchTrustRequest {}));
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(follow().await.unwrap());
    }
    let Err(status) = follow().await else { panic!("one too many") };
    assert_eq!(status.code(), Code::ResourceExhausted);
    streams.pop();
    assert!(follow().await.is_ok());
    // The end of the process ends the streams.
    let mut last = streams.remove(0).into_inner();
    drop(world.issuing);
    assert!(last.next().await.is_some());
    assert!(last.next().await.is_none());
}
