//! Whole authorities beside each other over one API server, asked by the code that members run.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_api::{
    address::HostPort,
    identity::{IdentityConfig, Member},
    sys::Sys,
    tls::Keeper,
};
use mesh_ca::{
    app::{App, AppError, Shared},
    config::{Authentication, Config, StoreKind},
    issuer::ANNOTATION_ROTATE,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::fake::{Fake, LIMIT, Mood, SYSTEM};

const TOKEN: &str = "to.ke.n";

fn config(kubeconfig: &Path, listen: SocketAddr) -> Config {
    let mut config =
        Config { store: StoreKind::Kubernetes, authentication: Authentication::Kubernetes, ..Config::default() };
    config.kubernetes.kubeconfig = kubeconfig.to_owned();
    (config.listen, config.admin) = (listen, SocketAddr::from(([127, 0, 0, 1], 0)));
    config.state_folder = "/nonexistent/nothing is written here".into();
    config
}

struct Running {
    address: SocketAddr,
    admin: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), AppError>>,
}

async fn run(config: Config) -> Running {
    let starting = App::start(config, Sys::host(), Shared::default());
    let app = tokio::time::timeout(LIMIT, starting).await.expect("it starts").unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let (address, admin) = (app.address(), app.admin_address());
    let task = tokio::spawn(app.run(async {
        let _ = stopped.await;
    }));
    Running { address, admin, stop, task }
}

impl Running {
    async fn end(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(8), self.task).await.expect("ends in time").unwrap().unwrap();
    }
}

async fn page(admin: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    let text = format!("{request} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer
}

struct Scene {
    fake: Fake,
    folder: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let fake = Fake::start().await;
        fake.namespace("shop");
        let extra = json!({
            "authentication.kubernetes.io/pod-name": ["web-1"], "authentication.kubernetes.io/pod-uid": ["uid"],
        });
        let user = json!({ "username": "system:serviceaccount:shop:web", "extra": extra });
        fake.review(TOKEN, json!({ "authenticated": true, "audiences": ["mesh-ca"], "user": user }));
        let ips = json!([{ "ip": "127.0.0.1" }, { "ip": "::1" }]);
        fake.put(
            "pods",
            "shop",
            "web-1",
            json!({ "metadata": { "uid": "uid" }, "spec": { "serviceAccountName": "web" }, "status": { "podIPs": ips } }),
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        Self { fake, folder }
    }

    fn config(&self) -> Config {
        let kubeconfig = self.fake.kubeconfig(self.folder.path());
        config(&kubeconfig, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// As the kubelet does: what the namespace's ConfigMap holds, in a file.
    async fn mount(&self) {
        self.fake.until("roots in the namespace", |fake| fake.get("configmaps", "shop", "mesh-trust").is_some()).await;
        let object = self.fake.get("configmaps", "shop", "mesh-trust").unwrap();
        let roots = object["data"]["roots.pem"].as_str().unwrap();
        std::fs::write(self.folder.path().join("roots.pem"), roots).unwrap();
    }

    async fn member(&self, ca: HostPort) -> (Arc<Keeper>, JoinHandle<()>) {
        let file = |name| self.folder.path().join(name);
        let config = IdentityConfig {
            ca,
            token_file: file("token"),
            roots_file: file("roots.pem"),
            ..IdentityConfig::default()
        };
        let member = Member::new(Sys::host(), config).unwrap();
        let (keeper, mut ready) = (member.keeper(), member.ready());
        let task = tokio::spawn(member.run());
        tokio::time::timeout(LIMIT, ready.wait_for(|ready| *ready)).await.expect("a certificate").unwrap();
        (keeper, task)
    }
}

fn issuer(keeper: &Keeper) -> String {
    keeper.current().identity.as_ref().unwrap().issuer().to_owned()
}

#[tokio::test]
async fn replicas_issue_together_and_rotate_once() {
    let scene = Scene::new().await;
    let one = run(scene.config()).await;
    let other = run(scene.config()).await;
    scene.mount().await;
    let (first, first_task) = scene.member(one.address.into()).await;
    let (second, second_task) = scene.member(other.address.into()).await;
    let id = |keeper: &Keeper| keeper.current().identity.as_ref().unwrap().id().to_string();
    assert_eq!(id(&first), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!((id(&first), issuer(&first)), (id(&second), issuer(&second)));
    for replica in [&one, &other] {
        assert!(page(replica.admin, "GET /ready").await.starts_with("HTTP/1.1 200"));
    }
    // One leads, and the other says how an order is given.
    let (mut led, mut told) = (0, 0);
    for replica in [&one, &other] {
        led += usize::from(page(replica.admin, "GET /issuers").await.contains("\"leading\": true"));
        let answer = page(replica.admin, "POST /rotate/issuer").await;
        if answer.starts_with("HTTP/1.1 409") {
            assert!(
                answer.contains("kubectl -n mesh-system annotate secret mesh-ca mesh.dev/rotate=issuer"),
                "{answer}"
            );
            told += 1;
        }
    }
    assert_eq!((led, told), (1, 1));
    let mut secret = scene.fake.get("secrets", SYSTEM, "mesh-ca").unwrap();
    secret["metadata"]["annotations"][ANNOTATION_ROTATE] = "issuer".into();
    let begin = Instant::now();
    scene.fake.put("secrets", SYSTEM, "mesh-ca", secret);
    let renewed = |keeper: &Keeper| issuer(keeper).contains("issuer 3");
    scene.fake.until("members of both renew", |_| renewed(&first) && renewed(&second)).await;
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());
    first_task.abort();
    second_task.abort();
    one.end().await;
    other.end().await;
}

/// As a Service does: each connection goes to one that is there.
async fn service(endpoints: Vec<SocketAddr>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let relay = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let endpoints = endpoints.clone();
            connections.spawn(async move {
                for endpoint in endpoints {
                    if let Ok(mut far) = TcpStream::connect(endpoint).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                        return;
                    }
                }
            });
        }
    });
    (address, relay)
}

#[tokio::test]
async fn a_replica_that_goes_away_costs_a_reconnect() {
    let scene = Scene::new().await;
    let one = run(scene.config()).await;
    let other = run(scene.config()).await;
    scene.mount().await;
    let (address, relay) = service(vec![one.address, other.address]).await;
    let (keeper, task) = scene.member(address.into()).await;
    let leader_is_one = page(one.admin, "GET /issuers").await.contains("\"leading\": true");
    let (leaves, stays) = if leader_is_one { (one, other) } else { (other, one) };
    let begin = Instant::now();
    leaves.end().await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    // The lease was given back or runs out; then what is ordered is done, and the member hears of it.
    let mut secret = scene.fake.get("secrets", SYSTEM, "mesh-ca").unwrap();
    secret["metadata"]["annotations"][ANNOTATION_ROTATE] = "issuer".into();
    scene.fake.put("secrets", SYSTEM, "mesh-ca", secret);
    scene.fake.until("the member renews", |_| issuer(&keeper).contains("issuer 2")).await;
    assert!(begin.elapsed() < Duration::from_secs(25), "{:?}", begin.elapsed());
    task.abort();
    stays.end().await;
    relay.abort();
}

#[tokio::test]
async fn it_waits_for_the_api_server_and_says_so() {
    let scene = Scene::new().await;
    scene.fake.mood("/", Mood::Says(403, r#"{"reason":"Forbidden","message":"no role yet"}"#.into()));
    let mut config = scene.config();
    // The port is chosen here: it is asked for before the authority is there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.admin = free;
    let starting = tokio::spawn(run(config));
    let waits = async {
        loop {
            if TcpStream::connect(free).await.is_ok() && page(free, "GET /ready").await.contains("no role yet") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, waits).await.expect("it says what it waits for");
    assert!(page(free, "GET /live").await.starts_with("HTTP/1.1 200"));
    assert!(page(free, "GET /trust").await.starts_with("HTTP/1.1 503"));
    scene.fake.good();
    let running = tokio::time::timeout(LIMIT, starting).await.unwrap().unwrap();
    assert!(page(free, "GET /ready").await.starts_with("HTTP/1.1 200"));
    // Once it has what it needs, an outage of the API server is no reason not to be ready.
    scene.fake.mood("/", Mood::Says(500, "{}".into()));
    assert!(page(running.admin, "GET /ready").await.starts_with("HTTP/1.1 200"));
    scene.fake.good();
    running.end().await;
}

#[tokio::test]
async fn it_can_be_told_to_end_while_it_waits() {
    let scene = Scene::new().await;
    scene.fake.mood("/", Mood::Says(503, "{}".into()));
    let soon = tokio::time::sleep(Duration::from_millis(300));
    let running = mesh_ca::app::run(scene.config(), Sys::host(), Shared::default(), soon);
    tokio::time::timeout(Duration::from_secs(5), running).await.expect("it ends").unwrap();
}
