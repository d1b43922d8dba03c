//! Tokens that must be refused, and the few that must not.

use std::{fs, os::unix::fs::PermissionsExt};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn now() -> Time {
    Time::from_unix(1_795_000_000)
}

fn tokens() -> (tempfile::TempDir, JoinTokens) {
    let folder = tempfile::tempdir().unwrap();
    let tokens = JoinTokens::open_or_create(&folder.path().join("join.key")).unwrap();
    (folder, tokens)
}

/// Claims that are right; a test changes one of them.
fn claims() -> Value {
    json!({ "sub": "shop/web", "aud": "mesh-ca", "iat": now().unix(), "exp": now().unix() + 60, "jti": "1" })
}

fn header(tokens: &JoinTokens) -> Header {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(tokens.key_id.clone());
    header
}

fn sign(tokens: &JoinTokens, claims: &Value) -> String {
    jsonwebtoken::encode(&header(tokens), claims, &tokens.signing).unwrap()
}

#[test]
fn minted_tokens_say_who() {
    let (folder, tokens) = tokens();
    let token = tokens.mint("shop", "web", HOUR, now()).unwrap();
    let caller = tokens.verify(&token, now()).unwrap();
    assert_eq!((caller.namespace(), caller.account()), ("shop", "web"));
    let again = tokens.verify(&tokens.mint("shop", "web", HOUR, now()).unwrap(), now()).unwrap();
    assert_ne!(caller.instance(), again.instance(), "each token is an instance of its own");
    let named = tokens.mint_for("shop", "web", Some("web-1"), HOUR, now()).unwrap();
    assert_eq!(tokens.verify(&named, now()).unwrap().instance(), "web-1");
    // The key stays, so tokens survive a restart, and whoever can read the key can make tokens.
    let reopened = JoinTokens::open(&folder.path().join("join.key")).unwrap();
    assert!(reopened.verify(&token, now()).is_ok());
    // The clock of the one who made it may be early by a little.
    assert!(tokens.verify(&token, now().minus(Duration::from_secs(59))).is_ok());
}

#[test]
fn what_is_not_minted() {
    let (_folder, tokens) = tokens();
    for (namespace, account) in [("", "a"), ("a", ""), ("a/b", "c"), ("A", "b"), ("a", "../x")] {
        assert_eq!(tokens.mint(namespace, account, HOUR, now()), Err(MintError::Names));
    }
    assert_eq!(tokens.mint_for("a", "b", Some("X"), HOUR, now()), Err(MintError::Names));
    for ttl in [Duration::ZERO, Duration::from_millis(999), MAX_TOKEN_TTL + HOUR, Duration::MAX] {
        assert_eq!(tokens.mint("a", "b", ttl, now()), Err(MintError::Ttl));
    }
}

#[test]
fn i01_no_token_or_a_huge_one() {
    let (_folder, tokens) = tokens();
    assert_eq!(tokens.verify("", now()), Err(AuthnError::Missing));
    assert_eq!(tokens.verify(&"a".repeat(1 << 20), now()), Err(AuthnError::TooLong));
    assert_eq!(tokens.verify(&"a".repeat(MAX_TOKEN), now()), Err(AuthnError::Malformed));
    for junk in ["a", ".", "..", "...", "a.b.c", "\0\u{1}é", " ", "e30.e30.e30"] {
        assert_eq!(tokens.verify(junk, now()), Err(AuthnError::Malformed), "{junk:?}");
    }
}

#[test]
fn i02_forged_tokens() {
    let (_folder, tokens) = tokens();
    let (_other_folder, other) = self::tokens();
    let good = tokens.mint("shop", "web", HOUR, now()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();

    // Signed by somebody else, under their key id and under ours.
    assert_eq!(tokens.verify(&sign(&other, &claims()), now()), Err(AuthnError::Signature));
    let stolen_id = jsonwebtoken::encode(&header(&tokens), &claims(), &other.signing).unwrap();
    assert_eq!(tokens.verify(&stolen_id, now()), Err(AuthnError::Signature));
    // {"alg":"none","typ":"JWT"}, with and without the rest.
    for none in ["eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJOb25lIiwidHlwIjoiSldUIn0"] {
        assert!(tokens.verify(&format!("{none}.{}.", parts[1]), now()).is_err());
        assert!(tokens.verify(&format!("{none}.{}.{}", parts[1], parts[2]), now()).is_err());
    }
    // HMAC with what is public as its secret.
    let public = tokens.verifying.try_get_as_bytes().unwrap();
    let mut hmac = header(&tokens);
    hmac.alg = Algorithm::HS256;
    let confused = jsonwebtoken::encode(&hmac, &claims(), &EncodingKey::from_secret(public)).unwrap();
    assert_eq!(tokens.verify(&confused, now()), Err(AuthnError::Signature));
    // Headers that bring or name another key, or ask for something to be understood.
    for change in [
        (|header: &mut Header| header.jku = Some("http://127.0.0.1/keys".into())) as fn(&mut Header),
        |header| header.x5u = Some("http://127.0.0.1/certs".into()),
        |header| header.x5c = Some(vec![]),
        |header| header.crit = Some(vec!["exp".into()]),
        |header| header.typ = None,
        |header| header.extras.insert("b64", false),
    ] {
        let mut changed = header(&tokens);
        change(&mut changed);
        let token = jsonwebtoken::encode(&changed, &claims(), &tokens.signing).unwrap();
        assert_eq!(tokens.verify(&token, now()), Err(AuthnError::Malformed), "{changed:?}");
    }
    for kid in [None, Some(String::new()), Some("0".repeat(16))] {
        let mut changed = header(&tokens);
        changed.kid = kid;
        let token = jsonwebtoken::encode(&changed, &claims(), &tokens.signing).unwrap();
        assert_eq!(tokens.verify(&token, now()), Err(AuthnError::Signature));
    }
    // One part from another token.
    let else_where = tokens.mint("shop", "admin", HOUR, now()).unwrap();
    let claims_of_other = else_where.split('.').nth(1).unwrap();
    let mixed = format!("{}.{claims_of_other}.{}", parts[0], parts[2]);
    assert_eq!(tokens.verify(&mixed, now()), Err(AuthnError::Signature));
    assert_eq!(tokens.verify(&format!("{}.{}.", parts[0], parts[1]), now()), Err(AuthnError::Signature));
}

#[test]
fn i03_times() {
    let (_folder, tokens) = tokens();
    let token = tokens.mint("shop", "web", HOUR, now()).unwrap();
    assert!(tokens.verify(&token, now().plus(Duration::from_secs(3599))).is_ok());
    for late in [HOUR, 2 * HOUR, 10_000 * HOUR] {
        assert_eq!(tokens.verify(&token, now().plus(late)), Err(AuthnError::Expired));
    }
    assert_eq!(tokens.verify(&token, now().minus(HOUR)), Err(AuthnError::NotYetValid));
    for (claim, value) in [
        ("exp", json!(null)),
        ("exp", json!(-1)),
        ("exp", json!(1e300)),
        ("exp", json!(u64::MAX)),
        ("exp", json!("1795000060")),
        ("iat", json!(null)),
        ("iat", json!(0)),
        ("iat", json!(-5)),
    ] {
        let mut changed = claims();
        changed[claim] = value.clone();
        assert_eq!(tokens.verify(&sign(&tokens, &changed), now()), Err(AuthnError::Malformed), "{claim} {value}");
    }
}

#[test]
fn i04_other_audiences() {
    let (_folder, tokens) = tokens();
    for audience in ["vault", "https://kubernetes.default.svc", "", "mesh-ca ", "MESH-CA"] {
        let mut changed = claims();
        changed["aud"] = json!(audience);
        assert_eq!(tokens.verify(&sign(&tokens, &changed), now()), Err(AuthnError::Audience), "{audience:?}");
    }
    // A list that contains ours is not what is made here, and no audience is no way around one.
    for audience in [json!(["vault", "mesh-ca"]), json!(null), json!([]), json!(5)] {
        let mut changed = claims();
        changed["aud"] = audience.clone();
        assert!(tokens.verify(&sign(&tokens, &changed), now()).is_err(), "{audience}");
    }
    assert!(tokens.verify(&sign(&tokens, &claims()), now()).is_ok());
}

#[test]
fn i07_subjects() {
    let (_folder, tokens) = tokens();
    for subject in [
        "",
        "/",
        "a",
        "a/",
        "/b",
        "a/b/c",
        "A/b",
        "a/b ",
        "system:serviceaccount:a:b",
        "a/../b",
        "a/b\0c",
        "*/*",
        &format!("a/{}", "b".repeat(300)),
    ] {
        let mut changed = claims();
        changed["sub"] = json!(subject);
        assert_eq!(tokens.verify(&sign(&tokens, &changed), now()), Err(AuthnError::Names), "{subject:?}");
    }
    for (claim, value) in [("workload", json!("A/b")), ("workload", json!(""))] {
        let mut changed = claims();
        changed[claim] = value;
        assert_eq!(tokens.verify(&sign(&tokens, &changed), now()), Err(AuthnError::Names));
    }
    let mut changed = claims();
    changed["jti"] = json!("x".repeat(65));
    assert_eq!(tokens.verify(&sign(&tokens, &changed), now()), Err(AuthnError::Malformed));
}

#[test]
fn the_key_file_is_closed_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("join.key");
    assert!(matches!(JoinTokens::open(&path), Err(JoinKeyError::File(error)) if error.is_missing()));
    JoinTokens::open_or_create(&path).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let told = JoinTokens::open_or_create(&path).unwrap_err().to_string();
    assert!(told.contains("chmod 600"), "{told}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in ["", "garbage", &crate::pki::PrivateKey::generate().unwrap().to_pem()] {
        fs::write(&path, wrong).unwrap();
        assert!(matches!(JoinTokens::open_or_create(&path), Err(JoinKeyError::NotAKey(_))));
    }
}

#[test]
fn two_who_create_the_key_agree() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("join.key");
    let ids: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| JoinTokens::open_or_create(&path).unwrap().key_id)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let after = JoinTokens::open_or_create(&path).unwrap().key_id;
    assert!(ids.iter().all(|id| *id == after));
}

#[test]
fn i22_the_key_does_not_show_itself() {
    let (folder, tokens) = tokens();
    let pem = fs::read_to_string(folder.path().join("join.key")).unwrap();
    let body = pem.lines().nth(1).unwrap();
    let shown = format!("{tokens:?}");
    assert!(shown.contains("[redacted]") && !shown.contains(&body[..20]));
}

proptest! {
    #[test]
    fn i02_damage_is_noticed(at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_.-]") {
        static FIXTURE: std::sync::OnceLock<(tempfile::TempDir, JoinTokens)> = std::sync::OnceLock::new();
        let (_, tokens) = FIXTURE.get_or_init(tokens);
        let good = tokens.mint("shop", "web", HOUR, now()).unwrap();
        let place = at.index(good.len());
        let mut damaged = good.clone();
        damaged.replace_range(place..=place, &with);
        prop_assert_eq!(tokens.verify(&damaged, now()).is_ok(), damaged == good);
    }

    #[test]
    fn i01_junk_never_panics(junk in "\\PC{0,300}") {
        static FIXTURE: std::sync::OnceLock<(tempfile::TempDir, JoinTokens)> = std::sync::OnceLock::new();
        let (_, tokens) = FIXTURE.get_or_init(tokens);
        prop_assert!(tokens.verify(&junk, now()).is_err());
    }
}
