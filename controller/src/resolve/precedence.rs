//! Which match comes first: the order that Gateway API lays down for HTTPRoute rules, as one sort key.
//!
//! 1. host: exact before wildcard, longer before shorter (HTTPRouteSpec.hostnames)
//! 2. path: exact, then prefix by length, then regular expression
//! 3. a method before none, 4. more header fields, 5. more query parameters
//! 6. the oldest route, then by namespace and name, 7. the first rule, the first match

use std::cmp::Reverse;

use mesh_api::model::route::{HttpMatch, PathMatch};

use crate::translate::Rank;

/// Sorts matches into order of precedence: the smallest comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Precedence {
    host: (u8, Reverse<usize>),
    path: (u8, Reverse<usize>),
    no_method: bool,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    rank: Rank,
    rule: usize,
    position: usize,
}

impl Precedence {
    /// Of a match with at most one host, which stands at `position` in rule number `rule` of a route.
    pub(super) fn of(matches: &HttpMatch, rank: &Rank, rule: usize, position: usize) -> Self {
        let host = match matches.hosts.first() {
            Some(host) if host.starts_with("*.") => (1, Reverse(host.len())),
            Some(host) => (0, Reverse(host.len())),
            None => (2, Reverse(0)),
        };
        let path = match &matches.path {
            Some(PathMatch::Exact(path)) => (0, Reverse(path.len())),
            Some(PathMatch::Prefix(path)) => (1, Reverse(path.len())),
            // Where expressions stand is left open by the standard; a longer one mostly says more.
            Some(PathMatch::Regex(path)) => (2, Reverse(path.len())),
            None => (3, Reverse(0)),
        };
        Self {
            host,
            path,
            no_method: matches.method.is_none(),
            headers: Reverse(matches.headers.len()),
            query: Reverse(matches.query.len()),
            rank: rank.clone(),
            rule,
            position,
        }
    }
}
