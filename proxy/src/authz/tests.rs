use http::{HeaderName, Request, request::Parts};
use mesh_api::model::{
    Name,
    policy::{Operation, Source},
    route::{PathMatch, ValueMatch, ValuePattern},
};
use proptest::{collection::vec, option, prelude::*};

use super::*;
use crate::normal::normalise;

const ADMIN: &str = "spiffe://td/ns/a/sa/admin";
const OTHER: &str = "spiffe://td/ns/b/sa/other";

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| (*text).into()).collect()
}

fn policy(name: &str, action: Action, rules: Vec<AuthorizationRule>) -> AuthorizationPolicy {
    let origin = ObjectRef { kind: "AuthorizationPolicy".into(), namespace: "ns".into(), name: name.into() };
    AuthorizationPolicy { origin, action, rules }
}

fn to(operation: Operation) -> AuthorizationRule {
    AuthorizationRule { from: vec![], to: vec![operation] }
}

fn from(source: Source) -> AuthorizationRule {
    AuthorizationRule { from: vec![source], to: vec![] }
}

fn paths(paths: &[PathMatch]) -> Operation {
    Operation { paths: paths.to_vec(), ..Operation::default() }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn port(policies: Vec<AuthorizationPolicy>) -> PortPolicy {
    PortPolicy { policies, ..PortPolicy::default() }
}

fn compile(policy: &PortPolicy) -> Authorizer {
    let (authorizer, problems) = Authorizer::compile(policy, 80);
    assert!(problems.is_empty(), "{problems:?}");
    authorizer
}

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target).header("host", "app.ns.svc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn id(text: &str) -> Option<SpiffeId> {
    (!text.is_empty()).then(|| text.parse().unwrap())
}

/// Code of the verdict: `allow`, or the reason.
fn judge(authorizer: &Authorizer, identity: &str, parts: Option<Parts>) -> &'static str {
    let identity = id(identity);
    let caller = Caller { identity: identity.as_ref(), address: [10, 0, 0, 1].into() };
    let code = |verdict: Verdict<'_>| match verdict {
        Verdict::Allow { .. } => "allow",
        Verdict::Deny(denial) => denial.reason.as_str(),
    };
    match parts {
        None => code(authorizer.authorize(&caller, None)),
        Some(mut parts) => match normalise(&mut parts) {
            Ok(normal) => code(authorizer.authorize(&caller, Some(&normal.view(&parts)))),
            Err(_) => "refused",
        },
    }
}

fn get(authorizer: &Authorizer, identity: &str, target: &str) -> &'static str {
    judge(authorizer, identity, Some(head("GET", target, &[])))
}

/// All to `/public`, only the administrator to `/admin`.
fn fixture() -> Authorizer {
    let admin = AuthorizationRule {
        from: vec![Source { identities: names(&[ADMIN]), ..Source::default() }],
        to: vec![paths(&[prefix("/admin")])],
    };
    compile(&port(vec![policy("p", Action::Allow, vec![to(paths(&[prefix("/public")])), admin])]))
}

/// All but `/admin`.
fn deny_fixture() -> Authorizer {
    let mut all = port(vec![policy("d", Action::Deny, vec![to(paths(&[prefix("/admin")]))])]);
    all.default_allow = true;
    compile(&all)
}

#[test]
fn b_nobody_reaches_admin_by_another_spelling() {
    let (allow, deny) = (fixture(), deny_fixture());
    for target in [
        "/admin/x",
        "/public/../admin/x",
        "/public/%2e%2e/admin/x",
        "//admin/x",
        "/public//../admin",
        "/./admin/x",
        "/public%2f..%2fadmin/x",
        "/%2Fadmin/x",
        "/public%5c..%5cadmin",
        "/admin%00",
        "/admin;a=b/x",
        "/admin;/x",
        "/;/admin",
        "/admin%3b/x",
        "/admin?x",
        "/admin/?",
        "/%61dmin/x",
        "/public/%c0%ae%c0%ae/admin",
        "http://app.ns.svc/admin/x",
        "/public/..;/admin/x",
    ] {
        assert_ne!(get(&allow, OTHER, target), "allow", "b01..b20 {target}");
        assert_ne!(get(&deny, ADMIN, target), "allow", "b01..b20 {target}");
    }
    for target in ["/ADMIN/x", "/admin./x", "/admin%20/x", "/%2561dmin", "/%252e%252e/admin", "/adminX", "/"] {
        assert_ne!(get(&allow, OTHER, target), "allow", "b08 b09 b13 b16 {target}");
    }
    for target in ["/public", "/public/x", "/public/x?/admin", "/public/%61", "/public;v=1/x"] {
        assert_eq!(get(&allow, "", target), "allow", "{target}");
        assert_eq!(get(&deny, "", target), "allow", "{target}");
    }
    assert_eq!(get(&allow, ADMIN, "/admin/x"), "allow");
}

#[test]
fn b11_exact_denial_reaches_a_slash_at_the_end() {
    let exact = |action| {
        let mut one = port(vec![policy("p", action, vec![to(paths(&[PathMatch::Exact("/admin".into())]))])]);
        one.default_allow = true;
        compile(&one)
    };
    assert_eq!(get(&exact(Action::Deny), "", "/admin/?"), "denied");
    assert_eq!(get(&exact(Action::Deny), "", "/admin/x"), "allow");
    assert_eq!(get(&exact(Action::Allow), "", "/admin/"), "not-allowed");
    assert_eq!(get(&exact(Action::Allow), "", "/admin?x"), "allow");
}

#[test]
fn b17_patterns_see_the_normal_form() {
    let pattern = PathMatch::Regex("/a/\\d+".into());
    let authorizer = compile(&port(vec![policy("p", Action::Allow, vec![to(paths(&[pattern]))])]));
    assert_eq!(get(&authorizer, "", "/a/1"), "allow");
    assert_eq!(get(&authorizer, "", "/a/%31"), "allow");
    assert_eq!(get(&authorizer, "", "/a/1/../../admin"), "refused");
    assert_eq!(get(&authorizer, "", "/a/1/x"), "not-allowed");
    let mut deny = port(vec![policy("p", Action::Deny, vec![to(paths(&[PathMatch::Regex("/admin.*".into())]))])]);
    deny.default_allow = true;
    assert_eq!(get(&compile(&deny), "", "/admin%0a"), "denied");
}

#[test]
fn b21_methods() {
    let methods = |action, list: &[&str]| {
        let mut one =
            port(vec![policy("p", action, vec![to(Operation { methods: names(list), ..Operation::default() })])]);
        one.default_allow = true;
        compile(&one)
    };
    let ask = |authorizer: &Authorizer, method: &str| judge(authorizer, "", Some(head(method, "/admin/x", &[])));
    assert_eq!(ask(&methods(Action::Deny, &["GET"]), "get"), "refused");
    assert_eq!(ask(&methods(Action::Deny, &["GET"]), "GET"), "denied");
    assert_eq!(ask(&methods(Action::Deny, &["GET"]), "POST"), "allow");
    assert_eq!(ask(&methods(Action::Deny, &["GET"]), "GETX"), "unknown-method");
    assert_eq!(ask(&methods(Action::Allow, &["GET"]), "GETX"), "not-allowed");
    assert_eq!(ask(&methods(Action::Allow, &["PURGE"]), "PURGE"), "allow");
    assert_eq!(ask(&fixture(), "PURGE"), "not-allowed");
}

#[test]
fn b22_override_headers_change_nothing() {
    let headers = [("x-http-method-override", "DELETE"), ("x-original-url", "/public"), ("x-rewrite-url", "/public")];
    assert_eq!(judge(&fixture(), OTHER, Some(head("GET", "/admin/x", &headers))), "not-allowed");
}

#[test]
fn c17_networks_are_about_the_socket() {
    let cidrs = Source { cidrs: vec!["10.0.0.0/8".parse().unwrap()], ..Source::default() };
    let authorizer = compile(&port(vec![policy("p", Action::Allow, vec![from(cidrs)])]));
    let parts = head("GET", "/", &[("x-forwarded-for", "10.0.0.1")]);
    let normal = normalise(&mut parts.clone()).unwrap();
    let ask = |address: &str| {
        let caller = Caller { identity: None, address: address.parse().unwrap() };
        authorizer.authorize(&caller, Some(&normal.view(&parts))).is_allow()
    };
    assert!(ask("10.1.2.3") && ask("::ffff:10.1.2.3"));
    assert!(!ask("11.1.2.3") && !ask("::1"));
}

#[test]
fn e02_what_is_not_http_is_judged_without_a_request() {
    let (allow, deny) = (fixture(), deny_fixture());
    assert!(allow.needs_http() && deny.needs_http());
    assert_eq!(judge(&allow, ADMIN, None), "not-allowed");
    assert_eq!(judge(&deny, ADMIN, None), "denied");
    let negative = |action| {
        let mut one = port(vec![policy(
            "p",
            action,
            vec![to(Operation { not_paths: vec![prefix("/x")], ..Operation::default() })],
        )]);
        one.default_allow = true;
        compile(&one)
    };
    assert_eq!(judge(&negative(Action::Deny), "", None), "denied");
    assert_eq!(judge(&negative(Action::Allow), "", None), "not-allowed");
    let identities = Source { identities: names(&["*"]), ..Source::default() };
    let plain = compile(&port(vec![policy("p", Action::Allow, vec![from(identities)])]));
    assert!(!plain.needs_http());
    assert_eq!(judge(&plain, ADMIN, None), "allow");
    assert_eq!(judge(&plain, "", None), "not-allowed");
}

#[test]
fn f31_strict_refuses_whoever_has_no_identity() {
    let strict = PortPolicy { transport: Transport::Strict, default_allow: true, ..PortPolicy::default() };
    let strict = compile(&strict);
    assert_eq!(judge(&strict, "", None), "no-identity");
    assert_eq!(judge(&strict, OTHER, None), "allow");
    let caller = Caller { identity: None, address: [10, 0, 0, 1].into() };
    assert_eq!(strict.admit(&caller).unwrap_err().reason, DenyReason::NoIdentity);
}

#[test]
fn health_probes_are_let_in_past_everything_and_nothing_else_is() {
    let everything = policy("d", Action::Deny, vec![AuthorizationRule::default()]);
    let probe = |method: &str, path: &str| Probe { method: method.into(), path: path.into() };
    let probes = vec![
        probe("GET", "/health"),
        probe("GET", "/"),
        probe("POST", "/grpc.health.v1.Health/Check"),
        probe("GET", "/a b"),
        probe("not a method", "/"),
        probe("GET", "/x/../y"),
    ];
    let strict = PortPolicy { transport: Transport::Strict, probes, ..port(vec![everything]) };
    let strict = compile(&strict);
    assert!(strict.expects_probes());
    for good in ["/health", "/health/", "/health?full=1", "//health", "/%68ealth", "/", "/a%20b"] {
        assert_eq!(get(&strict, "", good), "allow", "{good}");
        assert_eq!(get(&strict, OTHER, good), "allow", "{good}");
    }
    for bad in ["/health/x", "/healthy", "/Health", "/y", "/x/y", "/grpc.health.v1.Health/Check"] {
        assert_eq!(get(&strict, "", bad), "no-identity", "{bad}");
        assert_eq!(get(&strict, OTHER, bad), "denied", "{bad}");
    }
    assert_eq!(judge(&strict, "", Some(head("HEAD", "/health", &[]))), "no-identity");
    assert_eq!(judge(&strict, "", Some(head("POST", "/grpc.health.v1.Health/Check", &[]))), "allow");
    assert_eq!(judge(&strict, "", None), "no-identity", "a bare connection is no probe");
    assert!(!compile(&port(vec![])).expects_probes());
}

#[test]
fn g19_connect_has_no_path() {
    let connect = || {
        Some(head("CONNECT", "app.ns.svc:80", &[]).clone()).map(|mut parts| {
            parts.headers.insert("host", "app.ns.svc:80".parse().unwrap());
            parts
        })
    };
    assert_eq!(judge(&fixture(), ADMIN, connect()), "not-allowed");
    assert_eq!(judge(&deny_fixture(), ADMIN, connect()), "denied");
    assert_eq!(judge(&deny_fixture(), ADMIN, Some(head("OPTIONS", "*", &[]))), "denied");
}

#[test]
fn what_cannot_be_judged_is_denied() {
    let field = |value: ValuePattern| ValueMatch { name: "x-role".into(), value };
    let with = |action, value: ValuePattern| {
        let operation = Operation { headers: vec![field(value)], ..Operation::default() };
        let mut one = port(vec![policy("p", action, vec![to(operation)])]);
        one.default_allow = true;
        Authorizer::compile(&one, 80).0
    };
    let ask = |authorizer: &Authorizer, values: &[&[u8]]| {
        let mut parts = head("GET", "/", &[]);
        for value in values {
            parts.headers.append("x-role", HeaderValue::from_bytes(value).unwrap());
        }
        judge(authorizer, "", Some(parts))
    };
    let regex = || ValuePattern::Regex("adm.*".into());
    let exact = || ValuePattern::Exact("admin".into());
    assert_eq!(ask(&with(Action::Deny, regex()), &[b"adm\xff"]), "denied");
    assert_eq!(ask(&with(Action::Allow, regex()), &[b"adm\xff"]), "not-allowed");
    // Said twice, or in a list.
    for twice in [&[&b"x"[..], b"admin"][..], &[b"x, admin"], &[b"admin", b"x"]] {
        assert_eq!(ask(&with(Action::Deny, exact()), twice), "denied");
        assert_eq!(ask(&with(Action::Allow, exact()), twice), "not-allowed");
    }
    assert_eq!(ask(&with(Action::Deny, exact()), &[b"x"]), "allow");
    assert_eq!(ask(&with(Action::Deny, exact()), &[]), "allow");
    // Patterns that do not compile.
    let broken = || ValuePattern::Regex("(".into());
    assert_eq!(ask(&with(Action::Deny, broken()), &[b"x"]), "denied");
    assert_eq!(ask(&with(Action::Allow, broken()), &[b"x"]), "not-allowed");
}

#[test]
fn refusals_name_the_policy() {
    let deny = deny_fixture();
    let caller = Caller { identity: None, address: [10, 0, 0, 1].into() };
    let Verdict::Deny(denial) = deny.authorize(&caller, None) else { panic!("let in") };
    let name = denial.by.unwrap();
    assert_eq!(&*name.text, "AuthorizationPolicy/ns/d");
    assert_eq!(name.header, "AuthorizationPolicy/ns/d");
    let mut audited = port(vec![policy("a", Action::Audit, vec![AuthorizationRule::default()])]);
    audited.default_allow = true;
    let audited = compile(&audited);
    assert_eq!(audited.audits(&caller, None).map(|name| &*name.origin.name).collect::<Vec<_>>(), ["a"]);
    assert!(audited.authorize(&caller, None).is_allow());
}

#[test]
fn identities_and_namespaces() {
    let allow = |source: Source| compile(&port(vec![policy("p", Action::Allow, vec![from(source)])]));
    let ask = |source: Source, identity: &str| judge(&allow(source), identity, None) == "allow";
    let ids = |list: &[&str]| Source { identities: names(list), ..Source::default() };
    assert!(ask(ids(&["spiffe://td/ns/a/*"]), ADMIN) && !ask(ids(&["spiffe://td/ns/a/*"]), OTHER));
    assert!(ask(ids(&[OTHER, ADMIN]), ADMIN) && !ask(ids(&["spiffe://td/ns/a/sa/adm"]), ADMIN));
    let spaces = |list: &[&str]| Source { namespaces: names(list), ..Source::default() };
    assert!(ask(spaces(&["a"]), ADMIN) && !ask(spaces(&["a"]), OTHER) && !ask(spaces(&["a"]), ""));
    assert!(!ask(spaces(&["a"]), "spiffe://td/x/a/sa/admin"));
    let not = |list: &[&str]| Source { not_identities: names(list), ..Source::default() };
    assert!(!ask(not(&[ADMIN]), ADMIN) && ask(not(&[ADMIN]), OTHER) && ask(not(&[ADMIN]), ""));
    let both = Source { identities: names(&["*"]), not_namespaces: names(&["b"]), ..Source::default() };
    assert!(ask(both.clone(), ADMIN) && !ask(both.clone(), OTHER) && !ask(both, ""));
}

#[test]
fn operations_of_other_ports_match_nothing() {
    let elsewhere = to(Operation { ports: vec![81], ..Operation::default() });
    let here = to(Operation { ports: vec![80, 81], ..Operation::default() });
    let ask = |action, rule: &AuthorizationRule| {
        let mut one = port(vec![policy("p", action, vec![rule.clone()])]);
        one.default_allow = true;
        judge(&compile(&one), "", None)
    };
    assert_eq!(ask(Action::Deny, &elsewhere), "allow");
    assert_eq!(ask(Action::Allow, &elsewhere), "not-allowed");
    assert_eq!(ask(Action::Deny, &here), "denied");
    assert_eq!(ask(Action::Allow, &here), "allow");
    assert_eq!(judge(&compile(&port(vec![policy("p", Action::Allow, vec![])])), "", None), "not-allowed");
    assert_eq!(judge(&compile(&port(vec![])), "", None), "default-deny");
}

/// The words of the model, in the plainest way. Requests have a host, a plain path and at most one line of a field.
fn reference(policy: &PortPolicy, port: u16, identity: Option<&SpiffeId>, request: Option<(&str, &str, &str)>) -> bool {
    let text = identity.map(SpiffeId::as_str);
    let id_in = |list: &[Name]| {
        text.is_some_and(|text| {
            list.iter().any(|one| one.strip_suffix('*').map_or(**one == *text, |front| text.starts_with(front)))
        })
    };
    let space_in =
        |list: &[Name]| identity.and_then(|id| id.namespace()).is_some_and(|n| list.iter().any(|x| **x == *n));
    let source = |s: &Source| {
        (s.identities.is_empty() || id_in(&s.identities))
            && (s.namespaces.is_empty() || space_in(&s.namespaces))
            && !id_in(&s.not_identities)
            && !space_in(&s.not_namespaces)
    };
    let operation = |o: &Operation, deny: bool| {
        let path_in = |list: &[PathMatch]| {
            let path = request.map(|(_, path, _)| path).unwrap_or_default();
            list.iter().any(|one| match one {
                PathMatch::Exact(text) => **text == *path,
                PathMatch::Prefix(text) => format!("{path}/").starts_with(&format!("{}/", text.trim_end_matches('/'))),
                PathMatch::Regex(_) => false,
            })
        };
        let method_in = |list: &[Name]| request.is_some_and(|(method, ..)| list.iter().any(|one| **one == *method));
        let field =
            |m: &ValueMatch| matches!(&m.value, ValuePattern::Exact(v) if request.is_some_and(|(.., f)| **v == *f));
        let http = |asked: bool, holds: bool| !asked || if request.is_some() { holds } else { deny };
        (o.ports.is_empty() || o.ports.contains(&port))
            && http(!o.methods.is_empty(), method_in(&o.methods))
            && http(!o.paths.is_empty(), path_in(&o.paths))
            && http(!o.headers.is_empty(), o.headers.iter().all(field))
            && http(!o.not_methods.is_empty(), !method_in(&o.not_methods))
            && http(!o.not_paths.is_empty(), !path_in(&o.not_paths))
    };
    let matches = |action: Action| {
        policy.policies.iter().filter(move |p| p.action == action).any(|p| {
            p.rules.iter().any(|rule| {
                (rule.from.is_empty() || rule.from.iter().any(source))
                    && (rule.to.is_empty() || rule.to.iter().any(|o| operation(o, action == Action::Deny)))
            })
        })
    };
    if policy.transport == Transport::Strict && identity.is_none() || matches(Action::Deny) {
        return false;
    }
    if policy.policies.iter().any(|p| p.action == Action::Allow) {
        matches(Action::Allow)
    } else {
        policy.default_allow
    }
}

fn some_of(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<Name>> {
    vec(prop::sample::select(texts).prop_map(Name::from), 0..2)
}

fn any_rule() -> impl Strategy<Value = AuthorizationRule> {
    const IDS: &[&str] = &[ADMIN, OTHER, "*", "spiffe://td/ns/a/*"];
    let source = (some_of(IDS), some_of(&["a", "b"]), some_of(IDS), some_of(&["a", "b"])).prop_map(
        |(identities, namespaces, not_identities, not_namespaces)| Source {
            identities,
            namespaces,
            not_identities,
            not_namespaces,
            ..Source::default()
        },
    );
    let path = prop::sample::select(vec!["/", "/a", "/a/b", "/b/"]);
    let path = (path, any::<bool>())
        .prop_map(|(path, exact)| if exact { PathMatch::Exact(path.into()) } else { prefix(path) });
    let headers = vec(prop::sample::select(vec!["x", "y"]), 0..2);
    let ports = vec(prop::sample::select(vec![80_u16, 81]), 0..2);
    let operation =
        (some_of(&["GET", "POST"]), vec(path.clone(), 0..2), headers, some_of(&["GET"]), vec(path, 0..2), ports)
            .prop_map(|(methods, paths, headers, not_methods, not_paths, ports)| Operation {
                methods,
                paths,
                headers: headers
                    .into_iter()
                    .map(|v| ValueMatch { name: "h".into(), value: ValuePattern::Exact(v.into()) })
                    .collect(),
                not_methods,
                not_paths,
                ports,
                ..Operation::default()
            });
    (vec(source, 0..3), vec(operation, 0..3)).prop_map(|(from, to)| AuthorizationRule { from, to })
}

fn any_port() -> impl Strategy<Value = PortPolicy> {
    let action = prop::sample::select(vec![Action::Deny, Action::Allow, Action::Audit]);
    let policies = vec((action, vec(any_rule(), 0..3)).prop_map(|(action, rules)| policy("p", action, rules)), 0..4);
    (policies, any::<bool>(), any::<bool>()).prop_map(|(policies, strict, default_allow)| PortPolicy {
        transport: if strict { Transport::Strict } else { Transport::Permissive },
        policies,
        default_allow,
        ..PortPolicy::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn agrees_with_the_model(
        policy in any_port(),
        identity in prop::sample::select(vec!["", ADMIN, OTHER]),
        request in option::of((
            prop::sample::select(vec!["GET", "POST"]),
            prop::sample::select(vec!["/", "/a", "/a/b", "/ab", "/b"]),
            prop::sample::select(vec!["x", "y", "z"]),
        )),
    ) {
        let parts = request.map(|(method, path, field)| {
            let mut parts = head(method, path, &[]);
            parts.headers.insert(HeaderName::from_static("h"), HeaderValue::from_static(field));
            parts
        });
        let wanted = reference(&policy, 80, id(identity).as_ref(), request);
        prop_assert_eq!(judge(&compile(&policy), identity, parts) == "allow", wanted);
    }
}
