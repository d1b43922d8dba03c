//! Cases F03, F04, F11, F12, F21, F22, F24 to F26: leaves that say the right things, and chains that do not bear them.

use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::signature::{ECDSA_P256K1_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use mesh_api::{
    spiffe::TrustDomain,
    sys::Clock,
    tls::{TrustBundle, Usage, provider, verify_peer},
};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyUsagePurpose};
use rustls::{
    AlertDescription::{CertificateExpired, CertificateUnknown, DecryptError, UnknownCA},
    DigitallySignedStruct, SignatureAlgorithm, SignatureScheme,
    internal::msgs::codec::{Codec as _, Reader},
    pki_types::{CertificateDer, UnixTime},
    sign::{Signer, SigningKey},
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::{
    forge::{Authority, DOMAIN, Leaf, Shown, WEB, der, self_signed, set_validity, signed_by_leaf, usage},
    link::Member,
};

#[tokio::test]
async fn f03_foreign_root_of_the_same_name_is_refused() {
    let member = Member::new();
    let foreign = Authority::root("root");
    member.assert_refuses(&foreign.issue(&Leaf::of(WEB)), CertificateUnknown, "without its root").await;
    let with_root = foreign.issue(&Leaf::of(WEB)).followed_by([foreign.der().clone()]);
    member.assert_refuses(&with_root, CertificateUnknown, "with its root").await;
    let other_name = Authority::root("other").issue(&Leaf::of(WEB));
    member.assert_refuses(&other_name, UnknownCA, "of another name").await;
}

#[tokio::test]
async fn f04_self_signed_leaf_is_refused() {
    let member = Member::new();
    member.assert_refuses(&self_signed(&Leaf::of(WEB)), UnknownCA, "self-signed").await;
    let own_authority = Leaf::web(|leaf| {
        leaf.ca = IsCa::Ca(BasicConstraints::Unconstrained);
        leaf.usage = Some((true, usage::DIGITAL_SIGNATURE | usage::KEY_CERT_SIGN));
    });
    member.assert_refuses(&self_signed(&own_authority), CertificateUnknown, "its own authority").await;
    member.assert_refuses(&member.root.shown(), CertificateUnknown, "the root itself").await;
}

#[tokio::test]
async fn f11_foreign_trust_domain_under_our_root_is_refused() {
    let member = Member::new();
    for id in ["spiffe://other/ns/shop/sa/web", "spiffe://td.evil/ns/shop/sa/web", "spiffe://t/d/ns/shop/sa/web"] {
        member.assert_refuses(&member.root.issue(&Leaf::of(id)), UnknownCA, id).await;
    }
}

#[tokio::test]
async fn f12_roots_speak_for_their_own_domain_only() {
    const PARTNER: &str = "spiffe://partner/ns/shop/sa/web";
    let (ours, theirs) = (Authority::root("root"), Authority::root("partner root"));
    let mut trust = ours.bundle(DOMAIN);
    trust.insert("partner".parse().unwrap(), vec![theirs.der().clone()]).unwrap();
    let by_ours = ours.issue(&Leaf::of(PARTNER));
    let member = Member::with(ours, trust, Clock::Host);
    member.assert_takes(&theirs.issue(&Leaf::of(PARTNER)), PARTNER).await;
    member.assert_refuses(&by_ours, UnknownCA, "the partner's name under our root").await;
    member.assert_refuses(&theirs.issue(&Leaf::of(WEB)), UnknownCA, "our name under the partner's root").await;
}

#[tokio::test]
async fn f21_broken_paths_are_refused() {
    let member = Member::new();
    let root = &member.root;
    let good = root.intermediate("issuer", |_| {});
    member.assert_takes(&good.issue(&Leaf::of(WEB)), WEB).await;

    let leaf = root.issue(&Leaf::of("spiffe://td/ns/shop/sa/other"));
    member.assert_refuses(&signed_by_leaf(&Leaf::of(WEB), &leaf), CertificateUnknown, "a leaf signed a leaf").await;

    let narrow = root.intermediate("narrow", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let below = narrow.intermediate("below", |_| {});
    member.assert_takes(&narrow.issue(&Leaf::of(WEB)), WEB).await;
    member.assert_refuses(&below.issue(&Leaf::of(WEB)), CertificateUnknown, "deeper than allowed").await;

    let expired = root.intermediate("expired", |params| set_validity(params, -7200, -3600));
    member.assert_refuses(&expired.issue(&Leaf::of(WEB)), CertificateExpired, "an expired issuer").await;

    let future = root.intermediate("future", |params| set_validity(params, 3600, 7200));
    member.assert_refuses(&future.issue(&Leaf::of(WEB)), CertificateExpired, "an issuer of the future").await;

    let mut missing = good.issue(&Leaf::of(WEB));
    missing.chain.truncate(1);
    member.assert_refuses(&missing, UnknownCA, "the issuer is missing").await;
}

#[tokio::test]
async fn f21_issuers_that_may_not_sign_are_refused() {
    let member = Member::new();
    let issuer = |change: fn(&mut CertificateParams)| member.root.intermediate("issuer", change);
    let no_authority = issuer(|params| params.is_ca = IsCa::ExplicitNoCa);
    member.assert_refuses(&no_authority.issue(&Leaf::of(WEB)), CertificateUnknown, "no cA").await;
    let no_constraints = issuer(|params| params.is_ca = IsCa::NoCa);
    member.assert_refuses(&no_constraints.issue(&Leaf::of(WEB)), CertificateUnknown, "no constraints").await;
    // RFC 5280 section 6.1.4 (n).
    let no_signing = issuer(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    member.assert_refuses(&no_signing.issue(&Leaf::of(WEB)), CertificateUnknown, "no keyCertSign").await;
}

#[tokio::test]
async fn f21_bytes_after_the_certificate_are_refused() {
    let member = Member::new();
    let mut shown = member.root.issue(&Leaf::of(WEB));
    shown.chain[0] = CertificateDer::from([shown.chain[0].as_ref(), &[0x05, 0x00]].concat());
    member.assert_refuses(&shown, CertificateUnknown, "two bytes more").await;
}

#[tokio::test]
async fn f22_uri_name_constraints_of_the_issuer_are_not_passed_over() {
    let member = Member::new();
    // [0] permitted, [1] excluded; a URI constraint names hosts (RFC 5280 section 4.2.1.10).
    for (case, list, host) in [("excluded", 0xa1, "td"), ("not permitted", 0xa0, "other")] {
        let constraints = der(0x30, &der(list, &der(0x30, &der(0x86, host.as_bytes()))));
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], constraints);
        extension.set_criticality(true);
        let issuer = member.root.intermediate("issuer", |params| params.custom_extensions.push(extension));
        member.assert_refuses(&issuer.issue(&Leaf::of(WEB)), CertificateUnknown, case).await;
    }
}

/// Certificates that lead nowhere, all of one name, so that each could be the issuer of each.
fn maze(count: usize) -> (Shown, Vec<CertificateDer<'static>>) {
    let first = Authority::root("maze");
    let others = (1..count).map(|_| first.intermediate("maze", |_| {}).der().clone());
    let certificates = std::iter::once(first.der().clone()).chain(others).collect();
    (first.issue(&Leaf::of(WEB)), certificates)
}

#[tokio::test]
async fn f24_long_chains_are_refused() {
    let member = Member::new();
    let (stranger, certificates) = maze(60);
    let good = member.root.issue(&Leaf::of(WEB));
    member.assert_refuses(&good.followed_by(certificates.clone()), CertificateUnknown, "a good leaf and junk").await;
    let looped = stranger.clone().followed_by(certificates[..30].to_vec());
    member.assert_refuses(&looped, CertificateUnknown, "thirty that signed themselves").await;
    let few = stranger.followed_by(certificates[..4].to_vec());
    member.assert_refuses(&few, UnknownCA, "as many as are looked at").await;
}

#[tokio::test]
async fn f24_certificate_message_of_a_megabyte_ends_the_connection() {
    let member = Member::new();
    let padding = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 2], der(0x04, &vec![0; 16_000]));
    let fat = member.root.intermediate("fat", |params| params.custom_extensions.push(padding)).der().clone();
    let shown = member.root.issue(&Leaf::of(WEB)).followed_by(vec![fat; 64]);
    let (called, calls) = (member.called_by(&shown).await, member.calls(&shown, WEB).await);
    assert!(called.server.fault.is_some() || called.server.broken.is_some(), "{called:?}");
    assert!(calls.client.fault.is_some() || calls.client.broken.is_some(), "{calls:?}");
    called.assert_silent();
    calls.assert_silent();
    member.assert_still_good().await;
}

#[test]
fn f24_refusing_costs_little() {
    let root = Authority::root("root");
    let trust = root.bundle(DOMAIN);
    let (stranger, certificates) = maze(60);
    let large = CertificateDer::from(vec![0x30; 17 * 1024]);
    let good = root.issue(&Leaf::of(WEB)).chain[0].clone();
    for (case, leaf, rest) in [
        ("60 of junk", &good, &certificates[..]),
        ("30 loops", &stranger.chain[0], &certificates[..30]),
        ("as many as are looked at", &stranger.chain[0], &certificates[..4]),
        ("a large one", &large, &[]),
    ] {
        let took = (0..5).map(|_| {
            let begin = Instant::now();
            let refused = verify_peer(&trust, leaf, rest, Usage::Client, UnixTime::now());
            assert!(refused.is_err(), "{case}");
            begin.elapsed()
        });
        let fastest = took.min().unwrap();
        assert!(fastest < Duration::from_millis(20), "{case}: {fastest:?}");
    }
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../fixtures/", $name)).as_slice()
    };
}

/// A clock that stands in the validity of the fixtures.
fn clock_of_fixtures() -> Clock {
    let (_, leaf) = X509Certificate::from_der(fixture!("root-sha256.der")).unwrap();
    let begin = u64::try_from(leaf.validity().not_before.timestamp()).unwrap();
    let epoch = SystemTime::UNIX_EPOCH + Duration::from_secs(begin + 3600);
    Clock::Virtual { epoch, start: tokio::time::Instant::now() }
}

/// Made by OpenSSL (`tests/fixtures/make.sh`): right in everything but the algorithm that signed them.
#[tokio::test]
async fn f25_weak_signatures_are_refused() {
    let domain: TrustDomain = DOMAIN.parse().unwrap();
    let trust = TrustBundle::new(domain, vec![CertificateDer::from(fixture!("root.der"))]).unwrap();
    let member = Member::with(Authority::root("root"), trust, clock_of_fixtures());
    let shown = |chain: &[&'static [u8]]| {
        Shown::from_der(chain.iter().map(|der| CertificateDer::from(*der)).collect(), fixture!("leaf.pk8"))
    };
    let strong = shown(&[fixture!("root-sha256.der")]);
    let strong_rsa = shown(&[fixture!("rsa2048-sha256.der"), fixture!("issuer-rsa2048.der")]);
    for (case, weak) in [
        ("ECDSA with SHA-1", shown(&[fixture!("root-sha1.der")])),
        ("RSA with SHA-1", shown(&[fixture!("rsa2048-sha1.der"), fixture!("issuer-rsa2048.der")])),
        ("RSA of 1024 bits", shown(&[fixture!("rsa1024-sha256.der"), fixture!("issuer-rsa1024.der")])),
    ] {
        member.assert_refuses_client(&weak, CertificateUnknown, case).await;
        member.assert_refuses_server(&weak, WEB, CertificateUnknown, case).await;
        member.assert_takes(&strong, WEB).await;
        member.assert_takes(&strong_rsa, WEB).await;
    }
}

/// No library signs with such a key, so the proof of possession was signed beforehand.
#[test]
fn f25_weak_key_of_a_leaf_proves_nothing() {
    let check = |leaf: &'static [u8], signature: &[u8]| {
        let length = u16::try_from(signature.len()).unwrap().to_be_bytes();
        let encoded = [&[0x08, 0x04], length.as_slice(), signature].concat();
        let signed = DigitallySignedStruct::read(&mut Reader::init(&encoded)).unwrap();
        assert_eq!(signed.scheme, SignatureScheme::RSA_PSS_SHA256);
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(b"message", &CertificateDer::from(leaf), &signed, &algorithms)
    };
    assert!(check(fixture!("leaf-rsa2048.der"), fixture!("leaf-rsa2048.sig")).is_ok());
    assert!(check(fixture!("leaf-rsa1024.der"), fixture!("leaf-rsa1024.sig")).is_err());
}

/// Signs with a key that TLS 1.3 has no name for, under the name of another.
#[derive(Debug)]
struct Misnamed(EcdsaKeyPair);

impl SigningKey for Misnamed {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let again = self.0.to_pkcs8v1().unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256K1_SHA256_ASN1_SIGNING, again.as_ref()).unwrap();
        Some(Box::new(Self(key)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for Misnamed {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(&aws_lc_rs::rand::SystemRandom::new(), message).unwrap().as_ref().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

#[tokio::test]
async fn f25_unknown_curve_is_refused() {
    let member = Member::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256K1_SHA256_ASN1_SIGNING).unwrap();
    // ecPublicKey on secp256k1, 1.3.132.0.10.
    let algorithm = [&[0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1], [0x06, 5, 0x2b, 0x81, 4, 0, 10].as_slice()];
    let point = der(0x03, &[&[0], key.public_key().as_ref()].concat());
    let public = der(0x30, &[der(0x30, &algorithm.concat()), point].concat());
    let shown = member.root.issue(&Leaf::of(WEB));
    let usual = X509Certificate::from_der(&shown.chain[0]).unwrap().1.public_key().raw.to_vec();
    let mut shown = member.root.resign(shown, &usual, &public);
    shown.key = std::sync::Arc::new(Misnamed(key));
    member.assert_refuses(&shown, DecryptError, "secp256k1").await;
}

#[tokio::test]
async fn f25_resigned_leaf_is_taken_where_nothing_is_wrong() {
    let member = Member::new();
    let shown = member.root.issue(&Leaf::of(WEB));
    member.assert_takes(&member.root.resign(shown, b"sa/web", b"sa/wed"), "spiffe://td/ns/shop/sa/wed").await;
}

#[tokio::test]
async fn f26_certificate_of_another_key_is_refused() {
    let member = Member::new();
    let mut shown = member.root.issue(&Leaf::of(WEB));
    shown.key = member.root.issue(&Leaf::of(WEB)).key;
    member.assert_refuses(&shown, DecryptError, "somebody else's certificate").await;
}

/// Signs, and changes one bit of the signature's end.
#[derive(Debug)]
struct Flipped(std::sync::Arc<dyn SigningKey>);

#[derive(Debug)]
struct FlippedSigner(Box<dyn Signer>);

impl SigningKey for Flipped {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        Some(Box::new(FlippedSigner(self.0.choose_scheme(offered)?)))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl Signer for FlippedSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let mut signature = self.0.sign(message)?;
        *signature.last_mut().unwrap() ^= 1;
        Ok(signature)
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.scheme()
    }
}

#[tokio::test]
async fn f26_damaged_signature_is_refused() {
    let member = Member::new();
    let mut shown = member.root.issue(&Leaf::of(WEB));
    shown.key = std::sync::Arc::new(Flipped(shown.key));
    member.assert_refuses(&shown, DecryptError, "one bit").await;
}
