//! Authorization: may this caller do this here? Floor 2: imports `normal` and the patterns of `routing`.
//!
//! A [`PortPolicy`] is compiled once into an [`Authorizer`]. Order: health probes, transport, deny, allow, default. The
//! first are let in whoever sends them, for the orchestrator has no identity; the last is what happens where no policy
//! spoke.
//!
//! Nothing here fails open: what cannot be judged is refused by deny policies and let in by none.

mod patterns;
#[cfg(test)]
mod tests;

use std::{fmt, net::IpAddr, sync::Arc};

use http::{HeaderValue, Method};
use mesh_api::{
    model::{
        ObjectRef,
        policy::{Action, AuthorizationPolicy, AuthorizationRule, PortPolicy, Probe, Transport},
    },
    spiffe::SpiffeId,
};

use self::patterns::{OperationPattern, SourcePattern};
use crate::{
    normal::{RequestView, rule_path},
    routing::matcher::Unusable,
};

/// What holds for one port, compiled.
#[derive(Debug)]
pub struct Authorizer {
    strict: bool,
    deny: Box<[Policy]>,
    allow: Box<[Policy]>,
    audit: Box<[Policy]>,
    default_allow: bool,
    /// Method and path of requests that are let in before anything else is asked.
    probes: Box<[(Method, Box<str>)]>,
    needs_http: bool,
    /// Where deny policies name methods: all that any policy names. Others that are not registered are refused.
    methods: Option<Box<[Method]>>,
}

#[derive(Debug)]
struct Policy {
    name: PolicyName,
    rules: Box<[Rule]>,
}

/// `None` matches everything.
#[derive(Debug)]
struct Rule {
    from: Option<Box<[SourcePattern]>>,
    to: Option<Box<[OperationPattern]>>,
}

/// A policy's name in every form that is needed per request. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyName {
    /// The object.
    pub origin: ObjectRef,
    /// `Kind/NAMESPACE/NAME`: for metrics and logs.
    pub text: Arc<str>,
    /// The same, for the header that names it to callers in the mesh.
    pub header: HeaderValue,
}

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// From the handshake, never from a header; `None` for a plain connection.
    pub identity: Option<&'a SpiffeId>,
    /// Of the socket.
    pub address: IpAddr,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Let in.
    Allow {
        /// The policy that matched; `None` by default.
        by: Option<&'a PolicyName>,
    },
    /// Refused.
    Deny(Denial<'a>),
}

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denial<'a> {
    /// The policy behind it, where it is one.
    pub by: Option<&'a PolicyName>,
    /// Why.
    pub reason: DenyReason,
}

/// Why a caller is refused. Calling again is no use until a policy or the caller changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The port requires mutual TLS.
    NoIdentity,
    /// A deny policy matches.
    Denied,
    /// Deny policies name methods, and this one is neither registered nor named.
    UnknownMethod,
    /// There are allow policies, and none matches.
    NotAllowed,
    /// No policy spoke, and the default is to refuse.
    Default,
}

impl DenyReason {
    /// Stable code, for the error header, metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoIdentity => "no-identity",
            Self::Denied => "denied",
            Self::UnknownMethod => "unknown-method",
            Self::NotAllowed => "not-allowed",
            Self::Default => "default-deny",
        }
    }
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Verdict<'_> {
    /// True for [`Verdict::Allow`].
    #[must_use]
    pub fn is_allow(&self) -> bool {
        matches!(self, Self::Allow { .. })
    }
}

impl Authorizer {
    /// Compiles what holds for `port`. Patterns that cannot be used are told in the second part; they match in deny
    /// policies and in no others.
    #[must_use]
    pub fn compile(policy: &PortPolicy, port: u16) -> (Self, Vec<Unusable>) {
        let mut problems = Vec::new();
        let mut of = |action: Action| -> Box<[Policy]> {
            let policies = policy.policies.iter().filter(|policy| policy.action == action);
            policies.map(|policy| Policy::new(policy, port, &mut problems)).collect()
        };
        let (deny, allow, audit) = (of(Action::Deny), of(Action::Allow), of(Action::Audit));
        let operations = || deny.iter().chain(&allow).flat_map(Policy::operations);
        let methods_denied = deny.iter().flat_map(Policy::operations).any(|to| to.methods().next().is_some());
        let needs_http = operations().any(OperationPattern::needs_http);
        let methods = methods_denied.then(|| operations().flat_map(OperationPattern::methods).cloned().collect());
        let authorizer = Self {
            strict: policy.transport == Transport::Strict,
            needs_http,
            methods,
            deny,
            allow,
            audit,
            default_allow: policy.default_allow,
            probes: policy.probes.iter().filter_map(probe).collect(),
        };
        (authorizer, problems)
    }

    /// True where a policy looks at requests: a connection that could not be told to be HTTP must then be judged by
    /// [`Self::authorize`] without one, which refuses what it cannot judge.
    #[must_use]
    pub fn needs_http(&self) -> bool {
        self.needs_http
    }

    /// True where some requests are let in whoever sends them: then they must be looked at before a caller is refused
    /// for having no identity.
    #[must_use]
    pub fn expects_probes(&self) -> bool {
        !self.probes.is_empty()
    }

    fn is_probe(&self, request: &RequestView<'_>) -> bool {
        let path = request.path.map(without_slash);
        self.probes.iter().any(|(method, probe)| method == request.method && path == Some(&**probe))
    }

    /// Whether a connection may be made at all; to be asked before its protocol is known.
    ///
    /// # Errors
    /// [`DenyReason::NoIdentity`].
    pub fn admit(&self, caller: &Caller<'_>) -> Result<(), Denial<'static>> {
        if self.strict && caller.identity.is_none() {
            return Err(Denial { by: None, reason: DenyReason::NoIdentity });
        }
        Ok(())
    }

    /// Judges a request, or without one a connection whose requests cannot be told apart.
    #[must_use]
    pub fn authorize(&self, caller: &Caller<'_>, request: Option<&RequestView<'_>>) -> Verdict<'_> {
        if request.is_some_and(|request| self.is_probe(request)) {
            return Verdict::Allow { by: None };
        }
        if let Err(denial) = self.admit(caller) {
            return Verdict::Deny(denial);
        }
        if let Some(policy) = self.deny.iter().find(|policy| policy.matches(caller, request)) {
            return Verdict::Deny(Denial { by: Some(&policy.name), reason: DenyReason::Denied });
        }
        if request.is_some_and(|request| self.is_unknown(request.method)) {
            return Verdict::Deny(Denial { by: None, reason: DenyReason::UnknownMethod });
        }
        match &*self.allow {
            [] if self.default_allow => Verdict::Allow { by: None },
            [] => Verdict::Deny(Denial { by: None, reason: DenyReason::Default }),
            allow => match allow.iter().find(|policy| policy.matches(caller, request)) {
                Some(policy) => Verdict::Allow { by: Some(&policy.name) },
                None => {
                    // Of several none is more to blame than another.
                    let by = if let [only] = allow { Some(&only.name) } else { None };
                    Verdict::Deny(Denial { by, reason: DenyReason::NotAllowed })
                }
            },
        }
    }

    /// The audit policies that match; a probe is nobody's call.
    pub fn audits<'a>(
        &'a self,
        caller: &'a Caller<'_>,
        request: Option<&'a RequestView<'_>>,
    ) -> impl Iterator<Item = &'a PolicyName> {
        let probe = !self.audit.is_empty() && request.is_some_and(|request| self.is_probe(request));
        let audit = if probe { &[] } else { &*self.audit };
        audit.iter().filter(move |policy| policy.matches(caller, request)).map(|policy| &policy.name)
    }

    /// Some servers take a method that they do not know for one that they know.
    fn is_unknown(&self, method: &Method) -> bool {
        let Some(named) = &self.methods else { return false };
        let registered = matches!(
            *method,
            Method::GET
                | Method::POST
                | Method::PUT
                | Method::DELETE
                | Method::HEAD
                | Method::OPTIONS
                | Method::PATCH
                | Method::TRACE
                | Method::CONNECT
        );
        !registered && !named.contains(method)
    }
}

/// `None` for what no request can be.
fn probe(probe: &Probe) -> Option<(Method, Box<str>)> {
    let path = rule_path(&probe.path)?;
    Some((Method::from_bytes(probe.method.as_bytes()).ok()?, without_slash(&path).into()))
}

/// An application that sends a probe from `/health` to `/health/` is asked for that next.
fn without_slash(path: &str) -> &str {
    path.strip_suffix('/').filter(|path| !path.is_empty()).unwrap_or(path)
}

impl Policy {
    fn new(policy: &AuthorizationPolicy, port: u16, problems: &mut Vec<Unusable>) -> Self {
        let text: Arc<str> = policy.origin.to_string().into();
        let header = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
        Self {
            name: PolicyName { origin: policy.origin.clone(), text, header },
            rules: policy.rules.iter().filter_map(|rule| Rule::new(rule, policy.action, port, problems)).collect(),
        }
    }

    fn operations(&self) -> impl Iterator<Item = &OperationPattern> {
        self.rules.iter().filter_map(|rule| rule.to.as_deref()).flatten()
    }

    fn matches(&self, caller: &Caller<'_>, request: Option<&RequestView<'_>>) -> bool {
        self.rules.iter().any(|rule| rule.matches(caller, request))
    }
}

impl Rule {
    /// `None` where all operations are about other ports.
    fn new(rule: &AuthorizationRule, action: Action, port: u16, problems: &mut Vec<Unusable>) -> Option<Self> {
        let here = rule.to.iter().filter(|to| to.ports.is_empty() || to.ports.contains(&port));
        let to: Box<[_]> = here.map(|to| OperationPattern::new(to, action, problems)).collect();
        if to.is_empty() && !rule.to.is_empty() {
            return None;
        }
        let from: Box<[_]> = rule.from.iter().map(SourcePattern::new).collect();
        Some(Self { from: (!from.is_empty()).then_some(from), to: (!to.is_empty()).then_some(to) })
    }

    fn matches(&self, caller: &Caller<'_>, request: Option<&RequestView<'_>>) -> bool {
        self.from.as_ref().is_none_or(|from| from.iter().any(|source| source.matches(caller)))
            && self.to.as_ref().is_none_or(|to| to.iter().any(|operation| operation.matches(request)))
    }
}
