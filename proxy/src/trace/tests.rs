use proptest::prelude::*;

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        headers.append(*name, HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn read(pairs: &[(&'static str, &str)]) -> Incoming {
    Incoming::read(&headers(pairs))
}

/// 1, 2, 3, ...
fn count() -> impl FnMut() -> u64 {
    let mut last = 0;
    move || {
        last += 1;
        last
    }
}

/// What goes on after one span was made.
fn through(pairs: &[(&'static str, &str)]) -> Vec<(String, String)> {
    let mut headers = headers(pairs);
    Incoming::read(&headers).span(Sampler::ratio(0.0), count()).write(&mut headers);
    let mut all: Vec<_> =
        headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    all.sort_unstable();
    all
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn w3c_goes_on() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let wanted = format!("00-{TRACE}-0000000000000001-01");
    assert_eq!(
        through(&[("traceparent", &parent), ("tracestate", "a=b,c=d")]),
        pairs(&[("traceparent", &wanted), ("tracestate", "a=b,c=d")])
    );
    let unsampled = format!("00-{TRACE}-{SPAN}-02");
    let wanted = format!("00-{TRACE}-0000000000000001-02");
    assert_eq!(through(&[("traceparent", &unsampled)]), pairs(&[("traceparent", &wanted)]));
    assert!(read(&[("traceparent", &format!("cc-{TRACE}-{SPAN}-01-more"))]).parent.is_some());
}

#[test]
fn without_context_a_trace_begins() {
    let wanted = "00-00000000000000010000000000000002-0000000000000003-02";
    assert_eq!(through(&[]), pairs(&[("traceparent", wanted)]));
    let span = Incoming::default().span(Sampler::ratio(1.0), || 0);
    assert!(span.sampled && span.trace_id != 0 && span.span_id != 0 && span.parent_id.is_none());
}

#[test]
fn c21_bad_values_are_as_if_not_there() {
    let good = format!("00-{TRACE}-{SPAN}-01");
    let zero_trace = format!("00-{}-{SPAN}-01", "0".repeat(32));
    let zero_span = format!("00-{TRACE}-{}-01", "0".repeat(16));
    let upper = good.to_uppercase();
    let long = good.repeat(150);
    for bad in [
        "",
        "00",
        &good[..54],
        &format!("{good}-"),
        &format!("{good}x"),
        &format!("ff{}", &good[2..]),
        &format!("0x{}", &good[2..]),
        &good.replace('-', "_"),
        &zero_trace,
        &zero_span,
        &upper,
        &long,
        &format!("00-{TRACE}{}-{}-01", &SPAN[..1], &SPAN[1..]),
    ] {
        assert_eq!(read(&[("traceparent", bad)]), Incoming::default(), "{bad}");
    }
    assert_eq!(read(&[("traceparent", &good), ("traceparent", &good)]), Incoming::default());
    for bad in [
        "2",
        "",
        "x-y",
        &format!("{TRACE}-"),
        &format!("{TRACE}-{SPAN}-2"),
        &format!("{TRACE}-{SPAN}-1-x"),
        &format!("{TRACE}-{SPAN}-1-{SPAN}-"),
        &format!("{}-{SPAN}", &TRACE[1..]),
        &long,
    ] {
        assert_eq!(read(&[("b3", bad)]), Incoming::default(), "{bad}");
    }
    assert_eq!(read(&[("x-b3-traceid", TRACE)]), Incoming::default());
    assert_eq!(read(&[("x-b3-traceid", "zz"), ("x-b3-spanid", SPAN), ("x-b3-sampled", "maybe")]), Incoming::default());
    let not_text = HeaderMap::from_iter([(HeaderName::from_static("b3"), HeaderValue::from_bytes(b"\xff").unwrap())]);
    assert_eq!(Incoming::read(&not_text), Incoming::default());
}

#[test]
fn c21_states_without_parent_or_measure_are_dropped() {
    assert!(!through(&[("tracestate", "a=b")]).iter().any(|(name, _)| name == "tracestate"));
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let many = vec!["a=b"; 33].join(",");
    for state in [&"a".repeat(8000), &many] {
        let gone = through(&[("traceparent", &parent), ("tracestate", state)]);
        assert_eq!(gone.len(), 1, "{gone:?}");
    }
}

#[test]
fn b3_goes_on_as_it_came() {
    let new = "0000000000000001";
    let w3c = format!("00-{TRACE}-{new}-01");
    let single = format!("{TRACE}-{SPAN}-1-05e3ac9a4f6e3b90");
    assert_eq!(
        through(&[("b3", &single)]),
        pairs(&[("b3", &format!("{TRACE}-{new}-1-{SPAN}")), ("traceparent", &w3c)])
    );
    assert_eq!(
        through(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "true")]),
        pairs(&[
            ("traceparent", &w3c),
            ("x-b3-parentspanid", SPAN),
            ("x-b3-sampled", "1"),
            ("x-b3-spanid", new),
            ("x-b3-traceid", TRACE),
        ])
    );
    assert_eq!(
        through(&[("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-flags", "1"), ("x-b3-sampled", "0")]),
        pairs(&[
            ("traceparent", &w3c),
            ("x-b3-flags", "1"),
            ("x-b3-parentspanid", SPAN),
            ("x-b3-spanid", new),
            ("x-b3-traceid", TRACE),
        ])
    );
    let short = &TRACE[16..];
    assert_eq!(
        through(&[("b3", &format!("{short}-{SPAN}-d"))]),
        pairs(&[("b3", &format!("{short}-{new}-d-{SPAN}")), ("traceparent", &format!("00-{:0>32}-{new}-01", short)),])
    );
}

#[test]
fn decisions_without_ids() {
    let denied = read(&[("b3", "0")]);
    assert_eq!((denied.parent, denied.sampled), (None, Some(false)));
    assert!(!denied.span(Sampler::ratio(1.0), count()).sampled);
    let asked = read(&[("x-b3-sampled", "1")]);
    assert!(asked.span(Sampler::ratio(0.0), count()).sampled);
    let undecided = read(&[("b3", &format!("{TRACE}-{SPAN}"))]);
    assert_eq!(undecided.sampled, None);
}

#[test]
fn w3c_is_preferred_and_b3_follows_it() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let out = through(&[("traceparent", &parent), ("b3", "1111111111111111-2222222222222222-0")]);
    assert_eq!(
        out,
        pairs(&[
            ("b3", &format!("{TRACE}-0000000000000001-1-{SPAN}")),
            ("traceparent", &format!("00-{TRACE}-0000000000000001-01")),
        ])
    );
}

#[test]
fn children_hang_together() {
    let mut random = count();
    let server = read(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01"))]).span(Sampler::ratio(0.0), &mut random);
    let client = server.child(&mut random);
    assert_eq!((client.trace_id, client.parent_id, client.sampled), (server.trace_id, Some(server.span_id), true));
    assert_ne!(client.span_id, server.span_id);
}

#[test]
fn ratios() {
    let mut state = 0_u64;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    for (ratio, wanted) in [(0.0, 0..=0), (0.1, 850..=1150), (1.0, 10_000..=10_000), (7.0, 10_000..=10_000)] {
        let sampler = Sampler::ratio(ratio);
        let count = (0..10_000).filter(|_| Incoming::default().span(sampler, &mut random).sampled).count();
        assert!(wanted.contains(&count), "{ratio} {count}");
    }
    assert_eq!(Sampler::ratio(f64::NAN), Sampler::ratio(-1.0));
}

proptest! {
    #[test]
    fn any_value_is_read_without_harm(value in "[0-9a-f-]{0,80}", name in prop::sample::select(vec!["traceparent", "b3", "x-b3-traceid"])) {
        through(&[(name, &value), ("x-b3-spanid", &value)]);
    }

    #[test]
    fn what_is_written_is_read(trace: u128, span: u64, sampled: bool, single: bool, multi: bool) {
        let passed_on = PassedOn { b3_single: single, b3_multi: multi, ..PassedOn::default() };
        let (trace_id, span_id) = (trace.max(1), span.max(1));
        let mut headers = HeaderMap::new();
        Span { trace_id, span_id, parent_id: None, sampled, passed_on }.write(&mut headers);
        for name in ["", "traceparent", "b3"] {
            headers.remove(name);
            let read = Incoming::read(&headers);
            if headers.is_empty() {
                prop_assert_eq!(read, Incoming::default());
            } else {
                prop_assert_eq!(read.parent, Some(Parent { trace_id, span_id }));
                prop_assert_eq!(read.sampled, Some(sampled));
            }
        }
    }
}
