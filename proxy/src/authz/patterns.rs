//! Callers and operations of policies, compiled for one port and one action.
//!
//! Every question has three answers: yes, no, and "cannot be judged" (`None`): there is no request, the request has no
//! path, a value is no text, a pattern does not compile. What cannot be judged matches in a deny policy and in no other.

use std::net::IpAddr;

use http::Method;
use ipnet::IpNet;
use mesh_api::model::{
    Name,
    policy::{Action, Operation, Source},
    route::PathMatch,
};

use super::Caller;
use crate::{
    normal::RequestView,
    routing::matcher::{self, FieldPattern, HostPattern, PathPattern, Unusable},
};

/// Sorted texts, and beginnings of texts.
#[derive(Debug, Default)]
struct Texts {
    exact: Box<[Name]>,
    prefixes: Box<[Box<str>]>,
}

impl Texts {
    fn new(texts: &[Name]) -> Self {
        let (prefixes, exact): (Vec<_>, Vec<_>) = texts.iter().partition(|text| text.ends_with('*'));
        let mut exact: Vec<Name> = exact.into_iter().cloned().collect();
        exact.sort_unstable();
        let prefixes = prefixes.into_iter().filter_map(|text| text.strip_suffix('*')).map(Box::from).collect();
        Self { exact: exact.into(), prefixes }
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }

    fn has(&self, text: &str) -> bool {
        self.exact.binary_search_by(|one| (**one).cmp(text)).is_ok()
            || self.prefixes.iter().any(|prefix| text.starts_with(&**prefix))
    }
}

/// A caller.
#[derive(Debug)]
pub(super) struct SourcePattern {
    identities: Texts,
    namespaces: Texts,
    cidrs: Box<[IpNet]>,
    not_identities: Texts,
    not_namespaces: Texts,
    not_cidrs: Box<[IpNet]>,
}

impl SourcePattern {
    pub(super) fn new(from: &Source) -> Self {
        Self {
            identities: Texts::new(&from.identities),
            namespaces: Texts::new(&from.namespaces),
            cidrs: from.cidrs.clone().into(),
            not_identities: Texts::new(&from.not_identities),
            not_namespaces: Texts::new(&from.not_namespaces),
            not_cidrs: from.not_cidrs.clone().into(),
        }
    }

    /// A caller without an identity is in no list of identities or namespaces.
    pub(super) fn matches(&self, caller: &Caller<'_>) -> bool {
        let identified = |texts: &Texts| caller.identity.is_some_and(|id| texts.has(id.as_str()));
        let in_namespace = |texts: &Texts| {
            !texts.is_empty() && caller.identity.and_then(|id| id.namespace()).is_some_and(|name| texts.has(name))
        };
        (self.identities.is_empty() || identified(&self.identities))
            && (self.namespaces.is_empty() || in_namespace(&self.namespaces))
            && (self.cidrs.is_empty() || contain(&self.cidrs, caller.address))
            && !identified(&self.not_identities)
            && !in_namespace(&self.not_namespaces)
            && !contain(&self.not_cidrs, caller.address)
    }
}

/// An IPv4 address is the same whether it came over an IPv4 or an IPv6 socket.
fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    if networks.is_empty() {
        return false;
    }
    let plain = address.to_canonical();
    let mapped = match plain {
        IpAddr::V4(v4) => IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(_) => plain,
    };
    networks.iter().any(|network| network.contains(&plain) || network.contains(&mapped))
}

/// A list of patterns; some of it may have been unusable.
#[derive(Debug)]
struct List<T> {
    items: Box<[T]>,
    unusable: bool,
}

impl<T> List<T> {
    fn new<U>(from: &[U], compile: impl Fn(&U) -> Result<T, Unusable>, problems: &mut Vec<Unusable>) -> Self {
        let before = problems.len();
        let items = from.iter().filter_map(|one| compile(one).map_err(|problem| problems.push(problem)).ok()).collect();
        Self { items, unusable: problems.len() > before }
    }

    /// Nothing was asked for.
    fn is_empty(&self) -> bool {
        self.items.is_empty() && !self.unusable
    }

    /// Is any of it so?
    fn any(&self, is: impl Fn(&T) -> Option<bool>) -> Option<bool> {
        let mut answer = if self.unusable { None } else { Some(false) };
        for item in &self.items {
            match is(item) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => answer = None,
            }
        }
        answer
    }

    /// Is all of it so?
    fn all(&self, is: impl Fn(&T) -> Option<bool>) -> Option<bool> {
        let mut answer = if self.unusable { None } else { Some(true) };
        for item in &self.items {
            match is(item) {
                Some(false) => return Some(false),
                Some(true) => {}
                None => answer = None,
            }
        }
        answer
    }
}

/// What a caller wants.
#[derive(Debug)]
pub(super) struct OperationPattern {
    action: Action,
    hosts: List<HostPattern>,
    methods: List<Method>,
    paths: List<PathPattern>,
    headers: List<FieldPattern>,
    not_methods: List<Method>,
    not_paths: List<PathPattern>,
}

impl OperationPattern {
    /// Ports are compared by the caller of this.
    pub(super) fn new(from: &Operation, action: Action, problems: &mut Vec<Unusable>) -> Self {
        let path = |from: &PathMatch| PathPattern::new(from);
        Self {
            action,
            hosts: List::new(&from.hosts, |host| Ok(HostPattern::new(host)), problems),
            methods: List::new(&from.methods, matcher::method, problems),
            paths: List::new(&from.paths, path, problems),
            headers: List::new(&from.headers, FieldPattern::new, problems),
            not_methods: List::new(&from.not_methods, matcher::method, problems),
            not_paths: List::new(&from.not_paths, path, problems),
        }
    }

    /// The methods that are named.
    pub(super) fn methods(&self) -> impl Iterator<Item = &Method> {
        self.methods.items.iter().chain(&*self.not_methods.items)
    }

    /// True where a field can only be judged by looking at a request.
    pub(super) fn needs_http(&self) -> bool {
        !(self.hosts.is_empty()
            && self.methods.is_empty()
            && self.paths.is_empty()
            && self.headers.is_empty()
            && self.not_methods.is_empty()
            && self.not_paths.is_empty())
    }

    /// `None` for a connection whose requests cannot be told apart.
    pub(super) fn matches(&self, request: Option<&RequestView<'_>>) -> bool {
        let deny = self.action == Action::Deny;
        // What lets pass must fit narrowly, what stops must fit broadly.
        let path = |pattern: &PathPattern, broadly: bool| {
            let path = request?.path?;
            Some(if broadly { pattern.matches_broadly(path) } else { pattern.matches(path) })
        };
        let header = |field: &FieldPattern| {
            let headers = request?.headers;
            if deny { field.matches_broadly(headers) } else { field.matches(headers) }
        };
        let method = |method: &Method| Some(request?.method == method);
        let host = |host: &HostPattern| Some(host.matches(request?.host?));
        let given = |asked: bool, answer: &dyn Fn() -> Option<bool>| !asked || answer().unwrap_or(deny);
        given(!self.hosts.is_empty(), &|| self.hosts.any(host))
            && given(!self.methods.is_empty(), &|| self.methods.any(method))
            && given(!self.paths.is_empty(), &|| self.paths.any(|one| path(one, deny)))
            && given(!self.headers.is_empty(), &|| self.headers.all(header))
            && given(!self.not_methods.is_empty(), &|| self.not_methods.any(method).map(|any| !any))
            && given(!self.not_paths.is_empty(), &|| self.not_paths.any(|one| path(one, !deny)).map(|any| !any))
    }
}
