//! A whole mesh of real processes, started, changed, broken and ended as its users do.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]

mod common;

use std::{fs, time::Duration};

use common::{Up, get, meshctl, signal, until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A service `web` that answers, one `other` without workloads, and a client whose sidecar reaches both.
fn shop(net: &str) -> String {
    format!(
        r#"
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: other, namespace: shop}}
spec: {{selector: {{app: other}}, ports: [{{port: 80, targetPort: 8080, appProtocol: http}}]}}
---
apiVersion: mesh.dev/v1alpha1
kind: TransportPolicy
metadata: {{name: strict, namespace: shop}}
spec: {{mode: Strict}}
---
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {{name: client, namespace: shop}}
spec:
  serviceAccount: client
  address: {net}.1.1
  upstreams:
    - {{service: "web:80", listen: "{net}.1.1:19001"}}
    - {{service: "other:80", listen: "{net}.1.1:19002"}}
---
{}"#,
        workload(net, "web", 1)
    )
}

/// A workload `web-1`, of a service, which says its number.
fn workload(net: &str, service: &str, number: u8) -> String {
    let program = env!("CARGO_BIN_EXE_meshctl");
    format!(
        r#"
apiVersion: mesh.dev/v1alpha1
kind: ExternalWorkload
metadata: {{name: {service}-{number}, namespace: shop, labels: {{app: {service}}}}}
spec:
  serviceAccount: web
  address: {net}.2.{number}
  ports: [{{port: 8080, app: "{net}.2.{number}:18080"}}]
  run: {{command: ["{program}", demo-app, --role, payments, --version, "{number}", --listen, "{net}.2.{number}:18080"]}}
"#
    )
}

fn alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn pids(value: &Value, found: &mut Vec<u64>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("pid").and_then(Value::as_u64));
            map.values().for_each(|value| pids(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| pids(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn a_mesh_lives_through_everything_that_happens_to_it() {
    let up = Up::start(shop, &[]).await;
    let upstream = format!("{}.1.1:19001", up.net);
    assert_eq!(get(&upstream, "/").await.unwrap(), "payments 1\n");

    // The same folder is not for two.
    let second =
        meshctl(&["up", "-f", up.manifests().to_str().unwrap(), "--state", up.state().to_str().unwrap()]).await;
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(&format!("another mesh runs in {} (process {})", up.state().display(), up.pid())), "{said}");

    // The status knows everybody, and is good.
    let status = meshctl(&["status", "-o", "json", "--state", up.state().to_str().unwrap()]).await;
    let value: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status.status.code(), Some(0), "{value:#}");
    assert_eq!(value["edges"][0]["destination"], "shop/web", "{value:#}");
    assert!(value["workloads"].as_array().unwrap().iter().all(|one| one["sidecar"]["connected"] == true), "{value:#}");

    // Who is killed comes back, and nobody notices.
    for part in ["ca", "controller"] {
        let before = up.pid_of_part(part).await;
        signal(before, Signal::SIGKILL);
        until("it comes back", || up.mesh()[part]["pid"].as_u64().is_some_and(|now| now != before)).await;
        assert_eq!(get(&upstream, "/").await.unwrap(), "payments 1\n");
    }
    let sidecar = up.pid_of("web-1", "sidecar").await;
    signal(sidecar, Signal::SIGKILL);
    until("the sidecar comes back", || {
        up.workload("web-1")["sidecar"]["pid"].as_u64().is_some_and(|now| now != sidecar)
    })
    .await;
    up.answers(&upstream, "payments 1\n").await;

    // A workload that comes is started, one that changes is started again, one that goes is ended.
    let path = up.manifests().join("more.yaml");
    let other = format!("{}.1.1:19002", up.net);
    let manifest = workload(&up.net, "other", 2);
    fs::write(&path, &manifest).unwrap();
    up.answers(&other, "payments 2\n").await;
    let app = up.pid_of("other-2", "app").await;
    fs::write(&path, manifest.replace("--version, \"2\"", "--version, \"3\"")).unwrap();
    up.answers(&other, "payments 3\n").await;
    assert!(!alive(app));
    let app = up.pid_of("other-2", "app").await;
    fs::remove_file(&path).unwrap();
    until("it is gone", || up.workload("other-2").is_null() && !alive(app)).await;
    assert_eq!(get(&upstream, "/").await.unwrap(), "payments 1\n");

    // What is wrong is told with its place.
    let path = up.manifests().join("wrong.yaml");
    fs::write(&path, "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: 7}\n").unwrap();
    until("it is told", || up.said().contains(&format!("{}:", path.display()))).await;
    fs::remove_file(&path).unwrap();

    // It ends everything in its order.
    let mut all = Vec::new();
    pids(&up.mesh(), &mut all);
    assert_eq!(all.len(), 6, "{:#}", up.mesh());
    let code = up.end(Signal::SIGTERM).await;
    assert_eq!(code, Some(0));
    assert!(all.into_iter().all(|pid| !alive(pid)));
}

#[tokio::test]
async fn orders_are_carried_out() {
    let up = Up::start(shop, &["--traces"]).await;
    let upstream = format!("{}.1.1:19001", up.net);
    let admin = up.mesh()["admin"].as_str().unwrap().to_owned();
    let before = up.workload("web-1");
    assert_eq!(common::post(&admin, "/restart?workload=shop/web-1").await.unwrap(), "done\n");
    let after = up.workload("web-1");
    assert!(
        before["app"]["pid"] != after["app"]["pid"] && before["sidecar"]["pid"] != after["sidecar"]["pid"],
        "{after}"
    );
    assert_eq!(before["sidecar"]["admin"], after["sidecar"]["admin"]);
    assert_eq!(get(&upstream, "/").await.unwrap(), "payments 1\n");
    assert!(common::post(&admin, "/restart?workload=shop/nobody").await.unwrap_err().contains("404"));

    // A part that is paused stays down until it is resumed.
    assert_eq!(common::post(&admin, "/pause?part=ca").await.unwrap(), "done\n");
    signal(up.pid_of_part("ca").await, Signal::SIGKILL);
    until("it is down", || up.mesh()["ca"]["pid"].is_null()).await;
    // Longer than the first wait before a process is started again.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(up.mesh()["ca"]["pid"].is_null());
    assert_eq!(get(&upstream, "/").await.unwrap(), "payments 1\n");
    assert_eq!(common::post(&admin, "/resume?part=ca").await.unwrap(), "done\n");
    assert!(up.mesh()["ca"]["pid"].is_u64());
    assert!(common::post(&admin, "/pause?part=dns").await.unwrap_err().contains("400"));

    // The call above left a trace.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !get(&admin, "/traces.json").await.unwrap().contains("\"client\"") {
        assert!(std::time::Instant::now() < deadline, "no trace arrived");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    up.end(Signal::SIGINT).await;
}

#[tokio::test]
async fn nothing_outlives_a_runner_that_is_killed() {
    let up = Up::start(shop, &[]).await;
    let mut all = Vec::new();
    pids(&up.mesh(), &mut all);
    up.end(Signal::SIGKILL).await;
    until("all are gone", || all.iter().all(|pid| !alive(*pid))).await;
}

#[tokio::test]
async fn a_program_joins_and_leaves() {
    let up = Up::start(shop, &[]).await;
    let state = up.state().to_str().unwrap().to_owned();
    // One that calls into the mesh: its exit code is ours.
    let script = "test \"$MESH_NAMESPACE\" = shop && exec 3<>/dev/tcp/${MESH_UPSTREAM_WEB/:/\\/} && \
        printf 'GET / HTTP/1.0\\r\\nHost: web\\r\\n\\r\\n' >&3 && grep -q 'payments 1' <&3 && exit 7";
    let port = common::free_port().to_string();
    let listen = format!("web:80=127.0.0.1:{}", common::free_port());
    let base = ["run", "--state", &state, "--namespace", "shop", "--service", "mine", "--port", &port];
    let run = meshctl(&[&base[..], &["--upstream", &listen, "--", "bash", "-c", script]].concat()).await;
    assert_eq!(run.status.code(), Some(7), "{}", String::from_utf8_lossy(&run.stderr));

    // One that is called: it belongs to the Service that is there.
    let app = common::free_port().to_string();
    let listen = format!("127.0.0.1:{app}");
    let base =
        ["run", "--state", &state, "--namespace", "shop", "--service", "other", "--port", "8080", "--app-port", &app];
    let program =
        ["--", env!("CARGO_BIN_EXE_meshctl"), "demo-app", "--role", "payments", "--version", "9", "--listen", &listen];
    let mut joined = common::spawn(&[&base[..], &program].concat());
    let upstream = format!("{}.1.1:19002", up.net);
    up.answers(&upstream, "payments 9\n").await;
    until("it is in mesh.json", || up.mesh()["workloads"].as_array().is_some_and(|all| all.len() == 3)).await;
    signal(u64::from(joined.id().unwrap()), Signal::SIGTERM);
    let status = tokio::time::timeout(common::SOON, joined.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    until("it is gone", || up.mesh()["workloads"].as_array().is_some_and(|all| all.len() == 2)).await;
    assert_eq!(fs::read_dir(up.state().join("workloads")).unwrap().count(), 0);
    up.end(Signal::SIGTERM).await;

    let run = meshctl(&["run", "--state", &state, "--service", "mine", "--port", "80", "--", "true"]).await;
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("no mesh runs in"));
}

#[tokio::test]
async fn a_wrong_setting_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("m")).unwrap();
    let (source, state) = (dir.path().join("m"), dir.path().join("s"));
    let base = ["up", "-f", source.to_str().unwrap(), "--state", state.to_str().unwrap(), "--set"];
    let run = meshctl(&[&base[..], &["ca.certificates.max_tll=1h"]].concat()).await;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(1) && said.contains("did you mean `certificates.max_ttl`?"), "{said}");
    let run = meshctl(&[&base[..], &["dns.x=1"]].concat()).await;
    assert_eq!(run.status.code(), Some(2));
    let run = meshctl(&["up", "-f", "/no/such/folder", "--state", state.to_str().unwrap()]).await;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(1) && said.contains("/no/such/folder"), "{said}");
}

/// Calls without a pause until it is told to stop: how many were answered, and what the others got.
async fn load(upstream: &str, stop: tokio::sync::watch::Receiver<bool>) -> (u32, Vec<String>) {
    let client = mesh_cli::demo::Client::new(upstream.parse().unwrap(), "web");
    let (mut good, mut bad) = (0, Vec::new());
    while !*stop.borrow() {
        match client.call(http::Method::GET, "/", http::HeaderMap::new(), bytes::Bytes::new()).await {
            Ok(response) if response.status() == 200 => good += 1,
            Ok(response) => bad.push(format!("{} {:?}", response.status(), response.headers())),
            Err(error) => bad.push(format!("{error:#}")),
        }
    }
    (good, bad)
}

#[tokio::test]
async fn a_rolling_restart_loses_no_request() {
    let two = |net: &str| format!("{}---\n{}", shop(net), workload(net, "web", 2));
    let up = Up::start(two, &["--set", "proxy.log.level=info,mesh_proxy=debug"]).await;
    let upstream = format!("{}.1.1:19001", up.net);
    up.answers(&upstream, "payments 2\n").await;
    let (tell, stop) = tokio::sync::watch::channel(false);
    let loads: Vec<_> = (0..4)
        .map(|_| {
            let (upstream, stop) = (upstream.clone(), stop.clone());
            tokio::spawn(async move { load(&upstream, stop).await })
        })
        .collect();
    let admin = up.mesh()["admin"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        for name in ["web-1", "web-2"] {
            assert_eq!(common::post(&admin, &format!("/restart?workload=shop/{name}")).await.unwrap(), "done\n");
        }
    }
    tell.send_replace(true);
    let (mut good, mut bad) = (0, Vec::new());
    for load in loads {
        let (one, others) = load.await.unwrap();
        good += one;
        bad.extend(others);
    }
    let log = || fs::read_to_string(up.state().join("logs/shop.client.sidecar.log")).unwrap();
    assert!(bad.is_empty() && good > 100, "{good} answered, not so: {bad:#?}\n{}\n{}", up.said(), log());
    up.end(Signal::SIGTERM).await;
}
