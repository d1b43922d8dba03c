//! The cluster itself, without a mesh: what every other scenario relies on.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    api::{has_condition, text},
    cluster::{parts, pki},
    process::Process,
    programs,
    provider::Choice,
    suite::{EXEC, READY, Scenario, Scene},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "cluster-services",
        "Services of both families reach every pod; headless names are the pods' addresses",
        |scene| Box::pin(services(scene)),
    ),
    Scenario::new("cluster-pods", "commands, exit statuses, logs and limits of pods are real", |scene| {
        Box::pin(pods(scene))
    }),
    Scenario::new(
        "cluster-job",
        "a Job with a native sidecar ends, the sidecar first to begin and last to end",
        |scene| Box::pin(job(scene)),
    ),
    Scenario::new("cluster-webhook", "admission webhooks in pods are asked, through their Service", |scene| {
        Box::pin(webhook(scene))
    }),
    Scenario::new("cluster-tokens", "tokens of pods are for their audience only", |scene| Box::pin(tokens(scene))),
    Scenario::new("cluster-drain", "a drained node's pods move to another", |scene| Box::pin(drain(scene)))
        .on_nodes(2)
        .within(180),
    Scenario::new("cluster-outside", "pods reach what is outside by name, and nothing else", |scene| {
        Box::pin(outside(scene))
    })
    .only_on(Choice::Processes),
];

/// A Deployment of the echo server, whose answers name the pod, with Services.
fn echo(replicas: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: echo }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: echo }} }}
  template:
    metadata: {{ labels: {{ app: echo }} }}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {{ matchLabels: {{ app: echo }} }}
      containers:
        - name: echo
          image: {image}
          args: [http-echo, -listen, ":8080", -name, $(POD)]
          env: [{{ name: POD, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
          ports: [{{ containerPort: 8080 }}]
          readinessProbe: {{ httpGet: {{ path: /, port: 8080 }}, periodSeconds: 1 }}
          resources: {{ requests: {{ cpu: 10m, memory: 16Mi }}, limits: {{ memory: 64Mi }} }}
          securityContext:
            runAsUser: 1000
            runAsNonRoot: true
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {{ drop: [ALL] }}
            seccompProfile: {{ type: RuntimeDefault }}
---
apiVersion: v1
kind: Service
metadata: {{ name: echo }}
spec:
  ipFamilyPolicy: RequireDualStack
  selector: {{ app: echo }}
  ports: [{{ port: 80, targetPort: 8080 }}]
---
apiVersion: v1
kind: Service
metadata: {{ name: echo-headless }}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {{ app: echo }}
  ports: [{{ port: 8080 }}]
"#,
        image = parts::PROGRAMS,
    )
}

fn names(pods: &[Pod]) -> BTreeSet<String> {
    pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect()
}

fn addresses(pods: &[Pod]) -> BTreeSet<String> {
    let all = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ips.as_ref()).flatten();
    all.map(|address| address.ip.clone()).collect()
}

async fn services(scene: Scene) -> Result<()> {
    scene.apply(&echo(3)).await?;
    scene.client("client").await?;
    scene.rolled_out("echo").await?;
    let pods = scene.server.pods(&scene.namespace, "app=echo").await?;

    let service = ("v1", "Service");
    let service = scene.server.wait_for(service, &scene.namespace, "echo", "is there", READY, |_| true).await?;
    let ips = service.pointer("/spec/clusterIPs").and_then(Value::as_array).context("a Service without addresses")?;
    let hosts: Vec<String> = ips.iter().filter_map(Value::as_str).map(bracketed).collect();
    ensure!(hosts.len() == 2, "a Service of both families has two addresses: {hosts:?}");
    let name = format!("echo.{}.svc.cluster.local", scene.namespace);
    for host in hosts.iter().map(String::as_str).chain(["echo", name.as_str()]) {
        let url = format!("http://{host}/");
        // With three pods, one is left out by chance once in a million.
        let said = scene.programs("client", &["get", "-n", "40", "-fresh", "-want", "200", "-url", &url]).await?;
        let answered: BTreeSet<String> =
            said.lines().filter_map(|line| line.strip_prefix("200 ")).map(str::to_owned).collect();
        ensure!(answered == names(&pods), "{url} is answered by {answered:?} and not by {:?}", names(&pods));
    }

    let said = scene.programs("client", &["lookup", "-name", "echo-headless"]).await?;
    let found: BTreeSet<String> = said.lines().map(str::to_owned).collect();
    ensure!(found == addresses(&pods), "the headless name is {found:?} and not {:?}", addresses(&pods));
    Ok(())
}

fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

async fn pods(scene: Scene) -> Result<()> {
    scene.client("client").await?;
    let ran = scene.exec("client", &["sh", "-c", "echo out; echo err >&2; exit 7"]).await?;
    ensure!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()) == (7, "out\n", "err\n"), "{ran:?}");
    let pod = |name: &str, command: &str| {
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
            "spec": { "restartPolicy": "Never", "containers": [{
                "name": "main", "image": parts::PROGRAMS, "command": ["/bin/sh", "-c", command],
                "resources": { "limits": { "memory": "64Mi" } },
            }] },
        })
        .to_string()
    };
    scene.apply(&pod("speaks", "echo first; echo second")).await?;
    // It wants more memory than it may have.
    scene.apply(&pod("eats", "x=aaaaaaaaaaaaaaaa; while true; do x=$x$x; done")).await?;
    let phase = |wanted: &'static str| move |pod: &Value| text(pod, "/status/phase") == wanted;
    let wait = async |name: &str, wanted| {
        let what = format!("is {wanted}");
        scene.server.wait_for(("v1", "Pod"), &scene.namespace, name, &what, READY, phase(wanted)).await
    };
    wait("speaks", "Succeeded").await?;
    let log = scene.server.logs(&scene.namespace, "speaks", None).await?;
    ensure!(log == "first\nsecond\n", "the log is {log:?}");
    let eats = wait("eats", "Failed").await?;
    let reason = text(&eats, "/status/containerStatuses/0/state/terminated/reason");
    ensure!(reason == "OOMKilled", "a pod over its limit ended by {reason:?}");
    Ok(())
}

async fn job(scene: Scene) -> Result<()> {
    // Each writes into a shared file when it begins and ends.
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "work" },
        "spec": { "backoffLimit": 0, "template": {
            "metadata": { "labels": { "app": "work" } },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 10,
                "volumes": [{ "name": "shared", "emptyDir": {} }],
                "initContainers": [{
                    "name": "sidecar", "image": parts::PROGRAMS, "restartPolicy": "Always",
                    "command": ["/bin/sh", "-c", "trap 'cat /shared/story; echo sidecar ends; exit 0' TERM; \
                        echo sidecar begins >> /shared/story; touch /shared/ready; while true; do sleep 0.1; done"],
                    "startupProbe": { "exec": { "command": ["/bin/test", "-f", "/shared/ready"] }, "periodSeconds": 1 },
                    "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }],
                }],
                "containers": [{
                    "name": "main", "image": parts::PROGRAMS,
                    "command": ["/bin/sh", "-c", "echo main begins >> /shared/story; sleep 1; echo main ends >> /shared/story"],
                    "volumeMounts": [{ "name": "shared", "mountPath": "/shared" }],
                }],
            },
        } },
    });
    scene.apply(&job.to_string()).await?;
    let complete = |job: &Value| has_condition(job, "Complete");
    scene.server.wait_for(("batch/v1", "Job"), &scene.namespace, "work", "is complete", READY, complete).await?;
    let pods = scene.server.pods(&scene.namespace, "app=work").await?;
    let name = pods.first().and_then(|pod| pod.metadata.name.as_deref()).context("the Job has no pod")?;
    let story = scene.server.logs(&scene.namespace, name, Some("sidecar")).await?;
    ensure!(story == "sidecar begins\nmain begins\nmain ends\nsidecar ends\n", "it went like this:\n{story}");
    Ok(())
}

async fn webhook(scene: Scene) -> Result<()> {
    let namespace = &scene.namespace;
    let served = pki::self_signed(&format!("webhook.{namespace}.svc"))?;
    let server = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "webhook", "labels": { "app": "webhook" } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "volumes": [{ "name": "certs", "secret": { "secretName": "webhook" } }],
            "containers": [{
                "name": "webhook", "image": parts::PROGRAMS, "args": ["webhook"],
                "volumeMounts": [{ "name": "certs", "mountPath": "/certs" }],
                "readinessProbe": { "httpGet": { "scheme": "HTTPS", "path": "/ready", "port": 8443 }, "periodSeconds": 1 },
            }],
        },
    });
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "webhook" }, "type": "kubernetes.io/tls",
        "stringData": { "tls.crt": served.certificate, "tls.key": served.key },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "webhook" },
        "spec": { "selector": { "app": "webhook" }, "ports": [{ "port": 443, "targetPort": 8443 }] },
    });
    let hook = |kind: &str, path: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": { "name": "e2e-cluster-webhook" },
            "webhooks": [{
                "name": "webhook.e2e.mesh.dev", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 5,
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "rules": [{ "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"] }],
                "clientConfig": {
                    "service": { "name": "webhook", "namespace": namespace, "path": path },
                    "caBundle": pki::base64(&served.certificate),
                },
            }],
        })
    };
    for object in [&secret, &server, &service] {
        scene.apply(&object.to_string()).await?;
    }
    scene.server.pod_ready(namespace, "webhook", READY).await?;
    let hooks = [hook("MutatingWebhookConfiguration", "/mutate"), hook("ValidatingWebhookConfiguration", "/validate")];
    for hook in &hooks {
        scene.apply(&hook.to_string()).await?;
    }
    let result = asked(&scene).await;
    for hook in &hooks {
        scene.server.delete(&hook.to_string(), "").await?;
    }
    result
}

/// Makes objects until the API server asks the webhooks about them.
async fn asked(scene: &Scene) -> Result<()> {
    let map = |name: &str, labels: Value| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "labels": labels } }).to_string()
    };
    let begun = std::time::Instant::now();
    for round in 0.. {
        let name = format!("seen-{round}");
        // The server takes a new configuration over a little later.
        let made = scene.apply(&map(&name, json!({}))).await;
        let api = scene.server.kind("v1", "ConfigMap", &scene.namespace).await?;
        let seen = api.get_opt(&name).await?.and_then(|one| one.metadata.annotations);
        if seen.is_some_and(|all| all.contains_key("e2e.mesh.dev/seen")) {
            break;
        }
        ensure!(begun.elapsed() < READY, "the webhook is not asked: {made:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let refused = scene.apply(&map("refused", json!({ "e2e.mesh.dev/refuse": "" }))).await;
    let error = format!("{:#}", refused.err().context("the webhook's refusal was not heeded")?);
    ensure!(error.contains("the label that is refused"), "refused for another reason: {error}");
    Ok(())
}

async fn tokens(scene: Scene) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "holder" },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": parts::PROGRAMS, "command": ["/bin/sleep", "infinity"],
                "volumeMounts": [{ "name": "identity", "mountPath": "/identity" }],
            }],
            "volumes": [{ "name": "identity", "projected": { "sources": [
                { "serviceAccountToken": { "path": "token", "audience": "somebody", "expirationSeconds": 600 } },
            ] } }],
        },
    });
    scene.apply(&pod.to_string()).await?;
    scene.server.pod_ready(&scene.namespace, "holder", READY).await?;
    let token = scene.exec("holder", &["cat", "/identity/token"]).await?.stdout;
    let api = scene.server.kind("authentication.k8s.io/v1", "TokenReview", "").await?;
    for (audience, expected) in [("somebody", true), ("somebody-else", false)] {
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {},
            "spec": { "token": token, "audiences": [audience] },
        });
        let answer = api.create(&kube::api::PostParams::default(), &serde_json::from_value(review)?).await?;
        let answer = serde_json::to_value(answer)?;
        let valid = answer.pointer("/status/authenticated").and_then(Value::as_bool).unwrap_or(false);
        ensure!(valid == expected, "a token for 'somebody' shown to '{audience}': {}", answer["status"]);
        if expected {
            let user = text(&answer, "/status/user/username");
            ensure!(user == format!("system:serviceaccount:{}:default", scene.namespace), "it is {user}'s");
            let holder = text(&answer, "/status/user/extra/authentication.kubernetes.io~1pod-name/0");
            ensure!(holder == "holder", "its pod is {holder:?}");
        }
    }
    Ok(())
}

async fn drain(scene: Scene) -> Result<()> {
    scene.apply(&echo(2)).await?;
    scene.rolled_out("echo").await?;
    let nodes = async || -> Result<BTreeSet<String>> {
        let pods = scene.server.pods(&scene.namespace, "app=echo").await?;
        Ok(pods.iter().filter_map(|pod| pod.spec.as_ref()?.node_name.clone()).collect())
    };
    let before = nodes().await?;
    ensure!(before.len() == 2, "two pods on two nodes, and not on {before:?}");
    // The one without the control plane.
    let drained = before.last().context("no node")?;
    let selector = "--pod-selector=app=echo";
    let result = async {
        scene.kubectl(&["drain", drained, "--ignore-daemonsets", selector, "--timeout=60s"]).await?;
        scene.rolled_out("echo").await?;
        let after = nodes().await?;
        ensure!(!after.contains(drained), "pods are still on {drained}");
        Ok(())
    }
    .await;
    scene.kubectl(&["uncordon", drained]).await?;
    result
}

async fn outside(scene: Scene) -> Result<()> {
    scene.client("client").await?;
    let dir = tempfile::tempdir()?;
    let mut command = scene.provider.outside(programs::binary()?)?;
    command.args(["http-echo", "-listen", ":8099", "-name", "outside"]);
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let path = dir.path().to_owned();
    // A server lives as long as the thread that starts it.
    let server = tokio::task::spawn_blocking(move || -> Result<()> {
        let mut server = Process::start("outside", &command, &path)?;
        server.wait_for_line("listening on", EXEC)?;
        // Ends when the other side is dropped.
        let _ = receive.recv();
        server.stop().map(drop)
    });
    let result = async {
        let get = |host: &str| format!("http://{host}:8099/");
        for host in ["outside.example", "203.0.113.10", "[2001:db8::10]"] {
            let url = get(host);
            let args = ["get", "-url", &url, "-want", "200", "-deadline", "3s"];
            let said = crate::suite::eventually(EXEC, async || scene.programs("client", &args).await).await?;
            ensure!(said.trim() == "200 outside", "{url}: {said}");
        }
        for nowhere in ["nowhere.example", "198.51.100.1"] {
            let url = get(nowhere);
            let ran = scene.exec("client", &["/programs", "get", "-url", &url, "-deadline", "5s"]).await?;
            ensure!(ran.code != 0, "{url} is answered: {ran:?}");
        }
        Ok(())
    }
    .await;
    drop(send);
    server.await.context("the server outside")??;
    result
}
