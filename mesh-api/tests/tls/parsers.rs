//! Whatever stands in the bytes of a certificate: the verifier answers, and takes nothing that was not signed.

use std::sync::OnceLock;

use mesh_api::{
    spiffe::SpiffeId,
    tls::{Identity, TrustBundle, Usage, verify_peer},
};
use proptest::{collection::vec, prelude::*, sample::Index};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};

use crate::forge::{Authority, DOMAIN, Leaf, Shown, WEB};

struct Right {
    root: Authority,
    trust: TrustBundle,
    /// A leaf, and the issuer between it and the root.
    shown: Shown,
}

fn right() -> &'static Right {
    static RIGHT: OnceLock<Right> = OnceLock::new();
    RIGHT.get_or_init(|| {
        let root = Authority::root("root");
        let shown = root.intermediate("issuer", |_| {}).issue(&Leaf::of(WEB));
        let trust = root.bundle(DOMAIN);
        Right { root, trust, shown }
    })
}

fn verified(chain: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    let (leaf, rest) = chain.split_first()?;
    let by_role = [Usage::Client, Usage::Server]
        .map(|usage| verify_peer(&right().trust, leaf, rest, usage, UnixTime::now()).ok());
    let [client, server] = by_role;
    assert_eq!(client, server);
    client
}

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Double(Index, Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        4 => (any::<Index>(), 1..=255_u8).prop_map(|(at, mask)| Damage::Flip(at, mask)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), vec(any::<u8>(), 1..8)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
        1 => (any::<Index>(), 1..8_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Double(from, to)),
    ]
}

fn damaged(mut bytes: Vec<u8>, all: &[Damage]) -> Vec<u8> {
    for damage in all {
        if bytes.is_empty() {
            return bytes;
        }
        let length = bytes.len();
        match damage {
            Damage::Flip(at, mask) => bytes[at.index(length)] ^= mask,
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Insert(at, more) => drop(bytes.splice(at.index(length)..at.index(length), more.iter().copied())),
            Damage::Remove(at, count) => {
                let at = at.index(length);
                drop(bytes.drain(at..length.min(at + count)));
            }
            Damage::Double(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let part = bytes[from.min(to)..from.max(to)].to_vec();
                drop(bytes.splice(to..to, part));
            }
        }
    }
    bytes
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() }
}

#[test]
fn the_undamaged_chain_is_taken() {
    assert_eq!(verified(&right().shown.chain).unwrap().as_str(), WEB);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_are_no_certificate(leaf in vec(any::<u8>(), 0..600), issuer in vec(any::<u8>(), 0..600)) {
        let junk = CertificateDer::from(leaf);
        prop_assert_eq!(verified(&[junk.clone(), CertificateDer::from(issuer)]), None);
        prop_assert!(TrustBundle::new(DOMAIN.parse().unwrap(), vec![junk.clone()]).is_err());
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(junk.to_vec()));
        prop_assert!(Identity::new(vec![junk], key).is_err());
    }

    #[test]
    fn a_damaged_leaf_is_refused(damages in vec(damage(), 1..4)) {
        let mut chain = right().shown.chain.clone();
        let bytes = damaged(chain[0].to_vec(), &damages);
        prop_assume!(bytes != chain[0].as_ref());
        chain[0] = CertificateDer::from(bytes);
        prop_assert_eq!(verified(&chain), None);
    }

    #[test]
    fn a_damaged_issuer_is_refused(damages in vec(damage(), 1..4)) {
        let mut chain = right().shown.chain.clone();
        let bytes = damaged(chain[1].to_vec(), &damages);
        prop_assume!(bytes != chain[1].as_ref());
        chain[1] = CertificateDer::from(bytes);
        prop_assert_eq!(verified(&chain), None);
    }

    #[test]
    fn a_damaged_root_makes_no_panic(damages in vec(damage(), 1..4)) {
        let bytes = damaged(right().root.der().to_vec(), &damages);
        let _ = TrustBundle::new(DOMAIN.parse().unwrap(), vec![CertificateDer::from(bytes)]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..config() })]

    /// Nothing is cut off, added or decoded between the certificate and the identity.
    #[test]
    fn the_identity_is_the_name_byte_for_byte(
        name in prop_oneof![
            "spiffe://td/[a-zA-Z0-9./%_-]{0,40}".prop_map(String::into_bytes),
            "spiffe://[a-zA-Z.:@/]{0,10}/ns/shop/sa/web".prop_map(String::into_bytes),
            vec(any::<u8>(), 0..60),
        ],
    ) {
        let shown = right().root.issue(&Leaf::of(&name));
        let text = std::str::from_utf8(&name).ok();
        let expected = text.and_then(|text| text.parse::<SpiffeId>().ok()).filter(|id| id.trust_domain() == DOMAIN);
        let found = verified(&shown.chain);
        prop_assert_eq!(&found, &expected);
        if let Some(found) = found {
            prop_assert_eq!(found.as_str().as_bytes(), name);
        }
    }
}
