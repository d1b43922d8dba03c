//! Reads the admin servers of the mesh's pods, and the certificate of the webhooks, through port-forwards.

use std::{collections::BTreeMap, time::Instant};

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use kube::Client;
use mesh_api::names::{
    CA_ACCOUNT, CONTROLLER_ACCOUNT, PORT_ADMIN, PORT_CNI, PORT_WEBHOOK, SYSTEM_NAMESPACE, WEBHOOK_SERVICE,
};
use serde::de::DeserializeOwned;

use super::api::{all, offset};
use crate::{
    check::{
        facts::{CaPages, Clock, ControllerPages, Fact, Fault, Missing, Replica},
        judge::{cni::AGENT, control},
        pods,
    },
    query::{
        Answer,
        forward::{self, ForwardError, Target},
        prometheus::{self, Sample},
    },
};

/// Most sidecars that are asked.
const MAX_PROXIES: usize = 200;

/// What every replica of the control plane shows. `server` is the API server's clock.
pub async fn replicas(client: &Client, system: &[Pod], server: Option<Clock>) -> Vec<Replica> {
    let running = system.iter().filter(|pod| pods::is_running(pod));
    let parts =
        running.filter_map(|pod| Some((pod.clone(), control::part_of(pod, &[CA_ACCOUNT, CONTROLLER_ACCOUNT, AGENT])?)));
    let parts: Vec<(Pod, &'static str)> = parts.collect();
    let mut replicas = all(parts, |(pod, part)| replica(client.clone(), pod, part, server)).await;
    replicas.sort_by(|one, other| one.pod.cmp(&other.pod));
    replicas
}

async fn replica(client: Client, pod: Pod, part: &'static str, server: Option<Clock>) -> Replica {
    let target = |port| Target {
        namespace: SYSTEM_NAMESPACE.to_owned(),
        pod: pod.metadata.name.clone().unwrap_or_default(),
        port,
    };
    let admin = target(admin_port(&pod, part));
    let ((not_ready, clock), metrics) = tokio::join!(ready(&client, &admin, server), metrics(&client, &admin));
    let mut replica =
        Replica { pod: admin.pod.clone(), part, not_ready, metrics, clock, controller: None, ca: None, webhook: None };
    if part == CONTROLLER_ACCOUNT {
        let hooks = target(port(&pod, "webhook").unwrap_or(PORT_WEBHOOK));
        let (pages, shown) = tokio::join!(controller(&client, &admin), webhook(&client, &hooks));
        (replica.controller, replica.webhook) = (Some(pages), Some(shown));
    } else if part == CA_ACCOUNT {
        let (trust, issuers) = tokio::join!(text(&client, &admin, "/trust"), json(&client, &admin, "/issuers"));
        replica.ca = Some(CaPages { trust, issuers });
    }
    replica
}

async fn controller(client: &Client, admin: &Target) -> ControllerPages {
    let (overview, proxies, problems) =
        tokio::join!(json(client, admin, "/status"), json(client, admin, "/proxies"), json(client, admin, "/problems"));
    ControllerPages { overview, proxies, problems }
}

/// The port of the admin server: the one that the pod calls so, else the one of that part.
#[must_use]
pub fn admin_port(pod: &Pod, part: &str) -> u16 {
    let usual = match part {
        CA_ACCOUNT => 15_411,
        CONTROLLER_ACCOUNT => 15_421,
        AGENT => PORT_CNI,
        _ => PORT_ADMIN,
    };
    port(pod, "admin").unwrap_or(usual)
}

fn port(pod: &Pod, name: &str) -> Option<u16> {
    let mut ports = pods::containers(pod).flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(name))?;
    u16::try_from(port.container_port).ok()
}

fn missing(target: &Target, path: &str, error: &ForwardError) -> Missing {
    let fault = match error {
        error if error.is_forbidden() => Fault::Rights,
        ForwardError::Refused { .. } | ForwardError::Slow { .. } => Fault::Server,
        ForwardError::Silent { .. } | ForwardError::Query(_) => Fault::Mesh,
    };
    Missing { what: format!("{path} of {}/{}", target.namespace, target.pod), fault, why: error.to_string() }
}

async fn page(client: &Client, target: &Target, path: &str) -> Fact<Answer> {
    forward::get(client, target, path).await.map_err(|error| missing(target, path, &error))
}

async fn text(client: &Client, target: &Target, path: &str) -> Fact<String> {
    let answer = page(client, target, path).await?;
    answer.text().map_err(|error| missing(target, path, &error.into()))
}

async fn json<T: DeserializeOwned>(client: &Client, target: &Target, path: &str) -> Fact<T> {
    let answer = page(client, target, path).await?;
    answer.json().map_err(|error| missing(target, path, &error.into()))
}

/// Metrics of a pod.
pub async fn metrics(client: &Client, target: &Target) -> Fact<Vec<Sample>> {
    Ok(prometheus::parse(&text(client, target, "/metrics").await?))
}

/// Whether it is ready, and its clock against the API server's.
async fn ready(client: &Client, target: &Target, server: Option<Clock>) -> (Fact<Option<String>>, Option<Clock>) {
    let before = Instant::now();
    match page(client, target, "/ready").await {
        Err(missing) => (Err(missing), None),
        Ok(answer) => {
            let clock = answer.date.as_deref().and_then(|date| offset(date, before.elapsed(), Timestamp::now()));
            let clock = clock.zip(server).map(|(clock, server)| Clock {
                ahead_ms: clock.ahead_ms.saturating_sub(server.ahead_ms),
                slack_ms: clock.slack_ms.saturating_add(server.slack_ms),
            });
            let why = (!answer.status.is_success()).then(|| String::from_utf8_lossy(&answer.body).trim().to_owned());
            (Ok(why), clock)
        }
    }
}

async fn webhook(client: &Client, target: &Target) -> Fact<Vec<Vec<u8>>> {
    let name = format!("{WEBHOOK_SERVICE}.{SYSTEM_NAMESPACE}.svc");
    forward::certificates(client, target, &name).await.map_err(|error| missing(target, "the certificate", &error))
}

/// Metrics of the sidecars of running pods, of at most so many, by `NAMESPACE/POD`.
pub async fn proxies(client: &Client, pods: &[Pod]) -> BTreeMap<String, Fact<Vec<Sample>>> {
    let running = pods.iter().filter(|pod| pods::is_running(pod) && pods::sidecar(pod).is_some());
    let targets = running.filter_map(|pod| {
        let port = pods::sidecar(pod)?.ports.iter().flatten().find(|port| port.name.as_deref() == Some("mesh-admin"));
        Some(Target {
            namespace: pod.metadata.namespace.clone()?,
            pod: pod.metadata.name.clone()?,
            port: port.and_then(|port| u16::try_from(port.container_port).ok()).unwrap_or(PORT_ADMIN),
        })
    });
    let targets: Vec<Target> = targets.take(MAX_PROXIES).collect();
    let asked = all(targets, |target| {
        let client = client.clone();
        async move {
            let metrics = metrics(&client, &target).await;
            (format!("{}/{}", target.namespace, target.pod), metrics)
        }
    });
    asked.await.into_iter().collect()
}
