//! The proof that the demo's mesh does what it promises: each check looks from outside, within a bounded time.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;
use mesh_api::names::HEADER_POLICY;
use serde::Serialize;

use super::{
    app::VERSION_HEADER,
    http::Client,
    manifests::{EDGES, Expected, Manifests, NAMESPACE, POLICY, SHARE_OF_V2, STREAM},
};
use crate::{
    collector::{Kind, Trace, Traces},
    io::{Table, Tone},
    local::mesh::Mesh,
    query::prometheus::Sample,
    view::{self, Scrape, edges::names},
};

/// How often is looked again at what may still come.
const AGAIN: Duration = Duration::from_millis(300);
/// Payments whose version is counted. At a tenth, the standard deviation of the share is 1.1 %.
const PAYMENTS: u32 = 800;
/// Calls of payments at once.
const AT_ONCE: usize = 8;
/// How far, in standard deviations, the share may be off: by chance that happens once in 150,000 runs.
const SIGMAS: f64 = 4.5;

/// What one check saw.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What is promised.
    pub check: String,
    /// True where it holds.
    pub good: bool,
    /// What was seen.
    pub seen: String,
}

/// Looks at a running demo, until everything holds or the time is over.
pub async fn check(mesh: &Mesh, traces: &Traces, manifests: &Manifests, limit: Duration) -> Vec<Outcome> {
    let deadline = Instant::now() + limit;
    let domain = mesh.file().trust_domain;
    let mut outcomes = vec![denied(manifests, deadline).await, plain(manifests).await, split(manifests).await];
    // Metrics and traces come with the traffic, and those of the calls above as well.
    let seen = loop {
        let scrape = view::scrape(&mesh.file()).await;
        let mut seen: Vec<Outcome> = EDGES.iter().map(|edge| mutual(edge, is_answered, &domain, &scrape)).collect();
        seen.push(mutual(&STREAM, is_stream, &domain, &scrape));
        seen.push(counted(&scrape));
        seen.push(traced(traces));
        if seen.iter().all(|outcome| outcome.good) || Instant::now() > deadline {
            break seen;
        }
        tokio::time::sleep(AGAIN).await;
    };
    outcomes.extend(seen);
    outcomes
}

/// Both sidecars of an edge must have seen the other's identity, and nothing else.
fn mutual(edge: &Expected, counts: fn(&Sample) -> bool, domain: &str, scrape: &Scrape) -> Outcome {
    let id = |account: &str| format!("spiffe://{domain}/ns/{NAMESPACE}/sa/{account}");
    let outbound = peers(scrape, edge.source, "outbound", ("destination", edge.service), counts);
    let inbound = peers(scrape, edge.workload, "inbound", ("source", edge.source), counts);
    let only = |peers: &BTreeSet<String>, wanted: String| peers.len() == 1 && peers.contains(&wanted);
    let show = |peers: BTreeSet<String>| match peers.len() {
        0 => "nothing yet".to_owned(),
        _ => peers.into_iter().collect::<Vec<_>>().join(", "),
    };
    Outcome {
        check: format!("{} -> {}: mutual TLS with the expected identities", edge.source, edge.workload),
        good: only(&outbound, id(edge.account)) && only(&inbound, id(edge.source)),
        seen: format!("{} called {}", show(inbound), show(outbound)),
    }
}

/// Requests that were answered.
fn is_answered(sample: &Sample) -> bool {
    sample.name == names::REQUESTS && matches!(sample.label("status"), "2xx" | "3xx")
}

/// Connections that carry bytes.
fn is_stream(sample: &Sample) -> bool {
    sample.name == names::CONNECTIONS && sample.label("protocol") == "tcp"
}

/// Identities that a sidecar saw at the other end of an edge, which a label tells; `plain` where there was none.
fn peers(
    scrape: &Scrape,
    workload: &str,
    direction: &str,
    edge: (&str, &str),
    counts: fn(&Sample) -> bool,
) -> BTreeSet<String> {
    let samples = scrape.sidecars.get(&full(workload)).and_then(Option::as_ref).into_iter().flatten();
    let samples = samples.filter(|sample| counts(sample) && sample.value > 0.0);
    let samples = samples.filter(|sample| sample.label("direction") == direction && sample.label(edge.0) == edge.1);
    let peer = |sample: &Sample| match (sample.label("tls"), sample.label("peer")) {
        ("mutual", peer) if !peer.is_empty() => peer.to_owned(),
        _ => "plain".to_owned(),
    };
    samples.map(peer).collect()
}

/// The intruder's call is refused, and the refusal names the policy.
async fn denied(manifests: &Manifests, deadline: Instant) -> Outcome {
    let client = Client::new(manifests.intruder(), "payments.demo");
    let (mut good, mut seen) = (false, String::new());
    while !good && Instant::now() < deadline {
        match client.call(Method::POST, "/pay", HeaderMap::new(), Bytes::new()).await {
            Ok(response) => {
                let policy =
                    response.headers().get(HEADER_POLICY).and_then(|value| value.to_str().ok()).unwrap_or("no policy");
                good = response.status() == StatusCode::FORBIDDEN && policy == POLICY;
                seen = format!("{} by {policy}", response.status());
                if !good && response.status().is_success() {
                    break;
                }
            }
            Err(error) => seen = format!("{error:#}"),
        }
        if !good {
            tokio::time::sleep(AGAIN).await;
        }
    }
    Outcome { check: "intruder -> payments: refused with 403, naming the policy".into(), good, seen }
}

/// Who speaks without mutual TLS gets nothing from payments.
async fn plain(manifests: &Manifests) -> Outcome {
    let client = Client::new(manifests.payments(), "payments.demo");
    let result = client.call(Method::POST, "/pay", HeaderMap::new(), Bytes::new()).await;
    let (good, seen) = match result {
        Ok(response) => {
            let body = String::from_utf8_lossy(response.body()).into_owned();
            (response.status() == StatusCode::FORBIDDEN && !body.contains("payments v"), response.status().to_string())
        }
        Err(error) => {
            let seen = format!("{error:#}");
            // It must be refused by somebody, not missing.
            (!seen.contains("cannot reach"), seen)
        }
    };
    Outcome { check: "a plain request to payments: refused".into(), good, seen }
}

/// The sidecar's own count of what it refused names the policy too.
fn counted(scrape: &Scrape) -> Outcome {
    let of = |workload: &str| -> f64 {
        let refusals = scrape.of(&full(workload), names::REFUSALS);
        refusals.filter(|sample| sample.label("object") == POLICY).fold(0.0, |sum, sample| sum + sample.value)
    };
    let total = of("payments-v1") + of("payments-v2");
    Outcome {
        check: "refusals are counted under the name of the policy".into(),
        good: total > 0.0,
        seen: format!("{total} refusals by {POLICY}"),
    }
}

/// Payments, as cart calls them, go to the versions as the route says.
async fn split(manifests: &Manifests) -> Outcome {
    let client = Client::new(manifests.cart_to_payments(), "payments.demo");
    let mut calls = tokio::task::JoinSet::new();
    let (mut started, mut v1, mut v2, mut other) = (0, 0_u32, 0_u32, 0_u32);
    loop {
        while started < PAYMENTS && calls.len() < AT_ONCE {
            let client = client.clone();
            calls.spawn(async move { client.call(Method::POST, "/pay", HeaderMap::new(), Bytes::new()).await });
            started += 1;
        }
        let Some(done) = calls.join_next().await else { break };
        let version =
            done.ok().and_then(Result::ok).and_then(|response| response.headers().get(VERSION_HEADER).cloned());
        match version.as_ref().map(|version| version.as_bytes()) {
            Some(b"v1") => v1 += 1,
            Some(b"v2") => v2 += 1,
            _ => other += 1,
        }
    }
    let all = f64::from(PAYMENTS);
    let share = f64::from(v2) / all;
    let tolerance = SIGMAS * (SHARE_OF_V2 * (1.0 - SHARE_OF_V2) / all).sqrt();
    Outcome {
        check: "cart -> payments: nine of ten to v1, one to v2".into(),
        good: other == 0 && (share - SHARE_OF_V2).abs() <= tolerance,
        seen: format!("{v1} to v1, {v2} to v2 ({:.1}%), {other} without answer", share * 100.0),
    }
}

/// One trace has both spans of every hop.
fn traced(traces: &Traces) -> Outcome {
    let mut best: Option<(Vec<String>, Trace)> = None;
    for summary in traces.list() {
        let Some(trace) = traces.get(summary.id) else { continue };
        let missing = missing(&trace);
        if best.as_ref().is_none_or(|(fewest, _)| missing.len() < fewest.len()) {
            best = Some((missing, trace));
        }
        if best.as_ref().is_some_and(|(missing, _)| missing.is_empty()) {
            break;
        }
    }
    let check = "one trace has a span of every hop".into();
    match best {
        None => Outcome { check, good: false, seen: "no trace".into() },
        Some((missing, trace)) if missing.is_empty() => Outcome {
            check,
            good: true,
            seen: format!("trace {}: {} spans of {}", trace.id, trace.spans.len(), trace.services().join(", ")),
        },
        Some((missing, trace)) => {
            Outcome { check, good: false, seen: format!("trace {} lacks: {}", trace.id, missing.join("; ")) }
        }
    }
}

fn missing(trace: &Trace) -> Vec<String> {
    let has = |service: &str, kind| trace.spans.iter().any(|span| span.service == service && span.kind == kind);
    let client = ["loadgen", "web", "cart"].iter().filter(|service| !has(service, Kind::Client));
    let server = ["web", "cart", "inventory"].iter().filter(|service| !has(service, Kind::Server));
    let mut missing: Vec<String> = client.map(|service| format!("a call of {service}")).collect();
    missing.extend(server.map(|service| format!("an arrival at {service}")));
    if !has("payments-v1", Kind::Server) && !has("payments-v2", Kind::Server) {
        missing.push("an arrival at payments".into());
    }
    missing
}

fn full(workload: &str) -> String {
    format!("{NAMESPACE}/{workload}")
}

/// Outcomes as a table.
#[must_use]
pub fn table(outcomes: &[Outcome]) -> Table {
    let mut table = Table::new(&["CHECK", "RESULT", "SEEN"]);
    for outcome in outcomes {
        let result = if outcome.good { ("pass".to_owned(), Tone::Good) } else { ("FAIL".to_owned(), Tone::Bad) };
        table.toned([(outcome.check.clone(), Tone::Plain), result, (outcome.seen.clone(), Tone::Faint)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collector::{Span, TraceId},
        query::prometheus::parse,
    };

    fn scrape(pages: &[(&str, &str)]) -> Scrape {
        let sidecars = pages.iter().map(|(name, page)| (full(name), Some(parse(page)))).collect();
        Scrape { at: Instant::now(), sidecars }
    }

    fn request(direction: &str, tls: &str, peer: &str) -> String {
        format!(
            "mesh_requests_total{{direction=\"{direction}\",source=\"web\",destination=\"cart\",status=\"2xx\",\
             tls=\"{tls}\",peer=\"{peer}\"}} 3\n"
        )
    }

    #[test]
    fn an_edge_is_mutual_only_where_both_ends_say_so_and_nothing_was_plain() {
        let edge = &EDGES[1];
        let (web, cart) = ("spiffe://x/ns/demo/sa/web", "spiffe://x/ns/demo/sa/cart");
        let out = request("outbound", "mutual", cart);
        let inn = request("inbound", "mutual", web);
        let good = |out: &str, inn: &str| mutual(edge, is_answered, "x", &scrape(&[("web", out), ("cart", inn)])).good;
        assert!(good(&out, &inn));
        assert!(!good(&out, ""));
        assert!(!good("", &inn));
        assert!(!good(&(out.clone() + &request("outbound", "none", "")), &inn));
        assert!(!good(&out, &request("inbound", "mutual", cart)));
        assert!(!good(&request("outbound", "mutual", web), &inn));
    }

    #[test]
    fn a_trace_must_have_every_hop() {
        let traces = Traces::new();
        assert!(!traced(&traces).good);
        let span = |service: &str, kind| Span {
            id: "1".into(),
            parent: String::new(),
            service: service.into(),
            namespace: NAMESPACE.into(),
            name: "GET".into(),
            kind,
            start: 1,
            end: 2,
            failed: false,
            attributes: Vec::new(),
        };
        let id = TraceId([1; 16]);
        for service in ["loadgen", "web", "cart"] {
            traces.add(id, span(service, Kind::Client));
        }
        for service in ["web", "cart", "inventory"] {
            traces.add(id, span(service, Kind::Server));
        }
        let outcome = traced(&traces);
        assert!(!outcome.good && outcome.seen.ends_with("lacks: an arrival at payments"), "{outcome:?}");
        traces.add(id, span("payments-v2", Kind::Server));
        assert!(traced(&traces).good);
    }
}
