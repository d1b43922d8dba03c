//! What only shows when all objects are seen together: references that lead nowhere, objects in conflict. Pure; asked
//! for when somebody looks, never on the way of a change. Floor 2: imports `index`, `resolve`, `problem`.

use std::{collections::BTreeMap, net::SocketAddr};

use mesh_api::model::{
    ObjectRef, Protocol, WorkloadId,
    policy::{Action, AuthorizationRule},
};

use crate::{
    index::Index,
    problem::{Findings, Problem, Reason},
    resolve,
    translate::{Authorization, Route, ServiceId, TransportRule, WorkloadKind},
};

/// Everything that is wrong: what translation found, and what the objects are to each other. Sorted.
#[must_use]
pub fn review(index: &Index) -> Vec<Problem> {
    let mut problems: Vec<Problem> = index.problems().cloned().collect();
    for route in index.routes() {
        let mut findings = Findings::new(route.origin.clone());
        parents(index, route, &mut findings);
        backends(index, route, &mut findings);
        problems.extend(findings.into_problems());
    }
    policies(index, &mut problems);
    transports(index, &mut problems);
    without_http(index, &mut problems);
    addresses(index, &mut problems);
    problems.sort();
    problems
}

fn parents(index: &Index, route: &Route, findings: &mut Findings) {
    for parent in &route.parents {
        let field = format!("spec.parentRefs[{}]", parent.at);
        let Some(service) = index.service(&parent.service) else {
            let message = format!("there is no Service {}", parent.service);
            findings.report(field, Reason::NoMatchingParent, message);
            continue;
        };
        if !service.ports.iter().any(|(number, port)| parent.covers(*number, port)) {
            let message = format!("Service {} has no such port", parent.service);
            findings.report(&field, Reason::NoMatchingParent, message);
        }
        if !service.export.allows(&route.origin.namespace) && parent.service.namespace != route.origin.namespace {
            let message = format!("Service {} is not exported to this namespace", parent.service);
            findings.report(field, Reason::RefNotPermitted, message);
        }
    }
}

fn backends(index: &Index, route: &Route, findings: &mut Findings) {
    for (at, rule) in route.rules.iter().enumerate() {
        for (number, used) in rule.backends.iter().enumerate().filter(|(_, used)| used.broken.is_none()) {
            let field = format!("spec.rules[{at}].backendRefs[{number}]");
            if let Err(reason) = resolve::usable(index, route, used) {
                let there = index.service(&used.service);
                let hidden = there.is_some_and(|service| !service.export.allows(&route.origin.namespace));
                let why = if hidden { Reason::RefNotPermitted } else { Reason::BackendNotFound };
                findings.report(field, why, format!("{reason}; its share is answered 500"));
            }
        }
    }
}

/// Targets that are not there.
fn policies(index: &Index, problems: &mut Vec<Problem>) {
    for (origin, targets) in index.policies() {
        let mut findings = Findings::new(origin.clone());
        for name in &targets.services {
            let id = ServiceId { namespace: origin.namespace.clone(), name: name.clone() };
            if index.service(&id).is_none() {
                findings.report("spec.targetRefs", Reason::TargetNotFound, format!("there is no Service {id}"));
            }
        }
        for name in &targets.workloads {
            let id = WorkloadId { namespace: origin.namespace.clone(), name: name.clone() };
            if index.workload(&id).is_none() {
                findings.report("spec.targetRefs", Reason::TargetNotFound, format!("there is no workload {id}"));
            }
        }
        for account in &targets.accounts {
            if !index.workloads_within(&origin.namespace).any(|(_, workload)| workload.account == *account) {
                let message = format!("no workload of the namespace runs as ServiceAccount {account}");
                findings.warn("spec.targetRefs", Reason::TargetNotFound, message);
            }
        }
        if let Some(labels) = targets.selector.as_ref()
            && !index.any_workload_with(&origin.namespace, labels)
        {
            findings.warn("spec.selector", Reason::TargetNotFound, "no workload of the namespace has these labels");
        }
        problems.extend(findings.into_problems());
    }
}

/// TransportPolicies that speak for the same target.
fn transports(index: &Index, problems: &mut Vec<Problem>) {
    let mut owners: BTreeMap<(String, String), Vec<&TransportRule>> = BTreeMap::new();
    for policy in index.all_transports() {
        let namespace = policy.origin.namespace.to_string();
        let targets = &policy.targets;
        let whole = targets.namespace.then(|| "the namespace".to_owned());
        let named = targets.workloads.iter().map(|name| format!("ExternalWorkload {name}"));
        let named = named.chain(targets.accounts.iter().map(|name| format!("ServiceAccount {name}")));
        let named = named.chain(targets.services.iter().map(|name| format!("Service {name}"))).chain(whole);
        for target in named {
            owners.entry((namespace.clone(), target)).or_default().push(policy);
        }
    }
    for ((_, target), mut policies) in owners {
        policies.sort_by(|one, other| one.rank.cmp(&other.rank));
        let mut policies = policies.into_iter();
        let Some(winner) = policies.next() else { continue };
        for loser in policies {
            let mut findings = Findings::new(loser.origin.clone());
            let message = format!("{} speaks for {target} already; the older one holds", winner.origin);
            findings.report("spec.targetRefs", Reason::Conflicted, message);
            problems.extend(findings.into_problems());
        }
    }
}

/// AuthorizationPolicies that ask for hosts, methods, paths or header fields where nothing of the kind can be seen.
fn without_http(index: &Index, problems: &mut Vec<Problem>) {
    for policy in index.all_authorizations() {
        let needs_http = |rule: &AuthorizationRule| rule.to.iter().any(|operation| operation.needs_http());
        let Some(at) = policy.rules.iter().position(needs_http) else { continue };
        let Some(place) = blind_port(index, policy) else { continue };
        let mut findings = Findings::new(policy.origin.clone());
        let effect = match policy.action {
            Action::Deny => "there it denies everything",
            Action::Allow | Action::Audit => "there it matches nothing",
        };
        let message = format!("{place} carries nothing in which requests can be seen; {effect}");
        findings.warn(format!("spec.rules[{at}].to"), Reason::UnsupportedValue, message);
        problems.extend(findings.into_problems());
    }
}

/// A port that the policy is for and that is said to carry no HTTP.
fn blind_port(index: &Index, policy: &Authorization) -> Option<String> {
    let blind = |protocol: Option<Protocol>| matches!(protocol, Some(Protocol::Opaque | Protocol::Tls));
    let namespace = &policy.origin.namespace;
    let services = policy.targets.services.iter().find_map(|name| {
        let id = ServiceId { namespace: namespace.clone(), name: name.clone() };
        let (number, _) = index.service(&id)?.ports.iter().find(|(_, port)| blind(port.protocol))?;
        Some(format!("port {number} of Service {id}"))
    });
    services.or_else(|| {
        index.workloads_within(namespace).find_map(|(id, workload)| {
            policy.targets.workload(&id, workload)?;
            let (number, _) = workload.ports.iter().find(|(_, port)| blind(port.protocol))?;
            Some(format!("port {number} of workload {id}"))
        })
    })
}

/// Addresses that two objects claim.
fn addresses(index: &Index, problems: &mut Vec<Problem>) {
    for (ip, owners) in index.shared_addresses() {
        let mut owners = owners.iter();
        let Some(first) = owners.next() else { continue };
        for other in owners {
            let kind = "Service".into();
            let object = ObjectRef { kind, namespace: other.namespace.clone(), name: other.name.clone() };
            let mut findings = Findings::new(object);
            let message = format!("{ip} is the address of Service {first} too, which has it where both have the port");
            findings.report("spec.clusterIP", Reason::Conflicted, message);
            problems.extend(findings.into_problems());
        }
    }
    let mut owners: BTreeMap<SocketAddr, WorkloadId> = BTreeMap::new();
    // Of Pods a cluster sees to it.
    let external = index.workloads().filter(|(_, workload)| workload.kind == WorkloadKind::External);
    let mut workloads: Vec<_> = external.collect();
    workloads.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (id, workload) in workloads {
        let ports = workload.ports.keys();
        let own = ports.flat_map(|port| workload.addresses.iter().map(|ip| SocketAddr::new(*ip, *port)));
        for address in own {
            let Some(first) = owners.get(&address) else {
                owners.insert(address, id.clone());
                continue;
            };
            let kind = "ExternalWorkload".into();
            let object = ObjectRef { kind, namespace: id.namespace.clone(), name: id.name.clone() };
            let mut findings = Findings::new(object);
            let message = format!("{address} belongs to ExternalWorkload {first} already");
            findings.report("spec.ports", Reason::Conflicted, message);
            problems.extend(findings.into_problems());
        }
    }
    for WorkloadId { namespace, name } in index.shadowed() {
        let mut findings = Findings::new(ObjectRef { kind: "ExternalWorkload".into(), namespace, name });
        findings.report("metadata.name", Reason::Conflicted, "a Pod of the namespace has the same name, and holds");
        problems.extend(findings.into_problems());
    }
}
