//! Watches that break, objects that cannot be read, kinds that come and go.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::source::kubernetes::kinds::number_of;

fn service(name: &str, uid: &str, port: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": uid, "generation": port}, "spec": {"ports": [{"port": port}]}})
}

fn policy(name: &str, uid: &str, rules: Value) -> Value {
    json!({"metadata": {"name": name, "namespace": "ns", "uid": uid}, "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "rules": rules}})
}

struct World {
    state: State,
    board: Arc<Board>,
}

impl World {
    fn new() -> Self {
        let board = Arc::new(Board::default());
        Self { state: State::new(board.clone()), board }
    }

    fn step(&mut self, kind: &str, step: Step) -> Vec<String> {
        short(&self.state.take(number_of(kind), step))
    }

    fn see(&mut self, kind: &str, value: &Value) -> Vec<String> {
        self.step(kind, Step::Seen(Box::new(Body::new(number_of(kind), value))))
    }

    fn gone(&mut self, kind: &str, value: &Value) -> Vec<String> {
        self.step(kind, Step::Gone(Box::new(Body::new(number_of(kind), value))))
    }

    fn list(&mut self, kind: &str, values: &[Value]) -> Vec<String> {
        let mut events = self.step(kind, Step::Listing);
        events.extend(values.iter().flat_map(|value| self.see(kind, value)));
        events.extend(self.step(kind, Step::Listed));
        events
    }

    fn serve(&mut self, without: &[&str]) -> Vec<String> {
        let served: Vec<bool> = KINDS.iter().map(|kind| !without.contains(&kind.name)).collect();
        short(&self.state.serve(&served))
    }
}

/// Short names of events, so that a test can say what it expects in one line.
fn short(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Apply(resource) => format!("+{}", resource.metadata().name),
        Event::Delete(object) => format!("-{}", object.name),
        Event::Synced => "synced".into(),
        Event::Problems(problems) => format!("{} problems", problems.len()),
    };
    events.iter().map(name).collect()
}

#[test]
fn everything_is_known_when_every_kind_that_is_there_was_listed() {
    let mut world = World::new();
    assert!(world.list("Service", &[service("a", "1", 80)]).contains(&"+a".to_owned()));
    let without = ["HTTPRoute", "AuthorizationPolicy", "TransportPolicy", "ExternalWorkload"];
    assert!(world.serve(&without).is_empty());
    for kind in ["Namespace", "Node", "Pod"] {
        assert!(world.list(kind, &[]).is_empty(), "{kind}");
    }
    assert_eq!(world.list("EndpointSlice", &[]), ["synced"]);
    // What comes later is told as it comes; that everything is known is told once.
    assert!(world.serve(&[]).is_empty());
    assert_eq!(world.list("TransportPolicy", &[]), Vec::<String>::new());
}

#[test]
fn j01_what_is_gone_shows_when_a_new_list_is_complete() {
    let mut world = World::new();
    world.list("Service", &[service("a", "1", 80), service("b", "2", 80), service("c", "3", 80)]);
    // The watch broke; what is listed anew came meanwhile, went, or is as before.
    assert!(world.step("Service", Step::Listing).is_empty());
    assert_eq!(world.see("Service", &service("b", "2", 81)), ["+b"]);
    // The list itself broke in the middle, and begins again: nothing was taken away.
    assert!(world.step("Service", Step::Listing).is_empty());
    assert_eq!(world.see("Service", &service("a", "1", 80)), ["+a"]);
    assert_eq!(world.see("Service", &service("d", "4", 80)), ["+d"]);
    let mut gone = world.step("Service", Step::Listed);
    gone.sort();
    assert_eq!(gone, ["-b", "-c"]);
    assert_eq!(world.gone("Service", &service("a", "1", 80)), ["-a"]);
    assert!(world.gone("Service", &service("a", "1", 80)).is_empty(), "gone already");
    // J04: an empty list that is complete is believed.
    assert_eq!(world.list("Service", &[]), ["-d"]);
}

#[test]
fn another_object_of_the_same_name_begins_anew() {
    let mut world = World::new();
    world.list("AuthorizationPolicy", &[policy("p", "1", json!([]))]);
    // While nobody watched it was deleted and made again, and now cannot be read: the old one's state must not stay.
    let events = world.list("AuthorizationPolicy", &[policy("p", "2", json!("nonsense"))]);
    assert_eq!(events, ["-p", "+p", "1 problems"], "gone, and stood in for");
}

#[test]
fn j14_an_object_that_turns_bad_keeps_its_last_good_state() {
    let mut world = World::new();
    world.list("AuthorizationPolicy", &[]);
    assert_eq!(world.see("AuthorizationPolicy", &policy("p", "1", json!([]))), ["+p"]);
    assert_eq!(world.see("AuthorizationPolicy", &policy("p", "1", json!("nonsense"))), ["1 problems"]);
    assert!(world.state.told_problems[0].message.ends_with("the object's last good state stays in force"));
    assert_eq!(world.see("AuthorizationPolicy", &policy("p", "1", json!([{}]))), ["+p", "0 problems"]);
    // One that never was good is stood in for; one that nothing can stand in for is not there.
    assert_eq!(world.see("AuthorizationPolicy", &policy("q", "2", json!("nonsense"))), ["+q", "1 problems"]);
    assert_eq!(world.gone("AuthorizationPolicy", &policy("q", "2", json!("nonsense"))), ["-q", "0 problems"]);
    let audit = json!({"metadata": {"name": "r", "namespace": "ns"}, "spec": {"action": "Audit", "rules": 7}});
    assert_eq!(world.see("AuthorizationPolicy", &audit), ["1 problems"]);
    assert_eq!(world.gone("AuthorizationPolicy", &audit), ["0 problems"]);
}

#[test]
fn j06_one_object_that_cannot_be_read_hurts_nobody_else() {
    let mut world = World::new();
    let bad = json!({"metadata": {"name": "bad", "namespace": "ns"}, "spec": {"ports": [{"port": "x"}]}});
    let nameless = json!({"metadata": {"namespace": "ns"}});
    let events = world.list("Service", &[service("a", "1", 80), bad, nameless, json!(null), service("b", "2", 80)]);
    assert_eq!(events, ["+a", "+b", "2 problems"]);
    assert_eq!(world.state.told_problems.iter().filter(|problem| problem.object.is_some()).count(), 1);
}

#[test]
fn problems_are_bounded_and_not_told_in_the_middle_of_a_list() {
    let mut world = World::new();
    let bad = |n: usize| json!({"metadata": {"name": format!("s{n}"), "namespace": "ns"}, "spec": {"ports": 1}});
    let all: Vec<Value> = (0..MAX_PROBLEMS + 10).map(bad).collect();
    assert_eq!(world.list("Service", &all), [format!("{MAX_PROBLEMS} problems")]);
}

#[test]
fn j08_a_kind_that_is_not_served_any_more_takes_its_objects_along() {
    let mut world = World::new();
    world.serve(&[]);
    world.list("TransportPolicy", &[json!({"metadata": {"name": "t", "namespace": "ns"}, "spec": {"mode": "Strict"}})]);
    world.list("Service", &[service("a", "1", 80)]);
    assert_eq!(world.board.all().len(), 1);
    assert_eq!(world.serve(&["TransportPolicy", "HTTPRoute"]), ["-t"]);
    assert!(world.board.all().is_empty());
    assert!(world.serve(&["TransportPolicy"]).is_empty());
}

#[test]
fn statuses_are_put_on_the_board_also_of_what_cannot_be_read() {
    let mut world = World::new();
    let mut bad = policy("p", "1", json!("nonsense"));
    bad["metadata"]["generation"] = 7.into();
    bad["metadata"]["resourceVersion"] = "42".into();
    world.see("AuthorizationPolicy", &bad);
    world.see("Service", &service("a", "1", 80));
    let [(object, observed)] = &world.board.all()[..] else { panic!() };
    assert_eq!((&*object.name, observed.generation, observed.version.as_str()), ("p", 7, "42"));
    world.gone("AuthorizationPolicy", &bad);
    assert!(world.board.all().is_empty());
}

/// What comes of an API server, over and over, with breaks.
#[derive(Clone, Debug)]
enum Move {
    Put(u8, u8, bool),
    Drop(u8),
    /// The watch breaks: what happens is not heard until it is listed anew.
    Break,
    Relist(bool),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        6 => (0..5u8, 1..4u8, proptest::bool::weighted(0.8)).prop_map(|(name, port, good)| Move::Put(name, port, good)),
        2 => (0..5u8).prop_map(Move::Drop),
        1 => Just(Move::Break),
        1 => any::<bool>().prop_map(Move::Relist),
    ];
    proptest::collection::vec(one, 1..60)
}

proptest! {
    /// However the watch breaks: after a complete list, what is in force is what is there.
    #[test]
    fn after_a_list_what_is_told_is_what_is_there(moves in moves()) {
        let mut world = World::new();
        let mut there: BTreeMap<u8, (u64, Value, bool)> = BTreeMap::new();
        let mut told: BTreeMap<String, i64> = BTreeMap::new();
        let (mut broken, mut uid) = (true, 0u64);
        let take = |events: Vec<Event>, told: &mut BTreeMap<String, i64>| {
            for event in events {
                match event {
                    Event::Apply(object) => {
                        told.insert(object.metadata().name.clone(), object.metadata().generation.unwrap());
                    }
                    Event::Delete(object) => {
                        told.remove(&*object.name).expect("only what was told is taken back");
                    }
                    _ => {}
                }
            }
        };
        let number = number_of("Service");
        let all = |there: &BTreeMap<u8, (u64, Value, bool)>| there.values().map(|(_, value, _)| value.clone()).collect::<Vec<_>>();
        for step in moves.into_iter().chain([Move::Relist(true)]) {
            match step {
                Move::Put(name, port, good) => {
                    uid += 1;
                    let id = there.get(&name).map_or(uid, |(id, _, _)| *id);
                    let mut value = service(&format!("s{name}"), &id.to_string(), u32::from(port));
                    if !good {
                        value["spec"]["ports"] = "x".into();
                    }
                    there.insert(name, (id, value.clone(), good));
                    if !broken {
                        take(world.state.take(number, Step::Seen(Box::new(Body::new(number, &value)))), &mut told);
                    }
                }
                Move::Drop(name) => {
                    let gone = there.remove(&name);
                    if let Some((_, value, _)) = gone.filter(|_| !broken) {
                        take(world.state.take(number, Step::Gone(Box::new(Body::new(number, &value)))), &mut told);
                    }
                }
                Move::Break => broken = true,
                Move::Relist(complete) => {
                    take(world.state.take(number, Step::Listing), &mut told);
                    for value in all(&there) {
                        take(world.state.take(number, Step::Seen(Box::new(Body::new(number, &value)))), &mut told);
                    }
                    if complete {
                        take(world.state.take(number, Step::Listed), &mut told);
                    }
                    broken = !complete;
                }
            }
        }
        for (name, (_, value, good)) in &there {
            if *good {
                prop_assert_eq!(told.get(&format!("s{name}")).copied(), value["metadata"]["generation"].as_i64());
            }
        }
        for name in told.keys() {
            prop_assert!(there.keys().any(|there| *name == format!("s{there}")), "{} is gone", name);
        }
    }
}
