//! What stands in for a policy that cannot be decoded, where it never was good: a denial (or strict mutual TLS) for
//! what it points at. See [`crate::translate`] for why.

use mesh_api::{
    config::nearest,
    resources::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, LabelSelector, Metadata,
        Resource, TargetRef, TransportMode, TransportPolicy, TransportPolicySpec,
    },
};
use serde_json::Value;

/// Reads of `document` what can be read, and makes the safe policy of it. `None` for other kinds, for policies that
/// only audit, and where something is pointed at that cannot be made out.
pub(super) fn stand_in(kind: &str, metadata: &Metadata, document: &Value) -> Option<Resource> {
    let spec = document.get("spec").unwrap_or(&Value::Null);
    match kind {
        "AuthorizationPolicy" => {
            if spec.get("action").and_then(Value::as_str).is_some_and(|action| action.eq_ignore_ascii_case("audit")) {
                return None;
            }
            let (target_refs, selector) = targets(spec, &["action", "rules"])?;
            let rules = vec![AuthorizationRule::default()];
            let spec = AuthorizationPolicySpec { target_refs, selector, action: AuthorizationAction::Deny, rules };
            Some(Resource::AuthorizationPolicy(AuthorizationPolicy { metadata: metadata.clone(), spec }))
        }
        "TransportPolicy" => {
            let (target_refs, selector) = targets(spec, &["mode", "ports"])?;
            let spec = TransportPolicySpec { target_refs, selector, mode: TransportMode::Strict, ports: Vec::new() };
            Some(Resource::TransportPolicy(TransportPolicy { metadata: metadata.clone(), spec }))
        }
        _ => None,
    }
}

/// What a spec points at, also where the field's name or its shape is wrong.
fn targets(spec: &Value, others: &[&str]) -> Option<(Vec<TargetRef>, Option<LabelSelector>)> {
    let (mut refs, mut selector, mut pointed) = (Vec::new(), None, false);
    for (key, value) in spec.as_object().into_iter().flatten() {
        match nearest(key, ["targetRefs", "selector"].into_iter().chain(others.iter().copied())) {
            Some("targetRefs") => {
                pointed = true;
                match value {
                    Value::Array(entries) => refs.extend(entries.iter().filter_map(target)),
                    single => refs.extend(target(single)),
                }
            }
            Some("selector") => {
                pointed = true;
                selector = labels(value);
            }
            _ => {}
        }
    }
    let found = !refs.is_empty() || selector.is_some();
    (found || !pointed).then_some((refs, selector))
}

fn target(value: &Value) -> Option<TargetRef> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = value.get("name")?.as_str()?.to_owned();
    Some(TargetRef { group: text("group"), kind: text("kind"), name })
}

/// `{matchLabels: {..}}`, or labels where `matchLabels` was forgotten.
fn labels(value: &Value) -> Option<LabelSelector> {
    let inside = value.get("matchLabels").unwrap_or(value).as_object()?;
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    let match_labels: std::collections::BTreeMap<_, _> = inside.iter().filter_map(text).collect();
    (!match_labels.is_empty()).then_some(LabelSelector { match_labels })
}
