//! What users wrote: does the controller obey it?

use std::collections::BTreeSet;

use mesh_api::names::CONTROLLER_ACCOUNT;
use mesh_controller::problem::Severity;

use super::{control, known};
use crate::check::{
    facts::Facts,
    judge::cluster::count,
    verdict::{Lines, Verdict},
};

/// Does the controller find anything wrong?
pub fn problems(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let mut lines = Lines::new();
    // Every replica reads the same objects.
    let mut told = BTreeSet::new();
    let mut asked = 0;
    for replica in facts.replicas_of(CONTROLLER_ACCOUNT) {
        let Some(pages) = &replica.controller else { continue };
        let problems = known!(&pages.problems);
        asked += 1;
        for problem in problems {
            let object = problem.object.as_deref().unwrap_or("(unknown object)");
            let field = if problem.field.is_empty() { String::new() } else { format!("{}: ", problem.field) };
            let line = format!("{object}: {field}{}", problem.message);
            if !told.insert(line.clone()) {
                continue;
            }
            match problem.severity {
                Severity::Error => lines.error(line, "correct the object; what is told here is not in force"),
                Severity::Warning => lines.warning(line, "look whether the object says what was meant"),
            }
        }
    }
    if asked == 0 {
        return Verdict::skipped("no controller answers; see control-plane-pods");
    }
    lines.verdict("nothing is wrong", "thing is wrong", "things are wrong")
}

/// Are routes and policies accepted?
pub fn conditions(facts: &Facts) -> Verdict {
    let conditions = known!(&facts.conditions);
    let mut lines = Lines::new();
    let mut seen = BTreeSet::new();
    for condition in conditions {
        seen.insert(condition.object.as_str());
        // What has another type says nothing about obedience; one that is not known yet is being worked on.
        if !matches!(condition.kind.as_str(), "Accepted" | "ResolvedRefs" | "Programmed")
            || condition.status != Some(false)
        {
            continue;
        }
        let line = format!("{}: not {}: {}: {}", condition.object, condition.kind, condition.reason, condition.message);
        lines.error(line, "correct the object; until then it is not in force, or not wholly");
    }
    let good = format!("no bad condition on {}", count(seen.len(), "object", "objects"));
    lines.verdict(good, "bad condition", "bad conditions")
}
