//! What can be seen of the mesh: traces in Jaeger, metrics in Prometheus, both of the chart `mesh-viz`. Floor 6: imports
//! `suite`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::install::meshctl;
use crate::{
    suite::{READY, Scene, eventually},
    tools,
};

/// How long what has happened may take until it can be seen.
const SEEN: Duration = Duration::from_secs(30);
/// The span of who calls the shop from outside.
const CALLER: &str = "decade0ffacade00";
/// Whose sidecars see an order, on which side, and of which span theirs is a child.
const SPANS: [(&str, Side, &str, Side); 8] = [
    ("customer", Side::Client, "", Side::Client),
    ("web", Side::Server, "customer", Side::Client),
    ("web", Side::Client, "web", Side::Server),
    ("api", Side::Server, "web", Side::Client),
    ("api", Side::Client, "api", Side::Server),
    ("api", Side::Client, "api", Side::Server),
    ("stock", Side::Server, "api", Side::Client),
    ("audit", Side::Server, "api", Side::Client),
];
/// Orders that are counted.
const ORDERS: u64 = 20;
/// Refused calls that are counted.
const REFUSED: u64 = 5;

/// Which side of a call a span tells about, in OTLP's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Server = 2,
    Client = 3,
}

/// Imports the images of Jaeger and Prometheus; built or fetched where they are not there yet.
pub(super) fn images(scene: &Scene) -> Result<()> {
    scene.provider.load(&tools::jaeger_image()?)?;
    scene.provider.load(&tools::prometheus_image()?)
}

/// Installs both, without waiting for them: Prometheus asks every second.
pub(super) async fn begin(scene: &Scene) -> Result<()> {
    images(scene)?;
    meshctl(scene, &["viz", "install", "--wait=false", "--set", "prometheus.scrapeInterval=1s"]).await.map(drop)
}

/// Waits for both, which said nothing so far.
pub(super) async fn ready(scene: &Scene) -> Result<()> {
    for name in ["jaeger", "prometheus"] {
        scene.server.rolled_out("mesh-viz", name, READY).await?;
    }
    Ok(())
}

/// Takes them away. They are the cluster's, not the scenario's.
pub(super) async fn end(scene: &Scene) -> Result<()> {
    let said = meshctl(scene, &["viz", "uninstall", "--yes"]).await?;
    ensure!(said.contains("mesh-viz is gone"), "{said}");
    Ok(())
}

/// One order is one trace over all services, in the order of the calls: the application only forwards header fields.
pub(super) async fn one_trace(scene: &Scene) -> Result<()> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
    let id = format!("{now:032x}");
    let parent = format!("traceparent: 00-{id}-{CALLER}-01");
    scene.programs("customer", &["get", "-url", "http://web/", "-header", &parent, "-want", "200"]).await?;
    let trace = eventually(SEEN, async || {
        let trace = spans(&jaeger(scene, &format!("/api/v3/traces/{id}")).await?)?;
        ensure!(trace.len() >= SPANS.len(), "only {} of {} spans: {trace:#?}", trace.len(), SPANS.len());
        Ok(trace)
    });
    let trace = trace.await?;
    let by_id: BTreeMap<&str, &Span> = trace.iter().map(|span| (span.id.as_str(), span)).collect();
    let mut have: Vec<(&str, u64, &str, u64)> = Vec::new();
    for span in &trace {
        let (parent, side) = match by_id.get(span.parent.as_str()) {
            Some(parent) => (parent.service.as_str(), parent.side),
            None if span.parent == CALLER => ("", Side::Client as u64),
            None => anyhow::bail!("the parent of {span:?} is not in the trace: {trace:#?}"),
        };
        have.push((&span.service, span.side, parent, side));
    }
    let mut want: Vec<_> = SPANS.iter().map(|(of, side, by, from)| (*of, *side as u64, *by, *from as u64)).collect();
    have.sort_unstable();
    want.sort_unstable();
    ensure!(have == want, "service, side, parent's service and side are\n{have:#?}\ninstead of\n{want:#?}");
    // Each call of api has a span of its own at who is called.
    let parents: BTreeSet<_> = trace.iter().filter(|span| span.service == "stock" || span.service == "audit").collect();
    ensure!(parents.iter().map(|span| &span.parent).collect::<BTreeSet<_>>().len() == 2, "{parents:?}");
    Ok(())
}

/// Prometheus has the numbers of what was called, by workload, and by how it ended; and reaches everybody.
pub(super) async fn counted(scene: &Scene) -> Result<()> {
    let namespace = &scene.namespace;
    let (orders, refused) = (ORDERS.to_string(), REFUSED.to_string());
    // What is still on its way from earlier calls is not to be counted.
    let before = settled(scene).await?;
    scene.programs("customer", &["get", "-url", "http://web/", "-n", &orders, "-want", "200"]).await?;
    scene.programs("intruder", &["get", "-url", "http://web/", "-n", &refused, "-want", "403"]).await?;
    let mut want = BTreeMap::new();
    for (source, destination) in [("customer", "web"), ("web", "api"), ("api", "stock"), ("api", "audit")] {
        for direction in ["outbound", "inbound"] {
            want.insert([direction, source, destination, "2xx"].map(str::to_owned), ORDERS);
        }
    }
    for direction in ["outbound", "inbound"] {
        want.insert([direction, "intruder", "web", "refused"].map(str::to_owned), REFUSED);
    }
    eventually(SEEN, async || {
        let mut grown = requests(scene).await?;
        for (edge, count) in &mut grown {
            *count -= before.get(edge).copied().unwrap_or_default();
        }
        grown.retain(|_, count| *count > 0);
        ensure!(grown == want, "requests in {namespace} are\n{grown:#?}\ninstead of\n{want:#?}");
        Ok(())
    })
    .await?;
    targets(scene).await
}

/// Requests by direction, source, destination and status, once they stay the same.
async fn settled(scene: &Scene) -> Result<Edges> {
    let mut last = Edges::new();
    eventually(SEEN, async || {
        let now = requests(scene).await?;
        let same = now == last && now.len() >= 8;
        last.clone_from(&now);
        // Two scrapes are between two looks.
        tokio::time::sleep(Duration::from_millis(2200)).await;
        ensure!(same, "it changes still: {now:?}");
        Ok(now)
    })
    .await
}

type Edges = BTreeMap<[String; 4], u64>;

async fn requests(scene: &Scene) -> Result<Edges> {
    let namespace = &scene.namespace;
    let query = format!(
        "sum by (direction, source, destination, status) (mesh_requests_total{{destination_namespace=\"{namespace}\"}})"
    );
    let answer = prometheus(scene, &query).await?;
    let series = answer.as_array().context("no vector")?;
    let mut edges = Edges::new();
    for one in series {
        let label = |name: &str| one["metric"][name].as_str().unwrap_or_default().to_owned();
        let value = one.pointer("/value/1").and_then(Value::as_str).unwrap_or_default();
        edges.insert(
            [label("direction"), label("source"), label("destination"), label("status")],
            value.parse().with_context(|| format!("{value} is no count"))?,
        );
    }
    Ok(edges)
}

/// Every proxy of the scenario and every part of the control plane is asked, and answers.
async fn targets(scene: &Scene) -> Result<()> {
    let proxies = scene.server.pods(&scene.namespace, "mesh.dev/injected=true").await?;
    let parts = scene.server.pods(mesh_api::names::SYSTEM_NAMESPACE, "").await?;
    let mut want: Vec<String> = proxies.iter().chain(&parts).filter_map(|pod| pod.metadata.name.clone()).collect();
    want.sort();
    ensure!(want.len() >= 6 + 2, "few pods: {want:?}");
    eventually(SEEN, async || {
        let namespaces = format!("{}|{}", scene.namespace, mesh_api::names::SYSTEM_NAMESPACE);
        let answer = prometheus(scene, &format!("up{{namespace=~\"{namespaces}\"}} == 1")).await?;
        let mut have: Vec<&str> =
            answer.as_array().into_iter().flatten().filter_map(|one| one["metric"]["pod"].as_str()).collect();
        have.sort_unstable();
        ensure!(have == want, "up are {have:?} instead of {want:?}");
        let down = prometheus(scene, "up == 0").await?;
        ensure!(down.as_array().is_some_and(Vec::is_empty), "down: {down}");
        Ok(())
    })
    .await
}

/// One span of a trace.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    service: String,
    side: u64,
    id: String,
    parent: String,
}

/// The spans of a trace as Jaeger tells it: OTLP in JSON.
fn spans(trace: &Value) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for resource in list(&trace["result"], "resourceSpans") {
        let service = list(&resource["resource"], "attributes").find(|attribute| attribute["key"] == "service.name");
        let service = service.and_then(|attribute| attribute["value"]["stringValue"].as_str());
        let service = service.with_context(|| format!("spans of nobody: {resource}"))?;
        for span in list(resource, "scopeSpans").flat_map(|scope| list(scope, "spans")) {
            let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
            let side = span["kind"].as_u64().with_context(|| format!("of no kind: {span}"))?;
            spans.push(Span { service: service.to_owned(), side, id: text("spanId"), parent: text("parentSpanId") });
        }
    }
    Ok(spans)
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

async fn jaeger(scene: &Scene, path: &str) -> Result<Value> {
    asked(scene, "jaeger:query", path).await
}

/// What Prometheus answers to a query: a vector.
async fn prometheus(scene: &Scene, query: &str) -> Result<Value> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let answer = asked(scene, "prometheus:http", &format!("/api/v1/query?query={query}")).await?;
    ensure!(answer["status"] == "success", "Prometheus says {answer}");
    Ok(answer["data"]["result"].clone())
}

/// A page of a Service of mesh-viz, by way of the API server.
async fn asked(scene: &Scene, service: &str, path: &str) -> Result<Value> {
    let path = format!("/api/v1/namespaces/mesh-viz/services/{service}/proxy{path}");
    let page = scene.kubectl(&["get", "--raw", &path]).await?;
    serde_json::from_str(&page).with_context(|| format!("no JSON: {page}"))
}
