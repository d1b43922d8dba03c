//! An application of four services, in a namespace whose pods get sidecars: discovered, called over four protocols,
//! unreadable on the wire, and guarded by policy. Floor 6: imports `suite`.

use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::Value;

use super::{
    install::{admit, meshctl},
    viz,
};
use crate::{
    cache,
    cluster::parts,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-together",
    "four services, HTTP/1.1, HTTP/2, gRPC and TCP: only TLS on the wire, a policy denies, one trace, exact metrics",
    |scene| Box::pin(together(scene)),
)
.within(240)];

/// What is sent in clear by the application, and must not be seen on the wire.
const SECRETS: [&str; 3] = ["an order that nobody may read", "TestService/UnaryCall", "\"service\":\"audit\""];

/// Not to be recorded: spans go to their collector in clear, and paths are in them.
const UNTRACED: &str = "traceparent: 00-5ca1ab1e0ddba11c0ffeec0de0b5e55e-decade0ffacade00-00";

/// The shop of `docs/examples`, without the customer who never stops: what is called here is counted.
fn shop() -> Result<String> {
    let path = cache::home().join("../docs/examples/shop.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let quiet: Vec<&str> = text.split("\n---\n").filter(|document| !document.contains("name: customer }")).collect();
    Ok(quiet.join("\n---\n") + "\n---\n")
}

/// Somebody who calls what the test says.
fn caller(name: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: {name} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  serviceAccountName: {name}
  terminationGracePeriodSeconds: 0
  containers: [{{ name: {name}, image: {}, command: [/bin/sleep, infinity] }}]
---
"#,
        parts::PROGRAMS
    )
}

async fn together(scene: Scene) -> Result<()> {
    admit(&scene).await?;
    viz::begin(&scene).await?;
    scene.apply(&[shop()?, caller("customer"), caller("intruder")].concat()).await?;
    for name in ["web", "api", "stock", "audit"] {
        scene.rolled_out(name).await?;
    }
    for name in ["customer", "intruder"] {
        scene.server.pod_ready(&scene.namespace, name, READY).await?;
    }

    let capture = Wire::start(&scene).await?;
    let told = eventually(READY, async || order(&scene, "customer").await).await?;
    check_order(&told, &scene.namespace)?;
    let packets = capture.end(&scene).await?;
    for secret in SECRETS {
        ensure!(!contains(&packets, secret.as_bytes()), "{secret:?} was readable on the pod network");
    }
    ensure!(packets.len() > 10_000, "the capture holds {} bytes only: it saw nothing", packets.len());

    let policy = format!(
        r#"
apiVersion: mesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata: {{ name: no-intruder }}
spec:
  targetRefs: [{{ kind: Service, name: web }}]
  action: Deny
  rules: [{{ from: [{{ serviceAccounts: [{}/intruder] }}] }}]
"#,
        scene.namespace
    );
    scene.apply(&policy).await?;
    let refused = eventually(Duration::from_secs(20), async || {
        let ran =
            scene.exec("intruder", &["/programs", "get", "-url", "http://web/", "-show", names::HEADER_POLICY]).await?;
        ensure!(ran.stdout.contains("403"), "not refused:\n{}{}", ran.stdout, ran.stderr);
        Ok(format!("{}{}", ran.stdout, ran.stderr))
    });
    let refused = refused.await?;
    let policy = format!("AuthorizationPolicy/{}/no-intruder", scene.namespace);
    ensure!(refused.to_lowercase().contains(&policy.to_lowercase()), "the refusal does not name {policy}:\n{refused}");
    check_order(&order(&scene, "customer").await?, &scene.namespace)?;

    viz::ready(&scene).await?;
    viz::one_trace(&scene).await?;
    viz::counted(&scene).await?;
    let status = meshctl(&scene, &["status"]).await?;
    for name in ["web-", "api-", "stock-", "audit-", "customer"] {
        ensure!(status.contains(name), "`meshctl status` does not know {name}:\n{status}");
    }
    viz::end(&scene).await
}

/// One order, as the services tell it.
async fn order(scene: &Scene, from: &str) -> Result<Value> {
    let said = scene.programs(from, &["get", "-url", "http://web/", "-body", "-header", UNTRACED]).await?;
    let line = said.lines().find(|line| line.starts_with('{')).with_context(|| format!("no answer in\n{said}"))?;
    let told: Value = serde_json::from_str(line)?;
    ensure!(!line.contains("\"error\""), "a call failed:\n{told:#}");
    Ok(told)
}

/// Every service was reached, over its protocol, and knows its caller by identity.
fn check_order(told: &Value, namespace: &str) -> Result<()> {
    let id = |account: &str| format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
    let want = [
        ("", "web", "HTTP/1.1", id("customer")),
        ("/next/0", "api", "HTTP/2.0", id("web")),
        ("/next/0/next/0", "stock", "gRPC", id("api")),
        ("/next/0/next/1", "audit", "HTTP/1.1", id("api")),
        ("/next/0/next/2", "audit", "TCP", String::new()),
    ];
    for (at, service, protocol, caller) in want {
        let one = told.pointer(at).with_context(|| format!("{service} was not called:\n{told:#}"))?;
        let have = ["service", "protocol", "caller"].map(|field| one[field].as_str().unwrap_or_default());
        ensure!(have == [service, protocol, &caller], "{have:?} instead of {service} {protocol} {caller}:\n{told:#}");
    }
    Ok(())
}

/// What passes on the pod networks of all nodes.
struct Wire {
    nodes: Vec<Capture>,
    dir: tempfile::TempDir,
}

struct Capture {
    node: String,
    child: Child,
    /// In the node's own numbers.
    pid: String,
}

impl Wire {
    async fn start(scene: &Scene) -> Result<Self> {
        let mut wire = Self { nodes: Vec::new(), dir: tempfile::tempdir()? };
        let nodes = scene.kubectl(&["get", "nodes", "--output", "name"]).await?;
        for node in nodes.lines().filter_map(|line| line.strip_prefix("node/")) {
            let (packets, said) = (wire.file(node, "pcap"), wire.file(node, "said"));
            // A node has files and process numbers of its own: packets come by standard output, its number by the other.
            // What the node says to itself (as the output of commands that run in pods) is not on the pod network.
            let mut command = scene.provider.on_node(node, "sh")?;
            let capture = "echo \"pid $$\" >&2; exec tcpdump -Z root -n -s 0 -B 65536 -i any -w - 'tcp and not (net 127.0.0.0/8 or host ::1)'";
            command.args(["-c", capture]).stdin(Stdio::null());
            command.stdout(File::create(packets)?).stderr(File::create(&said)?);
            let child = command.spawn().context("tcpdump")?;
            let pid = eventually(Duration::from_secs(15), async || {
                let said = fs::read_to_string(&said)?;
                ensure!(said.contains("listening on"), "tcpdump does not listen: {said}");
                let pid =
                    said.lines().find_map(|line| line.strip_prefix("pid ")).context("it did not tell its number")?;
                Ok(pid.to_owned())
            });
            wire.nodes.push(Capture { node: node.to_owned(), child, pid: pid.await? });
        }
        Ok(wire)
    }

    fn file(&self, node: &str, kind: &str) -> PathBuf {
        self.dir.path().join(format!("{node}.{kind}"))
    }

    /// All that was captured. Fails where packets were lost.
    async fn end(mut self, scene: &Scene) -> Result<Vec<u8>> {
        // What was answered has passed; the kernel hands it over in blocks, each after a second at the latest.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let mut bytes = Vec::new();
        for Capture { node, mut child, pid } in std::mem::take(&mut self.nodes) {
            let mut kill = scene.provider.on_node(&node, "kill")?;
            ensure!(kill.args(["-INT", &pid]).status()?.success(), "tcpdump on {node} is gone");
            let ended = tokio::task::spawn_blocking(move || child.wait());
            tokio::time::timeout(Duration::from_secs(15), ended).await.context("tcpdump does not end")???;
            let said = fs::read_to_string(self.file(&node, "said"))?;
            ensure!(said.contains("\n0 packets dropped by kernel"), "the capture on {node} is not complete: {said}");
            bytes.extend(fs::read(self.file(&node, "pcap"))?);
        }
        Ok(bytes)
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}
