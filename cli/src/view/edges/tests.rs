use std::time::{Duration, Instant};

use super::*;
use crate::query::prometheus::parse;

fn at(start: Instant, second: u64, page: &str) -> Scrape {
    let sidecars = [("shop/web-1".to_owned(), Some(parse(page))), ("shop/gone".to_owned(), None)].into();
    Scrape { at: start + Duration::from_secs(second), sidecars }
}

fn edge_labels(direction: &str, tls: &str, peer: &str) -> String {
    format!(
        "direction=\"{direction}\",source=\"web-1\",source_namespace=\"shop\",destination=\"cart\",\
         destination_namespace=\"shop\",route=\"\",protocol=\"http1\",tls=\"{tls}\",peer=\"{peer}\""
    )
}

fn page(good: u32, bad: u32, fast: u32, slow: u32) -> String {
    let edge = edge_labels("outbound", "mutual", "spiffe://x/ns/shop/sa/cart");
    let other = edge_labels("inbound", "mutual", "spiffe://x/ns/shop/sa/web");
    format!(
        "mesh_requests_total{{{edge},status=\"2xx\"}} {good}\nmesh_requests_total{{{edge},status=\"5xx\"}} {bad}\n\
         mesh_requests_total{{{other},status=\"2xx\"}} 999\n\
         mesh_request_duration_seconds_bucket{{{edge},le=\"0.01\"}} {fast}\n\
         mesh_request_duration_seconds_bucket{{{edge},le=\"0.1\"}} {slow}\n\
         mesh_request_duration_seconds_bucket{{{edge},le=\"+Inf\"}} {slow}\n\
         mesh_refusals_total{{direction=\"inbound\",code=\"DENIED\",object=\"AuthorizationPolicy/shop/p\"}} {bad}\n"
    )
}

#[test]
fn rates_come_from_what_grew() {
    let start = Instant::now();
    let (before, after) = (at(start, 0, &page(100, 0, 50, 100)), at(start, 10, &page(280, 20, 140, 300)));
    let edges = edges(Some(&before), &after);
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!((edge.source.as_str(), edge.destination.as_str()), ("shop/web-1", "shop/cart"));
    assert_eq!((edge.requests_per_second, edge.success), (20.0, Some(0.9)));
    assert!(edge.mutual && edge.identities.contains("spiffe://x/ns/shop/sa/cart"));
    // 90 of 200 were below 10 ms, the other 110 below 100 ms: the 100th is the 10th of those.
    assert!((edge.p50.unwrap() - (0.01 + 0.09 * 10.0 / 110.0)).abs() < 1e-9);
    let refusals = refusals(Some(&before), &after);
    assert_eq!((refusals[0].per_second, refusals[0].total), (2.0, 20.0));
}

#[test]
fn a_sidecar_that_began_anew_counts_from_nothing() {
    let start = Instant::now();
    let edges = edges(Some(&at(start, 0, &page(100, 0, 0, 0))), &at(start, 1, &page(30, 0, 0, 0)));
    assert_eq!((edges[0].requests_per_second, edges[0].p50), (30.0, None));
}

#[test]
fn plain_callers_are_seen_where_they_arrive_and_are_never_called_mutual() {
    let edge = edge_labels("inbound", "none", "")
        .replace("web-1", "")
        .replace("source_namespace=\"shop\"", "source_namespace=\"\"");
    let page = format!("mesh_requests_total{{{edge},status=\"2xx\"}} 5\n");
    let edges = edges(None, &at(Instant::now(), 0, &page));
    assert_eq!((edges[0].source.as_str(), edges[0].mutual, edges[0].requests_per_second), ("(unknown)", false, 5.0));
}

#[test]
fn what_a_sidecar_answers_itself_does_not_make_an_edge_plain() {
    let (over, own) = (edge_labels("outbound", "mutual", "spiffe://x/ns/a/sa/b"), edge_labels("outbound", "none", ""));
    let page =
        format!("mesh_requests_total{{{over},status=\"2xx\"}} 5\nmesh_requests_total{{{own},status=\"refused\"}} 1\n");
    assert!(edges(None, &at(Instant::now(), 0, &page))[0].mutual);
    let page =
        format!("mesh_requests_total{{{over},status=\"2xx\"}} 5\nmesh_requests_total{{{own},status=\"2xx\"}} 1\n");
    assert!(!edges(None, &at(Instant::now(), 0, &page))[0].mutual);
}

#[test]
fn an_open_bucket_gives_its_lower_bound() {
    let buckets = BTreeMap::from([(Bound(0.5), 0.0), (Bound(f64::INFINITY), 10.0)]);
    assert_eq!(quantile(&buckets, 0.99), Some(0.5));
    assert_eq!(quantile(&BTreeMap::new(), 0.5), None);
}

#[test]
fn a_stream_counts_as_a_connection() {
    let edge = edge_labels("outbound", "mutual", "spiffe://x/ns/a/sa/b");
    let stream = edge.replace("http1", "tcp");
    let page = format!("mesh_connections_total{{{stream}}} 5\nmesh_connections_total{{{edge}}} 7\n");
    let edges = edges(None, &at(Instant::now(), 0, &page));
    let [edge] = edges.as_slice() else { panic!("{edges:?}") };
    assert_eq!((edge.protocol.as_str(), edge.requests_per_second, edge.success), ("tcp", 5.0, None));
    assert!(edge.mutual);
}
