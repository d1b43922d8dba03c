//! `/validate`: objects of the mesh's own kinds are read as the controller will read them.

use std::{path::PathBuf, sync::Arc};

use mesh_api::{names, spiffe::TrustDomain};
use serde_json::Value;

use super::review::{Answer, BadReview, Request};
use crate::{
    problem::{Problem, Severity},
    source::decode,
    telemetry::Admission,
    translate::{Verdict, translate},
};

/// Answers a review of an object of the group `mesh.dev`. Others are not the mesh's to judge.
///
/// # Errors
/// [`BadReview::Kind`] for objects of other groups.
pub fn validate(request: &Request, trust_domain: &TrustDomain) -> Result<(Admission, Answer), BadReview> {
    if request.kind.group != names::GROUP {
        let kind = &request.kind.kind;
        let message = format!("{kind} is not a kind of {}: the webhook's rules ask for too much", names::GROUP);
        return Err(BadReview::Kind(message));
    }
    if !matches!(request.operation.as_str(), "CREATE" | "UPDATE") || !request.sub_resource.is_empty() {
        return Ok((Admission::Left, Answer::default()));
    }
    let (refused, problems) = judge(&request.object, trust_domain);
    let mut warnings: Vec<String> = Vec::new();
    let spec = |object: &Value| object.get("spec").cloned();
    if refused && request.operation == "UPDATE" && spec(&request.object) == spec(&request.old_object) {
        // It was wrong before, and nothing about that changes: its labels and finalizers must not be stuck with it.
        warnings.push("the object is not obeyed as it is".to_owned());
        warnings.extend(problems.iter().map(told));
        return Ok((Admission::Unchanged, Answer { warnings, ..Answer::default() }));
    }
    let (errors, rest): (Vec<&Problem>, Vec<&Problem>) =
        problems.iter().partition(|problem| refused && problem.severity == Severity::Error);
    warnings.extend(rest.into_iter().map(told));
    let message = || errors.iter().map(|problem| told(problem)).collect::<Vec<_>>().join("; ");
    let refused = refused.then(|| (422, message()));
    let outcome = if refused.is_some() { Admission::Refused } else { Admission::Allowed };
    Ok((outcome, Answer { refused, warnings, ..Answer::default() }))
}

/// Whether an object would not be obeyed, and everything that is wrong with it.
fn judge(object: &Value, trust_domain: &TrustDomain) -> (bool, Vec<Problem>) {
    let mut object = object.clone();
    // Large, and nothing of it is read.
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    // JSON is YAML.
    let decoded = decode::decode(&Arc::new(PathBuf::new()), &object.to_string());
    let mut refused = !decoded.is_good() || decoded.objects.is_empty();
    let mut problems = decoded.problems;
    for located in decoded.objects {
        let translated = translate(&located.value, trust_domain);
        refused |= matches!(translated.verdict, Verdict::Refused { .. });
        problems.extend(translated.problems);
    }
    (refused, problems)
}

fn told(problem: &Problem) -> String {
    match problem.field.as_str() {
        "" => problem.message.clone(),
        field => format!("{field}: {}", problem.message),
    }
}
