//! The CNI plugin and its agent, as programs: called as a container runtime calls them, with a cluster's API that answers
//! what the test says, and network namespaces as pods.
//!
//! Needs root and `ip`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    process::Child,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use self::netns::Netns;

#[path = "support/netns.rs"]
mod netns;

/// A test takes at most this long.
const LIMIT: Duration = Duration::from_secs(120);
const TOKEN: &str = "the-token-of-the-agent";
const FLAGS: &str = r#"{"version":"0.1.0","cni":true,"redirect":["--proxy-uid=15400","--skip-outbound-ports=25"]}"#;

/// The cluster: its pods, and what was done to them.
#[derive(Default)]
struct World {
    pods: BTreeMap<String, Value>,
    deleted: Vec<Value>,
    labelled: Vec<Value>,
    asked: usize,
    /// Questions for one pod.
    asked_for_one: usize,
    token: String,
}

/// A cluster's API. Dropped, its address is free.
struct Api {
    world: Arc<Mutex<World>>,
    address: SocketAddr,
    roots: String,
}

impl Api {
    async fn start() -> Self {
        let world = Arc::new(Mutex::new(World { token: TOKEN.into(), ..World::default() }));
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let certificate = params.self_signed(&key).unwrap();
        let roots = certificate.pem();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let (acceptor, listener) =
            (TlsAcceptor::from(Arc::new(config)), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&world);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(connection(stream, acceptor.clone(), Arc::clone(&served)));
            }
        });
        Self { world, address, roots }
    }

    fn pod(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = json!({
            "metadata": {
                "namespace": namespace,
                "name": name,
                "uid": format!("uid-of-{name}"),
                "labels": { "mesh.dev/injected": "true" },
                "annotations": { "mesh.dev/injection": FLAGS },
                "ownerReferences": [{ "controller": true }],
            },
            "status": { "phase": "Pending" },
        });
        change(&mut pod);
        self.world.lock().unwrap().pods.insert(format!("/api/v1/namespaces/{namespace}/pods/{name}"), pod);
    }

    /// A service account, as it is mounted.
    fn account(&self, folder: &Path) -> PathBuf {
        let account = folder.join("account");
        fs::create_dir_all(&account).unwrap();
        fs::write(account.join("ca.crt"), &self.roots).unwrap();
        fs::write(account.join("token"), TOKEN).unwrap();
        account
    }

    async fn until(&self, what: &str, done: impl Fn(&World) -> bool) {
        eventually(what, || done(&self.world.lock().unwrap())).await;
    }
}

async fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in time: {what}");
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, world: Arc<Mutex<World>>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| answer(request, Arc::clone(&world)));
    // A client that goes away is its own business.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, world: Arc<Mutex<World>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let sent = || -> Value { serde_json::from_slice(&body).unwrap_or_default() };
    let mut world = world.lock().unwrap();
    world.asked += 1;
    let bearer = head.headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let (status, value) = if bearer != format!("Bearer {}", world.token) {
        (StatusCode::UNAUTHORIZED, json!({ "message": "who is that" }))
    } else if head.uri.path() == "/api/v1/pods" && query.contains("watch=true") {
        // Too old: the list is to be read anew.
        (StatusCode::OK, json!({ "type": "ERROR", "object": { "code": 410 } }))
    } else if head.uri.path() == "/api/v1/pods" {
        assert!(query.starts_with("fieldSelector=spec.nodeName%3Dnode-1&labelSelector=mesh.dev%2Finjected%3Dtrue"));
        let items: Vec<&Value> = world.pods.values().collect();
        (StatusCode::OK, json!({ "metadata": { "resourceVersion": "7" }, "items": items }))
    } else {
        world.asked_for_one += 1;
        match (head.method, world.pods.get(head.uri.path()).cloned()) {
            (_, None) => (StatusCode::NOT_FOUND, json!({ "message": "no such pod" })),
            (Method::DELETE, Some(pod)) => {
                assert_eq!(sent()["preconditions"]["uid"], pod["metadata"]["uid"]);
                world.pods.remove(head.uri.path());
                world.deleted.push(pod.clone());
                (StatusCode::OK, pod)
            }
            (Method::PATCH, Some(mut pod)) => {
                pod["metadata"]["labels"]["mesh.dev/repair"] = sent()["metadata"]["labels"]["mesh.dev/repair"].clone();
                world.pods.insert(head.uri.path().to_owned(), pod.clone());
                world.labelled.push(pod.clone());
                (StatusCode::OK, pod)
            }
            (_, Some(pod)) => (StatusCode::OK, pod),
        }
    };
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    Ok(response)
}

/// A node's folders.
struct Node {
    folder: tempfile::TempDir,
    /// The agent's admin server.
    admin: SocketAddr,
}

impl Node {
    fn new() -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let node = Self { folder: tempfile::tempdir().unwrap(), admin: free };
        for name in ["bin", "conf"] {
            fs::create_dir(node.path(name)).unwrap();
        }
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str) {
        let list = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#;
        fs::write(self.path("conf").join(name), list).unwrap();
    }

    /// A page of the agent.
    fn page(&self, path: &str) -> String {
        let ask = || -> std::io::Result<String> {
            let mut stream = std::net::TcpStream::connect(self.admin)?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin)?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        };
        ask().unwrap_or_default()
    }

    /// The plugins of the list, by their types.
    fn types(&self, name: &str) -> Vec<String> {
        let Ok(text) = fs::read_to_string(self.path("conf").join(name)) else { return Vec::new() };
        let list: Value = serde_json::from_str(&text).unwrap_or_default();
        let plugins = list["plugins"].as_array().cloned().unwrap_or_default();
        plugins.iter().map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    /// Its configuration, as the runtime hands it to the plugin.
    fn configuration(&self) -> Value {
        let text = fs::read_to_string(self.path("conf/10-net.conflist")).unwrap();
        let list: Value = serde_json::from_str(&text).unwrap();
        let mut own = list["plugins"].as_array().unwrap().last().unwrap().clone();
        own["cniVersion"] = list["cniVersion"].clone();
        own["name"] = list["name"].clone();
        own["prevResult"] = json!({ "cniVersion": "1.0.0", "ips": [{ "address": "10.88.9.2/24" }] });
        own
    }

    /// An agent of this node.
    fn agent(&self, api: &Api, more: &[&str]) -> Child {
        let mut agent = tokio::process::Command::new(env!("CARGO_BIN_EXE_mesh-cni"));
        agent.args(["install", "--listen", &self.admin.to_string(), "--node-name", "node-1"]).args(more);
        for (flag, path) in [
            ("--bin-dir", self.path("bin")),
            ("--conf-dir", self.path("conf")),
            ("--host-conf-dir", self.path("conf")),
            ("--account-dir", api.account(self.folder.path())),
        ] {
            agent.arg(flag).arg(path);
        }
        agent
            .env("KUBERNETES_SERVICE_HOST", "127.0.0.1")
            .env("KUBERNETES_SERVICE_PORT", api.address.port().to_string());
        agent.kill_on_drop(true).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Calls the plugin for a pod of `shop`.
    async fn call(&self, command: &str, netns: &Netns, pod: &str, configuration: &Value) -> Output {
        self.call_for(command, netns, &format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME={pod}"), configuration).await
    }

    async fn call_for(&self, command: &str, netns: &Netns, pod: &str, configuration: &Value) -> Output {
        let input = self.path("input");
        fs::write(&input, configuration.to_string()).unwrap();
        let mut plugin = tokio::process::Command::new(self.path("bin").join("mesh-cni"));
        plugin.env("CNI_COMMAND", command).env("CNI_NETNS", netns.path()).env("CNI_CONTAINERID", "c");
        plugin
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.path("bin"))
            .env("CNI_ARGS", format!("IgnoreUnknown=1;{pod}"));
        plugin.stdin(fs::File::open(&input).unwrap()).output().await.unwrap()
    }
}

async fn stop(mut agent: Child) {
    let pid = nix::unistd::Pid::from_raw(agent.id().unwrap().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(timeout(Duration::from_secs(10), agent.wait()).await.unwrap().unwrap().success());
}

fn answered(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

#[track_caller]
fn fails(output: &Output, code: u64, why: &str) {
    let answer = answered(output);
    let told = answer["msg"].as_str().unwrap_or_default().contains(why);
    assert!(!output.status.success() && answer["code"] == code && told, "{} {answer}", output.status);
}

/// The pod's network is made as it was, and the runtime's log says why.
#[track_caller]
fn passes(output: &Output, configuration: &Value, why: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    let told = said.contains(why) && said.contains("without redirection") && said.contains("shop/web-1");
    assert!(output.status.success() && answered(output) == configuration["prevResult"], "{} {said}", output.status);
    assert!(told, "{said}");
}

fn is_redirected(netns: &Netns) -> bool {
    let mut check = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    check.args(["redirect", "check", "--proxy-uid=15400", "--skip-outbound-ports=25"]);
    // As its init container does; by the status 1 the agent knows whom to start anew.
    let status = netns.run(move || check.output()).unwrap().status;
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    status.success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_is_redirected_or_does_not_start() {
    timeout(LIMIT, async {
        let (api, node) = (Api::start().await, Node::new());
        node.write("10-net.conflist");
        let agent = node.agent(&api, &[]);
        eventually("the plugin is there", || node.types("10-net.conflist") == ["bridge", "portmap", "mesh-cni"]).await;
        let configuration = node.configuration();
        let add = async |netns: &Netns, pod: &str| node.call("ADD", netns, pod, &configuration).await;

        // One with a sidecar.
        api.pod("shop", "web-1", |_| ());
        let netns = Netns::new();
        fails(&node.call("CHECK", &netns, "web-1", &configuration).await, 100, "no table");
        let output = add(&netns, "web-1").await;
        assert!(output.status.success() && is_redirected(&netns), "{}", answered(&output));
        assert_eq!(answered(&output), configuration["prevResult"]);
        assert!(node.call("CHECK", &netns, "web-1", &configuration).await.status.success());
        // Again, as after a failure of a plugin behind it; and taken away, twice, even where the namespace has gone.
        assert!(add(&netns, "web-1").await.status.success());
        for _ in 0..2 {
            let output = node.call("DEL", &netns, "web-1", &configuration).await;
            assert!(output.status.success() && output.stdout.is_empty());
        }

        // One without; and one whose id is that of a static pod.
        let netns = Netns::new();
        api.pod("shop", "plain", |pod| pod["metadata"]["labels"] = json!({}));
        assert_eq!(answered(&add(&netns, "plain").await), configuration["prevResult"]);
        assert!(!is_redirected(&netns));
        api.pod("shop", "static", |pod| {
            pod["metadata"]["annotations"]["kubernetes.io/config.hash"] = json!("hash");
        });
        let named = "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=static;K8S_POD_UID=hash";
        assert!(node.call_for("ADD", &netns, named, &configuration).await.status.success());
        assert!(is_redirected(&netns));

        // Those that are none of the mesh's business are not asked for.
        let asked = api.world.lock().unwrap().asked_for_one;
        let netns = Netns::new();
        for pod in ["K8S_POD_NAMESPACE=mesh-system;K8S_POD_NAME=x", "K8S_POD_NAMESPACE=kube-system;K8S_POD_NAME=x", ""]
        {
            let output = node.call_for("ADD", &netns, pod, &configuration).await;
            assert!(output.status.success() && answered(&output) == configuration["prevResult"], "{pod}");
        }
        assert!(api.world.lock().unwrap().asked_for_one == asked && !is_redirected(&netns));

        // What cannot be done makes the pod's network fail.
        api.pod("shop", "odd", |pod| pod["metadata"]["annotations"] = json!({}));
        fails(&add(&netns, "odd").await, 100, "no annotation");
        let mut alone = configuration.clone();
        alone.as_object_mut().unwrap().remove("prevResult");
        fails(&node.call("ADD", &netns, "web-1", &alone).await, 7, "prevResult");
        let mut old = configuration.clone();
        old["cniVersion"] = json!("0.2.0");
        fails(&node.call("ADD", &netns, "web-1", &old).await, 1, "0.2.0");
        let mut nowhere = tokio::process::Command::new(node.path("bin").join("mesh-cni"));
        nowhere.env("CNI_COMMAND", "ADD").env("CNI_NETNS", "/nowhere");
        nowhere.env("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1");
        nowhere.stdin(fs::File::open(node.path("input")).unwrap());
        fs::write(node.path("input"), configuration.to_string()).unwrap();
        fails(&nowhere.output().await.unwrap(), 5, "/nowhere");
        assert!(!is_redirected(&netns));
        assert!(node.call("STATUS", &netns, "", &configuration).await.status.success());
        let versions = answered(&node.call("VERSION", &netns, "", &json!({ "cniVersion": "1.1.0" })).await);
        assert!(versions["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")), "{versions}");
        stop(agent).await;
        // Upgraded, not uninstalled: the plugin stays for the next agent.
        assert_eq!(node.types("10-net.conflist"), ["bridge", "portmap", "mesh-cni"]);
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_cluster_a_pod_waits_and_then_starts_without_redirection() {
    timeout(LIMIT, async {
        let (api, node) = (Api::start().await, Node::new());
        node.write("10-net.conflist");
        let agent = node.agent(&api, &[]);
        eventually("the plugin is there", || node.types("10-net.conflist").len() == 3).await;
        let (configuration, netns) = (node.configuration(), Netns::new());
        // It comes up while it is asked for: a pod may be younger than the server's memory.
        let later = async {
            api.until("asked for", |world| world.asked_for_one > 1).await;
            api.pod("shop", "young", |_| ());
        };
        let (output, ()) = tokio::join!(node.call("ADD", &netns, "young", &configuration), later);
        assert!(output.status.success() && is_redirected(&netns), "{}", answered(&output));
        api.pod("shop", "web-1", |_| ());
        let named = |uid: &str| format!("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_UID={uid}");
        let other = node.call_for("ADD", &netns, &named("another"), &configuration).await;
        fails(&other, 11, "another pod of that name");
        // Rights that were taken away.
        eventually("it is ready", || node.page("/ready").starts_with("HTTP/1.1 200")).await;
        api.world.lock().unwrap().token = "another".into();
        eventually("it says so", || node.page("/ready").contains("401")).await;
        let unredirected = Netns::new();
        let output = node.call("ADD", &unredirected, "web-1", &configuration).await;
        passes(&output, &configuration, "401");
        // A member does not start like that, by its own check; nor is it said to be fine.
        assert!(!is_redirected(&unredirected));
        fails(&node.call("CHECK", &unredirected, "web-1", &configuration).await, 11, "401");
        // The token is renewed, and is on the node at the latest with the next look.
        fs::write(node.path("account/token"), "another").unwrap();
        eventually("the token is on the node", || {
            fs::read_to_string(node.path("conf/mesh-cni.d/token")).unwrap() == "another"
        })
        .await;
        assert!(node.call("ADD", &netns, "web-1", &configuration).await.status.success());
        stop(agent).await;
    })
    .await
    .unwrap();
}

/// The agent's pod is gone and does not come back, its files are there by half or not at all: every pod starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_was_left_behind_keeps_no_pod_from_starting() {
    timeout(LIMIT, async {
        let (api, node) = (Api::start().await, Node::new());
        node.write("10-net.conflist");
        let agent = node.agent(&api, &[]);
        eventually("the plugin is there", || node.types("10-net.conflist").len() == 3).await;
        let configuration = node.configuration();
        stop(agent).await;
        // Nobody answers any more: what is asked stays without an answer.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let kubeconfig = node.path("conf/mesh-cni.d/kubeconfig");
        let text = fs::read_to_string(&kubeconfig).unwrap();
        let [was, is] = [api.address, silent.local_addr().unwrap()].map(|address| format!(":{}", address.port()));
        assert!(text.contains(&was), "{text}");
        fs::write(&kubeconfig, text.replace(&was, &is)).unwrap();
        let (one, other) = (Netns::new(), Netns::new());
        let began = std::time::Instant::now();
        passes(&node.call("ADD", &one, "web-1", &configuration).await, &configuration, "did not answer in time");
        assert!(began.elapsed() < Duration::from_secs(15), "a runtime is patient for longer: {:?}", began.elapsed());
        fs::remove_dir_all(node.path("conf/mesh-cni.d")).unwrap();
        passes(&node.call("ADD", &other, "web-1", &configuration).await, &configuration, "kubeconfig");
        assert!(!is_redirected(&one) && !is_redirected(&other));
        // Else the runtime would take the node's network for broken.
        assert!(node.call("STATUS", &other, "", &configuration).await.status.success());
        assert!(node.call("DEL", &other, "web-1", &configuration).await.status.success());
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_comes_back_after_everybody_else() {
    timeout(LIMIT, async {
        let (api, node) = (Api::start().await, Node::new());
        let agent = node.agent(&api, &["--remove-on-exit"]);
        eventually("it says what it waits for", || node.page("/ready").contains("no CNI configuration")).await;
        assert!(node.path("bin/mesh-cni").exists());
        assert_eq!(node.types("10-net.conflist"), [""; 0]);
        let ours = ["bridge", "portmap", "mesh-cni"];
        for _ in 0..5 {
            node.write("10-net.conflist");
            eventually("it is put back", || node.types("10-net.conflist") == ours).await;
        }
        eventually("it is ready", || node.page("/ready").starts_with("HTTP/1.1 200")).await;
        let metrics = node.page("/metrics");
        assert!(metrics.contains("mesh_cni_installed 1"), "{metrics}");
        assert!(metrics.contains("mesh_cni_writes_total{what=\"configuration\"}"), "{metrics}");
        // Another one comes before it, by a rename as most programs write, and goes.
        node.write("new");
        fs::rename(node.path("conf/new"), node.path("conf/05-first.conflist")).unwrap();
        eventually("it is in the new one", || node.types("05-first.conflist") == ours).await;
        fs::remove_file(node.path("conf/05-first.conflist")).unwrap();
        fs::remove_file(node.path("bin/mesh-cni")).unwrap();
        eventually("the binary is put back", || node.path("bin/mesh-cni").exists()).await;
        stop(agent).await;
        assert_eq!(node.types("10-net.conflist"), ["bridge", "portmap"]);
        assert!(!node.path("bin/mesh-cni").exists() && !node.path("conf/mesh-cni.d").exists());
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_that_came_before_the_plugin_are_started_anew_but_not_all_at_once() {
    timeout(LIMIT, async {
        let (api, node) = (Api::start().await, Node::new());
        let broken = |pod: &mut Value| {
            pod["status"]["initContainerStatuses"] =
                json!([{ "name": "mesh-init", "state": { "terminated": { "exitCode": 1 } } }]);
        };
        for name in ["a", "b", "c", "d"] {
            api.pod("shop", name, broken);
        }
        api.pod("shop", "fine", |_| ());
        api.pod("shop", "mine", |pod| {
            broken(pod);
            pod["metadata"]["ownerReferences"] = json!([]);
        });
        let agent = node.agent(&api, &["--repairs-per-minute", "3"]);
        api.until("the pods are listed", |world| world.asked > 3).await;
        // As long as the plugin is not there, another pod would be no better.
        assert!(api.world.lock().unwrap().deleted.is_empty());
        node.write("10-net.conflist");
        api.until("three are deleted", |world| world.deleted.len() == 3).await;
        let asked = api.world.lock().unwrap().asked;
        api.until("they are listed again", |world| world.asked > asked + 4).await;
        assert_eq!(api.world.lock().unwrap().deleted.len(), 3);
        stop(agent).await;
        let agent = node.agent(&api, &["--repair", "label"]);
        api.until("the others have a label", |world| world.labelled.len() == 2).await;
        let asked = api.world.lock().unwrap().asked;
        api.until("they are listed again", |world| world.asked > asked + 4).await;
        stop(agent).await;
        let world = api.world.lock().unwrap();
        assert!(world.labelled.len() == 2 && world.deleted.len() == 3);
        assert!(world.labelled.iter().all(|pod| pod["metadata"]["labels"]["mesh.dev/repair"] == "needed"));
    })
    .await
    .unwrap();
}
