//! `/inject`: pods get their sidecar.

use mesh_api::{names, probe::Token};

use super::{
    namespaces::Found,
    review::{Answer, BadReview, Request},
};
use crate::{
    inject::{self, Decision, Namespace, Reason, Settings, Version},
    telemetry::Admission,
};

/// Whether a review is of a pod that is being made: what a pod is made of is fixed then.
///
/// # Errors
/// [`BadReview`] where the object is no pod, or is in no namespace.
pub fn is_new_pod(request: &Request) -> Result<bool, BadReview> {
    if !request.kind.group.is_empty() || request.kind.kind != "Pod" {
        let kind = &request.kind.kind;
        return Err(BadReview::Kind(format!("{kind} is not injected, Pods are: the webhook's rules ask for too much")));
    }
    if request.namespace.is_empty() {
        return Err(BadReview::Namespace(String::new()));
    }
    Ok(request.operation == "CREATE" && request.sub_resource.is_empty())
}

/// Answers a review of a new pod.
///
/// # Errors
/// [`BadReview`] where its namespace would decide and is not known, or its id is none.
pub fn inject(
    request: &Request,
    found: &Found,
    settings: &Settings,
    version: Option<Version>,
) -> Result<(Admission, Answer), BadReview> {
    let (namespace, unknown) = match found {
        Found::Known(namespace) => (namespace.clone(), None),
        Found::Unknown(why) => (Namespace { name: request.namespace.clone(), ..Namespace::default() }, Some(why)),
    };
    // API servers make it anew, at random, for each review; so it is known to nobody who does not see the pod.
    let token = Token::new(&request.uid).ok_or(BadReview::Empty)?;
    match inject::decide(&request.object, None, &namespace, settings, version, &token) {
        Decision::Leave(fault) if fault.reason == Reason::NotEnabled && unknown.is_some() => {
            let why = unknown.map(String::as_str).unwrap_or_default();
            Err(BadReview::Unknown(format!(
                "whether namespace {} asks for sidecars is not known: {why}",
                namespace.name
            )))
        }
        Decision::Leave(fault) => {
            let asked = request.object.pointer("/metadata/labels").and_then(|labels| labels.get(names::INJECT));
            let warning = asked.filter(|word| *word == "enabled").map(|_| format!("no sidecar: {fault}"));
            let audit = vec![("injection", fault.reason.as_str().to_owned())];
            Ok((Admission::Left, Answer { warnings: warning.into_iter().collect(), audit, ..Answer::default() }))
        }
        Decision::Refuse(faults) => {
            let reasons: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let audit = faults.first().map(|fault| ("injection", fault.reason.as_str().to_owned()));
            let message = format!("the pod cannot get its sidecar: {}", reasons.join("; "));
            let refused = Some((422, message));
            Ok((Admission::Refused, Answer { refused, audit: audit.into_iter().collect(), ..Answer::default() }))
        }
        Decision::Inject(injection) => {
            let outcome = if injection.patch.is_empty() { Admission::Unchanged } else { Admission::Injected };
            let audit = vec![("injection", injection.because.reason.as_str().to_owned())];
            Ok((outcome, Answer { refused: None, patch: injection.patch, warnings: injection.warnings, audit }))
        }
    }
}
