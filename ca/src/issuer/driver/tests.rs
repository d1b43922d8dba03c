//! The driver in tokio's own time: what is due happens, what is ordered is answered, what fails changes nothing.

use mesh_api::sys::Clock;

use super::*;
use crate::issuer::rotation::Schedule;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn clock() -> Clock {
    let epoch = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000);
    Clock::Virtual { epoch, start: tokio::time::Instant::now() }
}

fn store(folder: &std::path::Path, clock: Clock) -> Source {
    let schedule = Schedule { root_lifetime: 300 * DAY, issuer_lifetime: 30 * DAY, overlap: DAY, retire: DAY };
    let store = Store::open(folder, "cluster.local".parse().unwrap(), schedule, clock.now().into()).unwrap();
    Source::Own(Box::new(store))
}

#[tokio::test(start_paused = true)]
async fn a_whole_rotation_of_the_root() {
    let top = tempfile::tempdir().unwrap();
    let clock = clock();
    let (driver, control, mut watching) = Driver::start(store(top.path(), clock), clock, HOUR).await.unwrap();
    let running = tokio::spawn(driver.run());
    let first = watching.borrow_and_update().mark().to_owned();

    let report = control.order(Order::RotateRoot).await.unwrap();
    assert_eq!((report.phase, report.roots.len()), ("announced", 2));
    let refused = control.order(Order::RotateRoot).await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("announced"), "{refused}");
    assert!(control.order(Order::Repair).await.unwrap_err().is_conflict());

    let began = tokio::time::Instant::now();
    let mut phases = Vec::new();
    for _ in 0..3 {
        watching.changed().await.unwrap();
        let issuing = Arc::clone(&watching.borrow_and_update());
        phases.push((issuing.report().phase, issuing.roots().len(), issuing.mark() == first));
        if phases.len() == 3 || issuing.report().phase == "steady" {
            break;
        }
    }
    let expected = [("announced", 2, true), ("retiring", 2, false), ("steady", 1, false)];
    assert_eq!(phases, expected);
    assert!(began.elapsed() >= 2 * DAY && began.elapsed() < 2 * DAY + 3 * HOUR);
    drop(control);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_issuer_on_order() {
    let top = tempfile::tempdir().unwrap();
    let clock = clock();
    let (driver, control, watching) = Driver::start(store(top.path(), clock), clock, HOUR).await.unwrap();
    let running = tokio::spawn(driver.run());
    let before = watching.borrow().mark().to_owned();
    let report = control.order(Order::RotateIssuer).await.unwrap();
    assert_eq!(report.issuer.generation, Some(2));
    assert_ne!(watching.borrow().mark(), before, "it is in force when the order is answered");
    drop(control);
    running.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_fails_changes_nothing() {
    let top = tempfile::tempdir().unwrap();
    let clock = clock();
    let (driver, control, watching) = Driver::start(store(top.path(), clock), clock, HOUR).await.unwrap();
    let running = tokio::spawn(driver.run());
    let before = watching.borrow().mark().to_owned();
    std::fs::remove_file(top.path().join("root-1.key")).unwrap();
    let failed = control.order(Order::RotateIssuer).await.unwrap_err();
    assert!(!failed.is_conflict() && failed.to_string().contains("root-1.key"), "{failed}");
    assert_eq!(watching.borrow().mark(), before);
    drop(control);
    running.await.unwrap().unwrap();
    assert!(!watching.has_changed().is_ok_and(|changed| changed));
}

#[tokio::test(start_paused = true)]
async fn i13_replaced_files_take_effect_and_bad_ones_do_not() {
    let (mine, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let clock = clock();
    let domain: mesh_api::spiffe::TrustDomain = "cluster.local".parse().unwrap();
    // Whoever makes the files is another authority here.
    let Source::Own(mut maker) = store(theirs.path(), clock) else { panic!("made so") };
    let files = crate::issuer::SuppliedFiles {
        roots_file: theirs.path().join("trust.pem"),
        chain_file: mine.path().join("chain.pem"),
        key_file: mine.path().join("key.pem"),
    };
    let put = |end: &str, from: u64, to: &std::path::Path| {
        std::fs::copy(theirs.path().join(format!("issuer-{from}.{end}")), to).unwrap();
    };
    put("pem", 1, &files.chain_file);
    put("key", 1, &files.key_file);
    let supplied = Supplied::new(files.clone(), domain, mine.path().join("trust.pem"));
    let (driver, control, mut watching) = Driver::start(Source::Supplied(supplied), clock, HOUR).await.unwrap();
    let running = tokio::spawn(driver.run());
    let refused = control.order(Order::RotateIssuer).await.unwrap_err();
    assert!(refused.is_conflict() && refused.to_string().contains("supplied"), "{refused}");

    let first = watching.borrow_and_update().mark().to_owned();
    maker.advance(clock.now().into(), Some(Order::RotateIssuer)).unwrap();
    put("pem", 2, &files.chain_file);
    assert!(tokio::time::timeout(3 * HOUR, watching.changed()).await.is_err(), "half of it");
    assert_eq!(watching.borrow().mark(), first);
    put("key", 2, &files.key_file);
    tokio::time::timeout(2 * HOUR, watching.changed()).await.unwrap().unwrap();
    assert_ne!(watching.borrow().mark(), first);
    drop(control);
    running.await.unwrap().unwrap();
}

#[test]
fn the_end_is_announced() {
    let at = Time::from_unix;
    for (now, expected) in [
        (0, None),
        (749, None),
        (750, Some(Concern::Quarter)),
        (899, Some(Concern::Quarter)),
        (900, Some(Concern::Tenth)),
        (1000, Some(Concern::Tenth)),
        (1001, Some(Concern::Expired)),
    ] {
        assert_eq!(concern(at(0), at(1000), at(now)), expected, "{now}");
    }
    assert!(Some(Concern::Quarter) > None && Concern::Tenth > Concern::Quarter);
}
