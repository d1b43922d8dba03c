//! IPv4, IPv6, and both: Services of every kind of family, with sidecars that take nothing but mutual TLS. Floor 6: imports
//! `suite`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    install::admit,
    workloads::{call, server},
};
use crate::{
    api::text,
    suite::{READY, Scenario, Scene, eventually},
};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-families",
    "Services of IPv4, IPv6 and both, headless too, are called by name and by every address, all over mutual TLS",
    |scene| Box::pin(families(scene)),
)
.within(120)];

const STRICT: &str = r"
apiVersion: mesh.dev/v1alpha1
kind: TransportPolicy
metadata: { name: strict }
spec: { mode: Strict }
---
";

/// Name, policy, families, and what else its spec has.
const SERVICES: [(&str, &str, &str, &str); 5] = [
    ("four", "SingleStack", "[IPv4]", ""),
    ("six", "SingleStack", "[IPv6]", ""),
    ("both", "RequireDualStack", "[IPv4, IPv6]", ""),
    ("six-first", "PreferDualStack", "[IPv6, IPv4]", ""),
    ("headless-six", "SingleStack", "[IPv6]", "clusterIP: None, "),
];

fn service((name, policy, families, more): (&str, &str, &str, &str)) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ {more}selector: {{ app: web }}, \
         ipFamilyPolicy: {policy}, ipFamilies: {families}, ports: [{{ name: http, port: 8080 }}] }}\n---\n"
    )
}

async fn families(scene: Scene) -> Result<()> {
    admit(&scene).await?;
    let ready = "readinessProbe: { httpGet: { path: /ready, port: 8080 }, periodSeconds: 1 }";
    let services: String = SERVICES.into_iter().map(service).collect();
    let pods = [server(("web", "web"), "", ready), server(("caller", "caller"), "", ready)];
    scene.apply(&[STRICT, &services, &pods.concat()].concat()).await?;
    scene.server.pod_ready(&scene.namespace, "caller", READY).await?;
    let web = scene.server.pod_ready(&scene.namespace, "web", READY).await?;

    for (name, ..) in SERVICES {
        answered(&scene, name).await?;
        let service =
            scene.server.wait_for(("v1", "Service"), &scene.namespace, name, "is there", READY, |_| true).await?;
        let addresses = list(&service, "/spec/clusterIPs");
        ensure!(!addresses.is_empty(), "{name} has no address: {service:#}");
        for address in addresses.iter().filter(|address| *address != "None") {
            answered(&scene, &literal(address)).await?;
        }
    }
    let own = web.pointer("/status/podIPs").and_then(Value::as_array).context("a pod without addresses")?;
    ensure!(own.len() == 2, "the cluster is not dual-stack: {own:?}");
    for ip in own {
        answered(&scene, &literal(text(ip, "/ip"))).await?;
    }
    outsiders_are_refused(&scene, own).await
}

/// A call arrives, with the caller's identity.
async fn answered(scene: &Scene, host: &str) -> Result<()> {
    let answer = call(scene, "caller", &format!("http://{host}:8080/?mesh"), "caller").await?;
    ensure!(answer.starts_with("200 web\n"), "somebody else answered for {host}:\n{answer}");
    Ok(())
}

/// Over neither family does a plain connection get in.
async fn outsiders_are_refused(scene: &Scene, addresses: &[Value]) -> Result<()> {
    let outside = r#"{ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "outside", "labels": { "mesh.dev/inject": "disabled" } },
        "spec": { "terminationGracePeriodSeconds": 0, "containers": [{ "name": "outside", "image": "IMAGE", "command": ["/bin/sleep", "infinity"] }] } }"#;
    scene.apply(&outside.replace("IMAGE", crate::cluster::parts::PROGRAMS)).await?;
    scene.server.pod_ready(&scene.namespace, "outside", READY).await?;
    for address in addresses {
        // A probe's request gets in: the way is there.
        let host = literal(text(address, "/ip"));
        let get = async |path: &str| {
            let url = format!("http://{host}:8080{path}");
            scene.exec("outside", &["/programs", "get", "-url", &url, "-want", "200", "-deadline", "3s"]).await
        };
        eventually(Duration::from_secs(15), async || {
            let ran = get("/ready").await?;
            ensure!(ran.code == 0, "{host} is not reached: {}{}", ran.stdout, ran.stderr);
            Ok(())
        })
        .await?;
        let ran = get("/").await?;
        ensure!(ran.code != 0, "a plain connection got in at {host}:\n{}", ran.stdout);
    }
    Ok(())
}

fn list(object: &Value, path: &str) -> Vec<String> {
    let all = object.pointer(path).and_then(Value::as_array).into_iter().flatten();
    all.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// As a host in a URL.
fn literal(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}
