//! Who calls whom: from two looks at the sidecars' metrics to rates, success, latency and identities. Pure.
//!
//! A call is counted where it leaves; where its caller has no sidecar, where it arrives. Metrics and labels stand in
//! [`names`], and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Scrape;
use crate::query::prometheus::Sample;

/// Metrics and labels of the sidecars that are read.
pub mod names {
    /// Requests that ended.
    pub const REQUESTS: &str = "mesh_requests_total";
    /// Time from a request's head to its response's end; a histogram.
    pub const DURATION_BUCKET: &str = "mesh_request_duration_seconds_bucket";
    /// What was refused.
    pub const REFUSALS: &str = "mesh_refusals_total";
    /// When the own certificate runs out.
    pub const EXPIRY: &str = "mesh_certificate_expiry_timestamp_seconds";
    /// 1 while the discovery stream is up.
    pub const CONNECTED: &str = "mesh_discovery_connected";
    /// Its label tells the version.
    pub const BUILD: &str = "mesh_build_info";
    /// Connections accepted.
    pub const CONNECTIONS: &str = "mesh_connections_total";
    /// Labels that tell one edge from another.
    pub const EDGE: [&str; 6] =
        ["source_namespace", "source", "destination_namespace", "destination", "protocol", "route"];
}

/// One edge over some time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Edge {
    /// Caller, as `NAMESPACE/NAME`.
    pub source: String,
    /// Called service, as `NAMESPACE/NAME`.
    pub destination: String,
    /// What is spoken.
    pub protocol: String,
    /// Route, where one was involved.
    pub route: String,
    /// Requests a second; connections where none are told apart.
    pub requests_per_second: f64,
    /// Share of the requests that did not fail (5xx, refused by the mesh, broken off, gRPC error); none where there was no
    /// request, or none that is told apart.
    pub success: Option<f64>,
    /// Median, in seconds.
    pub p50: Option<f64>,
    /// 99th percentile, in seconds.
    pub p99: Option<f64>,
    /// True where every request went over mutual TLS.
    pub mutual: bool,
    /// Verified identities of the other side.
    pub identities: BTreeSet<String>,
}

/// What one sidecar refused over some time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refusal {
    /// Sidecar, as `NAMESPACE/NAME`.
    pub workload: String,
    /// `inbound` or `outbound`.
    pub direction: String,
    /// Stable code.
    pub code: String,
    /// The object behind it, as `Kind/NAMESPACE/NAME`.
    pub object: String,
    /// How often a second.
    pub per_second: f64,
    /// How often altogether.
    pub total: f64,
}

/// Edges between two looks. Where `before` is `None`, since the sidecars started, as sums instead of rates.
#[must_use]
pub fn edges(before: Option<&Scrape>, after: &Scrape) -> Vec<Edge> {
    let seconds = before.map_or(1.0, |before| after.since(before).as_secs_f64().max(0.001));
    let mut gathered: BTreeMap<Vec<String>, Gathered> = BTreeMap::new();
    for (workload, samples) in &after.sidecars {
        let earlier = index(before.and_then(|before| before.sidecars.get(workload)?.as_deref()).unwrap_or_default());
        for sample in samples.iter().flatten().filter(|sample| counts(sample)) {
            let key: Vec<String> = names::EDGE.iter().map(|label| sample.label(label).to_owned()).collect();
            let grown = grown(sample, &earlier);
            gathered.entry(key).or_default().take(sample, grown);
        }
    }
    gathered.into_iter().filter_map(|(key, gathered)| gathered.edge(&key, seconds)).collect()
}

/// What was refused between two looks, or since the sidecars started.
#[must_use]
pub fn refusals(before: Option<&Scrape>, after: &Scrape) -> Vec<Refusal> {
    let seconds = before.map_or(1.0, |before| after.since(before).as_secs_f64().max(0.001));
    let mut all = Vec::new();
    for (workload, samples) in &after.sidecars {
        let earlier = index(before.and_then(|before| before.sidecars.get(workload)?.as_deref()).unwrap_or_default());
        for sample in samples.iter().flatten().filter(|sample| sample.name == names::REFUSALS) {
            all.push(Refusal {
                workload: workload.clone(),
                direction: sample.label("direction").to_owned(),
                code: sample.label("code").to_owned(),
                object: sample.label("object").to_owned(),
                per_second: grown(sample, &earlier) / seconds,
                total: sample.value,
            });
        }
    }
    all
}

type Earlier<'a> = BTreeMap<(&'a str, &'a [(String, String)]), f64>;

fn index(samples: &[Sample]) -> Earlier<'_> {
    samples.iter().map(|sample| ((sample.name.as_str(), sample.labels.as_slice()), sample.value)).collect()
}

/// How much a counter grew; one that shrank began anew.
fn grown(sample: &Sample, earlier: &Earlier<'_>) -> f64 {
    let before = earlier.get(&(sample.name.as_str(), sample.labels.as_slice())).copied().unwrap_or(0.0);
    if sample.value >= before { sample.value - before } else { sample.value }
}

/// Calls that leave, and calls that arrive from somebody without a sidecar.
fn counts(sample: &Sample) -> bool {
    let known = sample.name == names::REQUESTS || sample.name == names::DURATION_BUCKET || is_stream(sample);
    known && (sample.label("direction") == "outbound" || sample.label("tls") == "none")
}

/// A connection that carries no requests is counted by itself.
fn is_stream(sample: &Sample) -> bool {
    sample.name == names::CONNECTIONS && sample.label("protocol") == "tcp"
}

#[derive(Debug, Default)]
struct Gathered {
    requests: f64,
    streams: bool,
    failed: f64,
    plain: bool,
    seen: bool,
    identities: BTreeSet<String>,
    buckets: BTreeMap<Bound, f64>,
}

/// Upper bound of a bucket, ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound(f64);

impl Eq for Bound {}

impl Ord for Bound {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Bound {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Gathered {
    fn take(&mut self, sample: &Sample, grown: f64) {
        if sample.name == names::DURATION_BUCKET {
            let bound = match sample.label("le") {
                "+Inf" => Some(f64::INFINITY),
                text => text.parse().ok(),
            };
            if let Some(bound) = bound {
                *self.buckets.entry(Bound(bound)).or_default() += grown;
            }
            return;
        }
        self.seen = true;
        self.streams |= is_stream(sample);
        self.requests += grown;
        let status = sample.label("status");
        if matches!(status, "5xx" | "error" | "refused") {
            self.failed += grown;
        }
        if grown > 0.0 {
            // What the sidecar answered by itself went over no wire: it has no peer, and says nothing about TLS.
            let own = sample.label("peer").is_empty() && matches!(status, "refused" | "error" | "canceled");
            self.plain |= sample.label("tls") == "none" && !own;
            if !sample.label("peer").is_empty() {
                self.identities.insert(sample.label("peer").to_owned());
            }
        }
    }

    fn edge(self, key: &[String], seconds: f64) -> Option<Edge> {
        let [source_namespace, source, destination_namespace, destination, protocol, route] = key else { return None };
        let name = |namespace: &String, name: &String| match name.as_str() {
            "" => "(unknown)".to_owned(),
            name => format!("{namespace}/{name}"),
        };
        self.seen.then(|| Edge {
            source: name(source_namespace, source),
            destination: name(destination_namespace, destination),
            protocol: protocol.clone(),
            route: route.clone(),
            requests_per_second: self.requests / seconds,
            success: (self.requests > 0.0 && !self.streams).then(|| 1.0 - self.failed / self.requests),
            p50: quantile(&self.buckets, 0.5),
            p99: quantile(&self.buckets, 0.99),
            mutual: self.requests > 0.0 && !self.plain && !self.identities.is_empty(),
            identities: self.identities,
        })
    }
}

/// From cumulative buckets, linear within one; in the last, open one its lower bound.
fn quantile(buckets: &BTreeMap<Bound, f64>, share: f64) -> Option<f64> {
    let total = *buckets.values().last()?;
    if total <= 0.0 {
        return None;
    }
    let wanted = total * share;
    let (mut lower, mut below) = (0.0, 0.0);
    for (Bound(bound), count) in buckets {
        if *count >= wanted {
            let inside = if count > &below { (wanted - below) / (count - below) } else { 0.0 };
            return Some(if bound.is_finite() { lower + (bound - lower) * inside } else { lower });
        }
        (lower, below) = (*bound, *count);
    }
    Some(lower)
}

#[cfg(test)]
mod tests;
