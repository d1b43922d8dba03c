//! What installing needs: rights, and nothing in the way.

use std::collections::BTreeMap;

use mesh_api::names::SYSTEM_NAMESPACE;

use super::known;
use crate::check::{
    facts::Facts,
    judge::{cluster::count, control, webhook},
    verdict::{Lines, Verdict},
};

/// May the user create what an installation consists of?
pub fn rights(facts: &Facts) -> Verdict {
    let rights = known!(&facts.rights);
    let mut missing: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for right in rights.iter().filter(|right| !right.allowed) {
        missing.entry((right.namespace, right.group, right.resource)).or_default().push(right.verb);
    }
    let mut lines = Lines::new();
    for ((namespace, group, resource), verbs) in missing {
        let dot = if group.is_empty() { "" } else { "." };
        let place = if namespace.is_empty() { "the cluster" } else { namespace };
        lines.error(
            format!("you may not {} {resource}{dot}{group} in {place}", verbs.join(", ")),
            "install with an account that has the ClusterRole cluster-admin, or give the output of meshctl install --dry-run to \
             somebody who has it",
        );
    }
    let good = format!("all {}", count(rights.len(), "right", "rights"));
    lines.verdict(good, "kind may not be installed by you", "kinds may not be installed by you")
}

/// Is anything left of an earlier installation?
pub fn leftovers(facts: &Facts) -> Verdict {
    let namespaces = known!(&facts.namespaces);
    let mutating = known!(&facts.mutating);
    let validating = known!(&facts.validating);
    let own = namespaces.iter().find(|namespace| namespace.metadata.name.as_deref() == Some(SYSTEM_NAMESPACE));
    let mut lines = Lines::new();
    if own.is_some_and(|namespace| namespace.metadata.deletion_timestamp.is_some()) {
        lines.error(
            format!("the namespace {SYSTEM_NAMESPACE} is being deleted"),
            "wait until it is gone: kubectl get namespace, its conditions say what holds it",
        );
    }
    let deployments = known!(&facts.deployments);
    if control::PARTS.iter().any(|part| control::deployment(deployments, part).is_some()) {
        return lines.verdict(
            "Mesh is installed here already; meshctl upgrade brings it up to date",
            "thing is in the way",
            "",
        );
    }
    let hooks = mutating.iter().map(|hook| ("mutatingwebhookconfiguration", hook.metadata.name.as_deref()));
    let hooks =
        hooks.chain(validating.iter().map(|hook| ("validatingwebhookconfiguration", hook.metadata.name.as_deref())));
    for (kind, _) in hooks.filter(|(_, name)| *name == Some(webhook::CONFIGURATION)) {
        lines.error(
            format!("the {kind} {} is left over: it refuses pods in meshed namespaces", webhook::CONFIGURATION),
            format!("remove it: kubectl delete {kind} {}", webhook::CONFIGURATION),
        );
    }
    lines.verdict("nothing is left of an earlier installation", "thing is left over", "things are left over")
}
