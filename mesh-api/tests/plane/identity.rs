//! `identity::Member` against an authority that is there, away, slow, wrong or lying: a certificate comes, stays through
//! every outage, and changes without a gap; nothing unusable ever replaces what is good.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_api::{
    identity::{IdentityConfig, IdentityError, Member},
    names::ALPN_GRPC,
    proto::TrustBundle,
    sys::{Clock, Sys},
    tls::{self, ClientAuth, Identity, Keeper},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{
    authority::{LIMIT, Mood, Office, Serving, anywhere, authority_id, bundle, keeper, until},
    forge::{Authority, DOMAIN, Leaf, WEB},
};

/// The files of a member, and what it is told.
struct Home {
    directory: TempDir,
    config: IdentityConfig,
}

impl Home {
    fn new(root: &Authority, ca: SocketAddr) -> Self {
        let directory = TempDir::new().unwrap();
        let (token_file, roots_file) = (directory.path().join("token"), directory.path().join("roots.pem"));
        std::fs::write(&token_file, " let me in\n").unwrap();
        std::fs::write(&roots_file, root.pem()).unwrap();
        let config = IdentityConfig {
            trust_domain: DOMAIN.into(),
            ca: ca.into(),
            token_file,
            roots_file,
            validity_seconds: 600,
        };
        Self { directory, config }
    }

    fn member(&self) -> Running {
        let member = Member::new(Sys::host(), self.config.clone()).unwrap();
        let (keeper, ready) = (member.keeper(), member.ready());
        Running { keeper, ready, task: tokio::spawn(member.run()) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A member at work.
struct Running {
    keeper: Arc<Keeper>,
    ready: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn identity(&self) -> Option<Arc<Identity>> {
        self.keeper.current().identity.clone()
    }

    fn serial(&self) -> Option<String> {
        self.identity().map(|identity| identity.serial().to_owned())
    }

    fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    async fn certified(&self) -> Arc<Identity> {
        until("a certificate", || self.is_ready()).await;
        self.identity().unwrap()
    }

    fn roots(&self) -> Vec<Vec<u8>> {
        self.keeper.current().trust.roots().map(|(_, root)| root.to_vec()).collect()
    }
}

struct Scene {
    root: Arc<Authority>,
    office: Office,
    keeper: Arc<Keeper>,
    serving: Option<Serving>,
    address: SocketAddr,
    home: Home,
}

impl Scene {
    async fn new() -> Self {
        let root = Arc::new(Authority::root("root"));
        let office = Office::new(&root);
        let keeper = keeper(&root, &authority_id());
        let serving = Serving::start(&office, &keeper, ClientAuth::None, anywhere()).await;
        let home = Home::new(&root, serving.address);
        let address = serving.address;
        Self { root, office, keeper, serving: Some(serving), address, home }
    }

    fn close(&mut self) {
        self.serving.take();
    }

    async fn open_again(&mut self) {
        let address = self.address;
        self.serving = Some(Serving::start(&self.office, &self.keeper, ClientAuth::None, address).await);
    }

    async fn asked_again(&self, times: usize) {
        let goal = self.office.asked() + times;
        until("the member asks again", || self.office.asked() >= goal).await;
    }
}

#[tokio::test]
async fn gets_a_certificate() {
    let scene = Scene::new().await;
    let member = scene.home.member();
    let identity = member.certified().await;
    assert_eq!(identity.id().as_str(), WEB);
    assert_eq!(identity.issuer(), "CN=root");
    let asked = scene.office.desk.lock().unwrap().asked[0].clone();
    assert_eq!((asked.token.as_str(), asked.validity_seconds), ("let me in", 600));
    assert_eq!(scene.office.asked(), 1);
}

#[tokio::test]
async fn two_requests_never_have_the_same_key() {
    let scene = Scene::new().await;
    let (one, other) = (scene.home.member(), scene.home.member());
    one.certified().await;
    other.certified().await;
    let key = |member: &Running| member.identity().unwrap().certified_key().key.public_key().unwrap().to_vec();
    assert_ne!(key(&one), key(&other));
}

#[tokio::test]
async fn waits_for_an_authority_that_is_not_there_yet() {
    let mut scene = Scene::new().await;
    scene.close();
    let member = scene.home.member();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!member.is_ready() && member.identity().is_none());
    scene.open_again().await;
    member.certified().await;
}

#[tokio::test]
async fn keeps_the_last_good_certificate_through_an_outage_and_renews_after_it() {
    let mut scene = Scene::new().await;
    // Renewal is due after about one second.
    scene.office.desk.lock().unwrap().validity = (0, 2);
    let member = scene.home.member();
    let first = member.certified().await;
    scene.close();
    let outage = Instant::now();
    while outage.elapsed() < Duration::from_millis(2500) {
        assert_eq!(member.serial().as_deref(), Some(first.serial()));
        assert!(member.is_ready());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.office.desk.lock().unwrap().validity = (-1, 3600);
    scene.open_again().await;
    until("renewal", || member.serial().as_deref() != Some(first.serial())).await;
    assert_eq!(member.identity().unwrap().id().as_str(), WEB);
}

#[tokio::test]
async fn renews_before_the_certificate_runs_out() {
    let scene = Scene::new().await;
    scene.office.desk.lock().unwrap().validity = (0, 5);
    let member = scene.home.member();
    let mut last = member.certified().await;
    for _ in 0..2 {
        until("renewal", || member.serial().as_deref() != Some(last.serial())).await;
        assert!(std::time::SystemTime::now() < last.not_after(), "there was a gap");
        last = member.identity().unwrap();
    }
}

#[tokio::test]
async fn renews_soon_after_the_issuer_changed_and_once() {
    let scene = Scene::new().await;
    let member = scene.home.member();
    member.certified().await;
    let next = Arc::new(Authority::root("next"));
    // Trusted everywhere first; that alone makes nobody renew.
    scene.office.trust.send_replace(bundle(&[&scene.root, &next], "first"));
    until("the new root", || member.roots().len() == 2).await;
    assert_eq!(scene.office.asked(), 1);
    *scene.office.signer.lock().unwrap() = Arc::clone(&next);
    scene.office.trust.send_replace(bundle(&[&scene.root, &next], "second"));
    let begin = Instant::now();
    until("renewal", || member.identity().unwrap().issuer() == "CN=next").await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(scene.office.asked(), 2);
}

#[tokio::test]
async fn follows_the_trust_bundle_and_keeps_the_last_good_one() {
    let mut scene = Scene::new().await;
    let member = scene.home.member();
    member.certified().await;
    let next = Authority::root("next");
    let both = vec![scene.root.der().to_vec(), next.der().to_vec()];
    scene.office.trust.send_replace(bundle(&[&scene.root, &next], "first"));
    until("the new root", || member.roots() == both).await;
    let other_domain = TrustBundle { trust_domain: "other".into(), ..bundle(&[&next], "first") };
    let no_root = TrustBundle { roots: vec![], ..bundle(&[], "first") };
    let garbage = TrustBundle { roots: vec![vec![0x30; 40]], ..no_root.clone() };
    for bad in [other_domain, no_root, garbage] {
        let goal = scene.office.watched() + 2;
        scene.office.trust.send_replace(bad);
        // The stream that brought it is given up, and opened again.
        until("it watches again", || scene.office.watched() >= goal).await;
        assert_eq!(member.roots(), both);
        scene.office.trust.send_replace(bundle(&[&scene.root, &next], "first"));
        let goal = scene.office.watched() + 1;
        until("it watches again", || scene.office.watched() >= goal).await;
    }
    scene.office.trust.send_replace(bundle(&[&scene.root], "first"));
    until("one root again", || member.roots() == [scene.root.der().to_vec()]).await;
    // Through an outage, too.
    scene.close();
    scene.office.trust.send_replace(bundle(&[&scene.root, &next], "first"));
    scene.open_again().await;
    until("the bundle of after the outage", || member.roots() == both).await;
}

/// The authority begins anew while nobody who could say so is trusted: the file of roots says it.
#[tokio::test]
async fn an_authority_that_began_anew_is_found_by_the_file_of_roots() {
    let mut scene = Scene::new().await;
    let member = scene.home.member();
    let first = member.certified().await;
    scene.close();
    let anew = Arc::new(Authority::root("anew"));
    *scene.office.signer.lock().unwrap() = Arc::clone(&anew);
    scene.office.trust.send_replace(bundle(&[&anew], "anew"));
    scene.keeper = keeper(&anew, &authority_id());
    scene.open_again().await;
    // Nobody is trusted who is not in the file, and nothing in it that is no root.
    let before = scene.office.asked();
    for useless in ["", "garbage"] {
        std::fs::write(&scene.home.config.roots_file, useless).unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(member.roots(), [scene.root.der().to_vec()]);
        assert_eq!(scene.office.asked(), before);
    }
    std::fs::write(&scene.home.config.roots_file, anew.pem()).unwrap();
    until("the new root", || member.roots() == [anew.der().to_vec()]).await;
    until("renewal", || member.serial().as_deref() != Some(first.serial())).await;
    assert_eq!(member.identity().unwrap().issuer(), "CN=anew");
}

/// An answer that cannot be used replaces nothing, neither the certificate nor the roots.
#[tokio::test]
async fn unusable_answers_replace_nothing() {
    let scene = Scene::new().await;
    let foreign = Authority::root("foreign");
    let elsewhere = "spiffe://other/ns/shop/sa/web";
    let cases = [
        ("a refusal", Mood::Refuses),
        ("no chain", Mood::Answers(vec![])),
        ("garbage", Mood::Answers(vec![b"garbage".to_vec()])),
        ("somebody else's key", Mood::Answers(vec![scene.root.issue(&Leaf::of(WEB)).chain[0].to_vec()])),
        ("an authority's certificate", Mood::Answers(vec![scene.root.der().to_vec()])),
        ("two identities", Mood::Signs(Leaf::web(|leaf| leaf.names.push(leaf.names[0].clone())))),
        ("an identity of another domain", Mood::Signs(Leaf::of(elsewhere))),
        ("an expired one", Mood::Signs(Leaf::web(|leaf| (leaf.from, leaf.until) = (-120, -60)))),
        (
            "a bundle of another domain",
            Mood::Bundles(TrustBundle { trust_domain: "other".into(), ..bundle(&[&scene.root], "first") }),
        ),
        ("a bundle without roots", Mood::Bundles(bundle(&[], "first"))),
        ("a bundle that does not bear it", Mood::Bundles(bundle(&[&foreign], "first"))),
    ];
    for (case, mood) in cases {
        scene.office.set_mood(mood);
        let member = scene.home.member();
        let before = member.roots();
        scene.asked_again(2).await;
        assert!(member.identity().is_none() && !member.is_ready(), "{case}: taken");
        assert_eq!(member.roots(), before, "{case}: changed the roots");
        // And the next good answer is taken.
        scene.office.set_mood(Mood::Good);
        member.certified().await;
    }
}

#[tokio::test]
async fn unusable_renewals_keep_the_last_good_certificate() {
    let scene = Scene::new().await;
    scene.office.desk.lock().unwrap().validity = (0, 2);
    let member = scene.home.member();
    let first = member.certified().await;
    scene.office.set_mood(Mood::Signs(Leaf::of("spiffe://other/ns/shop/sa/web")));
    scene.asked_again(2).await;
    assert_eq!(member.serial().as_deref(), Some(first.serial()));
    scene.office.set_mood(Mood::Good);
    until("renewal", || member.serial().as_deref() != Some(first.serial())).await;
}

#[tokio::test]
async fn gives_up_on_an_authority_that_does_not_answer_and_asks_again() {
    let scene = Scene::new().await;
    scene.office.set_mood(Mood::Silent);
    let member = scene.home.member();
    until("the first request", || scene.office.asked() == 1).await;
    scene.office.set_mood(Mood::Good);
    member.certified().await;
    assert_eq!(scene.office.asked(), 2);
}

#[tokio::test]
async fn waits_for_its_token_and_reads_it_anew() {
    let scene = Scene::new().await;
    let token = scene.home.file("token");
    std::fs::remove_file(&token).unwrap();
    let member = scene.home.member();
    tokio::time::sleep(Duration::from_millis(300)).await;
    std::fs::write(&token, "x".repeat(17 * 1024)).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(member.identity().is_none());
    assert_eq!(scene.office.asked(), 0, "a token that is none was sent");
    std::fs::write(&token, "the right one").unwrap();
    member.certified().await;
    assert_eq!(scene.office.desk.lock().unwrap().asked[0].token, "the right one");
}

/// The token is shown to nobody but the authority.
#[tokio::test]
async fn somebody_else_at_the_authoritys_address_learns_nothing() {
    let root = Authority::root("root");
    let listener = TcpListener::bind(anywhere()).await.unwrap();
    let home = Home::new(&root, listener.local_addr().unwrap());
    let impostors = [keeper(&root, WEB), keeper(&Authority::root("root"), &authority_id())];
    let member = home.member();
    for impostor in impostors {
        let config = tls::server_config(&impostor, Clock::Host, ClientAuth::None, &[ALPN_GRPC]).unwrap();
        let (tcp, _) = timeout(LIMIT, listener.accept()).await.unwrap().unwrap();
        let refused = timeout(LIMIT, TlsAcceptor::from(config).accept(tcp)).await.unwrap();
        assert!(refused.is_err(), "the member went on talking");
    }
    assert!(member.identity().is_none());
}

#[test]
fn without_readable_roots_there_is_no_member() {
    let home = Home::new(&Authority::root("root"), anywhere());
    let made = |config: IdentityConfig| Member::new(Sys::host(), config).map(|_| ()).unwrap_err();
    let missing = made(IdentityConfig { roots_file: home.file("none"), ..home.config.clone() });
    assert!(matches!(missing, IdentityError::File { .. }), "{missing}");
    for text in ["", "garbage", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"] {
        std::fs::write(&home.config.roots_file, text).unwrap();
        let unreadable = made(home.config.clone());
        assert!(matches!(unreadable, IdentityError::Answer(_)), "{unreadable}");
    }
    let domain = made(IdentityConfig { trust_domain: "TD".into(), ..home.config.clone() });
    assert!(matches!(domain, IdentityError::TrustDomain(_)), "{domain}");
}
