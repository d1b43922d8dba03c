//! What is written where, in every order in which things are heard of.

use super::*;

const NEW: Print = [2; 32];
const OLD: Print = [1; 32];

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Every job that is to be done now.
fn jobs(desk: &mut Desk, now: Instant) -> Vec<String> {
    std::iter::from_fn(|| desk.next(now).0).map(|job| job.namespace).collect()
}

fn written(desk: &mut Desk, names: &[String], print: Print) {
    names.iter().for_each(|name| desk.done(name, print, Outcome::Written));
}

#[test]
fn the_order_of_what_is_heard_does_not_matter() {
    let now = Instant::now();
    let steps: [fn(&mut Desk); 4] = [
        |desk| desk.want(NEW),
        |desk| desk.namespace("a", false),
        |desk| desk.config_map("a", OLD, true),
        |desk| desk.namespace("b", true),
    ];
    let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]];
    for order in orders {
        let mut desk = Desk::default();
        order.iter().for_each(|at| steps[*at](&mut desk));
        assert_eq!(desk.next(now), (Some(Job { namespace: "a".into(), replace: true }), None), "{order:?}");
        assert_eq!(desk.next(now), (None, None), "it is under way");
        assert_eq!(desk.behind(), 1);
        desk.done("a", NEW, Outcome::Written);
        assert_eq!((desk.next(now), desk.behind()), ((None, None), 0));
    }
}

#[test]
fn nothing_is_written_before_it_is_known_what() {
    let mut desk = Desk::default();
    desk.namespace("a", false);
    assert_eq!(desk.next(Instant::now()), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_is_undone_again_and_again_is_written_more_and_more_slowly() {
    let mut desk = Desk::default();
    let begin = Instant::now();
    desk.want(NEW);
    desk.namespace("a", false);
    let mut waits = Vec::new();
    let mut now = begin;
    for _ in 0..10 {
        assert_eq!(jobs(&mut desk, now), ["a"]);
        desk.done("a", NEW, Outcome::Written);
        desk.config_map_gone("a");
        let (job, later) = desk.next(now);
        assert_eq!(job, None);
        let later = later.unwrap();
        waits.push(later - now);
        now = later;
    }
    assert_eq!(waits[..4], [ms(500), ms(1000), ms(2000), ms(4000)]);
    assert_eq!(waits[9], PATIENCE.1);
    // Left alone for a while, it is forgiven.
    now += FORGIVEN;
    assert_eq!(jobs(&mut desk, now), ["a"]);
    desk.done("a", NEW, Outcome::Written);
    desk.config_map_gone("a");
    assert_eq!(desk.next(now).1.unwrap() - now, ms(500));
}

#[test]
fn a_failure_is_tried_again_and_holds_up_nobody() {
    let now = Instant::now();
    let mut desk = Desk::default();
    desk.want(NEW);
    for name in ["a", "b", "c"] {
        desk.namespace(name, false);
    }
    let all = jobs(&mut desk, now);
    assert_eq!(all, ["a", "b", "c"]);
    desk.done("a", NEW, Outcome::Failed);
    desk.done("b", NEW, Outcome::Immutable);
    desk.done("c", NEW, Outcome::Gone);
    assert_eq!((jobs(&mut desk, now), desk.behind()), (vec![], 3));
    let later = now + ms(500);
    let again: Vec<Job> = std::iter::from_fn(|| desk.next(later).0).collect();
    assert_eq!(again.iter().map(|job| job.replace).collect::<Vec<_>>(), [false, true, false]);
    // What was written meanwhile for an older wish is written once more.
    desk.want(OLD);
    desk.done("a", NEW, Outcome::Written);
    let much_later = later + FORGIVEN;
    assert_eq!(jobs(&mut desk, much_later), ["a"]);
}

#[test]
fn what_came_and_went_is_forgotten() {
    let now = Instant::now();
    let mut desk = Desk::default();
    desk.want(NEW);
    for name in ["a", "b"] {
        desk.namespace(name, false);
        desk.config_map(name, NEW, false);
    }
    desk.config_map("early", NEW, false);
    // A new list: `b` is gone, and so are the ConfigMaps of `a` and of one that was never heard of.
    desk.only_namespaces(&BTreeSet::from(["a".to_owned()]));
    desk.only_config_maps(&BTreeSet::new());
    assert_eq!(jobs(&mut desk, now), ["a"]);
    written(&mut desk, &["a".into()], NEW);
    desk.namespace("early", false);
    assert_eq!(jobs(&mut desk, now), ["early"]);
    desk.namespace_gone("early");
    desk.done("early", NEW, Outcome::Written);
    desk.namespace_gone("never");
    desk.config_map_gone("never");
    assert_eq!((jobs(&mut desk, now), desk.behind()), (vec![], 0));
    // The same name again is another namespace.
    desk.namespace("early", false);
    assert_eq!(jobs(&mut desk, now), ["early"]);
}
