//! The folder: born closed, found again after every crash, never talked into something else.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    time::Duration,
};

use mesh_api::tls::{TrustBundle, Usage, verify_peer};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::*;
use crate::pki::{LeafSpec, PrivateKey, Serial, make_leaf};

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

fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

fn open(folder: &Path, now: Time) -> Result<Store, StoreError> {
    Store::open(folder, domain(), SCHEDULE, now)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// A member's certificate, with what came with it.
struct Held {
    leaf: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    not_after: Time,
}

fn issue(issuing: &Issuing, now: Time) -> Held {
    let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    let key = PrivateKey::generate().unwrap().public().unwrap();
    let spec =
        LeafSpec { identity: &identity, dns_names: &[], key: &key, serial: Serial::random().unwrap(), ttl: DAY, now };
    let leaf = make_leaf(issuing.signer(), &spec).unwrap();
    Held { leaf: leaf.der, chain: issuing.chain().to_vec(), not_after: leaf.not_after }
}

fn bundle(issuing: &Issuing) -> TrustBundle {
    TrustBundle::new(domain(), issuing.roots().iter().map(|root| root.der().clone()).collect()).unwrap()
}

fn accepts(bundle: &TrustBundle, held: &Held, now: Time) -> bool {
    let moment = UnixTime::since_unix_epoch(Duration::from_secs(now.unix()));
    verify_peer(bundle, &held.leaf, &held.chain, Usage::Client, moment).is_ok()
}

#[test]
fn first_start_makes_everything_closed() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("state");
    let store = open(&folder, start()).unwrap();
    assert_eq!(mode(&folder), 0o700);
    for (name, expected) in [
        ("root-1.key", 0o600),
        ("issuer-1.key", 0o600),
        ("root-1.pem", 0o644),
        ("issuer-1.pem", 0o644),
        ("trust.pem", 0o644),
        ("state.json", 0o644),
    ] {
        assert_eq!(mode(&folder.join(name)), expected, "{name}");
    }
    let issuing = store.issuing(start()).unwrap();
    assert_eq!(fs::read_to_string(folder.join("trust.pem")).unwrap(), issuing.trust_pem());
    assert!(accepts(&bundle(&issuing), &issue(&issuing, start()), start()));
    assert_eq!((issuing.report().phase, issuing.report().roots.len()), ("steady", 1));
    drop(store);
    let again = open(&folder, start().plus(HOUR)).unwrap().issuing(start().plus(HOUR)).unwrap();
    assert_eq!(again.mark(), issuing.mark());
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let top = tempfile::tempdir().unwrap();
    let first = open(top.path(), start()).unwrap();
    assert!(matches!(open(top.path(), start()), Err(StoreError::Locked(_))));
    drop(first);
    assert!(open(top.path(), start()).is_ok());
}

#[test]
fn keys_open_to_others_are_refused() {
    let top = tempfile::tempdir().unwrap();
    drop(open(top.path(), start()).unwrap());
    for key in ["root-1.key", "issuer-1.key"] {
        let path = top.path().join(key);
        for mode in [0o644, 0o640, 0o604] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let told = open(top.path(), start()).unwrap_err().to_string();
            assert!(told.contains(&format!("chmod 600 '{}'", path.display())), "{told}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::set_permissions(top.path(), fs::Permissions::from_mode(0o770)).unwrap();
    assert!(open(top.path(), start()).unwrap_err().to_string().contains("chmod go-w"));
}

#[test]
fn i12_what_does_not_fit_is_refused_by_name() {
    let top = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    drop(open(top.path(), start()).unwrap());
    drop(open(other.path(), start()).unwrap());
    let told = || open(top.path(), start()).unwrap_err().to_string();
    let path = |name: &str| top.path().join(name);

    for (name, content, expected) in [
        ("issuer-1.key", fs::read(other.path().join("issuer-1.key")).unwrap(), "does not belong to the certificate"),
        ("issuer-1.key", b"garbage".to_vec(), "no private key in PEM form"),
        (
            "issuer-1.pem",
            fs::read(other.path().join("issuer-1.pem")).unwrap(),
            "is not the certificate that state.json",
        ),
        ("root-1.pem", b"garbage".to_vec(), "no certificate in PEM form"),
        ("state.json", b"{".to_vec(), "cannot be read"),
        ("state.json", b"{\"version\":2,\"trust_domain\":\"x\",\"state\":{}}".to_vec(), "cannot be read"),
    ] {
        let good = fs::read(path(name)).unwrap();
        fs::write(path(name), content).unwrap();
        let told = told();
        assert!(told.contains(name) && told.contains(expected), "{name}: {told}");
        fs::write(path(name), good).unwrap();
    }
    let foreign = Store::open(top.path(), "other.org".parse().unwrap(), SCHEDULE, start()).unwrap_err().to_string();
    assert!(foreign.contains("belongs to the trust domain `cluster.local`, configured is `other.org`"), "{foreign}");
    assert!(open(top.path(), start()).is_ok());
}

#[test]
fn a_root_that_is_there_is_taken() {
    let maker = tempfile::tempdir().unwrap();
    let made = open(maker.path(), start()).unwrap().issuing(start()).unwrap();
    let top = tempfile::tempdir().unwrap();
    let copy = |name: &str| {
        fs::copy(maker.path().join(name), top.path().join(name)).unwrap();
    };
    copy("root-1.pem");
    let Err(StoreError::Keyring { error, .. }) = open(top.path(), start()) else { panic!("it was taken") };
    assert!(matches!(error, KeyringError::NoKey(_)));
    copy("root-1.key");
    let taken = open(top.path(), start()).unwrap().issuing(start()).unwrap();
    assert_eq!(taken.roots()[0].fingerprint(), made.roots()[0].fingerprint());
    assert_ne!(taken.mark(), made.mark(), "the issuer is its own");

    // An issuer of another root is not.
    let stranger = tempfile::tempdir().unwrap();
    copy_into(&stranger, maker.path(), &["root-1.pem", "root-1.key"]);
    let other = tempfile::tempdir().unwrap();
    drop(open(other.path(), start()).unwrap());
    copy_into(&stranger, other.path(), &["issuer-1.pem", "issuer-1.key"]);
    assert!(open(stranger.path(), start()).unwrap_err().to_string().contains("not signed by any"));
}

fn copy_into(to: &tempfile::TempDir, from: &Path, names: &[&str]) {
    for name in names {
        fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
}

#[test]
fn issuers_renew_themselves() {
    let top = tempfile::tempdir().unwrap();
    let mut store = open(top.path(), start()).unwrap();
    let first = store.issuing(start()).unwrap();
    assert_eq!(store.advance(start().plus(19 * DAY), None).unwrap(), None);
    let due = start().plus(20 * DAY);
    assert_eq!(store.advance(due, None).unwrap(), Some(Step::Issue { issuer: 2, root: 1 }));
    let second = store.issuing(due).unwrap();
    assert_ne!(first.mark(), second.mark());
    assert_eq!(second.signer().cert().not_after(), due.plus(SCHEDULE.issuer_lifetime));
    assert!(accepts(&bundle(&first), &issue(&second, due), due), "who knows the root needs nothing new");
    assert!(!top.path().join("issuer-1.key").exists(), "the old key is gone");
    assert_eq!(store.advance(due, Some(Order::RotateIssuer)).unwrap(), Some(Step::Issue { issuer: 3, root: 1 }));
}

/// What a whole change of root promises to members, looked at from outside.
#[test]
fn roots_change_without_a_member_noticing() {
    let top = tempfile::tempdir().unwrap();
    let mut store = open(top.path(), start()).unwrap();
    let before = store.issuing(start()).unwrap();
    let old = issue(&before, start().plus(DAY).plus(HOUR));

    let announced_at = start().plus(HOUR);
    assert_eq!(store.advance(announced_at, Some(Order::RotateRoot)).unwrap(), Some(Step::Announce { root: 2 }));
    let announced = store.issuing(announced_at).unwrap();
    assert_eq!(announced.mark(), before.mark(), "nobody renews yet");
    assert_eq!(announced.roots().len(), 2);
    assert!(accepts(&bundle(&before), &issue(&announced, announced_at), announced_at));

    let switched_at = announced_at.plus(DAY);
    assert_eq!(store.advance(switched_at, None).unwrap(), Some(Step::Issue { issuer: 2, root: 2 }));
    let switched = store.issuing(switched_at).unwrap();
    assert_ne!(switched.mark(), before.mark(), "everybody renews soon");
    let new = issue(&switched, switched_at);
    assert!(accepts(&bundle(&announced), &new, switched_at), "whoever heard of the announcement knows the new root");
    assert!(accepts(&bundle(&switched), &old, switched_at), "whoever did not renew yet is known");
    assert!(!accepts(&bundle(&before), &new, switched_at), "it is another root");

    let retired_at = switched_at.plus(DAY);
    assert_eq!(store.advance(retired_at, None).unwrap(), Some(Step::Retire { root: 1 }));
    let retired = store.issuing(retired_at).unwrap();
    assert_eq!(retired.roots().len(), 1);
    assert!(old.not_after <= retired_at.plus(HOUR), "leaves under the old root are at their end");
    assert!(accepts(&bundle(&retired), &issue(&retired, retired_at), retired_at));
    assert!(!top.path().join("root-1.key").exists() && !top.path().join("root-1.pem").exists());
    assert_eq!(fs::read_to_string(top.path().join("trust.pem")).unwrap(), retired.trust_pem());
}

/// The process dies after each single write of each step, in the first start and in a whole rotation; the next process
/// goes on from there, and no member ever meets a certificate that it cannot check.
#[test]
fn a_crash_at_any_write_loses_nothing() {
    let mut crashes = 0;
    for dies_after in 0..6 {
        let top = tempfile::tempdir().unwrap();
        let mut now = start();
        let mut members_know: Option<TrustBundle> = None;
        let mut held: Vec<Held> = Vec::new();
        let orders = [None, Some(Order::RotateIssuer), Some(Order::RotateRoot), None, None, Some(Order::RotateIssuer)];
        for order in orders {
            // The process that dies.
            let mut store = open(top.path(), now).unwrap();
            let before = store.state().clone();
            store.folder.writes_left.set(Some(dies_after));
            let outcome = store.advance(now, order);
            crashes += usize::from(outcome.is_err());
            drop(store);
            // The next one.
            let mut store = open(top.path(), now).unwrap();
            if *store.state() == before {
                assert!(outcome.is_err() || matches!(outcome, Ok(None)));
                store.advance(now, order).unwrap();
            }
            let issuing = store.issuing(now).unwrap();
            let fresh = issue(&issuing, now);
            assert!(members_know.as_ref().is_none_or(|known| accepts(known, &fresh, now)));
            let known = bundle(&issuing);
            held.retain(|held| held.not_after >= now);
            assert!(held.iter().all(|held| accepts(&known, held, now)));
            assert_eq!(fs::read_to_string(top.path().join("trust.pem")).unwrap(), issuing.trust_pem());
            held.push(fresh);
            members_know = Some(known);
            now = now.plus(DAY);
        }
        let files = fs::read_dir(top.path()).unwrap().count();
        assert_eq!(files, 7, "one root, one issuer, state, trust, lock");
        assert_eq!(open(top.path(), now).unwrap().state().roots[0].generation, 2);
    }
    assert!(crashes >= 12, "{crashes}");
}

#[test]
fn a_crash_in_the_first_start_is_finished_by_the_second() {
    // What each of the writes of the first start leaves behind.
    let whole = tempfile::tempdir().unwrap();
    drop(open(whole.path(), start()).unwrap());
    let order = ["root-1.key", "root-1.pem", "issuer-1.key", "issuer-1.pem", "state.json", "trust.pem"];
    for written in 0..=order.len() {
        let top = tempfile::tempdir().unwrap();
        copy_into(&top, whole.path(), &order[..written]);
        fs::write(top.path().join(".state.json.1-2.mesh-tmp"), "{").unwrap();
        let issuing = open(top.path(), start()).unwrap().issuing(start()).unwrap();
        assert!(accepts(&bundle(&issuing), &issue(&issuing, start()), start()));
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 7);
        let key = fs::read(whole.path().join("root-1.key")).unwrap();
        assert_eq!(written > 0, fs::read(top.path().join("root-1.key")).unwrap() == key, "a key is never overwritten");
    }
}

#[test]
fn everything_expired_waits_for_a_decision_and_is_mended_by_it() {
    let top = tempfile::tempdir().unwrap();
    drop(open(top.path(), start()).unwrap());
    let late = start().plus(SCHEDULE.root_lifetime).plus(DAY);
    let mut store = open(top.path(), late).unwrap();
    let told = store.advance(late, None).unwrap_err().to_string();
    assert!(told.contains("the root expired at 2027-") && told.contains("mesh-ca repair"), "{told}");
    assert!(store.issuing(late).is_err());
    assert!(matches!(store.advance(late, Some(Order::Repair)), Ok(Some(Step::Renew { root: 2, issuer: 2 }))));
    let issuing = store.issuing(late).unwrap();
    assert!(accepts(&bundle(&issuing), &issue(&issuing, late), late));
    assert_eq!(fs::read_dir(top.path()).unwrap().count(), 7);
}

#[test]
fn an_issuer_that_expired_in_its_sleep_is_replaced() {
    let top = tempfile::tempdir().unwrap();
    drop(open(top.path(), start()).unwrap());
    let late = start().plus(40 * DAY);
    let mut store = open(top.path(), late).unwrap();
    assert!(store.issuing(late).is_err());
    assert!(store.advance(late, None).unwrap().is_some());
    assert!(store.issuing(late).is_ok());
}

#[test]
fn an_older_state_that_was_restored_removes_no_newer_root() {
    let top = tempfile::tempdir().unwrap();
    let mut store = open(top.path(), start()).unwrap();
    let backup = fs::read(top.path().join("state.json")).unwrap();
    store.advance(start(), Some(Order::RotateRoot)).unwrap();
    drop(store);
    fs::write(top.path().join("state.json"), backup).unwrap();
    drop(open(top.path(), start()).unwrap());
    assert!(top.path().join("root-2.key").exists());
}

#[test]
fn i22_the_folder_does_not_show_its_keys() {
    let top = tempfile::tempdir().unwrap();
    let store = open(top.path(), start()).unwrap();
    let shown = format!("{store:?} {:?}", store.issuing(start()).unwrap());
    for name in ["root-1.key", "issuer-1.key"] {
        let pem = fs::read_to_string(top.path().join(name)).unwrap();
        assert!(!shown.contains(pem.lines().nth(1).unwrap()));
    }
    assert!(!fs::read_to_string(top.path().join("trust.pem")).unwrap().contains("PRIVATE"));
}
