//! Whoever claims to be another gets nothing: neither a certificate, nor a request that is meant for the other, nor an
//! answer. Floor 6: imports `suite`.

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::{Value, json};

use super::install::admit;
use crate::{
    api::text,
    cluster::parts,
    provider::Choice,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("mesh-identity", "whoever claims another's identity gets no certificate, and no answer", |scene| {
        Box::pin(identity(scene))
    }),
    Scenario::new("mesh-reuse", "what has a server's address after it gets nothing of the requests to it", |scene| {
        Box::pin(reuse(scene))
    })
    // It says which address a pod gets.
    .only_on(Choice::Processes),
];

/// What must not reach whom it is not for.
const SECRET: &str = "for-nobody-else";
/// Where pods of these scenarios listen.
const PORT: u16 = 8080;

/// A pod of the suite's programs, that runs as the account of its name and has a token for the certificate authority.
fn pod(name: &str, injected: bool, args: &[&str]) -> String {
    let account = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name } });
    let inject = if injected { "enabled" } else { "disabled" };
    let mut mounts = vec![json!({ "name": "scratch", "mountPath": "/tmp" })];
    let mut volumes = vec![json!({ "name": "scratch", "emptyDir": {} })];
    if !injected {
        mounts.push(json!({ "name": "identity", "mountPath": names::IDENTITY_MOUNT, "readOnly": true }));
        volumes.push(json!({ "name": "identity", "projected": { "sources": [
            { "serviceAccountToken": { "path": "token", "audience": names::CA_AUDIENCE, "expirationSeconds": 600 } },
            { "configMap": { "name": names::TRUST_CONFIG_MAP } },
        ] } }));
    }
    let mut container = json!({ "name": name, "image": parts::PROGRAMS, "args": args, "volumeMounts": mounts });
    if args.is_empty() {
        container["command"] = json!(["/bin/sleep", "infinity"]);
    }
    let spec = json!({
        "serviceAccountName": name, "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes,
    });
    let metadata = json!({ "name": name, "labels": { "app": name, names::INJECT: inject } });
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec });
    format!("{account}\n---\n{pod}\n---\n")
}

fn service(name: &str) -> String {
    let spec = json!({ "selector": { "app": name }, "ports": [{ "port": 80, "targetPort": PORT }] });
    json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": spec }).to_string() + "\n---\n"
}

/// Makes what is not there, and waits until these pods are ready. Gives their addresses.
async fn ready(scene: &Scene, manifests: &str, pods: &[&str]) -> Result<Vec<String>> {
    scene.apply(manifests).await?;
    let mut addresses = Vec::new();
    for name in pods {
        let pod = scene.server.pod_ready(&scene.namespace, name, READY).await?;
        addresses.push(text(&pod, "/status/podIP").to_owned());
    }
    Ok(addresses)
}

/// What a program of a pod says, also where it fails.
async fn says(scene: &Scene, pod: &str, args: &[&str]) -> Result<String> {
    let command: Vec<&str> = ["/programs"].iter().chain(args).copied().collect();
    let ran = scene.server.exec(&scene.namespace, pod, Some(pod), &command, READY).await?;
    Ok(format!("{}{}", ran.stdout, ran.stderr))
}

fn spiffe(namespace: &str, account: &str) -> String {
    format!("spiffe://{}/ns/{namespace}/sa/{account}", names::DEFAULT_TRUST_DOMAIN)
}

async fn identity(scene: Scene) -> Result<()> {
    admit(&scene).await?;
    let manifests = [
        pod("server", true, &["http-echo", "-listen", ":8080", "-name", "server"]),
        service("server"),
        pod("member", true, &[]),
        pod("victim", false, &[]),
        pod("thief", false, &[]),
        json!({
            "apiVersion": names::API_VERSION, "kind": "TransportPolicy",
            "metadata": { "name": "strict" },
            "spec": { "targetRefs": [{ "kind": "ServiceAccount", "name": "server" }], "mode": "Strict" },
        })
        .to_string(),
    ]
    .concat();
    let addresses = ready(&scene, &manifests, &["server", "member", "victim", "thief"]).await?;
    let server = addresses.first().context("no address")?;
    tokens(&scene).await?;
    strict(&scene, server).await
}

/// What the certificate authority makes of tokens and requests.
async fn tokens(scene: &Scene) -> Result<()> {
    let read = async |file: &str| {
        let ran = scene.exec("victim", &["cat", file]).await?;
        ensure!(ran.code == 0 && !ran.stdout.is_empty(), "no token in {file}: {}", ran.stderr);
        Ok(ran.stdout)
    };
    let own = |account: &str| {
        let id = spiffe(&scene.namespace, account);
        format!("identity {id}\nuri {id}\n")
    };
    // The right one, so that it is not for the tool that others are refused.
    let said = eventually(READY, async || scene.programs("victim", &["certify", "-out", "/tmp"]).await).await?;
    ensure!(said == own("victim"), "the victim's own token makes it {said}");

    let stolen = read("/var/run/secrets/mesh/token").await?;
    let said = says(scene, "thief", &["certify", "-token", &stolen]).await?;
    let why = "does not come from the address of the pod";
    ensure!(said.contains("PermissionDenied") && said.contains(why), "with a stolen token: {said}");

    let usual = read("/var/run/secrets/kubernetes.io/serviceaccount/token").await?;
    for pod in ["victim", "thief"] {
        let said = says(scene, pod, &["certify", "-token", &usual]).await?;
        let refused = said.contains("Unauthenticated") && said.contains("another audience");
        ensure!(refused, "with a token for the API server, from {pod}: {said}");
    }

    // Whatever the request asks for, it is the token that says who somebody is.
    let other = spiffe(&scene.namespace, "victim");
    let webhook = format!("{}.{}.svc", names::WEBHOOK_SERVICE, names::SYSTEM_NAMESPACE);
    let said = scene.programs("thief", &["certify", "-uri", &other, "-dns", &webhook, "-out", "/tmp"]).await?;
    ensure!(said == own("thief"), "asking for another's names: {said}");
    Ok(())
}

/// What a server that takes members only makes of others.
async fn strict(scene: &Scene, server: &str) -> Result<()> {
    let url = format!("http://{server}:{PORT}/");
    let call = async |pod: &str, url: &str| says(scene, pod, &["get", "-url", url, "-deadline", "5s"]).await;
    // The policy takes a moment to arrive; then nothing plain is answered.
    eventually(READY, async || {
        let said = call("thief", &url).await?;
        ensure!(!said.contains("200") && said.contains("error"), "a plain client is answered: {said}");
        Ok(())
    })
    .await?;
    let said = call("member", "http://server/").await?;
    ensure!(said.contains("200 server"), "a member is not answered: {said}");

    let address = format!("{server}:{PORT}");
    let probe = async |more: &[&str]| {
        let args = [&["tls-probe", "-address", &address], more].concat();
        says(scene, "thief", &args).await
    };
    let said = probe(&["-pair", "/tmp"]).await?;
    ensure!(said == "accepted\n", "a member's certificate is not accepted: {said}");
    let member = spiffe(&scene.namespace, "member");
    let foreign = "spiffe://elsewhere.example/ns/shop/sa/member";
    for more in [&[][..], &["-forge", &member], &["-forge", foreign]] {
        let said = probe(more).await?;
        ensure!(said.starts_with("refused "), "with {more:?}: {said}");
        println!("     {more:?}: {}", said.trim());
    }
    Ok(())
}

async fn reuse(scene: Scene) -> Result<()> {
    admit(&scene).await?;
    let echo = ["http-echo", "-listen", ":8080", "-name", "server"];
    let manifests =
        [pod("caller", true, &[]), pod("stranger", false, &[]), pod("server", true, &echo), service("server")].concat();
    let addresses = ready(&scene, &manifests, &["caller", "server"]).await?;
    let address = addresses.last().context("no address")?;
    let call = async || {
        let secret = format!("x-secret: {SECRET}");
        let show = ["-header", &secret, "-show", names::HEADER_ERROR];
        says(&scene, "caller", &[&["get", "-url", "http://server/", "-fresh", "-deadline", "20s"], &show[..]].concat())
            .await
    };
    eventually(READY, async || {
        let said = call().await?;
        ensure!(said.contains("200 server"), "the server does not answer: {said}");
        Ok(())
    })
    .await?;

    let server = scene.server.pod_ready(&scene.namespace, "server", READY).await?;
    let node = text(&server, "/spec/nodeName").to_owned();
    let caller = scene.server.pod_ready(&scene.namespace, "caller", READY).await?;
    cut_off(&scene, &caller)?;
    // One that is no member, and one that is another.
    let mut before = "server";
    for (name, injected) in [("impostor", false), ("other", true)] {
        scene.kubectl(&["delete", "pod", before, "--grace-period=0", "--wait"]).await?;
        next_address(&scene, &node, address)?;
        let pod = pod(name, injected, &["impostor", "-listen", ":8080"]);
        let pinned = pod.replace("\"spec\":{", &format!("\"spec\":{{\"nodeName\":\"{node}\","));
        let got = ready(&scene, &pinned, &[name]).await?;
        ensure!(got.first() == Some(address), "{name} has {got:?} and not the server's address {address}");
        forget_address(&scene, &node, address)?;
        let url = format!("http://{address}:{PORT}/");
        let answered = eventually(READY, async || {
            let said = says(&scene, "stranger", &["get", "-url", &url, "-deadline", "5s"]).await?;
            ensure!(said.contains("200 impostor"), "the impostor does not answer: {said}");
            Ok(())
        });
        answered.await?;
        let said = call().await?;
        ensure!(!said.contains("200"), "{name} answers in the server's place: {said}");
        let log = scene.server.logs(&scene.namespace, name, Some(name)).await?;
        ensure!(!log.contains(SECRET), "{name} has got the request:\n{log}");
        // The caller was there, and found out whom it speaks with.
        let refused = if injected { said.contains("peer-refused") } else { log.contains("got \"\\x16\\x03") };
        ensure!(refused, "the caller did not try: it got {said}; {name} was told:\n{log}");
        println!("     {name}: {}", said.trim().replace('\n', "; "));
        before = name;
    }
    Ok(())
}

/// From now on a pod's sidecar hears nothing of the controller, and knows what it knows.
fn cut_off(scene: &Scene, pod: &Value) -> Result<()> {
    let (node, address) = (text(pod, "/spec/nodeName"), text(pod, "/status/podIP"));
    let rules = format!(
        "add table inet e2e; \
         add chain inet e2e in {{ type filter hook input priority 0; }}; add rule inet e2e in tcp sport {port} drop; \
         add chain inet e2e out {{ type filter hook output priority 0; }}; add rule inet e2e out tcp dport {port} drop",
        port = names::PORT_DISCOVERY,
    );
    // The pod's network namespace is the one with its address.
    let script = format!(
        "for net in /run/netns/*; do nsenter --net=$net ip -oneline address | grep -qF ' {address}/' && \
         exec nsenter --net=$net nft '{rules}'; done; echo no network with {address} >&2; exit 1"
    );
    on_node(scene, node, &script)
}

fn on_node(scene: &Scene, node: &str, script: &str) -> Result<()> {
    let output = scene.provider.on_node(node, "sh")?.args(["-c", script]).output()?;
    ensure!(output.status.success(), "{script} on {node}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Ends that neighbours on the node send to the device that had the address before: they would for a minute.
fn forget_address(scene: &Scene, node: &str, address: &str) -> Result<()> {
    let flush = format!("ip neigh flush to {address}");
    on_node(scene, node, &format!("{flush}; for net in /run/netns/*; do nsenter --net=$net {flush}; done"))
}

/// Has the next pod of the node get this address: addresses are given in turn, and the last is written down.
fn next_address(scene: &Scene, node: &str, address: &str) -> Result<()> {
    let (network, last) = address.rsplit_once('.').context("no address of IPv4")?;
    let last = last.parse::<u8>()?.checked_sub(1).context("no address before it")?;
    let write = format!("f=$(ls /var/lib/cni/*/last_reserved_ip.0) && printf %s {network}.{last} > $f");
    on_node(scene, node, &write)
}
