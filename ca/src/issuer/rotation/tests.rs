//! The state machine alone, with made-up certificates and years in a moment.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

const SCHEDULE: Schedule = Schedule {
    root_lifetime: Duration::from_secs(300 * 86_400),
    issuer_lifetime: Duration::from_secs(30 * 86_400),
    overlap: DAY,
    retire: DAY,
};

fn start() -> Time {
    Time::from_unix(1_795_000_000)
}

fn entry(generation: u64, made: Time, lifetime: Duration) -> Entry {
    Entry { generation, made, not_after: made.plus(lifetime), fingerprint: format!("{generation}") }
}

fn begin() -> State {
    first(entry(1, start(), SCHEDULE.root_lifetime), entry(1, start(), SCHEDULE.issuer_lifetime))
}

/// Carries a step out as the store would.
fn carry_out(state: &State, step: Step, now: Time) -> State {
    let root = |generation| Some(entry(generation, now, SCHEDULE.root_lifetime));
    let issuer = |generation, root: &Entry| {
        let mut made = entry(generation, now, SCHEDULE.issuer_lifetime);
        made.not_after = made.not_after.min(root.not_after);
        Some(made)
    };
    let of = |generation| state.roots.iter().find(|root| root.generation == generation).unwrap();
    let made = match step {
        Step::Announce { root: generation } => Made { root: root(generation), issuer: None },
        Step::Issue { issuer: generation, root } => Made { root: None, issuer: issuer(generation, of(root)) },
        Step::Retire { .. } => Made::default(),
        Step::Renew { root: first, issuer: second } => {
            let made = root(first);
            Made { issuer: issuer(second, made.as_ref().unwrap()), root: made }
        }
    };
    after(state, step, made, now).unwrap()
}

#[test]
fn nothing_happens_before_two_thirds() {
    let state = begin();
    for days in [0, 1, 19] {
        assert_eq!(plan(&state, &SCHEDULE, start().plus(DAY * days), None), Ok(None));
    }
    assert_eq!(next_due(&state, &SCHEDULE), Ok(start().plus(DAY * 20)));
    let due = plan(&state, &SCHEDULE, start().plus(DAY * 20), None);
    assert_eq!(due, Ok(Some(Step::Issue { issuer: 2, root: 1 })));
}

#[test]
fn a_root_changes_by_overlap() {
    let ordered = start().plus(HOUR);
    let step = plan(&begin(), &SCHEDULE, ordered, Some(Order::RotateRoot)).unwrap().unwrap();
    assert_eq!(step, Step::Announce { root: 2 });
    let announced = carry_out(&begin(), step, ordered);
    assert_eq!((announced.roots.len(), announced.issuer_root, announced.issuer.generation), (2, 1, 1));

    let switch = ordered.plus(DAY);
    assert_eq!(plan(&announced, &SCHEDULE, switch.minus(Duration::from_secs(1)), None), Ok(None));
    let busy = plan(&announced, &SCHEDULE, ordered.plus(HOUR), Some(Order::RotateRoot));
    assert_eq!(busy, Err(Refusal::Busy { phase: "announced", next: switch }));
    let step = plan(&announced, &SCHEDULE, switch, None).unwrap().unwrap();
    assert_eq!(step, Step::Issue { issuer: 2, root: 2 });
    let retiring = carry_out(&announced, step, switch);
    assert_eq!((retiring.roots.len(), retiring.issuer_root, retiring.phase), (2, 2, Phase::Retiring { since: switch }));

    let retire = switch.plus(DAY);
    assert_eq!(plan(&retiring, &SCHEDULE, retire.minus(Duration::from_secs(1)), None), Ok(None));
    let step = plan(&retiring, &SCHEDULE, retire, None).unwrap().unwrap();
    assert_eq!(step, Step::Retire { root: 1 });
    let steady = carry_out(&retiring, step, retire);
    assert_eq!((steady.roots.len(), steady.roots[0].generation, steady.phase), (1, 2, Phase::Steady));
    assert_eq!(plan(&steady, &SCHEDULE, retire, None), Ok(None));
}

#[test]
fn an_issuer_may_change_while_the_root_does() {
    let announced = carry_out(&begin(), Step::Announce { root: 2 }, start());
    let step = plan(&announced, &SCHEDULE, start().plus(HOUR), Some(Order::RotateIssuer)).unwrap().unwrap();
    assert_eq!(step, Step::Issue { issuer: 2, root: 1 }, "still under the root that everybody knows");
    let state = carry_out(&announced, step, start().plus(HOUR));
    assert_eq!(state.phase, Phase::Announced { since: start() });
}

#[test]
fn i12_nothing_is_signed_under_an_expired_root_until_somebody_decides() {
    let late = start().plus(SCHEDULE.root_lifetime).plus(HOUR);
    let expired = begin().roots[0].not_after;
    for order in [None, Some(Order::RotateIssuer), Some(Order::RotateRoot)] {
        assert_eq!(plan(&begin(), &SCHEDULE, late, order), Err(Refusal::RootExpired(expired)));
    }
    let step = plan(&begin(), &SCHEDULE, late, Some(Order::Repair)).unwrap().unwrap();
    let state = carry_out(&begin(), step, late);
    assert_eq!((state.roots.len(), state.roots[0].generation, state.issuer_root), (1, 2, 2));
    assert_eq!(state.issuer.generation, 2);
    let again = plan(&state, &SCHEDULE, late, Some(Order::Repair));
    assert!(matches!(again, Err(Refusal::NotExpired(_))));
}

#[test]
fn a_root_that_ends_soon_shortens_the_change() {
    // The authority slept until ten hours before the end.
    let late = start().plus(SCHEDULE.root_lifetime).minus(10 * HOUR);
    let step = plan(&begin(), &SCHEDULE, late, None).unwrap().unwrap();
    assert_eq!(step, Step::Announce { root: 2 });
    let announced = carry_out(&begin(), step, late);
    // The issuer expired long ago; until the switch there must be one that signs.
    let step = plan(&announced, &SCHEDULE, late, None).unwrap().unwrap();
    assert_eq!(step, Step::Issue { issuer: 2, root: 1 });
    let announced = carry_out(&announced, step, late);
    let half = late.plus(5 * HOUR);
    assert_eq!(plan(&announced, &SCHEDULE, half, None), Ok(Some(Step::Issue { issuer: 3, root: 2 })));
    let retiring = carry_out(&announced, Step::Issue { issuer: 3, root: 2 }, half);
    assert_eq!(plan(&retiring, &SCHEDULE, late.plus(10 * HOUR), None), Ok(Some(Step::Retire { root: 1 })));
}

#[test]
fn a_clock_that_goes_back_hurries_nothing() {
    let announced = carry_out(&begin(), Step::Announce { root: 2 }, start().plus(DAY));
    for now in [start(), start().plus(HOUR)] {
        assert_eq!(plan(&announced, &SCHEDULE, now, None), Ok(None));
    }
}

/// Whatever happens when, the promises hold: members always know the root of what is signed, for long enough before it
/// signs and for long enough after.
#[test]
fn promises_hold_for_years() {
    for (tick, orders) in [(HOUR, 0), (5 * HOUR, 7), (Duration::from_secs(1800), 3)] {
        let mut state = begin();
        let mut now = start();
        let mut trusted_since = std::collections::BTreeMap::from([(1_u64, start())]);
        let mut last_signed = std::collections::BTreeMap::new();
        let mut announced = 0;
        for turn in 0..20_000_u64 {
            now = now.plus(tick);
            let order = match turn % 1000 {
                1 if orders & 1 != 0 => Some(Order::RotateIssuer),
                5 if orders & 2 != 0 => Some(Order::RotateRoot),
                _ => None,
            };
            while let Ok(Some(step)) = plan(&state, &SCHEDULE, now, order) {
                state = carry_out(&state, step, now);
                match step {
                    Step::Announce { root } => {
                        announced += 1;
                        trusted_since.insert(root, now);
                    }
                    Step::Issue { root, .. } => assert!(root == 1 || now.since(trusted_since[&root]) >= DAY),
                    Step::Retire { root } => assert!(now.since(last_signed[&root]) >= DAY, "leaves outlive their root"),
                    Step::Renew { .. } => panic!("nothing expired"),
                }
                if order.is_some() {
                    break;
                }
            }
            assert!(state.roots.iter().any(|root| root.generation == state.issuer_root));
            assert!(state.roots.len() <= 2);
            assert!(!state.issuer.expired(now) && !state.roots.iter().any(|root| root.expired(now)));
            // A leaf of a day fits under the issuer.
            assert!(state.issuer.not_after.since(now) >= DAY);
            last_signed.insert(state.issuer_root, now);
        }
        assert!(announced >= 2, "{announced}");
    }
}

#[test]
fn the_state_survives_its_file() {
    let mut state = carry_out(&begin(), Step::Announce { root: 2 }, start());
    for _ in 0..2 {
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(serde_json::from_str::<State>(&text).unwrap(), state);
        state = carry_out(&state, Step::Issue { issuer: 2, root: 2 }, start());
    }
    assert!(serde_json::from_str::<State>("{}").is_err());
}
