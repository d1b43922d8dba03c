//! The whole authority over loopback, asked by the code that members run.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its premises fail")]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mesh_api::{
    identity::{IdentityConfig, Member},
    sys::Sys,
    tls::{Keeper, Usage, verify_peer},
};
use mesh_ca::{
    app::{App, AppError, Shared},
    config::Config,
    issuer::{Control, rotation::Order},
};
use rustls_pki_types::UnixTime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A configuration in which everything happens within seconds.
fn quick(folder: &Path) -> Config {
    let mut config = Config::default();
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    (config.listen, config.admin) = (anywhere, anywhere);
    config.state_folder = folder.join("ca");
    config.limits.refill = Duration::from_millis(20);
    config.rotation.check_interval = Duration::from_millis(100);
    config
}

struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    control: Control,
    tokens: Arc<mesh_ca::authn::JoinTokens>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), AppError>>,
}

async fn run(config: Config) -> Running {
    let app = App::start(config, Sys::host(), Shared::default()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, admin, control, tokens) = (app.address(), app.admin_address(), app.control(), app.tokens().unwrap());
    let task = tokio::spawn(app.run(async {
        let _ = stopped.await;
    }));
    Running { address, admin, control, tokens, stop, task }
}

impl Running {
    async fn end(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(4), self.task)
            .await
            .expect("ends without being cut off")
            .unwrap()
            .unwrap();
    }

    /// A member of its own, that keeps its certificate fresh until it is dropped.
    async fn member(&self, folder: &Path, account: &str) -> (Arc<Keeper>, JoinHandle<()>) {
        let token = self.tokens.mint("shop", account, LIMIT * 60, std::time::SystemTime::now().into()).unwrap();
        let token_file = folder.join(format!("{account}.token"));
        std::fs::write(&token_file, token).unwrap();
        let config = IdentityConfig {
            ca: self.address.into(),
            token_file,
            roots_file: folder.join("ca/trust.pem"),
            ..IdentityConfig::default()
        };
        let member = Member::new(Sys::host(), config).unwrap();
        let (keeper, mut ready) = (member.keeper(), member.ready());
        let task = tokio::spawn(member.run());
        tokio::time::timeout(LIMIT, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
        (keeper, task)
    }

    async fn page(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let text = format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }
}

/// What `one` shows is what `other` accepts, right now.
fn accepted(one: &Keeper, other: &Keeper) -> Result<String, String> {
    let shown = one.current().identity.clone().unwrap();
    let (leaf, chain) = shown.certified_key().cert.split_first().unwrap();
    let trust = Arc::clone(&other.current().trust);
    verify_peer(&trust, leaf, chain, Usage::Client, UnixTime::now())
        .map(|id| id.to_string())
        .map_err(|error| format!("{error}: {} roots, {}", trust.roots().count(), shown.issuer()))
}

#[tokio::test]
async fn members_get_certificates_and_the_end_is_clean() {
    let folder = tempfile::tempdir().unwrap();
    let ca = run(quick(folder.path())).await;
    let (web, web_task) = ca.member(folder.path(), "web").await;
    let (api, api_task) = ca.member(folder.path(), "api").await;
    assert_eq!(accepted(&web, &api).unwrap(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(accepted(&api, &web).unwrap(), "spiffe://cluster.local/ns/shop/sa/api");
    // Members follow the bundle all the time, and still the end comes at once.
    let address = ca.address;
    ca.end().await;
    assert!(TcpStream::connect(address).await.is_err());
    web_task.abort();
    api_task.abort();

    // The next process knows them.
    let again = run(quick(folder.path())).await;
    let (late, late_task) = again.member(folder.path(), "late").await;
    assert!(accepted(&web, &late).is_ok() && accepted(&late, &web).is_ok());
    late_task.abort();
    again.end().await;
}

#[tokio::test]
async fn roots_and_issuers_change_while_members_talk() {
    let folder = tempfile::tempdir().unwrap();
    let seconds = Duration::from_secs;
    let mut config = quick(folder.path());
    config.certificates.min_ttl = seconds(1);
    (config.certificates.max_ttl, config.certificates.default_ttl) = (seconds(4), seconds(4));
    (config.rotation.overlap, config.rotation.retire) = (seconds(2), seconds(5));
    let ca = run(config).await;
    let (web, web_task) = ca.member(folder.path(), "web").await;
    let (api, api_task) = ca.member(folder.path(), "api").await;
    let first = web.current().identity.clone().unwrap().issuer().to_owned();

    let checking = tokio::spawn({
        let (web, api) = (Arc::clone(&web), Arc::clone(&api));
        async move {
            let mut checks = 0;
            loop {
                for (one, other) in [(&web, &api), (&api, &web)] {
                    if let Err(error) = accepted(one, other) {
                        return Err::<(), _>(format!("after {checks} checks: {error}"));
                    }
                }
                checks += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let began = Instant::now();
    let mut roots = Vec::new();
    ca.control.order(Order::RotateIssuer).await.unwrap();
    ca.control.order(Order::RotateRoot).await.unwrap();
    // Members see one root, two, one again, and are under the new one in the end.
    while began.elapsed() < LIMIT && !checking.is_finished() {
        let now = api.current().trust.roots().count();
        if roots.last() != Some(&now) {
            roots.push(now);
        }
        let under_new = web.current().identity.clone().unwrap().issuer().contains("issuer 3");
        if roots.ends_with(&[2, 1]) && under_new {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!checking.is_finished(), "{:?}", checking.await);
    checking.abort();
    assert!(roots.ends_with(&[2, 1]), "{roots:?} in {:?}", began.elapsed());
    assert_ne!(web.current().identity.clone().unwrap().issuer(), first);
    assert!(ca.page("GET /issuers").await.contains("\"phase\": \"steady\""));
    // Who comes now, with the file of roots of now, is let in: the authority's own certificate changed as well.
    let (late, late_task) = ca.member(folder.path(), "late").await;
    assert!(accepted(&late, &web).is_ok());
    for task in [web_task, api_task, late_task] {
        task.abort();
    }
    ca.end().await;
}

#[tokio::test]
async fn the_admin_server_shows_and_orders() {
    let folder = tempfile::tempdir().unwrap();
    let ca = run(quick(folder.path())).await;
    assert!(ca.page("GET /live").await.starts_with("HTTP/1.1 200"));
    assert!(ca.page("GET /ready").await.starts_with("HTTP/1.1 200"));
    let trust = std::fs::read_to_string(folder.path().join("ca/trust.pem")).unwrap();
    assert!(ca.page("GET /trust").await.ends_with(&trust));
    let issuers = ca.page("GET /issuers").await;
    assert!(issuers.contains("\"generation\": 1") && issuers.contains("\"not_after\": \"20"), "{issuers}");
    assert!(!issuers.contains("PRIVATE"));

    assert!(ca.page("GET /rotate/root").await.starts_with("HTTP/1.1 405"));
    let rotated = ca.page("POST /rotate/issuer").await;
    assert!(rotated.starts_with("HTTP/1.1 200") && rotated.contains("\"generation\": 2"), "{rotated}");
    let announced = ca.page("POST /rotate/root").await;
    assert!(announced.starts_with("HTTP/1.1 200") && announced.contains("\"phase\": \"announced\""), "{announced}");
    let again = ca.page("POST /rotate/root").await;
    assert!(again.starts_with("HTTP/1.1 409") && again.contains("it goes on at 20"), "{again}");
    assert_eq!(ca.page("GET /trust").await.matches("BEGIN CERTIFICATE").count(), 2);
    ca.end().await;
}

#[tokio::test]
async fn on_every_address_orders_are_taken_from_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick(folder.path());
    config.admin = SocketAddr::from(([0, 0, 0, 0], 0));
    let mut ca = run(config).await;
    ca.admin = SocketAddr::from(([127, 0, 0, 1], ca.admin.port()));
    assert!(ca.page("GET /issuers").await.contains("\"phase\": \"steady\""));
    assert!(ca.page("POST /rotate/root").await.starts_with("HTTP/1.1 200"));
    ca.end().await;
}

/// A hello of TLS 1.2: no supported_versions, a suite of that time.
fn hello_of_tls12() -> Vec<u8> {
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    let extensions = [0, 10, 0, 4, 0, 2, 0, 23, 0, 13, 0, 4, 0, 2, 4, 3, 0, 11, 0, 2, 1, 0];
    hello.extend([0, extensions.len() as u8]);
    hello.extend(extensions);
    let mut record = vec![22, 3, 1, 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[tokio::test]
async fn i18_only_tls_13_gets_in() {
    let folder = tempfile::tempdir().unwrap();
    let ca = run(quick(folder.path())).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for (bytes, alert) in [(preface, None), (hello_of_tls12(), Some(70)), (b"GET / HTTP/1.1\r\n\r\n".to_vec(), None)] {
        let mut stream = TcpStream::connect(ca.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        // Closed, with an alert at most; a reset is a close.
        let _ = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("closed");
        assert!(answer.len() <= 7 && answer.first().is_none_or(|kind| *kind == 21), "{answer:?}");
        if let Some(alert) = alert {
            assert_eq!(answer.last(), Some(&alert), "{answer:?}");
        }
    }
    // The others are served as before.
    let (_, task) = ca.member(folder.path(), "web").await;
    task.abort();
    ca.end().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick(folder.path());
    config.limits.connections = 1;
    let ca = run(config).await;
    let (_, first) = ca.member(folder.path(), "first").await;
    let second = tokio::time::timeout(Duration::from_millis(1500), ca.member(folder.path(), "second")).await;
    assert!(second.is_err(), "there is no room");
    first.abort();
    let (_, second) = ca.member(folder.path(), "third").await;
    second.abort();
    ca.end().await;
}

#[tokio::test]
async fn i12_what_cannot_sign_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = quick(folder.path());
    config.supplied.roots_file = folder.path().join("none.pem");
    config.supplied.chain_file = folder.path().join("none.pem");
    config.supplied.key_file = folder.path().join("none.pem");
    let error = App::start(config.clone(), Sys::host(), Shared::default()).await.unwrap_err();
    assert!(error.to_string().contains("none.pem"), "{error}");
    let refused = mesh_ca::app::repair(&quick(folder.path()), &Sys::host()).await.unwrap_err().to_string();
    assert!(refused.contains("there is nothing to repair"), "{refused}");
}

/// Keeps every log line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<String>>);

struct Fields<'a>(&'a mut String);

impl tracing::field::Visit for Fields<'_> {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Lines {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        span.record(&mut Fields(&mut self.0.lock().unwrap()));
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        values.record(&mut Fields(&mut self.0.lock().unwrap()));
    }
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut lines = self.0.lock().unwrap();
        lines.push_str(event.metadata().target());
        event.record(&mut Fields(&mut lines));
        lines.push('\n');
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Everything is logged, at every level, of every library; nothing of it is a secret.
#[tokio::test]
async fn i22_no_secret_in_any_line() {
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    let folder = tempfile::tempdir().unwrap();
    let ca = run(quick(folder.path())).await;
    let (_, task) = ca.member(folder.path(), "web").await;
    ca.control.order(Order::RotateIssuer).await.unwrap();
    let token = std::fs::read_to_string(folder.path().join("web.token")).unwrap();
    std::fs::write(folder.path().join("web.token"), format!("{token}x")).unwrap();
    let deadline = Instant::now() + LIMIT;
    while !lines.0.lock().unwrap().contains("certificate refused") && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    task.abort();
    ca.end().await;
    let lines = lines.0.lock().unwrap();
    let issued = lines.lines().find(|line| line.contains("certificate issued")).unwrap();
    for field in
        ["identity=spiffe://cluster.local/ns/shop/sa/web", "serial=", "not_after=20", "key=\"p256\"", "peer=127"]
    {
        assert!(issued.contains(field), "{field}: {issued}");
    }
    let refused = lines.lines().find(|line| line.contains("certificate refused")).unwrap();
    assert!(
        refused.contains("reason=\"token_signature\"") || refused.contains("reason=\"token_malformed\""),
        "{refused}"
    );
    assert!(!lines.contains("PRIVATE"));
    // The libraries of the wire may log frames as bytes; the token must not be readable in any form they use.
    let signature = token.rsplit('.').next().unwrap();
    assert!(!lines.contains(signature));
    for name in ["root-1.key", "issuer-2.key", "join.key"] {
        let pem = std::fs::read_to_string(folder.path().join("ca").join(name)).unwrap();
        for line in pem.lines().filter(|line| !line.starts_with('-')) {
            assert!(!lines.contains(line), "{name}");
        }
    }
}
