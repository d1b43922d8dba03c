//! Routes, matches and filters between the model and the wire.

use std::time::Duration;

use super::{
    Invalid,
    destination::{backend_id_from, backend_id_to},
    object_from, object_to,
};
use crate::{
    model::{
        Name,
        route::{
            Filter, HeaderModifier, HttpMatch, PathMatch, RouteEntry, Rule, ValueMatch, ValuePattern, WeightedBackend,
        },
    },
    proto,
};

pub(super) fn path_from(value: proto::PathMatch) -> Result<PathMatch, Invalid> {
    match value.r#match {
        Some(proto::path_match::Match::Exact(text)) => Ok(PathMatch::Exact(text.into())),
        Some(proto::path_match::Match::Prefix(text)) => Ok(PathMatch::Prefix(text.into())),
        Some(proto::path_match::Match::Regex(text)) => regex(&text).map(PathMatch::Regex),
        None => Err(Invalid::new("path", "a kind of match that this version does not know")),
    }
}

pub(super) fn path_to(value: &PathMatch) -> proto::PathMatch {
    let wire = match value {
        PathMatch::Exact(text) => proto::path_match::Match::Exact(text.to_string()),
        PathMatch::Prefix(text) => proto::path_match::Match::Prefix(text.to_string()),
        PathMatch::Regex(text) => proto::path_match::Match::Regex(text.to_string()),
    };
    proto::PathMatch { r#match: Some(wire) }
}

fn regex(text: &str) -> Result<Name, Invalid> {
    crate::pattern::compile(text).map_err(|error| Invalid::new("regex", error))?;
    Ok(text.into())
}

pub(super) fn value_from(value: proto::HeaderMatch) -> Result<ValueMatch, Invalid> {
    let pattern = match value.r#match {
        Some(proto::header_match::Match::Exact(text)) => ValuePattern::Exact(text.into()),
        Some(proto::header_match::Match::Regex(text)) => ValuePattern::Regex(regex(&text)?),
        None => return Err(Invalid::new(value.name, "a kind of match that this version does not know")),
    };
    Ok(ValueMatch { name: value.name.into(), value: pattern })
}

pub(super) fn value_to(value: &ValueMatch) -> proto::HeaderMatch {
    let wire = match &value.value {
        ValuePattern::Exact(text) => proto::header_match::Match::Exact(text.to_string()),
        ValuePattern::Regex(text) => proto::header_match::Match::Regex(text.to_string()),
    };
    proto::HeaderMatch { name: value.name.to_string(), r#match: Some(wire) }
}

pub(super) fn entry_from(value: proto::RouteEntry, rules: usize) -> Result<RouteEntry, Invalid> {
    let rule = value.rule as usize;
    if rule >= rules {
        return Err(Invalid::new("rule", format!("index {rule} of {rules}")));
    }
    let wire = value.r#match.unwrap_or_default();
    Ok(RouteEntry {
        rule,
        matches: HttpMatch {
            hosts: wire.hosts.into_iter().map(Into::into).collect(),
            path: wire.path.map(path_from).transpose()?,
            method: Some(wire.method).filter(|method| !method.is_empty()).map(Into::into),
            headers: wire.headers.into_iter().map(value_from).collect::<Result<_, _>>()?,
            query: wire.query.into_iter().map(value_from).collect::<Result<_, _>>()?,
        },
    })
}

pub(super) fn entry_to(value: &RouteEntry) -> proto::RouteEntry {
    let matches = &value.matches;
    proto::RouteEntry {
        rule: u32::try_from(value.rule).unwrap_or(u32::MAX),
        r#match: Some(proto::HttpMatch {
            path: matches.path.as_ref().map(path_to),
            method: matches.method.as_deref().unwrap_or_default().to_owned(),
            headers: matches.headers.iter().map(value_to).collect(),
            query: matches.query.iter().map(value_to).collect(),
            hosts: matches.hosts.iter().map(ToString::to_string).collect(),
        }),
    }
}

pub(super) fn rule_from(value: proto::Rule) -> Result<Rule, Invalid> {
    Ok(Rule {
        origin: object_from(value.origin),
        name: value.name.into(),
        filters: filters_from(value.filters)?,
        backends: value.backends.into_iter().map(weighted_from).collect::<Result<_, _>>()?,
        request_timeout: timeout_from(value.request_timeout_ms),
        backend_timeout: timeout_from(value.backend_timeout_ms),
    })
}

pub(super) fn rule_to(value: &Rule) -> proto::Rule {
    proto::Rule {
        origin: Some(object_to(&value.origin)),
        name: value.name.to_string(),
        backends: value.backends.iter().map(weighted_to).collect(),
        filters: value.filters.iter().map(filter_to).collect(),
        request_timeout_ms: timeout_to(value.request_timeout),
        backend_timeout_ms: timeout_to(value.backend_timeout),
    }
}

fn timeout_from(millis: u64) -> Option<Duration> {
    (millis != 0).then(|| Duration::from_millis(millis))
}

fn timeout_to(value: Option<Duration>) -> u64 {
    value.map_or(0, |value| u64::try_from(value.as_millis()).unwrap_or(u64::MAX).max(1))
}

pub(super) fn weighted_from(value: proto::WeightedBackend) -> Result<WeightedBackend, Invalid> {
    let backend = value.backend.ok_or_else(|| Invalid::new("backend", "missing"))?;
    Ok(WeightedBackend {
        backend: backend_id_from(backend)?,
        weight: value.weight,
        filters: filters_from(value.filters)?,
    })
}

pub(super) fn weighted_to(value: &WeightedBackend) -> proto::WeightedBackend {
    proto::WeightedBackend {
        backend: Some(backend_id_to(&value.backend)),
        weight: value.weight,
        filters: value.filters.iter().map(filter_to).collect(),
    }
}

fn filters_from(filters: Vec<proto::Filter>) -> Result<Vec<Filter>, Invalid> {
    filters.into_iter().map(filter_from).collect()
}

fn filter_from(value: proto::Filter) -> Result<Filter, Invalid> {
    Ok(match value.filter {
        Some(proto::filter::Filter::RequestHeaders(change)) => Filter::RequestHeaders(modifier_from(change)),
        Some(proto::filter::Filter::ResponseHeaders(change)) => Filter::ResponseHeaders(modifier_from(change)),
        Some(proto::filter::Filter::Fail(fail)) => Filter::Fail {
            status: u16::try_from(fail.status)
                .ok()
                .filter(|status| (400..600).contains(status))
                .ok_or_else(|| Invalid::new("fail.status", fail.status))?,
            reason: fail.reason.into(),
        },
        // To leave out a filter is to let a request through changed in meaning: it fails instead.
        None => Filter::Fail { status: 500, reason: "the rule has a filter that this proxy is too old to know".into() },
    })
}

fn filter_to(value: &Filter) -> proto::Filter {
    let wire = match value {
        Filter::RequestHeaders(change) => proto::filter::Filter::RequestHeaders(modifier_to(change)),
        Filter::ResponseHeaders(change) => proto::filter::Filter::ResponseHeaders(modifier_to(change)),
        Filter::Fail { status, reason } => {
            proto::filter::Filter::Fail(proto::Fail { status: u32::from(*status), reason: reason.to_string() })
        }
    };
    proto::Filter { filter: Some(wire) }
}

fn modifier_from(value: proto::HeaderModifier) -> HeaderModifier {
    let pairs =
        |list: Vec<proto::HeaderValue>| list.into_iter().map(|pair| (pair.name.into(), pair.value.into())).collect();
    HeaderModifier {
        set: pairs(value.set),
        add: pairs(value.add),
        remove: value.remove.into_iter().map(Into::into).collect(),
    }
}

fn modifier_to(value: &HeaderModifier) -> proto::HeaderModifier {
    let pairs = |list: &[(Name, Name)]| {
        list.iter()
            .map(|(name, value)| proto::HeaderValue { name: name.to_string(), value: value.to_string() })
            .collect()
    };
    proto::HeaderModifier {
        set: pairs(&value.set),
        add: pairs(&value.add),
        remove: value.remove.iter().map(ToString::to_string).collect(),
    }
}
