//! The CNI plugin and its agent, as programs: called as a container runtime calls them, with a cluster's API that answers
//! what the test says, and network namespaces as pods.
//!
//! Needs root and `ip`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{process::Child, time::timeout};

use self::{api::Api, netns::Netns};

#[path = "support/api.rs"]
mod api;
#[path = "support/netns.rs"]
mod netns;

/// A test takes at most this long.
const LIMIT: Duration = Duration::from_secs(120);

async fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in time: {what}");
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
