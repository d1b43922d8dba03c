//! The targets of policies.

use mesh_api::resources::{LabelSelector, TargetRef};

use super::Targets;
use crate::problem::{Findings, Reason};

/// Most targets of a policy.
const MAX_TARGETS: usize = 64;

/// What a policy is for. Where an entry cannot be read, the name in it stands for a Service and for a workload: what
/// the policy would then deny is what its author pointed at, and nothing else.
pub(super) fn translate(
    refs: &[TargetRef],
    selector: Option<&LabelSelector>,
    namespace: &str,
    findings: &mut Findings,
) -> Targets {
    let mut targets =
        Targets { selector: selector.map(|selector| selector.match_labels.clone()), ..Targets::default() };
    if refs.is_empty() && selector.is_none() {
        targets.namespace = true;
        return targets;
    }
    if !refs.is_empty() && selector.is_some() {
        findings.refuse("spec.selector", Reason::Invalid, "targetRefs and selector cannot both be given");
    }
    if refs.len() > MAX_TARGETS {
        let message = format!("{} entries, at most {MAX_TARGETS} are allowed", refs.len());
        findings.refuse("spec.targetRefs", Reason::TooLarge, message);
    }
    for (at, target) in refs.iter().take(MAX_TARGETS).enumerate() {
        one(target, at, namespace, &mut targets, findings);
    }
    targets
}

fn one(target: &TargetRef, at: usize, namespace: &str, targets: &mut Targets, findings: &mut Findings) {
    let field = format!("spec.targetRefs[{at}]");
    match (target.group.as_str(), target.kind.as_str()) {
        ("" | "core", "Service") => {
            targets.services.insert(target.name.as_str().into());
        }
        ("" | "core" | mesh_api::names::GROUP, "ExternalWorkload") => {
            targets.workloads.insert(target.name.as_str().into());
        }
        ("" | "core", "ServiceAccount") => {
            targets.accounts.insert(target.name.as_str().into());
        }
        ("" | "core", "Namespace") if target.name == namespace => targets.namespace = true,
        ("" | "core", "Namespace") => {
            let message = format!("`{}` is another namespace than the policy's own, `{namespace}`", target.name);
            findings.refuse(format!("{field}.name"), Reason::RefNotPermitted, message);
        }
        (group, kind) => {
            let known = "Service, ServiceAccount, ExternalWorkload and Namespace";
            let message = format!("`{group}/{kind}` cannot be a target: {known} can");
            findings.refuse(format!("{field}.kind"), Reason::InvalidKind, message);
            targets.services.insert(target.name.as_str().into());
            targets.workloads.insert(target.name.as_str().into());
        }
    }
}
