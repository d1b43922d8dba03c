//! Certificates, and what users wrote.

use super::*;

#[test]
fn certificates() {
    fn issuer(facts: &mut Facts, until: &str) {
        let pages = facts.replicas[0].ca.as_mut().unwrap();
        pages.issuers.as_mut().unwrap().issuer.not_after = until.into();
    }
    fn second(facts: &mut Facts, change: fn(&mut crate::check::facts::Issuers)) {
        let mut other = facts.replicas[0].clone();
        other.pod = "mesh-ca-2".into();
        change(other.ca.as_mut().unwrap().issuers.as_mut().unwrap());
        facts.replicas.push(other);
    }
    hold(&[
        (
            "a root expired",
            |f| {
                f.replicas[0].ca.as_mut().unwrap().issuers.as_mut().unwrap().roots[0].not_after =
                    "2026-06-01T00:00:00Z".into()
            },
            "ca-roots",
            ERR,
            &["mesh root 1 expired", "should have renewed"],
        ),
        (
            "a foreign root ends",
            |f| {
                let root = &mut f.replicas[0].ca.as_mut().unwrap().issuers.as_mut().unwrap().roots[0];
                root.not_after = "2026-06-02T00:00:00Z".into();
                root.generation = None;
            },
            "ca-roots",
            WARN,
            &["ends 2026-06-02", "where it is made"],
        ),
        (
            "two worlds",
            |f| second(f, |page| page.roots[0].fingerprint = "x".into()),
            "ca-roots",
            ERR,
            &["mesh-ca-1 against mesh-ca-2", "Secret"],
        ),
        ("replicas agree", |f| second(f, |_| {}), "ca-roots", OK, &[]),
        ("the issuer is old", |f| issuer(f, "2026-06-02T00:00:00Z"), "ca-issuer", WARN, &["mesh issuer 1 ends"]),
        ("the issuer expired", |f| issuer(f, "2026-05-30T00:00:00Z"), "ca-issuer", ERR, &["expired"]),
        (
            "two issuers",
            |f| second(f, |page| page.issuer.fingerprint = "x".into()),
            "ca-issuer",
            WARN,
            &["different issuers"],
        ),
        (
            "a namespace with pods has none",
            |f| drop(f.trust.as_mut().unwrap().pop()),
            "trust-bundles",
            ERR,
            &["shop: there is no ConfigMap", "do not start"],
        ),
        (
            "another namespace has none",
            |f| drop(f.trust.as_mut().unwrap().remove(0)),
            "trust-bundles",
            WARN,
            &["kube-system"],
        ),
        (
            "another root",
            |f| f.trust.as_mut().unwrap()[2] = trust("shop", &Root::new("x").pem),
            "trust-bundles",
            ERR,
            &["shop: mesh-trust has none of the authority's roots"],
        ),
        (
            "without the authority its own bundle counts",
            |f| {
                f.replicas.remove(0);
                f.trust.as_mut().unwrap()[2] = trust("shop", "");
            },
            "trust-bundles",
            ERR,
            &["shop"],
        ),
        (
            "the authority's own expired",
            |f| f.replicas[0].metrics = Ok(metrics("mesh_ca_server_expiry_timestamp_seconds 1000\n")),
            "control-plane-certificates",
            ERR,
            &["mesh-ca-1: its certificate expired 1970"],
        ),
    ]);
}

#[test]
fn configuration() {
    fn problem(severity: Severity) -> ProblemView {
        ProblemView {
            severity,
            condition: Of::Accepted,
            reason: "TargetNotFound".into(),
            object: Some("AuthorizationPolicy/shop/x".into()),
            field: "spec.targetRefs[0]".into(),
            path: None,
            line: None,
            message: "no Service cart".into(),
        }
    }
    fn condition(facts: &mut Facts, kind: &str, status: Option<bool>) {
        facts.conditions = Ok(vec![Condition {
            object: "HTTPRoute shop/cart".into(),
            kind: kind.into(),
            status,
            reason: "BackendNotFound".into(),
            message: "no Service".into(),
        }]);
    }
    fn problems(facts: &mut Facts, list: Vec<ProblemView>) {
        let mut other = facts.replicas[1].clone();
        other.controller.as_mut().unwrap().problems = Ok(list.clone());
        facts.replicas[1].controller.as_mut().unwrap().problems = Ok(list);
        facts.replicas.push(other);
    }
    hold(&[
        (
            "an error, told by both replicas",
            |f| problems(f, vec![problem(Severity::Error)]),
            "problems",
            ERR,
            &["1 thing", "spec.targetRefs[0]: no Service cart"],
        ),
        ("a warning", |f| problems(f, vec![problem(Severity::Warning)]), "problems", WARN, &["no Service cart"]),
        (
            "not resolved",
            |f| condition(f, "ResolvedRefs", Some(false)),
            "conditions",
            ERR,
            &["HTTPRoute shop/cart", "BackendNotFound"],
        ),
        ("not known yet", |f| condition(f, "Accepted", None), "conditions", OK, &[]),
        ("a condition of somebody else's", |f| condition(f, "Cached", Some(false)), "conditions", OK, &[]),
    ]);
}
