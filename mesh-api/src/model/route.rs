//! Routes: what to match in a request and what then happens (Gateway API HTTPRoute, with a Service as parent).

use std::time::Duration;

use super::{Name, ObjectRef, destination::BackendId};

/// One match and the rule it leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// What the request must look like.
    pub matches: HttpMatch,
    /// Index into the rules of the same destination.
    pub rule: usize,
}

/// All given parts must fit; an empty part fits everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// Host names, lower case, without port; `*.` in front stands for one label or more.
    pub hosts: Vec<Name>,
    /// Path, without query.
    pub path: Option<PathMatch>,
    /// Method, case-sensitive.
    pub method: Option<Name>,
    /// Header fields, all of them.
    pub headers: Vec<ValueMatch>,
    /// Query parameters, all of them; of a repeated parameter the first counts.
    pub query: Vec<ValueMatch>,
}

/// How a path must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path.
    Exact(Name),
    /// Whole leading segments: `/a` fits `/a` and `/a/b`, not `/ab`.
    Prefix(Name),
    /// Regular expression (RE2 syntax), anchored at both ends.
    Regex(Name),
}

/// How a header field or a query parameter must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValueMatch {
    /// Field name (lower case) or parameter name (as is).
    pub name: Name,
    /// Its value.
    pub value: ValuePattern,
}

/// How a value must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// Equal, byte for byte.
    Exact(Name),
    /// Regular expression (RE2 syntax), anchored at both ends.
    Regex(Name),
}

/// What happens to a request that matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The route it stands in.
    pub origin: ObjectRef,
    /// Its own name, else its index.
    pub name: Name,
    /// Applied in order before a backend is chosen.
    pub filters: Vec<Filter>,
    /// Chosen by weight. Empty, or all of weight 0: answered 500.
    pub backends: Vec<WeightedBackend>,
    /// From the request's head to the response's end.
    pub request_timeout: Option<Duration>,
    /// For each try of a backend.
    pub backend_timeout: Option<Duration>,
}

/// A backend and its share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedBackend {
    /// Where to.
    pub backend: BackendId,
    /// Share, in relation to the other weights of the rule.
    pub weight: u32,
    /// Applied only to what goes to this backend.
    pub filters: Vec<Filter>,
}

/// A change to a request or a response, or an answer in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Changes the request's header fields.
    RequestHeaders(HeaderModifier),
    /// Changes the response's header fields.
    ResponseHeaders(HeaderModifier),
    /// Answers by itself: what a rule becomes that cannot be obeyed.
    Fail {
        /// HTTP status.
        status: u16,
        /// For people.
        reason: Name,
    },
}

/// Changes of header fields, in the order remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderModifier {
    /// Replaces all values.
    pub set: Vec<(Name, Name)>,
    /// Adds a value.
    pub add: Vec<(Name, Name)>,
    /// Removes all values.
    pub remove: Vec<Name>,
}
