//! What changes under load: instances come and go, and parts of the control plane. No request may fail, and the
//! application does nothing for it. Floor 6: imports `suite`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_api::names;
use serde_json::Value;

use super::install::admit;
use crate::{
    cluster::parts,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new("mesh-rollout", "a Deployment rolls over, and goes from 1 to 10 to 1, at 200 requests/s", |scene| {
        Box::pin(rollout(scene))
    })
    .within(300),
    Scenario::new("mesh-outage", "every part of the control plane is deleted at 200 requests/s", |scene| {
        Box::pin(outage(scene))
    })
    .within(240),
    Scenario::new("mesh-job", "a Job ends; an init container and the first line of an app reach others", |scene| {
        Box::pin(job(scene))
    })
    .within(180),
];

/// Requests a second.
const RATE: &str = "200";
/// Longer than any scenario: the load is told to end.
const LONG: &str = "10m";

/// An echo server, and who calls it.
fn manifests(replicas: u32) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{ name: echo }}
spec: {{ selector: {{ app: echo }}, ports: [{{ port: 80, targetPort: 8080 }}] }}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{ name: echo }}
spec:
  replicas: {replicas}
  selector: {{ matchLabels: {{ app: echo }} }}
  template:
    metadata: {{ labels: {{ app: echo }} }}
    spec:
      containers:
        - name: echo
          image: {image}
          args: [http-echo, -listen, ":8080", -name, $(POD)]
          env: [{{ name: POD, valueFrom: {{ fieldRef: {{ fieldPath: metadata.name }} }} }}]
          ports: [{{ containerPort: 8080 }}]
          readinessProbe: {{ httpGet: {{ path: /, port: 8080 }}, periodSeconds: 1 }}
          resources: {{ requests: {{ cpu: 10m, memory: 16Mi }} }}
---
apiVersion: v1
kind: Pod
metadata: {{ name: load, labels: {{ app: load }} }}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 30
  containers:
    - name: load
      image: {image}
      command: [/bin/sh, -c]
      # It begins when there is somebody to call, and ends when it is told to.
      args: ["until [ -e /tmp/go ]; do sleep 0.1; done; exec /programs load -url http://echo/ -rate {RATE} -for {LONG}"]
      volumeMounts: [{{ name: tmp, mountPath: /tmp }}]
  volumes: [{{ name: tmp, emptyDir: {{}} }}]
"#,
        image = parts::PROGRAMS,
    )
}

/// A load on `echo`.
pub(super) async fn begin(scene: &Scene, replicas: u32) -> Result<()> {
    admit(scene).await?;
    scene.apply(&manifests(replicas)).await?;
    scene.rolled_out("echo").await?;
    scene.server.pod_ready(&scene.namespace, "load", READY).await?;
    let go =
        scene.server.exec(&scene.namespace, "load", Some("load"), &["/bin/sh", "-c", ": > /tmp/go"], READY).await?;
    ensure!(go.code == 0, "the load does not begin: {}", go.stderr);
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// Ends the load: all of it must have been answered well, and by `backends` instances at least.
pub(super) async fn end(scene: &Scene, backends: usize) -> Result<Value> {
    // The program has the number that the shell had; every process of the container has the same user.
    let told =
        scene.server.exec(&scene.namespace, "load", Some("load"), &["/bin/sh", "-c", "kill -TERM 1"], READY).await?;
    ensure!(told.code == 0, "the load cannot be told to end: {}", told.stderr);
    let report = eventually(READY, async || {
        let log = scene.server.logs(&scene.namespace, "load", Some("load")).await?;
        let line = log.lines().find(|line| line.starts_with('{')).map(str::to_owned);
        line.with_context(|| format!("no report yet:\n{log}"))
    });
    let report: Value = serde_json::from_str(&report.await?)?;
    let count = |field: &str| report[field].as_u64().unwrap_or_default();
    ensure!(count("failed") == 0 && count("good") == count("sent"), "requests failed: {report:#}");
    ensure!(count("sent") > 1000, "that was no load: {report:#}");
    let answered = report["backends"].as_object().map_or(0, serde_json::Map::len);
    ensure!(answered >= backends, "{answered} instances answered, not {backends}: {report:#}");
    println!("     {} requests, p50 {} ms, p99 {} ms", count("sent"), report["p50_ms"], report["p99_ms"]);
    Ok(report)
}

async fn rollout(scene: Scene) -> Result<()> {
    begin(&scene, 2).await?;
    scene.kubectl(&["rollout", "restart", "deployment/echo"]).await?;
    scene.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]).await?;
    for replicas in ["1", "10", "1"] {
        scene.kubectl(&["scale", "deployment/echo", "--replicas", replicas]).await?;
        scene.kubectl(&["rollout", "status", "deployment/echo", "--timeout=90s"]).await?;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    // Two, two after the restart, and what came with ten.
    end(&scene, 8).await.map(drop)
}

async fn outage(scene: Scene) -> Result<()> {
    begin(&scene, 2).await?;
    for part in [names::CA_ACCOUNT, names::CONTROLLER_ACCOUNT] {
        let selector = format!("app.kubernetes.io/component={}", part.trim_start_matches("mesh-"));
        let system = ["--namespace", names::SYSTEM_NAMESPACE];
        scene
            .kubectl(
                &[&system[..], &["delete", "pods", "--selector", &selector, "--grace-period=0", "--force"]].concat(),
            )
            .await?;
        let deployment = format!("deployment/{part}");
        scene.kubectl(&[&system[..], &["rollout", "status", &deployment, "--timeout=60s"]].concat()).await?;
    }
    // What comes after an outage works: a new pod gets its sidecar, its certificate, and traffic.
    scene.kubectl(&["scale", "deployment/echo", "--replicas", "3"]).await?;
    scene.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    end(&scene, 3).await.map(drop)
}

async fn job(scene: Scene) -> Result<()> {
    begin(&scene, 1).await?;
    let call = r#"[get, -url, "http://echo/", -want, "200"]"#;
    let manifests = format!(
        r#"
apiVersion: batch/v1
kind: Job
metadata: {{ name: once }}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      initContainers: [{{ name: before, image: {image}, args: {call} }}]
      containers: [{{ name: once, image: {image}, args: {call} }}]
"#,
        image = parts::PROGRAMS,
    );
    scene.apply(&manifests).await?;
    let job = ("batch/v1", "Job");
    let done = |job: &Value| job.pointer("/status/succeeded").and_then(Value::as_u64) == Some(1);
    scene.server.wait_for(job, &scene.namespace, "once", "has ended well", READY, done).await?;
    end(&scene, 1).await.map(drop)
}
