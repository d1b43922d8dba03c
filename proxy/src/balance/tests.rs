use std::collections::HashSet;

use mesh_api::model::{Protocol, WorkloadId};
use proptest::{collection::vec, prelude::*};

use super::*;

fn address(n: u8) -> SocketAddr {
    ([10, 0, 0, n], 80).into()
}

fn endpoint(n: u8, weight: u32, ready: bool) -> Endpoint {
    let workload = WorkloadId { namespace: "ns".into(), name: format!("w{n}").into() };
    Endpoint { address: address(n), identity: None, workload, owner: "".into(), zone: "".into(), weight, ready }
}

fn backend(endpoints: impl IntoIterator<Item = Endpoint>) -> Backend {
    Backend { protocol: Protocol::Http1, endpoints: endpoints.into_iter().map(|e| (e.address, e)).collect() }
}

fn of(weights: &[u32]) -> Backend {
    backend(weights.iter().zip(1..).map(|(weight, n)| endpoint(n, *weight, true)))
}

fn balancer(backend: &Backend, now: Instant) -> Balancer<u32> {
    let mut balancer = Balancer::new(7, now);
    balancer.update(backend, now, |_| 0);
    balancer
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// How many of `requests` each endpoint gets, one after the other, where `latency` says how long each takes.
fn serial(balancer: &Balancer<u32>, mut now: Instant, requests: u32, latency: impl Fn(u8) -> u64) -> BTreeMap<u8, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let pick = balancer.pick(now).unwrap();
        let n = number(&pick);
        now += ms(latency(n));
        pick.finish(Outcome::Answered, now);
        *counts.entry(n).or_default() += 1;
    }
    counts
}

fn number(pick: &Pick<u32>) -> u8 {
    match pick.endpoint().address.ip() {
        std::net::IpAddr::V4(v4) => v4.octets()[3],
        std::net::IpAddr::V6(_) => 0,
    }
}

#[test]
fn nothing_to_pick() {
    let now = Instant::now();
    assert!(balancer(&of(&[]), now).pick(now).is_none());
    assert!(balancer(&of(&[0, 0]), now).pick(now).is_none());
    let unready = backend([endpoint(1, 1, false), endpoint(2, 1, false)]);
    let unready = balancer(&unready, now);
    assert!(unready.pick(now).is_none());
    assert_eq!((unready.ready(), unready.nodes().count()), (0, 2));
}

#[test]
fn equal_endpoints_get_equal_shares() {
    let now = Instant::now();
    let counts = serial(&balancer(&of(&[1; 5]), now), now, 5000, |_| 1);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn weights_are_shares_at_low_load() {
    let now = Instant::now();
    let counts = serial(&balancer(&of(&[1, 3, 6, 0]), now), now, 10_000, |_| 1);
    assert!((850..1150).contains(&counts[&1]), "{counts:?}");
    assert!((2800..3200).contains(&counts[&2]), "{counts:?}");
    assert!(!counts.contains_key(&4), "{counts:?}");
}

#[test]
fn weights_are_shares_of_what_is_in_flight() {
    let now = Instant::now();
    let balancer = balancer(&of(&[10, 30, 60]), now);
    let picks: Vec<_> = (0..1000).map(|_| balancer.pick(now).unwrap()).collect();
    let loads: Vec<_> = balancer.nodes().map(|node| node.in_flight()).collect();
    assert_eq!(loads.iter().sum::<u32>(), 1000);
    for (load, wanted) in loads.iter().zip([100_u32, 300, 600]) {
        assert!(load.abs_diff(wanted) < 60, "{loads:?}");
    }
    drop(picks);
    assert!(balancer.nodes().all(|node| node.in_flight() == 0));
}

#[test]
fn slow_endpoints_get_less() {
    let now = Instant::now();
    let counts = serial(&balancer(&of(&[1; 4]), now), now, 4000, |n| if n == 1 { 100 } else { 5 });
    assert!(counts[&1] < 100, "{counts:?}");
    assert!(counts.values().skip(1).all(|count| *count > 1000), "{counts:?}");
}

#[test]
fn a_slow_endpoint_comes_back_when_it_is_fast_again() {
    let start = Instant::now();
    let balancer = balancer(&of(&[1; 2]), start);
    serial(&balancer, start, 100, |n| if n == 1 { 500 } else { 5 });
    let counts = serial(&balancer, start + Duration::from_secs(60), 4000, |_| 5);
    assert!(counts[&1] > 1000, "{counts:?}");
}

#[test]
fn failing_fast_does_not_attract() {
    let mut now = Instant::now();
    let balancer = balancer(&of(&[1; 2]), now);
    let mut failed = 0;
    for _ in 0..1000 {
        let pick = balancer.pick(now).unwrap();
        let bad = number(&pick) == 1;
        now += ms(if bad { 1 } else { 20 });
        pick.finish(if bad { Outcome::Failed } else { Outcome::Answered }, now);
        failed += u32::from(bad);
    }
    assert!(failed < 20, "{failed}");
}

#[test]
fn waiting_in_vain_makes_expensive() {
    let mut now = Instant::now();
    let balancer = balancer(&of(&[1; 2]), now);
    let mut given_up = 0;
    for _ in 0..1000 {
        let pick = balancer.pick(now).unwrap();
        if number(&pick) == 1 {
            // The caller waits for a second, then goes away. Others go on meanwhile.
            given_up += 1;
            now += ms(1000);
            balancer.pick(now).unwrap().finish(Outcome::Cancelled, now);
            drop(pick);
        } else {
            now += ms(5);
            pick.finish(Outcome::Answered, now);
        }
    }
    assert!(given_up < 50, "{given_up}");
}

#[test]
fn streams_are_load_and_not_latency() {
    let now = Instant::now();
    let balancer = balancer(&of(&[1]), now);
    let mut pick = balancer.pick(now).unwrap();
    pick.record(Outcome::Answered, now + ms(10));
    pick.record(Outcome::Failed, now + ms(20));
    let node = Rc::clone(pick.node());
    assert_eq!((node.in_flight(), node.latency(now + ms(10))), (1, Some(ms(10))));
    balancer.pick(now + Duration::from_secs(3600)).unwrap().finish(Outcome::Cancelled, now + Duration::from_secs(3600));
    drop(pick);
    assert_eq!(node.in_flight(), 0);
    assert!(node.latency(now + Duration::from_secs(3600)).is_none_or(|latency| latency < ms(10)));
}

#[test]
fn h12_endpoints_that_cannot_be_reached_are_probed_with_growing_waits() {
    let start = Instant::now();
    let mut now = start;
    let balancer = balancer(&of(&[1; 3]), now);
    let mut tries = Vec::new();
    while now < start + Duration::from_secs(120) {
        now += ms(1);
        let pick = balancer.pick(now).unwrap();
        if number(&pick) == 1 {
            tries.push(now - start);
            pick.finish(Outcome::Unreachable, now);
        } else {
            pick.finish(Outcome::Answered, now + ms(1));
        }
    }
    assert!((12..40).contains(&tries.len()), "{tries:?}");
    let longest = tries.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest < node::MAX_BACKOFF + Duration::from_secs(1), "{tries:?}");
    // It answers again: one probe, then its share.
    now += node::MAX_BACKOFF;
    let counts = serial(&balancer, now, 3000, |_| 1);
    assert!(counts[&1] > 800, "{counts:?}");
}

#[test]
fn one_probe_at_a_time() {
    let now = Instant::now();
    let balancer = balancer(&of(&[1; 2]), now);
    let bad = (0..100).filter_map(|_| balancer.pick(now)).find(|pick| number(pick) == 1).unwrap();
    bad.finish(Outcome::Unreachable, now);
    let later = now + ms(150);
    let picks: Vec<_> = (0..100).map(|_| balancer.pick(later).unwrap()).collect();
    assert_eq!(picks.iter().filter(|pick| number(pick) == 1).count(), 1);
}

#[test]
fn failing_together_is_one_failure() {
    let now = Instant::now();
    let balancer = balancer(&of(&[1; 2]), now);
    let picks: Vec<_> = (0..100).map(|_| balancer.pick(now).unwrap()).collect();
    for pick in picks {
        pick.finish(Outcome::Unreachable, now + ms(5));
    }
    assert!(balancer.nodes().all(|node| node.is_avoided(now + ms(20)) && !node.is_avoided(now + ms(106))));
}

#[test]
fn where_all_are_avoided_any_is_better_than_none() {
    let now = Instant::now();
    let balancer = balancer(&of(&[1; 3]), now);
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let pick = balancer.pick(now).unwrap();
        seen.insert(number(&pick));
        pick.finish(Outcome::Unreachable, now);
    }
    assert_eq!(seen.len(), 3);
    // The first that answers takes the load, at once.
    let pick = balancer.pick(now).unwrap();
    let good = number(&pick);
    pick.finish(Outcome::Answered, now + ms(1));
    for _ in 0..50 {
        let pick = balancer.pick(now + ms(2)).unwrap();
        assert_eq!(number(&pick), good);
        pick.finish(Outcome::Answered, now + ms(2));
    }
}

#[test]
fn another_try_goes_elsewhere() {
    let now = Instant::now();
    for weights in [&[1, 1][..], &[1, 1_000_000, 1], &[1; 9]] {
        let balancer = balancer(&of(weights), now);
        for _ in 0..300 {
            let pick = balancer.pick_excluding(address(2), now).unwrap();
            assert_ne!(number(&pick), 2);
        }
    }
    assert!(balancer(&of(&[1]), now).pick_excluding(address(1), now).is_none());
    assert!(balancer(&of(&[1]), now).pick_excluding(address(2), now).is_some());
    assert!(balancer(&of(&[]), now).pick_excluding(address(2), now).is_none());
}

#[test]
fn d4_updates_need_no_requests() {
    let now = Instant::now();
    let mut balancer = balancer(&of(&[]), now);
    for i in 0..10_000_u32 {
        let n = u8::try_from(i % 200).unwrap();
        balancer.update(&backend([endpoint(n, 1 + i % 3, i % 7 != 0), endpoint(201, 1, false)]), now, |_| i);
    }
    assert_eq!(balancer.nodes().count(), 2);
    let pick = balancer.pick(now).unwrap();
    assert_eq!((number(&pick), *pick.payload()), (199, 9999));
}

#[test]
fn state_and_payload_stay_with_the_endpoint() {
    let now = Instant::now();
    let mut balancer = Balancer::new(1, now);
    let mut made = 0;
    let mut update = |balancer: &mut Balancer<u32>, endpoint: Endpoint| {
        balancer.update(&backend([endpoint]), now, |_| {
            made += 1;
            made
        });
    };
    update(&mut balancer, endpoint(1, 1, true));
    let pick = balancer.pick(now).unwrap();
    update(&mut balancer, endpoint(1, 5, false));
    update(&mut balancer, endpoint(1, 2, true));
    let again = balancer.pick(now).unwrap();
    assert_eq!((*again.payload(), again.node().in_flight()), (1, 2));
    // Another identity at the same address: nothing of the old one is used for it.
    let other = Endpoint { identity: Some("spiffe://td/ns/a/sa/b".parse().unwrap()), ..endpoint(1, 2, true) };
    update(&mut balancer, other);
    let fresh = balancer.pick(now).unwrap();
    assert_eq!((*fresh.payload(), fresh.node().in_flight()), (2, 1));
    drop(balancer);
    assert_eq!((*pick.payload(), pick.node().in_flight()), (1, 2));
    pick.finish(Outcome::Answered, now);
    assert_eq!(again.node().in_flight(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Update(Vec<(u8, u32, bool)>),
    Pick,
    Retry(u8),
    Finish(usize, u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => vec((1_u8..8, 0_u32..4, any::<bool>()), 0..8).prop_map(Step::Update),
        4 => Just(Step::Pick),
        1 => (1_u8..8).prop_map(Step::Retry),
        4 => (any::<usize>(), 0_u8..5).prop_map(|(at, how)| Step::Finish(at, how)),
        1 => (0_u64..20_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn survives_churn(steps in vec(step(), 1..200), seed: u64) {
        let mut now = Instant::now();
        let mut balancer = Balancer::new(seed, now);
        let (mut current, mut picks) = (of(&[]), Vec::new());
        for step in steps {
            match step {
                Step::Update(endpoints) => {
                    current = backend(endpoints.into_iter().map(|(n, weight, ready)| endpoint(n, weight, ready)));
                    balancer.update(&current, now, |_| 0_u32);
                }
                Step::Pick | Step::Retry(_) => {
                    let excluded = if let Step::Retry(n) = step { Some(address(n)) } else { None };
                    let usable = |e: &&Endpoint| e.ready && e.weight > 0 && Some(e.address) != excluded;
                    let pick = match excluded {
                        Some(excluded) => balancer.pick_excluding(excluded, now),
                        None => balancer.pick(now),
                    };
                    prop_assert_eq!(pick.is_some(), current.endpoints.values().any(|e| usable(&e)));
                    if let Some(pick) = pick {
                        prop_assert!(usable(&&current.endpoints[&pick.endpoint().address]));
                        picks.push(pick);
                    }
                }
                Step::Finish(at, how) if !picks.is_empty() => {
                    let pick = picks.swap_remove(at % picks.len());
                    match how {
                        0 => drop(pick),
                        1 => pick.finish(Outcome::Failed, now),
                        2 => pick.finish(Outcome::Unreachable, now),
                        3 => pick.finish(Outcome::Cancelled, now),
                        _ => pick.finish(Outcome::Answered, now),
                    }
                }
                Step::Finish(..) => {}
                Step::Wait(millis) => now += ms(millis),
            }
            for node in balancer.nodes() {
                let open = picks.iter().filter(|pick| Rc::ptr_eq(pick.node(), node)).count();
                prop_assert_eq!(usize::try_from(node.in_flight()).unwrap(), open);
            }
        }
    }
}
