//! Cases F01 to F20 and F23: one certificate, signed by the right root, wrong in itself.

use rcgen::{BasicConstraints, CustomExtension, IsCa};
use rustls::AlertDescription::{CertificateExpired, CertificateUnknown};

use crate::{
    forge::{Leaf, Name, WEB, alternative_names, der, key_usage, purpose, purposes, usage},
    link::Member,
};

const DAY: i64 = 24 * 3600;

/// Each of these is refused in both roles, with an alert that says only that the certificate is not acceptable.
async fn refused(cases: impl IntoIterator<Item = (&str, Leaf)>) {
    let member = Member::new();
    for (case, leaf) in cases {
        let shown = member.root.issue(&leaf);
        member.assert_refuses(&shown, CertificateUnknown, case).await;
    }
}

fn named(names: Vec<Name>) -> Leaf {
    Leaf::web(|leaf| leaf.names = names)
}

fn uri(text: impl AsRef<[u8]>) -> Name {
    Name::Uri(text.as_ref().to_vec())
}

#[tokio::test]
async fn f01_expired_leaf_is_refused() {
    let member = Member::new();
    for ago in [1, DAY] {
        let shown = member.root.issue(&Leaf::web(|leaf| (leaf.from, leaf.until) = (-ago - 60, -ago)));
        member.assert_refuses(&shown, CertificateExpired, &format!("{ago} s ago")).await;
    }
}

#[tokio::test]
async fn f02_leaf_of_the_future_is_refused() {
    // No skew is tolerated here: who issues dates back instead.
    let member = Member::new();
    for ahead in [60, 3600] {
        let shown = member.root.issue(&Leaf::web(|leaf| (leaf.from, leaf.until) = (ahead, ahead + 3600)));
        member.assert_refuses(&shown, CertificateExpired, &format!("in {ahead} s")).await;
    }
}

#[tokio::test]
async fn f06_extended_key_usage_of_one_side_only_is_refused() {
    refused([
        ("serverAuth only", Leaf::web(|leaf| leaf.purposes = vec![purpose::SERVER])),
        ("clientAuth only", Leaf::web(|leaf| leaf.purposes = vec![purpose::CLIENT])),
        ("any only", Leaf::web(|leaf| leaf.purposes = vec![purpose::ANY])),
        ("serverAuth and any", Leaf::web(|leaf| leaf.purposes = vec![purpose::SERVER, purpose::ANY])),
    ])
    .await;
}

#[tokio::test]
async fn f07_extended_key_usage_absent_is_refused() {
    refused([("absent", Leaf::web(|leaf| leaf.purposes.clear()))]).await;
}

#[tokio::test]
async fn f08_two_uri_names_are_refused() {
    let admin = "spiffe://td/ns/shop/sa/admin";
    refused([
        ("ours first", named(vec![uri(WEB), uri(admin)])),
        ("ours last", named(vec![uri(admin), uri(WEB)])),
        ("the same twice", named(vec![uri(WEB), uri(WEB)])),
        ("a web page beside it", named(vec![uri(WEB), uri("https://example.test/")])),
        ("an empty one beside it", named(vec![uri(WEB), uri("")])),
        ("DNS names between them", named(vec![uri(WEB), Name::Dns(b"web.shop.svc".to_vec()), uri(admin)])),
        ("one that is no text beside it", named(vec![uri(WEB), uri(b"spiffe://td/\xff")])),
        ("one that is no text before it", named(vec![uri(b"\xc3\x28"), uri(WEB)])),
    ])
    .await;
}

#[tokio::test]
async fn f08_two_lists_of_names_are_refused() {
    let second = alternative_names(&[uri("spiffe://td/ns/shop/sa/admin")]);
    refused([("a second list", Leaf::web(|leaf| leaf.more.push(second)))]).await;
}

#[tokio::test]
async fn f09_dns_names_beside_the_uri_are_no_identity() {
    let member = Member::new();
    let dns = Name::Dns(b"admin.shop.svc".to_vec());
    // As the controller's, which the API server asks by name; names that look like identities are none.
    let services = ["mesh-webhook.mesh-system.svc", "mesh-webhook.mesh-system.svc.cluster.local"];
    let of_services = services.map(|name| Name::Dns(name.into())).into_iter();
    let lookalike = Name::Dns(b"spiffe://td/ns/shop/sa/admin".to_vec());
    for names in [
        vec![uri(WEB), dns.clone()],
        vec![dns, uri(WEB)],
        [uri(WEB)].into_iter().chain(of_services).collect(),
        vec![lookalike.clone(), uri(WEB), lookalike],
    ] {
        member.assert_takes(&member.root.issue(&named(names)), WEB).await;
    }
}

#[tokio::test]
async fn f10_no_uri_name_is_refused() {
    refused([
        ("no name at all", named(vec![])),
        ("a DNS name only", named(vec![Name::Dns(b"web.shop.svc".to_vec())])),
        ("a DNS name that looks like an identity", named(vec![Name::Dns(WEB.into())])),
        (
            "an empty list",
            Leaf::web(|leaf| {
                leaf.names.clear();
                leaf.more.push(alternative_names(&[]));
            }),
        ),
    ])
    .await;
}

#[tokio::test]
async fn f13_uri_that_is_no_spiffe_id_is_refused() {
    refused(
        [
            "https://td/ns/shop/sa/web",
            "spiffe://",
            "spiffe:///x",
            "spiffe://td",
            "spiffe://td/",
            "td/ns/shop/sa/web",
            "",
        ]
        .map(|id| (id, Leaf::of(id))),
    )
    .await;
}

#[tokio::test]
async fn f14_malformed_spiffe_id_is_refused() {
    refused(
        [
            "spiffe://td/ns/shop/sa/web?admin",
            "spiffe://td/ns/shop/sa/web#admin",
            "spiffe://td:443/ns/shop/sa/web",
            "spiffe://user@td/ns/shop/sa/web",
            "spiffe://td/ns/shop/sa/%2e%2e/admin",
            "spiffe://td/ns/shop/sa/we%62",
            "spiffe://td/ns/shop//sa/web",
            "spiffe://td/ns/./shop/sa/web",
            "spiffe://td/ns/shop/sa/../sa/web",
            "spiffe://td/ns/shop/sa/web/",
            "spiffe://td/ns/shop/sa/we b",
            "spiffe://td/ns/shop/sa/wéb",
            " spiffe://td/ns/shop/sa/web",
            "spiffe://td/ns/shop/sa/web\r\n",
            "spiffe://td\\ns/shop/sa/web",
        ]
        .map(|id| (id, Leaf::of(id))),
    )
    .await;
    refused([("no UTF-8", Leaf::of(b"spiffe://td/ns/shop/sa/\xff"))]).await;
}

#[tokio::test]
async fn f15_upper_case_trust_domain_is_refused() {
    refused(
        ["spiffe://TD/ns/shop/sa/web", "SPIFFE://td/ns/shop/sa/web", "spiffe://tD/ns/shop/sa/web"]
            .map(|id| (id, Leaf::of(id))),
    )
    .await;
}

#[tokio::test]
async fn f16_longest_id_is_taken_and_one_byte_more_refused() {
    let member = Member::new();
    let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
    member.assert_takes(&member.root.issue(&Leaf::of(&longest)), &longest).await;
    refused([("2049 bytes", Leaf::of(format!("{longest}a")))]).await;
    refused([("a trust domain of 256 bytes", Leaf::of(format!("spiffe://{}/x", "t".repeat(256))))]).await;
}

#[tokio::test]
async fn f17_nul_in_the_name_is_refused() {
    refused(
        [
            "spiffe://td/ns/shop/sa/web\0",
            "spiffe://td/ns/shop/sa/web\0.evil",
            "spiffe://td\0.evil/ns/shop/sa/web",
            "\0",
        ]
        .map(|id| (id, Leaf::of(id))),
    )
    .await;
}

#[tokio::test]
async fn f18_leaf_that_is_an_authority_is_refused() {
    let unconstrained = IsCa::Ca(BasicConstraints::Unconstrained);
    let no_further = IsCa::Ca(BasicConstraints::Constrained(0));
    // A second list of constraints must not hide the first.
    let not_an_authority = CustomExtension::from_oid_content(&[2, 5, 29, 19], der(0x30, &[]));
    refused([
        ("cA", Leaf::web(|leaf| leaf.ca = unconstrained)),
        ("cA, path length 0", Leaf::web(|leaf| leaf.ca = no_further)),
        (
            "cA, and then not",
            Leaf::web(|leaf| {
                leaf.ca = unconstrained;
                leaf.more.push(not_an_authority.clone());
            }),
        ),
    ])
    .await;
    let member = Member::new();
    let plain = member.root.issue(&Leaf::web(|leaf| leaf.ca = IsCa::ExplicitNoCa));
    member.assert_takes(&plain, WEB).await;
}

#[tokio::test]
async fn f19_leaf_that_may_sign_others_is_refused() {
    let with = |bits| Leaf::web(|leaf| leaf.usage = Some((true, usage::DIGITAL_SIGNATURE | bits)));
    refused([
        ("keyCertSign", with(usage::KEY_CERT_SIGN)),
        ("cRLSign", with(usage::CRL_SIGN)),
        ("both", with(usage::KEY_CERT_SIGN | usage::CRL_SIGN)),
        (
            "keyCertSign in a second list",
            Leaf::web(|leaf| {
                leaf.more.push(key_usage(true, usage::DIGITAL_SIGNATURE | usage::KEY_CERT_SIGN));
            }),
        ),
    ])
    .await;
}

#[tokio::test]
async fn f20_key_usage_that_is_not_for_signing_is_refused() {
    refused([
        ("absent", Leaf::web(|leaf| leaf.usage = None)),
        ("keyEncipherment only", Leaf::web(|leaf| leaf.usage = Some((true, usage::KEY_ENCIPHERMENT)))),
        ("no bit at all", Leaf::web(|leaf| leaf.usage = Some((true, 0)))),
        ("not critical", Leaf::web(|leaf| leaf.usage = Some((false, usage::DIGITAL_SIGNATURE)))),
    ])
    .await;
    let member = Member::new();
    let both = usage::DIGITAL_SIGNATURE | usage::KEY_ENCIPHERMENT;
    member.assert_takes(&member.root.issue(&Leaf::web(|leaf| leaf.usage = Some((true, both)))), WEB).await;
}

#[tokio::test]
async fn f20_unreadable_or_unknown_extensions_are_refused() {
    let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], der(0x05, &[]));
    unknown.set_criticality(true);
    let junk = |oid: &[u64]| CustomExtension::from_oid_content(oid, vec![0x05, 0x00]);
    refused([
        ("an unknown critical one", Leaf::web(|leaf| leaf.more.push(unknown))),
        (
            "names that are none",
            Leaf::web(|leaf| {
                leaf.names.clear();
                leaf.more.push(junk(&[2, 5, 29, 17]));
            }),
        ),
        (
            "a key usage that is none",
            Leaf::web(|leaf| {
                leaf.usage = None;
                leaf.more.push(junk(&[2, 5, 29, 15]));
            }),
        ),
        ("constraints that are none", Leaf::web(|leaf| leaf.more.push(junk(&[2, 5, 29, 19])))),
        ("a second list of purposes", Leaf::web(|leaf| leaf.more.push(purposes(&[purpose::ANY])))),
    ])
    .await;
}

#[tokio::test]
async fn f23_leaf_that_lives_too_long_is_refused() {
    refused([
        ("ten years", Leaf::web(|leaf| leaf.until = 3650 * DAY)),
        ("two days and a bit", Leaf::web(|leaf| (leaf.from, leaf.until) = (-60, 2 * DAY))),
    ])
    .await;
    let member = Member::new();
    let longest = Leaf::web(|leaf| (leaf.from, leaf.until) = (-60, 2 * DAY - 60));
    member.assert_takes(&member.root.issue(&longest), WEB).await;
}

#[tokio::test]
async fn f23_leaf_that_ends_before_it_begins_is_refused() {
    refused([("backwards", Leaf::web(|leaf| (leaf.from, leaf.until) = (60, -60)))]).await;
}
