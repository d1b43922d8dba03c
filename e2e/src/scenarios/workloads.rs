//! Every kind of workload, and every way in which a kubelet looks after one, with sidecars that take nothing but mutual TLS.
//! Floor 6: imports `suite`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::Value;

use super::install::admit;
use crate::{
    api::{has_condition, text},
    cluster::parts,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "mesh-workloads",
        "StatefulSet, host port, any user, own DNS, init containers, CronJob: each calls and is called as who it is",
        |scene| Box::pin(workloads(scene)),
    )
    .within(120),
    Scenario::new(
        "mesh-probes",
        "probes and hooks of every kind reach the application under strict mutual TLS, and fail where nobody listens",
        |scene| Box::pin(probes(scene)),
    )
    .within(120),
];

/// Port of the node behind which a pod stands.
const HOST_PORT: &str = "18080";
/// An account whose name is no DNS label.
const ANY: &str = "team.any-1";

/// Nobody in the namespace takes plain connections.
pub(super) const STRICT: &str = r"
apiVersion: mesh.dev/v1alpha1
kind: TransportPolicy
metadata: { name: strict }
spec: { mode: Strict }
---
";

/// A pod that serves, with an account of its own, and what else its spec and its container have.
pub(super) fn server((name, account): (&str, &str), spec: &str, container: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: {account} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  serviceAccountName: {account}
  terminationGracePeriodSeconds: 0
  {spec}
  containers:
    - name: {name}
      image: {image}
      args: [http-echo, -listen, ":8080", -name, {name}]
      {container}
---
"#,
        image = parts::PROGRAMS,
    )
}

/// Replicas with names of their own, called by them.
fn stateful() -> String {
    format!(
        r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{ name: web }}
---
apiVersion: v1
kind: Service
metadata: {{ name: web }}
spec: {{ clusterIP: None, selector: {{ app: web }}, ports: [{{ name: http, port: 8080 }}] }}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{ name: web }}
spec:
  serviceName: web
  replicas: 2
  podManagementPolicy: Parallel
  selector: {{ matchLabels: {{ app: web }} }}
  template:
    metadata: {{ labels: {{ app: web }} }}
    spec:
      serviceAccountName: web
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: {image}
          args: [http-echo, -listen, ":8080", -name, $(POD)]
          env: [{{ name: POD, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
          ports: [{{ name: http, containerPort: 8080 }}]
          readinessProbe: {{ httpGet: {{ path: /ready, port: http }}, periodSeconds: 1 }}
---
"#,
        image = parts::PROGRAMS,
    )
}

/// What ends by itself, and what begins with something that ends: both call over HTTP before anything else.
fn ending(name: &str) -> String {
    format!(
        r#"
apiVersion: batch/v1
kind: CronJob
metadata: {{ name: {name} }}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          serviceAccountName: caller
          restartPolicy: Never
          containers: [{{ name: {name}, image: {image}, args: {call} }}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: staged }}
spec:
  selector: {{ matchLabels: {{ app: staged }} }}
  template:
    metadata: {{ labels: {{ app: staged }} }}
    spec:
      serviceAccountName: caller
      terminationGracePeriodSeconds: 0
      initContainers:
        - {{ name: first, image: {image}, args: {call} }}
        - {{ name: beside, image: {image}, restartPolicy: Always, command: [/bin/sleep, infinity] }}
        - {{ name: second, image: {image}, args: {call} }}
      containers: [{{ name: staged, image: {image}, args: [http-echo, -listen, ":8080"] }}]
---
"#,
        image = parts::PROGRAMS,
        call = r#"[get, -url, "http://web-1.web:8080/", -want, "200"]"#,
    )
}

async fn workloads(scene: Scene) -> Result<()> {
    admit(&scene).await?;
    // What is asked for by probes is let in whoever asks: the calls are for another path.
    let ready = "readinessProbe: { httpGet: { path: /ready, port: 8080 }, periodSeconds: 1 }";
    let host_port = format!("ports: [{{ containerPort: 8080, hostPort: {HOST_PORT} }}]\n      {ready}");
    let own_dns = "dnsPolicy: None\n  dnsConfig: { nameservers: [192.0.2.53] }";
    let manifests = [
        STRICT,
        &stateful(),
        &server(("caller", "caller"), "", ready),
        &server(("host", "host"), "", &host_port),
        &server(("any", ANY), "securityContext: { runAsUser: 12345, runAsGroup: 12345, runAsNonRoot: true }", ready),
        &server(("root", "root"), "securityContext: { runAsUser: 0 }", ready),
        &server(("nodes-dns", "nodes-dns"), "dnsPolicy: Default", ready),
        &server(("own-dns", "own-dns"), own_dns, ready),
        r"
apiVersion: v1
kind: Service
metadata: { name: host }
spec: { selector: { app: host }, ports: [{ name: http, port: 8080 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: outside, labels: { mesh.dev/inject: disabled } }
spec:
  terminationGracePeriodSeconds: 0
",
        &format!("  containers: [{{ name: outside, image: {}, command: [/bin/sleep, infinity] }}]\n", parts::PROGRAMS),
    ];
    scene.apply(&manifests.concat()).await?;
    for pod in ["web-0", "web-1", "caller", "host", "any", "root", "nodes-dns", "own-dns", "outside"] {
        let pod = scene.server.pod_ready(&scene.namespace, pod, READY).await?;
        check_tokens(&pod)?;
    }
    scene.apply(&ending("tick")).await?;
    scene.kubectl(&["create", "job", "--from=cronjob/tick", "tick-now"]).await?;

    for one in ["web-0", "web-1"] {
        let answer = call(&scene, "caller", &format!("http://{one}.web:8080/?mesh"), "caller").await?;
        ensure!(answer.starts_with(&format!("200 {one}\n")), "somebody else answered for {one}:\n{answer}");
    }
    for server in ["any", "root", "nodes-dns", "own-dns", "host"] {
        let ip = pod_ip(&scene, server).await?;
        let answer = call(&scene, "caller", &format!("http://{ip}:8080/?mesh"), "caller").await?;
        ensure!(answer.starts_with(&format!("200 {server}\n")), "somebody else answered for {server}:\n{answer}");
        let web = pod_ip(&scene, "web-0").await?;
        let account = if server == "any" { ANY } else { server };
        call(&scene, server, &format!("http://{web}:8080/?mesh"), account).await?;
    }
    host_port_is_reached(&scene).await?;

    let done = |job: &Value| job.pointer("/status/succeeded").and_then(Value::as_u64) == Some(1);
    scene.server.wait_for(("batch/v1", "Job"), &scene.namespace, "tick-now", "has ended well", READY, done).await?;
    scene.rolled_out("staged").await
}

/// Whoever comes over the node has no identity: a strict port refuses it, a permissive one does not.
async fn host_port_is_reached(scene: &Scene) -> Result<()> {
    let host = scene.server.pod_ready(&scene.namespace, "host", READY).await?;
    let url = format!("http://{}:{HOST_PORT}/?mesh", text(&host, "/status/hostIP"));
    let get = async || scene.exec("outside", &["/programs", "get", "-url", &url, "-body", "-want", "200"]).await;
    let refused = get().await?;
    ensure!(refused.code != 0, "a strict port took a plain connection over the node:\n{}", refused.stdout);
    let permissive = r"
apiVersion: mesh.dev/v1alpha1
kind: TransportPolicy
metadata: { name: host }
spec: { targetRefs: [{ kind: Service, name: host }], mode: Permissive }
";
    scene.apply(permissive).await?;
    eventually(Duration::from_secs(20), async || {
        let ran = get().await?;
        ensure!(ran.code == 0 && ran.stdout.starts_with("200 host\n"), "{}{}", ran.stdout, ran.stderr);
        ensure!(!ran.stdout.contains(names::HEADER_CLIENT_ID), "an identity out of nowhere:\n{}", ran.stdout);
        Ok(())
    })
    .await
}

/// One call by a pod that must be taken for its account. Gives what the application answered.
pub(super) async fn call(scene: &Scene, from: &str, url: &str, account: &str) -> Result<String> {
    let answer = eventually(Duration::from_secs(20), async || {
        scene.programs(from, &["get", "-url", url, "-body", "-want", "200", "-deadline", "5s"]).await
    });
    let answer = answer.await?;
    let id = format!("{}: spiffe://cluster.local/ns/{}/sa/{account}\n", names::HEADER_CLIENT_ID, scene.namespace);
    ensure!(answer.contains(&id), "{from} is not known as {account} at {url}:\n{answer}");
    Ok(answer)
}

async fn pod_ip(scene: &Scene, pod: &str) -> Result<String> {
    let pod = scene.server.pod_ready(&scene.namespace, pod, READY).await?;
    Ok(text(&pod, "/status/podIP").to_owned())
}

/// The mesh's containers have no token for the API of Kubernetes.
fn check_tokens(pod: &Value) -> Result<()> {
    let all = ["/spec/initContainers", "/spec/containers"];
    let all = all.iter().filter_map(|list| pod.pointer(list)?.as_array()).flatten();
    let ours = all.filter(|one| [names::INIT_CONTAINER, names::PROXY_CONTAINER].contains(&text(one, "/name")));
    for mount in ours.filter_map(|one| one.get("volumeMounts")?.as_array()).flatten() {
        ensure!(
            text(mount, "/name") == names::IDENTITY_VOLUME,
            "a container of the mesh has another volume: {mount:#}"
        );
    }
    Ok(())
}

/// Where somebody listens, in every way that a kubelet can ask.
fn healthy() -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{ name: healthy }}
spec:
  terminationGracePeriodSeconds: 10
  containers:
    - name: http
      image: {image}
      args: [http-echo, -listen, ":8080"]
      ports: [{{ name: http, containerPort: 8080 }}]
      startupProbe: {{ tcpSocket: {{ port: http }}, periodSeconds: 1 }}
      readinessProbe: {{ httpGet: {{ path: "/?ready", port: http }}, periodSeconds: 1 }}
      livenessProbe: {{ tcpSocket: {{ port: 8080 }}, periodSeconds: 1, failureThreshold: 2 }}
      lifecycle:
        postStart: {{ exec: {{ command: [/bin/sleep, "0.1"] }} }}
        preStop: {{ httpGet: {{ path: /, port: 8080 }} }}
    - name: https
      image: {image}
      args: [http-echo, -listen, ":8443", -tls]
      ports: [{{ name: https, containerPort: 8443 }}]
      startupProbe: {{ httpGet: {{ path: /, port: https, scheme: HTTPS }}, periodSeconds: 1 }}
      readinessProbe:
        httpGet: {{ path: /status/204, port: 8443, scheme: HTTPS, httpHeaders: [{{ name: X-Probe, value: "$(HOME)" }}] }}
        periodSeconds: 1
      livenessProbe: {{ tcpSocket: {{ port: https }}, periodSeconds: 1, failureThreshold: 2 }}
      lifecycle:
        preStop: {{ httpGet: {{ path: /, port: 8443, scheme: HTTPS }} }}
    - name: grpc
      image: {image}
      args: [grpc-server, -listen, ":9090"]
      startupProbe: {{ grpc: {{ port: 9090 }}, periodSeconds: 1 }}
      readinessProbe: {{ grpc: {{ port: 9090 }}, periodSeconds: 1 }}
      livenessProbe: {{ grpc: {{ port: 9090 }}, periodSeconds: 1, failureThreshold: 2 }}
    - name: exec
      image: {image}
      command: [/bin/sh, -c, "trap 'exit 0' TERM; while :; do sleep 1; done"]
      startupProbe: {{ exec: {{ command: [/bin/sh, -c, "exit 0"] }}, periodSeconds: 1 }}
      readinessProbe: {{ exec: {{ command: [/bin/sh, -c, "exit 0"] }}, periodSeconds: 1 }}
      livenessProbe: {{ exec: {{ command: [/bin/sh, -c, "exit 0"] }}, periodSeconds: 1, failureThreshold: 2 }}
---
"#,
        image = parts::PROGRAMS,
    )
}

/// Names of probes of ports where nobody listens, and what they are.
const DEAF: [(&str, &str); 4] = [
    ("tcp", "tcpSocket: { port: 7001 }"),
    ("http", "httpGet: { path: /, port: 7002 }"),
    ("https", "httpGet: { path: /, port: 7003, scheme: HTTPS }"),
    ("grpc", "grpc: { port: 7004 }"),
];

fn deaf() -> String {
    let container = |name: &str, probe: &str| {
        format!("    - {{ name: {name}, image: {}, command: [/bin/sleep, infinity], {probe} }}\n", parts::PROGRAMS)
    };
    let mut pod = "apiVersion: v1\nkind: Pod\nmetadata: { name: deaf }\nspec:\n  terminationGracePeriodSeconds: 0\n  containers:\n".to_owned();
    for (name, probe) in DEAF {
        pod += &container(name, &format!("readinessProbe: {{ {probe}, periodSeconds: 1 }}"));
    }
    pod + &container("dies", "livenessProbe: { tcpSocket: { port: 7005 }, periodSeconds: 1, failureThreshold: 1 }")
}

async fn probes(scene: Scene) -> Result<()> {
    admit(&scene).await?;
    scene.apply(&[STRICT, &healthy(), &deaf()].concat()).await?;
    scene.server.pod_ready(&scene.namespace, "healthy", READY).await?;

    // Each of those that must fail was asked, and did.
    let pod = ("v1", "Pod");
    let restarted = |pod: &Value| status(pod, "dies").is_some_and(|one| one["restartCount"].as_u64() > Some(0));
    let deaf = scene.server.wait_for(pod, &scene.namespace, "deaf", "lost a container", READY, restarted).await?;
    ensure!(!has_condition(&deaf, "Ready"), "a pod is ready where nobody listens: {:#}", deaf["status"]);
    for (name, _) in DEAF {
        let field =
            format!("reason=Unhealthy,involvedObject.name=deaf,involvedObject.fieldPath=spec.containers{{{name}}}");
        eventually(READY, async || {
            let events = scene.kubectl(&["get", "events", "--field-selector", &field, "--output", "name"]).await?;
            ensure!(!events.trim().is_empty(), "the probe of {name} did not fail");
            Ok(())
        })
        .await?;
        let one = status(&deaf, name).with_context(|| format!("no status of {name}"))?;
        ensure!(one["ready"] == false, "{name} is ready where nobody listens: {one:#}");
    }

    // By now the others were asked many times.
    let healthy = scene.server.pod_ready(&scene.namespace, "healthy", READY).await?;
    let all = ["/status/initContainerStatuses", "/status/containerStatuses"];
    for one in all.iter().filter_map(|list| healthy.pointer(list)?.as_array()).flatten() {
        ensure!(one["restartCount"] == 0, "{} was restarted: {one:#}", one["name"]);
    }
    scene.kubectl(&["delete", "pod", "healthy", "--timeout=30s"]).await?;
    let failed = ["get", "events", "--field-selector", "reason=FailedPreStopHook", "--output", "wide"];
    let failed = scene.kubectl(&failed).await?;
    ensure!(!failed.contains("healthy"), "a hook failed:\n{failed}");
    Ok(())
}

fn status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    pod.pointer("/status/containerStatuses")?.as_array()?.iter().find(|one| text(one, "/name") == container)
}
