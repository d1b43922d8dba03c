//! Routing: which rule a request falls under and which backend it goes to. Floor 1: imports `normal`.
//!
//! A [`Destination`] is compiled once into a [`Router`]; [`Router::decide`] then neither allocates nor locks. Matching
//! is that of the Gateway API's HTTPRoute, held against the normal form of the request. The order of the matches is the
//! controller's; here the first one wins.

pub mod filters;
mod index;
pub mod matcher;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Method, StatusCode};
use mesh_api::model::{
    Name, ObjectRef,
    destination::{BackendId, Destination},
    route::{Filter, HttpMatch, RouteEntry, Rule, WeightedBackend},
};

use self::{
    filters::HeaderEdits,
    index::Index,
    matcher::{FieldPattern, HostPattern, PathPattern, QueryPattern, Unusable},
};
use crate::normal::RequestView;

/// A destination's routes, compiled.
#[derive(Debug)]
pub struct Router {
    entries: Box<[Entry]>,
    index: Index,
    rules: Box<[RouteRule]>,
    default: Split,
    routed: bool,
    backends: Box<[BackendId]>,
}

#[derive(Debug)]
struct Entry {
    hosts: Box<[HostPattern]>,
    path: Option<PathPattern>,
    method: Option<Method>,
    headers: Box<[FieldPattern]>,
    query: Box<[QueryPattern]>,
    rule: usize,
}

/// A rule, compiled.
#[derive(Debug)]
pub struct RouteRule {
    /// The route it stands in.
    pub origin: ObjectRef,
    /// The same as `Kind/NAMESPACE/NAME`: for labels and logs.
    pub label: Arc<str>,
    /// Its own name, else its index.
    pub name: Name,
    /// From the request's head to the response's end.
    pub request_timeout: Option<Duration>,
    /// For each try of a backend.
    pub backend_timeout: Option<Duration>,
    changes: Changes,
    split: Split,
}

/// What filters ask for.
#[derive(Debug, Default)]
struct Changes {
    request: HeaderEdits,
    response: HeaderEdits,
    fail: Option<(StatusCode, Name)>,
}

/// Backends by weight.
#[derive(Debug, Default)]
struct Split {
    shares: Box<[Share]>,
    /// Upper end of each share's part of the total, ascending.
    ends: Box<[u64]>,
}

#[derive(Debug)]
struct Share {
    /// Position in [`Router::backends`]; `None` where it is not described.
    backend: Option<usize>,
    changes: Changes,
}

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'r> {
    /// It goes to a backend.
    Forward(Forward<'r>),
    /// The proxy answers by itself.
    Answer(Answer<'r>),
}

/// Where a request goes, and how it is changed on the way.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'r> {
    /// The rule it fell under; `None` while no route is attached.
    pub rule: Option<&'r RouteRule>,
    /// Position in [`Router::backends`].
    pub backend: usize,
    changes: &'r Changes,
}

/// An answer of the proxy's own.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'r> {
    /// The rule that asks for it, if any.
    pub rule: Option<&'r RouteRule>,
    /// Why.
    pub cause: AnswerCause,
    /// HTTP status.
    pub status: StatusCode,
    /// For people.
    pub reason: &'r str,
}

/// Why the proxy answers by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnswerCause {
    /// Routes are attached and none fits: 404.
    NoRoute,
    /// The rule has no backend with a weight, or the one chosen is not known: 500.
    NoBackend,
    /// A filter answers.
    Filter,
}

impl AnswerCause {
    /// Stable code, for the error header, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRoute => "no-route",
            Self::NoBackend => "no-backend",
            Self::Filter => "route-filter",
        }
    }
}

impl Router {
    /// Compiles `destination`. What cannot be used is left out and told in the second part: a match never fits, a
    /// change of a header field is not made, a backend's share is answered 500.
    #[must_use]
    pub fn compile(destination: &Destination) -> (Self, Vec<Unusable>) {
        let mut problems = Vec::new();
        let backends: Box<[BackendId]> = destination.backends.keys().cloned().collect();
        let rules: Box<[RouteRule]> =
            destination.rules.iter().map(|rule| RouteRule::new(rule, &backends, &mut problems)).collect();
        let mut entries = Vec::with_capacity(destination.routes.len());
        for route in &destination.routes {
            match Entry::new(route, rules.len()) {
                Ok(entry) => entries.push(entry),
                Err(problem) => problems.push(problem),
            }
        }
        let router = Self {
            index: Index::new(entries.iter().map(|entry| entry.path.as_ref())),
            entries: entries.into(),
            rules,
            default: Split::new(&destination.default_backends, &backends, &mut problems),
            routed: destination.routed,
            backends,
        };
        (router, problems)
    }

    /// The backends, in the order of [`Destination::backends`]; decisions name positions in it.
    #[must_use]
    pub fn backends(&self) -> &[BackendId] {
        &self.backends
    }

    /// Decides about a request. `random` is uniform over all of `u64` and chooses by weight.
    #[must_use]
    pub fn decide(&self, request: &RequestView<'_>, random: u64) -> Decision<'_> {
        let fits = |at: usize| self.entries.get(at).is_some_and(|entry| entry.fits(request));
        let entry = self.index.first(request.path, fits).and_then(|at| self.entries.get(at));
        let rule = entry.and_then(|entry| self.rules.get(entry.rule));
        match rule {
            Some(rule) => match &rule.changes.fail {
                Some((status, reason)) => {
                    Decision::Answer(Answer { rule: Some(rule), cause: AnswerCause::Filter, status: *status, reason })
                }
                None => rule.split.decide(Some(rule), random),
            },
            None if self.routed => Decision::Answer(Answer {
                rule: None,
                cause: AnswerCause::NoRoute,
                status: StatusCode::NOT_FOUND,
                reason: "no route matches the request",
            }),
            None => self.default.decide(None, random),
        }
    }

    /// The backend of a connection whose requests cannot be told apart. `None` where there is none.
    #[must_use]
    pub fn decide_connection(&self, random: u64) -> Option<usize> {
        self.default.choose(random).and_then(|share| share.backend)
    }
}

impl Entry {
    fn new(route: &RouteEntry, rules: usize) -> Result<Self, Unusable> {
        let HttpMatch { hosts, path, method, headers, query } = &route.matches;
        if route.rule >= rules {
            return Err(Unusable::Rule(route.rule));
        }
        Ok(Self {
            hosts: hosts.iter().map(|host| HostPattern::new(host)).collect(),
            path: path.as_ref().map(PathPattern::new).transpose()?,
            method: method.as_ref().map(matcher::method).transpose()?,
            headers: headers.iter().map(FieldPattern::new).collect::<Result<_, _>>()?,
            query: query.iter().map(QueryPattern::new).collect::<Result<_, _>>()?,
            rule: route.rule,
        })
    }

    /// Everything but an exact path or a prefix, which the index has compared.
    fn fits(&self, request: &RequestView<'_>) -> bool {
        let path = match (&self.path, request.path) {
            (Some(regex @ PathPattern::Regex(_)), Some(path)) => regex.matches(path),
            (Some(PathPattern::Regex(_)), None) => false,
            _ => true,
        };
        path && self.method.as_ref().is_none_or(|method| method == request.method)
            && (self.hosts.is_empty() || request.host.is_some_and(|host| self.hosts.iter().any(|h| h.matches(host))))
            && self.headers.iter().all(|field| field.matches(request.headers) == Some(true))
            && self.query.iter().all(|parameter| parameter.matches(request.query))
    }
}

impl RouteRule {
    fn new(rule: &Rule, backends: &[BackendId], problems: &mut Vec<Unusable>) -> Self {
        Self {
            origin: rule.origin.clone(),
            label: rule.origin.to_string().into(),
            name: rule.name.clone(),
            request_timeout: rule.request_timeout,
            backend_timeout: rule.backend_timeout,
            changes: Changes::new(&rule.filters, problems),
            split: Split::new(&rule.backends, backends, problems),
        }
    }
}

impl Changes {
    fn new(filters: &[Filter], problems: &mut Vec<Unusable>) -> Self {
        let mut changes = Self::default();
        for filter in filters {
            match filter {
                Filter::RequestHeaders(modifier) => changes.request.extend(modifier, problems),
                Filter::ResponseHeaders(modifier) => changes.response.extend(modifier, problems),
                Filter::Fail { status, reason } => {
                    let status = StatusCode::from_u16(*status).ok().filter(|status| status.as_u16() >= 200);
                    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                    changes.fail.get_or_insert((status, reason.clone()));
                }
            }
        }
        changes
    }
}

impl Split {
    fn new(weighted: &[WeightedBackend], backends: &[BackendId], problems: &mut Vec<Unusable>) -> Self {
        let mut shares = Vec::with_capacity(weighted.len());
        let mut ends = Vec::with_capacity(weighted.len());
        let mut total = 0_u64;
        for one in weighted.iter().filter(|one| one.weight > 0) {
            let backend = backends.binary_search(&one.backend).ok();
            if backend.is_none() {
                problems.push(Unusable::Backend(one.backend.to_string()));
            }
            total += u64::from(one.weight);
            shares.push(Share { backend, changes: Changes::new(&one.filters, problems) });
            ends.push(total);
        }
        Self { shares: shares.into(), ends: ends.into() }
    }

    fn choose(&self, random: u64) -> Option<&Share> {
        if let [only] = &*self.shares {
            return Some(only);
        }
        // Scales without the bias of a remainder: the upper half of a 128-bit product.
        let total = u128::from(*self.ends.last()?);
        let point = u64::try_from((u128::from(random) * total) >> 64).ok()?;
        self.shares.get(self.ends.partition_point(|end| *end <= point))
    }

    fn decide<'r>(&'r self, rule: Option<&'r RouteRule>, random: u64) -> Decision<'r> {
        let share = self.choose(random);
        if let Some((status, reason)) = share.and_then(|share| share.changes.fail.as_ref()) {
            return Decision::Answer(Answer { rule, cause: AnswerCause::Filter, status: *status, reason });
        }
        match share.and_then(|share| share.backend.map(|backend| (backend, &share.changes))) {
            Some((backend, changes)) => Decision::Forward(Forward { rule, backend, changes }),
            None => Decision::Answer(Answer {
                rule,
                cause: AnswerCause::NoBackend,
                status: StatusCode::INTERNAL_SERVER_ERROR,
                reason: "the rule has no usable backend",
            }),
        }
    }
}

impl Forward<'_> {
    /// Changes the request: the rule's filters, then the backend's.
    pub fn change_request(&self, headers: &mut HeaderMap) {
        if let Some(rule) = self.rule {
            rule.changes.request.apply(headers);
        }
        self.changes.request.apply(headers);
    }

    /// Changes the response: the backend's filters, then the rule's.
    pub fn change_response(&self, headers: &mut HeaderMap) {
        self.changes.response.apply(headers);
        if let Some(rule) = self.rule {
            rule.changes.response.apply(headers);
        }
    }
}
