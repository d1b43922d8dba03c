//! HTTPRoutes with Services as parents (GEP-1294, GEP-1324).

use std::time::Duration;

use mesh_api::{
    model::{
        Name,
        route::{HttpMatch, PathMatch},
    },
    resources::{BackendRef, HttpRoute, HttpRouteMatch, HttpRouteRule, ParentRef},
};

use super::{Parent, Part, Rank, Route, RouteBackend, RouteRule, ServiceId, Verdict, filter, value};
use crate::problem::{Findings, Reason};

/// Group of Gateway API's kinds, and what a parent's group is where it is not given.
const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Largest weight (Gateway API).
const MAX_WEIGHT: i64 = 1_000_000;
/// Most entries of the lists of a route. Gateway API's own limits are 16 rules, 64 matches a rule and 16 backends;
/// manifests that never met an API server may have a few more.
const MAX_RULES: usize = 64;
const MAX_MATCHES: usize = 64;
const MAX_BACKENDS: usize = 64;
const MAX_PARENTS: usize = 32;
const MAX_HOSTS: usize = 16;
const MAX_VALUES: usize = 16;

pub(super) fn translate(object: &HttpRoute, findings: &mut Findings) -> Verdict {
    let spec = &object.spec;
    for (field, count, most) in [
        ("spec.parentRefs", spec.parent_refs.len(), MAX_PARENTS),
        ("spec.hostnames", spec.hostnames.len(), MAX_HOSTS),
        ("spec.rules", spec.rules.len(), MAX_RULES),
    ] {
        bound(field, count, most, findings);
    }
    if findings.refused() {
        return Verdict::Refused { stand_in: None };
    }
    let namespace: Name = object.metadata.namespace.as_str().into();
    let numbered = spec.parent_refs.iter().enumerate();
    let parents = numbered.filter_map(|(at, parent)| parent_of(parent, at, &namespace, findings)).collect();
    let numbered = spec.hostnames.iter().enumerate();
    let hosts =
        numbered.filter_map(|(at, host)| value::host(host, &format!("spec.hostnames[{at}]"), findings)).collect();
    // No rule is one rule that matches everything (the default of `spec.rules` in Gateway API).
    let whole = [HttpRouteRule::default()];
    let rules = if spec.rules.is_empty() { whole.as_slice() } else { spec.rules.as_slice() };
    let rules = rules.iter().enumerate().map(|(at, rule)| rule_of(rule, at, &namespace, findings)).collect();
    let origin = findings.object().clone();
    let rank = Rank::new(object.metadata.creation_timestamp.as_deref(), &origin);
    Verdict::of(findings, Part::Route(Route { origin, rank, parents, hosts, rules }), None)
}

fn bound(field: &str, count: usize, most: usize, findings: &mut Findings) {
    if count > most {
        findings.refuse(field, Reason::TooLarge, format!("{count} entries, at most {most} are allowed"));
    }
}

fn parent_of(parent: &ParentRef, at: usize, namespace: &Name, findings: &mut Findings) -> Option<Parent> {
    let field = format!("spec.parentRefs[{at}]");
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let group = parent.group.as_deref().unwrap_or(GATEWAY_GROUP);
    if kind != "Service" {
        // A Gateway's business: another implementation's, or a later one's.
        return None;
    }
    match group {
        "" | "core" => {}
        GATEWAY_GROUP if parent.group.is_none() => {
            let message = "a Service is in the core group: write `group: \"\"`, or an API server will fill in another";
            findings.warn(format!("{field}.group"), Reason::Invalid, message);
        }
        other => {
            let message = format!("there is no Service in group `{other}`: write `group: \"\"`");
            findings.report(format!("{field}.group"), Reason::NoMatchingParent, message);
            return None;
        }
    }
    if parent.name.is_empty() {
        findings.refuse(format!("{field}.name"), Reason::Invalid, "missing");
        return None;
    }
    Some(Parent {
        service: ServiceId {
            namespace: parent.namespace.as_deref().map_or_else(|| namespace.clone(), Into::into),
            name: parent.name.as_str().into(),
        },
        port: parent.port,
        section: parent.section_name.as_deref().map(Into::into),
        at,
    })
}

fn rule_of(rule: &HttpRouteRule, at: usize, namespace: &Name, findings: &mut Findings) -> RouteRule {
    let field = format!("spec.rules[{at}]");
    bound(&format!("{field}.matches"), rule.matches.len(), MAX_MATCHES, findings);
    bound(&format!("{field}.backendRefs"), rule.backend_refs.len(), MAX_BACKENDS, findings);
    let everything = [HttpRouteMatch::default()];
    let matches = if rule.matches.is_empty() { everything.as_slice() } else { rule.matches.as_slice() };
    let matches = matches.iter().take(MAX_MATCHES).enumerate();
    let matches = matches.map(|(n, one)| match_of(one, &format!("{field}.matches[{n}]"), findings)).collect();
    let backends = rule.backend_refs.iter().take(MAX_BACKENDS).enumerate();
    let backends = backends
        .filter_map(|(n, backend)| backend_of(backend, &format!("{field}.backendRefs[{n}]"), namespace, findings))
        .collect();
    let (request_timeout, backend_timeout) = timeouts(rule, &field, findings);
    RouteRule {
        name: rule.name.as_deref().map_or_else(|| at.to_string().into(), Into::into),
        matches,
        filters: filter::translate(&rule.filters, &format!("{field}.filters"), findings),
        backends,
        request_timeout,
        backend_timeout,
    }
}

fn match_of(value: &HttpRouteMatch, field: &str, findings: &mut Findings) -> HttpMatch {
    bound(&format!("{field}.headers"), value.headers.len(), MAX_VALUES, findings);
    bound(&format!("{field}.queryParams"), value.query_params.len(), MAX_VALUES, findings);
    let path = match &value.path {
        None => Some(PathMatch::Prefix("/".into())),
        Some(path) => value::path(path, &format!("{field}.path"), findings),
    };
    let mut headers: Vec<mesh_api::model::route::ValueMatch> = Vec::new();
    for (at, header) in value.headers.iter().take(MAX_VALUES).enumerate() {
        // Of several entries for one name only the first counts (Gateway API, HTTPHeaderMatch.name).
        if let Some(new) = value::header(header, &format!("{field}.headers[{at}]"), findings)
            && headers.iter().all(|old| old.name != new.name)
        {
            headers.push(new);
        }
    }
    let mut query: Vec<mesh_api::model::route::ValueMatch> = Vec::new();
    for (at, param) in value.query_params.iter().take(MAX_VALUES).enumerate() {
        if let Some(new) = value::query(param, &format!("{field}.queryParams[{at}]"), findings)
            && query.iter().all(|old| old.name != new.name)
        {
            query.push(new);
        }
    }
    let method = value.method.as_deref().and_then(|text| value::method(text, &format!("{field}.method"), findings));
    HttpMatch { hosts: Vec::new(), path, method, headers, query }
}

/// A backend that cannot be used keeps its share, which is answered 500 (Gateway API, HTTPRouteRule.backendRefs).
fn backend_of(backend: &BackendRef, field: &str, namespace: &Name, findings: &mut Findings) -> Option<RouteBackend> {
    let weight = backend.weight.unwrap_or(1);
    let Some(share) = u32::try_from(weight).ok().filter(|_| weight <= MAX_WEIGHT) else {
        let message = format!("{weight} is not a weight: 0 to {MAX_WEIGHT} are");
        findings.refuse(format!("{field}.weight"), Reason::Invalid, message);
        return None;
    };
    let group = backend.group.as_deref().unwrap_or_default();
    let kind = backend.kind.as_deref().unwrap_or("Service");
    let mut broken: Option<Name> = None;
    let mut break_it = |part: &str, reason, message: String| {
        broken = Some(format!("{}: {field}.{part}: {message}", findings.object()).into());
        findings.report(format!("{field}.{part}"), reason, format!("{message}; its share is answered 500"));
    };
    if kind != "Service" || !matches!(group, "" | "core") {
        break_it("kind", Reason::InvalidKind, format!("`{group}/{kind}` cannot be a backend, a Service can"));
    } else if backend.name.is_empty() {
        break_it("name", Reason::BackendNotFound, "missing".into());
    } else if backend.port.is_none_or(|port| port == 0) {
        break_it("port", Reason::BackendNotFound, "missing: a Service needs the port".into());
    }
    Some(RouteBackend {
        service: ServiceId {
            namespace: backend.namespace.as_deref().map_or_else(|| namespace.clone(), Into::into),
            name: backend.name.as_str().into(),
        },
        port: backend.port.unwrap_or_default(),
        weight: share,
        filters: filter::translate(&backend.filters, &format!("{field}.filters"), findings),
        broken,
    })
}

fn timeouts(rule: &HttpRouteRule, field: &str, findings: &mut Findings) -> (Option<Duration>, Option<Duration>) {
    let Some(timeouts) = &rule.timeouts else { return (None, None) };
    let mut read = |text: &Option<String>, name: &str| {
        let text = text.as_deref()?;
        let Some(duration) = duration(text) else {
            let message = format!("`{text}` is not a time as in `1h`, `500ms` or `1m30s` (GEP-2257)");
            findings.refuse(format!("{field}.timeouts.{name}"), Reason::Invalid, message);
            return None;
        };
        // Zero switches the deadline off (GEP-1742).
        Some(duration).filter(|duration| !duration.is_zero())
    };
    let request = read(&timeouts.request, "request");
    let backend = read(&timeouts.backend_request, "backendRequest");
    if let (Some(request), Some(backend)) = (request, backend)
        && backend > request
    {
        let message = "a single try cannot take longer than the whole request";
        findings.refuse(format!("{field}.timeouts.backendRequest"), Reason::Invalid, message);
    }
    (request, backend)
}

/// A duration as GEP-2257 writes it: one to four numbers of at most five digits, each with `h`, `m`, `s` or `ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits).filter(|digits| (1..=5).contains(&digits.len()))?.parse().ok()?;
        rest = rest.get(digits..)?;
        let unit = rest.bytes().take_while(u8::is_ascii_lowercase).count();
        total += match rest.get(..unit)? {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = rest.get(unit..)?;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("1h", 3_600_000), ("1m30s", 90_000), ("500ms", 500), ("0s", 0), ("1h2m3s4ms", 3_723_004)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1.5s", "1d", "1e99s", "100000s", "1s1s1s1s1s", "1s ", " 1s", "１s"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }
}
