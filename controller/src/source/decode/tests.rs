//! What an author is told, and what is read of a file with faults.

use super::*;

fn run(text: &str) -> Decoded {
    decode(&Arc::new("shop/web.yaml".into()), text)
}

fn told(text: &str) -> Vec<String> {
    run(text).problems.iter().map(ToString::to_string).collect()
}

const POLICY: &str =
    "apiVersion: mesh.dev/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: shop}\nspec:";

#[test]
fn errors_name_file_line_object_field_and_the_nearest_name() {
    for (text, expected) in [
        (
            format!("# one\n---\n{POLICY}\n  rules:\n  - from:\n    - identitees: [x]\n"),
            "shop/web.yaml:9: AuthorizationPolicy shop/p: spec.rules[0].from[0].identitees: \
             unknown field `identitees`; did you mean `identities`?",
        ),
        (
            format!("{POLICY}\n  action: Alow\n"),
            "shop/web.yaml:5: AuthorizationPolicy shop/p: spec.action: `Alow` is not known; did you mean `Allow`?",
        ),
        (
            format!("{POLICY}\n  somethingElse: 1\n"),
            "shop/web.yaml:5: AuthorizationPolicy shop/p: spec.somethingElse: unknown field `somethingElse`; \
             known are targetRefs, selector, action, rules",
        ),
        (
            "apiVersion: mesh.dev/v1alpha1\nkind: ExternalWorkload\nmetadata: {name: w}\nspec:\n  address: 10.0.0.1\n  ports:\n  - port: http\n".into(),
            "shop/web.yaml:7: ExternalWorkload default/w: spec.ports[0].port: not a value of type u16",
        ),
        (
            "apiVersion: mesh.dev/v1alpha1\nkind: TransportPolicy\nmetadata: {name: t}\nspec: {}\n".into(),
            "shop/web.yaml:4: TransportPolicy default/t: spec: missing field `mode`",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\n  name: b\n".into(),
            "shop/web.yaml:5: metadata: duplicate mapping key: name not allowed here",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: Web}\n".into(),
            "shop/web.yaml:1: Service default/Web: metadata.name: `Web` is not a name: a-z, 0-9 and `-`, not at an end, and not too long",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {}\n".into(),
            "shop/web.yaml:1: Service default/: metadata.name: missing",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n".into(),
            "shop/web.yaml:4: tabs disallowed within this context (block indentation)",
        ),
        ("\n\nhello\n".into(), "shop/web.yaml:3: unexpected event: expected mapping start"),
        ("a: 1\n".into(), "shop/web.yaml:1: not an object: it has no apiVersion or no kind"),
        (
            "apiVersion: mesh.dev/v1alpha1\nkind: AuthorisationPolicy\n".into(),
            "shop/web.yaml:1: kind: there is no kind `AuthorisationPolicy` in mesh.dev; did you mean `AuthorizationPolicy`?",
        ),
        (
            "apiVersion: mesh.dev/v1\nkind: TransportPolicy\n".into(),
            "shop/web.yaml:1: apiVersion: version `v1alpha1` of TransportPolicy is not known, v1alpha1 is",
        ),
    ] {
        let expected = expected.replace("version `v1alpha1` of", "version `v1` of");
        assert_eq!(told(&text), [expected], "{text}");
    }
}

#[test]
fn one_bad_document_does_not_take_the_others_with_it() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n{{{ nonsense\n---\napiVersion: v1\nkind: Service\nmetadata: {name: b}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n---\napiVersion: apps/v1\nkind: Deployment\n";
    let decoded = run(text);
    let names: Vec<_> = decoded.objects.iter().map(|o| (o.value.metadata().name.as_str(), o.place.line)).collect();
    assert_eq!(names, [("a", 1), ("b", 7)]);
    assert_eq!((decoded.problems.len(), decoded.foreign, decoded.is_good()), (1, 2, false));
}

#[test]
fn json_namespaces_and_the_cluster_scope() {
    let decoded =
        run(r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}"#);
    assert_eq!(decoded.objects[0].value.metadata().namespace, "default");
    let decoded = run("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, namespace: wrong}\n");
    assert_eq!(decoded.objects[0].value.object_ref().to_string(), "Namespace//shop");
}

#[test]
fn what_stands_in_for_a_policy_points_where_its_author_pointed() {
    let stand_in = |spec: &str| {
        let decoded = run(&format!("{POLICY} {spec}"));
        assert!(!decoded.is_good(), "{spec}");
        decoded.stand_ins.into_iter().map(|located| located.value).next()
    };
    let spec = |resource: Option<Resource>| match resource {
        Some(Resource::AuthorizationPolicy(policy)) => policy.spec,
        other => panic!("{other:?}"),
    };
    let named = spec(stand_in("{targetRef: {kind: Service, name: web}}"));
    assert_eq!((named.target_refs.len(), named.target_refs[0].name.as_str()), (1, "web"));
    let labelled = spec(stand_in("{selector: {app: web}}"));
    assert_eq!(labelled.selector.unwrap().match_labels["app"], "web");
    let whole = spec(stand_in("{rulez: []}"));
    assert!(whole.target_refs.is_empty() && whole.selector.is_none(), "its own namespace, as it says");
    assert_eq!(whole.action, mesh_api::resources::AuthorizationAction::Deny);
    assert_eq!(stand_in("{action: Audit, rulez: []}"), None);
    assert_eq!(stand_in("{targetRefs: 7}"), None, "what is pointed at cannot be made out");
}

#[test]
fn hostile_yaml_ends_in_a_problem() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
    let deep = format!("a: {}", "[".repeat(100_000));
    for text in [bomb, deep.as_str(), "a: &a [*a]", "? [a]\n: b", "!!binary x", "--- |\n  text\n--- >\n"] {
        let started = std::time::Instant::now();
        assert!(!run(text).problems.is_empty(), "{}", &text[..text.len().min(40)]);
        assert!(started.elapsed() < std::time::Duration::from_secs(5));
    }
    let many = "---\na: 1\n".repeat(MAX_OBJECTS + 5);
    assert_eq!(run(&many).problems.last().unwrap().reason, Reason::TooLarge);
}

proptest::proptest! {
    #[test]
    fn no_text_breaks_it(text in "(apiVersion: v1\nkind: Service\n|---\n|metadata: |\\{|\\}|\\[|\\]|: |- |[a-z\"'&*!|>%@#\n\t ]){0,60}") {
        run(&text);
    }
}
