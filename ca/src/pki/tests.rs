//! What certificates look like, read back with another library than the one that wrote them.

use std::{collections::HashSet, time::Instant};

use mesh_api::spiffe::SpiffeId;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use x509_parser::{
    extensions::{GeneralName, ParsedExtension},
    prelude::{FromDer, X509Certificate},
};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Time {
    Time::from_unix(1_795_000_000)
}

fn spec(generation: u64, lifetime: Duration) -> AuthoritySpec<'static> {
    let serial = Serial::random().unwrap();
    AuthoritySpec { trust_domain: "cluster.local", generation, lifetime, serial, now: now() }
}

fn root(lifetime: Duration) -> SigningAuthority {
    let key = PrivateKey::generate().unwrap();
    SigningAuthority::new(make_root(&spec(1, lifetime), &key).unwrap(), key).unwrap()
}

fn issuer(root: &SigningAuthority, lifetime: Duration) -> SigningAuthority {
    let key = PrivateKey::generate().unwrap();
    SigningAuthority::new(make_issuer(&spec(1, lifetime), &key, root).unwrap(), key).unwrap()
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap()
}

fn leaf_at(issuer: &SigningAuthority, key: &PublicKey, ttl: Duration, now: Time) -> Result<Leaf, PkiError> {
    make_leaf(issuer, &LeafSpec { identity: &identity(), dns_names: &[], key, serial: Serial::random()?, ttl, now })
}

fn own_key() -> PublicKey {
    PrivateKey::generate().unwrap().public().unwrap()
}

fn read(der: &[u8]) -> X509Certificate<'_> {
    let (rest, cert) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    cert
}

/// Everything that the standard and the members of the mesh ask of a leaf.
fn audit(leaf: &Leaf, issuer: &SigningAuthority) {
    let cert = read(&leaf.der);
    let signer = read(issuer.cert().der());
    assert!(cert.verify_signature(Some(signer.public_key())).is_ok());
    assert_eq!(cert.issuer().as_raw(), signer.subject().as_raw());
    assert_eq!(cert.subject().iter().count(), 0, "nothing names the subject but the SAN");

    let san = cert.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical);
    assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    let usage = cert.key_usage().unwrap().unwrap();
    assert!(usage.critical);
    assert_eq!(usage.value.flags, 1, "digitalSignature and nothing else");
    let extended = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
    assert!(!extended.code_signing && !extended.email_protection && !extended.ocsp_signing);
    assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);

    let mut subject_key = None;
    let mut authority_key = None;
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => subject_key = Some(id.0.to_vec()),
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                authority_key = id.key_identifier.as_ref().map(|id| id.0.to_vec());
            }
            _ => {}
        }
    }
    assert!(subject_key.is_some());
    assert!(authority_key.is_some() && authority_key == subject_key_of(&signer));
    assert_eq!(cert.extensions().len(), 6);

    let serial = cert.raw_serial();
    assert_eq!(serial.len(), 16);
    assert!(serial[0] & 0xc0 == 0x40, "positive, and never short");
}

fn subject_key_of(cert: &X509Certificate<'_>) -> Option<Vec<u8>> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

#[test]
fn i20_leaf_has_exactly_the_template() {
    let root = root(1000 * HOUR);
    let issuer = issuer(&root, 100 * HOUR);
    let leaf = leaf_at(&issuer, &own_key(), HOUR, now()).unwrap();
    audit(&leaf, &issuer);
    let cert = read(&leaf.der);
    assert_eq!(cert.validity().not_after.timestamp(), 1_795_003_600);
    assert_eq!(leaf.not_after, now().plus(HOUR));
    // The issuer itself starts a minute back, so the leaf may as well; the clock moves on, the minute stays.
    assert_eq!(cert.validity().not_before.timestamp(), 1_795_000_000 - 60);
    let later = leaf_at(&issuer, &own_key(), HOUR, now().plus(HOUR)).unwrap();
    assert_eq!(later.not_before, now().plus(HOUR).minus(BACKDATE));
}

#[test]
fn i20_authorities_are_what_verifiers_expect() {
    let root = root(1000 * HOUR);
    let issuer = issuer(&root, 100 * HOUR);
    for (authority, path_len, name) in
        [(&root, 1, "CN=mesh root 1 cluster.local"), (&issuer, 0, "CN=mesh issuer 1 cluster.local")]
    {
        let cert = read(authority.cert().der());
        let constraints = cert.basic_constraints().unwrap().unwrap();
        assert!(constraints.critical && constraints.value.ca);
        assert_eq!(constraints.value.path_len_constraint, Some(path_len));
        let usage = cert.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.key_cert_sign() && !usage.value.digital_signature());
        assert!(subject_key_of(&cert).is_some());
        assert_eq!(authority.cert().name(), name);
        assert!(authority.cert().signed_by(root.cert()));
    }
    assert!(!root.cert().signed_by(issuer.cert()));
}

#[test]
fn names_longer_than_x509_allows_are_cut() {
    let long = "d".repeat(255);
    let key = PrivateKey::generate().unwrap();
    let cert = make_root(&AuthoritySpec { trust_domain: &long, ..spec(1, HOUR) }, &key).unwrap();
    let name = read(cert.der()).subject().iter_common_name().next().unwrap().as_str().unwrap().to_owned();
    assert_eq!(name.len(), 64);
}

#[test]
fn i11_validity_is_clamped() {
    let root = root(50 * HOUR);
    let issuer = issuer(&root, 30 * HOUR);
    let key = own_key();
    for ttl in [24 * HOUR, 25 * HOUR, 10 * 365 * 24 * HOUR, Duration::MAX] {
        assert_eq!(leaf_at(&issuer, &key, ttl, now()).unwrap().not_after, now().plus(24 * HOUR));
    }
    let late = now().plus(29 * HOUR);
    assert_eq!(leaf_at(&issuer, &key, 24 * HOUR, late).unwrap().not_after, issuer.cert().not_after());
    // An issuer never outlives its root.
    let long = super::tests::issuer(&root, 500 * HOUR);
    assert_eq!(long.cert().not_after(), root.cert().not_after());
}

#[test]
fn i12_authority_outside_its_validity_signs_nothing() {
    let root = root(50 * HOUR);
    let issuer = issuer(&root, 30 * HOUR);
    let expired = leaf_at(&issuer, &own_key(), HOUR, now().plus(31 * HOUR));
    assert!(matches!(expired, Err(PkiError::Expired { .. })));
    let early = leaf_at(&issuer, &own_key(), HOUR, now().minus(2 * HOUR));
    assert!(matches!(early, Err(PkiError::NotYetValid { .. })));
    let key = PrivateKey::generate().unwrap();
    let late = AuthoritySpec { now: now().plus(51 * HOUR), ..spec(2, HOUR) };
    assert!(matches!(make_issuer(&late, &key, &root), Err(PkiError::Expired { .. })));
}

#[test]
fn i12_what_is_no_authority_is_refused() {
    let root = root(50 * HOUR);
    let issuer = issuer(&root, 30 * HOUR);
    let leaf = leaf_at(&issuer, &own_key(), HOUR, now()).unwrap();
    assert!(matches!(AuthorityCert::parse(leaf.der), Err(PkiError::NotAnAuthority(_))));
    assert!(matches!(AuthorityCert::parse(vec![0x30, 0].into()), Err(PkiError::NotACertificate(_))));
    let mut longer = root.cert().der().to_vec();
    longer.push(0);
    assert!(matches!(AuthorityCert::parse(longer.into()), Err(PkiError::NotACertificate(_))));

    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let cert = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    assert!(matches!(AuthorityCert::parse(cert.into()), Err(PkiError::NoCertSign(_))));

    let other = PrivateKey::generate().unwrap();
    assert!(matches!(SigningAuthority::new(root.cert().clone(), other), Err(PkiError::KeyMismatch(_))));
}

#[test]
fn i19_serials_differ() {
    let serials: HashSet<Serial> = (0..10_000).map(|_| Serial::random().unwrap()).collect();
    assert_eq!(serials.len(), 10_000);
    assert_eq!(Serial::from_random([0xff; 16]).to_string(), "7f".to_owned() + &"ff".repeat(15));
    assert_eq!(Serial::from_random([0; 16]).to_string(), "40".to_owned() + &"00".repeat(15));
}

#[test]
fn i22_keys_do_not_show_themselves() {
    let key = PrivateKey::generate().unwrap();
    let pem = key.to_pem();
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(format!("{key:?}"), "PrivateKey([redacted])");
    let cert = make_root(&spec(1, HOUR), &key).unwrap();
    let shown = format!("{:?}", SigningAuthority::new(cert, key).unwrap());
    assert!(!shown.contains(&body[40..80]));
    assert!(shown.contains("[redacted]"));
}

#[test]
fn pem_survives() {
    let root = root(HOUR);
    for length in 1..100 {
        let der = CertificateDer::from((0..length).map(|byte| byte as u8).collect::<Vec<_>>());
        assert_eq!(certs_from_pem(certs_to_pem([&der]).as_bytes()).unwrap(), [der]);
    }
    let both = certs_to_pem([root.cert().der(), root.cert().der()]);
    assert_eq!(certs_from_pem(both.as_bytes()).unwrap().len(), 2);
    assert_eq!(certs_from_pem(b"nothing"), Err(PkiError::NoPem("certificate")));
    let key = PrivateKey::generate().unwrap();
    assert_eq!(PrivateKey::from_pem(key.to_pem().as_bytes()).unwrap().public_der(), key.public_der());
    assert!(matches!(PrivateKey::from_pem(both.as_bytes()), Err(PkiError::NoPem("private key"))));
}

fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
    params.serialize_request(key).unwrap().der().to_vec()
}

#[test]
fn i09_wishes_of_a_request_are_ignored() {
    let root = root(1000 * HOUR);
    let issuer = issuer(&root, 100 * HOUR);
    let mut params = CertificateParams::new(vec!["admin.example".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/a/sa/admin".try_into().unwrap()));
    params.subject_alt_names.push(SanType::Rfc822Name("root@example".try_into().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any, ExtendedKeyUsagePurpose::CodeSigning];
    let key = parse_csr(&request(&params, &KeyPair::generate().unwrap())).unwrap();
    audit(&leaf_at(&issuer, &key, HOUR, now()).unwrap(), &issuer);
}

#[test]
fn i10_accepted_kinds_of_keys() {
    let root = root(1000 * HOUR);
    let issuer = issuer(&root, 100 * HOUR);
    let rsa = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
    for (pair, kind) in [
        (KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(), KeyKind::P256),
        (KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(), KeyKind::P384),
        (KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(), KeyKind::Ed25519),
        (rsa, KeyKind::Rsa),
    ] {
        let key = parse_csr(&request(&CertificateParams::default(), &pair)).unwrap();
        assert_eq!(key.kind(), kind);
        let leaf = leaf_at(&issuer, &key, HOUR, now()).unwrap();
        audit(&leaf, &issuer);
        assert_eq!(read(&leaf.der).public_key().raw, rcgen::PublicKeyData::subject_public_key_info(&pair));
    }
    let p521 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
    let refused = parse_csr(&request(&CertificateParams::default(), &p521));
    assert_eq!(refused.unwrap_err(), CsrError::KeyKind);
}

/// One DER element.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        length @ 0..0x80 => out.push(length as u8),
        length => {
            out.push(0x83);
            out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
            // The shortest form is the only one in DER.
            while out[2] == 0 {
                out.remove(2);
                out[1] -= 1;
            }
        }
    }
    out.extend(content);
    out
}

const RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const SHA256_RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
const SHA1_RSA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 5];
const NULL: &[u8] = &[5, 0];

fn rsa_info(bytes: usize, top: u8, exponent: &[u8]) -> Vec<u8> {
    let mut modulus = vec![0x55; bytes];
    modulus[0] = top;
    modulus.insert(0, 0);
    let key = der(0x30, &[&der(2, &[&modulus]), &der(2, &[exponent])]);
    der(0x30, &[&der(0x30, &[RSA, NULL]), &der(3, &[&[0], &key])])
}

fn raw_request(info: &[u8], algorithm: &[u8]) -> Vec<u8> {
    let signed = der(0x30, &[&[2, 1, 0], &[0x30, 0], info, &[0xa0, 0]]);
    der(0x30, &[&signed, &der(0x30, &[algorithm, NULL]), &der(3, &[&[0], &[1; 256]])])
}

#[test]
fn i10_other_keys_are_refused_before_any_cryptography() {
    let kind_of = |info: &[u8]| parse_csr(&raw_request(info, SHA256_RSA)).unwrap_err();
    let exponent: &[u8] = &[1, 0, 1];
    for bytes in [64, 128, 255, 513, 2048] {
        assert_eq!(kind_of(&rsa_info(bytes, 0x80, exponent)), CsrError::KeyKind, "{bytes} bytes");
    }
    assert_eq!(kind_of(&rsa_info(256, 0x40, exponent)), CsrError::KeyKind, "2047 bits");
    assert_eq!(kind_of(&rsa_info(256, 0x80, &[3])), CsrError::KeyKind, "small exponent");
    assert_eq!(kind_of(&rsa_info(256, 0x80, &[1, 0, 0])), CsrError::KeyKind, "even exponent");
    assert_eq!(kind_of(&rsa_info(256, 0x80, &[0x7f; 64])), CsrError::KeyKind, "exponent of 512 bits");
    // The right size gets as far as the signature.
    assert_eq!(kind_of(&rsa_info(256, 0x80, exponent)), CsrError::Signature);
    assert_eq!(parse_csr(&raw_request(&rsa_info(256, 0x80, exponent), SHA1_RSA)).unwrap_err(), CsrError::Algorithm);

    let dsa = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1];
    let ed448 = [0x06, 3, 0x2b, 0x65, 0x71];
    let ec_without_curve = [0x06, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
    for algorithm in [&dsa[..], &ed448, &ec_without_curve] {
        assert_eq!(kind_of(&der(0x30, &[&der(0x30, &[algorithm]), &der(3, &[&[0], &[1; 57]])])), CsrError::KeyKind);
    }
}

#[test]
fn i08_broken_requests() {
    let started = Instant::now();
    let good = request(&CertificateParams::default(), &KeyPair::generate().unwrap());
    for length in 0..good.len() {
        assert_eq!(parse_csr(&good[..length]).unwrap_err(), CsrError::Malformed, "cut at {length}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert_eq!(parse_csr(&longer).unwrap_err(), CsrError::Malformed);
    assert_eq!(parse_csr(&vec![0x30; 10 << 20]).unwrap_err(), CsrError::TooLong);
    // Indefinite length, deep nesting, a length that promises more than there is.
    assert_eq!(parse_csr(&[0x30, 0x80, 0x30, 0x80, 0, 0, 0, 0]).unwrap_err(), CsrError::Malformed);
    assert_eq!(parse_csr(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff]).unwrap_err(), CsrError::Malformed);
    let nested = (0..4000).fold(Vec::new(), |inner, _| der(0x30, &[&inner]));
    assert_eq!(parse_csr(&nested).unwrap_err(), CsrError::Malformed);
    // The signature of another key, and of another request.
    let mut swapped = good.clone();
    let last = swapped.len() - 1;
    swapped[last] ^= 1;
    assert!(parse_csr(&swapped).is_err());
    // Nesting and names in the parts that are stepped over cost nothing.
    let mut params = CertificateParams::default();
    let names = (0..800).map(|n| SanType::DnsName(format!("n{n}.example.com").try_into().unwrap()));
    params.subject_alt_names = names.collect();
    let many = request(&params, &KeyPair::generate().unwrap());
    assert!(many.len() < MAX_CSR && many.len() > MAX_CSR / 4 * 3);
    assert!(parse_quickly(&many).is_ok());
    assert!(started.elapsed() < Duration::from_secs(20));
}

/// Parses within ten milliseconds; the best of a few tries counts, because the machine may be busy.
fn parse_quickly(csr: &[u8]) -> Result<PublicKey, CsrError> {
    let mut took = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let outcome = parse_csr(csr);
        if began.elapsed() < Duration::from_millis(10) {
            return outcome;
        }
        took.push(began.elapsed());
    }
    panic!("too slow: {took:?}");
}

proptest! {
    #[test]
    fn i08_garbage_never_panics(garbage in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(parse_quickly(&garbage).is_err());
    }

    #[test]
    fn i08_damaged_requests_never_panic(
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>(), grow in 0_usize..9,
    ) {
        let mut csr = damaged_base();
        let place = at.index(csr.len());
        let changed = csr[place] != with;
        csr[place] = with;
        let place = cut.index(csr.len());
        csr.splice(place..place, vec![with; grow]);
        let outcome = parse_quickly(&csr);
        prop_assert!(outcome.is_err() || (!changed && grow == 0));
    }
}

/// One request, made once: what differs between runs is the damage.
fn damaged_base() -> Vec<u8> {
    static BASE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    BASE.get_or_init(|| request(&CertificateParams::default(), &KeyPair::generate().unwrap())).clone()
}

/// Neither the signed part nor the frame around it: there is one spelling of a request.
#[test]
fn i08_no_byte_of_a_request_can_be_changed() {
    let base = damaged_base();
    for place in 0..base.len() {
        let have = base[place];
        for with in (0..8).map(|bit| have ^ 1 << bit).chain([0, 0x10, 0x43, 0xd2, 0xff]).filter(|with| *with != have) {
            let mut csr = base.clone();
            csr[place] = with;
            assert!(parse_csr(&csr).is_err(), "{have:02x} at {place} is as good as {with:02x}");
        }
    }
}
