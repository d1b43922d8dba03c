//! Files that are good, bad, replaced, half written.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use super::*;
use crate::pki::{AuthoritySpec, Serial, make_issuer, make_root};

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Time {
    Time::from_unix(1_795_000_000)
}

fn spec(generation: u64, lifetime: Duration) -> AuthoritySpec<'static> {
    AuthoritySpec { trust_domain: "corp", generation, lifetime, serial: Serial::random().unwrap(), now: now() }
}

fn root(generation: u64, lifetime: Duration) -> SigningAuthority {
    let key = PrivateKey::generate().unwrap();
    SigningAuthority::new(make_root(&spec(generation, lifetime), &key).unwrap(), key).unwrap()
}

/// An issuer with its key as PEM.
fn issuer(root: &SigningAuthority, generation: u64, lifetime: Duration) -> (AuthorityCert, String) {
    let key = PrivateKey::generate().unwrap();
    (make_issuer(&spec(generation, lifetime), &key, root).unwrap(), key.to_pem())
}

fn files_in(folder: &Path) -> SuppliedFiles {
    let file = |name| folder.join(name);
    SuppliedFiles { roots_file: file("roots.pem"), chain_file: file("chain.pem"), key_file: file("key.pem") }
}

fn write(files: &SuppliedFiles, roots: &[&AuthorityCert], chain: &[&AuthorityCert], key: &str) {
    let pem = |certs: &[&AuthorityCert]| pki::certs_to_pem(certs.iter().map(|cert| cert.der()));
    fs::write(&files.roots_file, pem(roots)).unwrap();
    fs::write(&files.chain_file, pem(chain)).unwrap();
    fs::write(&files.key_file, key).unwrap();
    fs::set_permissions(&files.key_file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn supplied(folder: &Path) -> (SuppliedFiles, Supplied) {
    let files = files_in(folder);
    (files.clone(), Supplied::new(files, "corp".parse().unwrap(), folder.join("trust.pem")))
}

#[test]
fn good_files_sign() {
    let top = tempfile::tempdir().unwrap();
    let (files, mut supplied) = supplied(top.path());
    let root = root(1, 100 * HOUR);
    let (cert, key) = issuer(&root, 1, 10 * HOUR);
    write(&files, &[root.cert()], &[&cert], &key);
    let issuing = supplied.load(now()).unwrap();
    assert_eq!((issuing.chain().len(), issuing.roots().len(), issuing.report().source), (1, 1, "supplied"));
    assert_eq!(fs::read_to_string(top.path().join("trust.pem")).unwrap(), issuing.trust_pem());
    // The root at the end of the chain is not sent.
    write(&files, &[root.cert()], &[&cert, root.cert()], &key);
    assert_eq!(supplied.load(now()).unwrap().chain().len(), 1);
    // The group of a mounted Secret may read the key.
    fs::set_permissions(&files.key_file, fs::Permissions::from_mode(0o440)).unwrap();
    assert!(supplied.load(now()).is_ok());
}

#[test]
fn i12_bad_files_are_refused_by_name() {
    let top = tempfile::tempdir().unwrap();
    let (files, mut supplied) = supplied(top.path());
    let (root_cert, other) = (root(1, 100 * HOUR), root(2, 100 * HOUR));
    let (cert, key) = issuer(&root_cert, 1, 10 * HOUR);
    let (foreign, foreign_key) = issuer(&other, 1, 10 * HOUR);
    let mut told = |roots: &[&AuthorityCert], chain: &[&AuthorityCert], key: &str, now: Time| {
        write(&files, roots, chain, key);
        supplied.load(now).unwrap_err().to_string()
    };
    let roots = [root_cert.cert()];
    let expired = told(&roots, &[&cert], &key, now().plus(11 * HOUR));
    assert!(expired.contains("chain.pem: the certificate `CN=mesh issuer 1 corp` expired at 2026-"), "{expired}");
    let early = told(&roots, &[&cert], &key, now().minus(HOUR));
    assert!(early.contains("is not valid before"), "{early}");
    let mismatch = told(&roots, &[&cert], &foreign_key, now());
    assert!(mismatch.contains("key.pem: the private key does not belong"), "{mismatch}");
    let stranger = told(&roots, &[&foreign], &foreign_key, now());
    assert!(stranger.contains("chain.pem") && stranger.contains("was not signed by any"), "{stranger}");
    let nothing = told(&roots, &[], &key, now());
    assert!(nothing.contains("chain.pem: no certificate"), "{nothing}");
    let nobody = told(&[], &[&cert], &key, now());
    assert!(nobody.contains("roots.pem: no certificate"), "{nobody}");

    // A leaf is no issuer.
    let leaf_key = PrivateKey::generate().unwrap();
    let leaf = rcgen::CertificateParams::default().self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    write(&files, &roots, &[&cert], &leaf_key.to_pem());
    fs::write(&files.chain_file, leaf.pem()).unwrap();
    assert!(supplied.load(now()).unwrap_err().to_string().contains("is not a certificate authority"));
    // Everybody can read the key.
    write(&files, &roots, &[&cert], &key);
    fs::set_permissions(&files.key_file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(supplied.load(now()).unwrap_err().to_string().contains("chmod 640"));
    fs::remove_file(&files.key_file).unwrap();
    assert!(supplied.load(now()).unwrap_err().to_string().contains("cannot open"));
}

#[test]
fn what_members_would_refuse_is_refused_here() {
    let top = tempfile::tempdir().unwrap();
    let (files, mut supplied) = supplied(top.path());
    // An issuer below an issuer that may have none below it.
    let root = root(1, 100 * HOUR);
    let key = PrivateKey::generate().unwrap();
    let middle = SigningAuthority::new(make_issuer(&spec(1, HOUR), &key, &root).unwrap(), key).unwrap();
    let (cert, key) = issuer(&middle, 2, HOUR);
    write(&files, &[root.cert()], &[&cert, middle.cert()], &key);
    let told = supplied.load(now()).unwrap_err().to_string();
    assert!(told.contains("members would refuse what"), "{told}");
}

#[test]
fn i13_replaced_files() {
    let top = tempfile::tempdir().unwrap();
    let (files, mut supplied) = supplied(top.path());
    let (root_cert, next_root) = (root(1, 100 * HOUR), root(2, 100 * HOUR));
    let (first, first_key) = issuer(&root_cert, 1, 10 * HOUR);
    let (second, second_key) = issuer(&next_root, 2, 10 * HOUR);
    write(&files, &[root_cert.cert()], &[&first], &first_key);
    supplied.load(now()).unwrap();
    assert!(supplied.reload(now()).unwrap().is_none(), "nothing changed");

    // Half of a replacement: new chain, old key. Complained about once.
    let both = [root_cert.cert(), next_root.cert()];
    write(&files, &both, &[&second], &first_key);
    assert!(supplied.reload(now()).is_err());
    assert!(supplied.reload(now()).unwrap().is_none());
    // Garbage is another complaint.
    fs::write(&files.chain_file, "garbage").unwrap();
    assert!(supplied.reload(now()).is_err());
    assert!(supplied.reload(now()).unwrap().is_none());
    // The other half.
    write(&files, &both, &[&second], &second_key);
    let swapped = supplied.reload(now()).unwrap().unwrap();
    assert_eq!((swapped.mark(), swapped.roots().len()), (second.fingerprint(), 2));
    assert!(supplied.reload(now()).unwrap().is_none());
    // Bad, then back to what is in force.
    fs::write(&files.chain_file, "garbage").unwrap();
    assert!(supplied.reload(now()).is_err());
    write(&files, &both, &[&second], &second_key);
    assert!(supplied.reload(now()).unwrap().is_none());
}

#[test]
fn i13_what_is_not_valid_yet_is_tried_again() {
    let top = tempfile::tempdir().unwrap();
    let (files, mut supplied) = supplied(top.path());
    let root = root(1, 100 * HOUR);
    let (first, first_key) = issuer(&root, 1, 10 * HOUR);
    write(&files, &[root.cert()], &[&first], &first_key);
    supplied.load(now()).unwrap();
    let key = PrivateKey::generate().unwrap();
    let later = make_issuer(&AuthoritySpec { now: now().plus(5 * HOUR), ..spec(2, HOUR) }, &key, &root).unwrap();
    write(&files, &[root.cert()], &[&later], &key.to_pem());
    assert!(supplied.reload(now()).is_err());
    assert!(supplied.reload(now().plus(HOUR)).unwrap().is_none());
    assert!(supplied.reload(now().plus(5 * HOUR)).unwrap().is_some());
}
