//! AuthorizationPolicies.

use ipnet::IpNet;
use mesh_api::{
    model::{
        Name, is_dns_label,
        policy::{Action, AuthorizationRule, Operation, Source},
    },
    resources::{AuthorizationAction, AuthorizationPolicy, OperationRule, PathRule, SourceRule},
    spiffe::{SpiffeId, TrustDomain},
};

use super::{Authorization, Part, Rank, Verdict, target, value};
use crate::problem::{Findings, Reason};

/// Most rules of a policy, and most entries of each list in a rule.
const MAX_RULES: usize = 256;
const MAX_ENTRIES: usize = 256;

pub(super) fn translate(object: &AuthorizationPolicy, trust_domain: &TrustDomain, findings: &mut Findings) -> Verdict {
    let spec = &object.spec;
    let targets = target::translate(&spec.target_refs, spec.selector.as_ref(), &object.metadata.namespace, findings);
    let mut read = Reader { trust_domain, findings };
    read.bound("spec.rules", spec.rules.len(), MAX_RULES);
    let rules = spec.rules.iter().take(MAX_RULES).enumerate().map(|(at, rule)| {
        let field = format!("spec.rules[{at}]");
        AuthorizationRule {
            from: read.list(&format!("{field}.from"), &rule.from, Reader::source),
            to: read.list(&format!("{field}.to"), &rule.to, Reader::operation),
        }
    });
    let rules = rules.collect();
    let action = match spec.action {
        AuthorizationAction::Allow => Action::Allow,
        AuthorizationAction::Deny => Action::Deny,
        AuthorizationAction::Audit => Action::Audit,
    };
    if action == Action::Deny && spec.rules.is_empty() {
        findings.warn("spec.rules", Reason::Invalid, "a Deny without rules denies nothing; `rules: [{}]` everything");
    }
    let origin = findings.object().clone();
    let rank = Rank::new(object.metadata.creation_timestamp.as_deref(), &origin);
    let policy = Authorization { origin, rank, targets, action, rules };
    let stand_in = (action != Action::Audit).then(|| deny_everything(policy.clone()));
    Verdict::of(findings, Part::Authorization(policy), stand_in.map(Part::Authorization))
}

/// What holds in place of a policy that was never good.
fn deny_everything(policy: Authorization) -> Authorization {
    Authorization { action: Action::Deny, rules: vec![AuthorizationRule::default()], ..policy }
}

struct Reader<'a> {
    trust_domain: &'a TrustDomain,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn bound(&mut self, field: &str, count: usize, most: usize) {
        if count > most {
            let message = format!("{count} entries, at most {most} are allowed");
            self.findings.refuse(field, Reason::TooLarge, message);
        }
    }

    /// Reads each entry of a list; one that cannot be read is refused, so that the list is never used without it.
    fn list<In, Out>(
        &mut self,
        field: &str,
        values: &[In],
        mut one: impl FnMut(&mut Self, &In, &str) -> Option<Out>,
    ) -> Vec<Out> {
        self.bound(field, values.len(), MAX_ENTRIES);
        let numbered = values.iter().take(MAX_ENTRIES).enumerate();
        numbered.filter_map(|(at, value)| one(self, value, &format!("{field}[{at}]"))).collect()
    }

    fn source(&mut self, rule: &SourceRule, field: &str) -> Option<Source> {
        if *rule == SourceRule::default() {
            let message = "an empty entry matches every caller; leave `from` out to say so";
            self.findings.warn(field, Reason::Invalid, message);
        }
        let mut identities = self.list(&format!("{field}.identities"), &rule.identities, Self::identity);
        identities.extend(self.list(&format!("{field}.serviceAccounts"), &rule.service_accounts, Self::account));
        let mut not_identities = self.list(&format!("{field}.notIdentities"), &rule.not_identities, Self::identity);
        let not_accounts = &rule.not_service_accounts;
        not_identities.extend(self.list(&format!("{field}.notServiceAccounts"), not_accounts, Self::account));
        Some(Source {
            identities,
            namespaces: self.list(&format!("{field}.namespaces"), &rule.namespaces, Self::namespace),
            cidrs: self.list(&format!("{field}.cidrs"), &rule.cidrs, Self::cidr),
            not_identities,
            not_namespaces: self.list(&format!("{field}.notNamespaces"), &rule.not_namespaces, Self::namespace),
            not_cidrs: self.list(&format!("{field}.notCidrs"), &rule.not_cidrs, Self::cidr),
        })
    }

    fn identity(&mut self, text: &String, field: &str) -> Option<Name> {
        let fault = match text.strip_suffix('*') {
            Some("") => None,
            Some(start) if start.contains('*') => Some("`*` can only stand at the end".to_owned()),
            Some(start) if !start.starts_with("spiffe://") => Some("does not start with spiffe://".to_owned()),
            Some(_) => None,
            None => text.parse::<SpiffeId>().err().map(|error| error.to_string()),
        };
        match fault {
            None => Some(text.as_str().into()),
            Some(fault) => {
                self.findings.refuse(field, Reason::Invalid, format!("`{text}` is not a SPIFFE ID: {fault}"));
                None
            }
        }
    }

    fn account(&mut self, text: &String, field: &str) -> Option<Name> {
        let parts = text.split_once('/').filter(|(namespace, name)| is_dns_label(namespace) && !name.is_empty());
        let identity = parts.and_then(|(namespace, name)| SpiffeId::workload(self.trust_domain, namespace, name).ok());
        if identity.is_none() {
            let message = format!("`{text}` is not NAMESPACE/NAME of a service account");
            self.findings.refuse(field, Reason::Invalid, message);
        }
        identity.map(|identity| identity.as_str().into())
    }

    fn namespace(&mut self, text: &String, field: &str) -> Option<Name> {
        if is_dns_label(text) {
            return Some(text.as_str().into());
        }
        self.findings.refuse(field, Reason::Invalid, format!("`{text}` is not the name of a namespace"));
        None
    }

    fn cidr(&mut self, text: &String, field: &str) -> Option<IpNet> {
        let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        if network.is_none() {
            self.findings.refuse(field, Reason::Invalid, format!("`{text}` is not a network as in 10.0.0.0/8"));
        }
        network.map(|network| network.trunc())
    }

    fn operation(&mut self, rule: &OperationRule, field: &str) -> Option<Operation> {
        if *rule == OperationRule::default() {
            let message = "an empty entry matches everything; leave `to` out to say so";
            self.findings.warn(field, Reason::Invalid, message);
        }
        Some(Operation {
            hosts: self.list(&format!("{field}.hosts"), &rule.hosts, |read, text, field| {
                value::host(text, field, read.findings)
            }),
            methods: self.list(&format!("{field}.methods"), &rule.methods, |read, text, field| {
                value::method(text, field, read.findings)
            }),
            paths: self.list(&format!("{field}.paths"), &rule.paths, Self::path),
            ports: self.list(&format!("{field}.ports"), &rule.ports, Self::port),
            headers: self.list(&format!("{field}.headers"), &rule.headers, |read, header, field| {
                value::header(header, field, read.findings)
            }),
            not_methods: self.list(&format!("{field}.notMethods"), &rule.not_methods, |read, text, field| {
                value::method(text, field, read.findings)
            }),
            not_paths: self.list(&format!("{field}.notPaths"), &rule.not_paths, Self::path),
        })
    }

    fn port(&mut self, port: &u16, field: &str) -> Option<u16> {
        if *port == 0 {
            self.findings.refuse(field, Reason::Invalid, "a port is a number from 1 to 65535");
        }
        Some(*port)
    }

    fn path(&mut self, rule: &PathRule, field: &str) -> Option<mesh_api::model::route::PathMatch> {
        match rule {
            PathRule::Text(text) => value::short_path(text, field, self.findings),
            // A default here would widen the rule where a field's name is mistyped.
            PathRule::Match(value) if value.kind.is_none() || value.value.is_none() => {
                self.findings.refuse(field, Reason::Invalid, "both `type` and `value` must be given");
                None
            }
            PathRule::Match(value) => value::path(value, field, self.findings),
        }
    }
}
