//! What becomes of problems in a status, and that nothing is written twice.

use super::*;

const NOW: &str = "2026-11-22T10:00:00Z";
const LATER: &str = "2026-11-22T11:00:00Z";

fn object(kind: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: "ns".into(), name: "x".into() }
}

fn problem(field: &str, reason: Reason, severity: Severity) -> Problem {
    let (place, object) = (None, None);
    Problem { place, object, field: field.into(), reason, severity, message: format!("about {field}") }
}

/// Writes a status into an object as an API server does.
fn written(value: &Value, patch: &Value) -> Value {
    let mut value = value.clone();
    assert_eq!(patch["metadata"]["resourceVersion"], value["metadata"]["resourceVersion"]);
    for (field, list) in patch["status"].as_object().unwrap() {
        value["status"][field] = list.clone();
    }
    value["metadata"]["resourceVersion"] = "2".into();
    value
}

/// `Type=Status(Reason)` of each condition.
fn short(list: &Value) -> Vec<String> {
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    let one = |one: &Value| format!("{}={}({})", text(one, "type"), text(one, "status"), text(one, "reason"));
    list.as_array().unwrap().iter().map(one).collect()
}

fn policy_object() -> Value {
    json!({
        "metadata": {"name": "x", "generation": 3, "resourceVersion": "1"},
        "spec": {},
        "status": {"conditions": [{"type": "Other", "status": "True", "reason": "Theirs", "message": "", "lastTransitionTime": NOW}]},
    })
}

#[test]
fn the_meshs_own_kinds_have_two_conditions_beside_those_of_others() {
    let value = policy_object();
    let first = patch(&object("TransportPolicy"), &Observed::read(&value), &[], NOW).unwrap();
    let conditions = &first["status"]["conditions"];
    assert_eq!(short(conditions), ["Other=True(Theirs)", "Accepted=True(Accepted)", "ResolvedRefs=True(ResolvedRefs)"]);
    assert_eq!(conditions[1]["observedGeneration"], 3);
    assert_eq!(conditions[1]["lastTransitionTime"], NOW);
    let value = written(&value, &first);
    assert_eq!(patch(&object("TransportPolicy"), &Observed::read(&value), &[], LATER), None, "nothing differs");
    let missing = problem("spec.targetRefs", Reason::TargetNotFound, Severity::Error);
    let second = patch(&object("TransportPolicy"), &Observed::read(&value), &[&missing], LATER).unwrap();
    let conditions = &second["status"]["conditions"];
    assert_eq!(
        short(conditions),
        ["Other=True(Theirs)", "Accepted=True(Accepted)", "ResolvedRefs=False(TargetNotFound)"]
    );
    assert_eq!(
        (&conditions[1]["lastTransitionTime"], &conditions[2]["lastTransitionTime"]),
        (&json!(NOW), &json!(LATER))
    );
    assert_eq!(conditions[2]["message"], "spec.targetRefs: about spec.targetRefs");
}

#[test]
fn warnings_are_told_and_change_nothing() {
    let warning = problem("spec.rules", Reason::Invalid, Severity::Warning);
    let status = patch(&object("TransportPolicy"), &Observed::read(&policy_object()), &[&warning], NOW).unwrap();
    let accepted = &status["status"]["conditions"][1];
    assert_eq!((&accepted["status"], &accepted["message"]), (&json!("True"), &json!("spec.rules: about spec.rules")));
    let many: Vec<Problem> = (0..9).map(|n| problem(&format!("f{n}"), Reason::Invalid, Severity::Error)).collect();
    let many: Vec<&Problem> = many.iter().collect();
    let status = patch(&object("TransportPolicy"), &Observed::read(&policy_object()), &many, NOW).unwrap();
    assert!(status["status"]["conditions"][1]["message"].as_str().unwrap().ends_with("; and 4 more"));
}

fn route_object() -> Value {
    json!({
        "metadata": {"name": "x", "generation": 1, "resourceVersion": "1"},
        "spec": {"parentRefs": [
            {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"},
            {"group": "", "kind": "Service", "name": "web"},
            {"group": "", "kind": "Service", "name": "api", "port": 80},
        ]},
        "status": {"parents": [
            {"parentRef": {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "gw"},
             "controllerName": "example.com/gateway", "conditions": []},
            {"parentRef": {"group": "", "kind": "Service", "name": "old"}, "controllerName": names::CONTROLLER_NAME, "conditions": []},
        ]},
    })
}

#[test]
fn a_route_has_an_entry_for_each_service_and_others_keep_theirs() {
    let value = route_object();
    let missing = problem("spec.parentRefs[2]", Reason::NoMatchingParent, Severity::Error);
    let backend = problem("spec.rules[0].backendRefs[0]", Reason::BackendNotFound, Severity::Error);
    let first = patch(&object("HTTPRoute"), &Observed::read(&value), &[&missing, &backend], NOW).unwrap();
    let parents = first["status"]["parents"].as_array().unwrap();
    let names: Vec<&str> = parents.iter().map(|entry| entry["parentRef"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["gw", "web", "api"], "an entry of the mesh for a parent that is not there any more is gone");
    assert_eq!(short(&parents[1]["conditions"]), ["Accepted=True(Accepted)", "ResolvedRefs=False(BackendNotFound)"]);
    assert_eq!(
        short(&parents[2]["conditions"]),
        ["Accepted=False(NoMatchingParent)", "ResolvedRefs=False(BackendNotFound)"]
    );
    let value = written(&value, &first);
    let read = Observed::read(&value);
    assert_eq!(patch(&object("HTTPRoute"), &read, &[&missing, &backend], LATER), None, "nothing differs");
    let partly = problem("spec.rules[0].filters[0]", Reason::PartiallyInvalid, Severity::Error);
    let second = patch(&object("HTTPRoute"), &read, &[&partly], LATER).unwrap();
    let conditions = &second["status"]["parents"][1]["conditions"];
    assert_eq!(
        short(conditions),
        ["Accepted=True(Accepted)", "ResolvedRefs=True(ResolvedRefs)", "PartiallyInvalid=True(UnsupportedValue)"]
    );
    let value = written(&value, &second);
    let third = patch(&object("HTTPRoute"), &Observed::read(&value), &[], LATER).unwrap();
    assert_eq!(short(&third["status"]["parents"][1]["conditions"]).len(), 2, "nothing is partly invalid any more");
    let invalid = problem("spec.rules[0].matches[0]", Reason::Invalid, Severity::Error);
    let refused = patch(&object("HTTPRoute"), &Observed::read(&value), &[&invalid], LATER).unwrap();
    assert_eq!(short(&refused["status"]["parents"][1]["conditions"])[0], "Accepted=False(UnsupportedValue)");
}

#[test]
fn a_route_of_gateways_alone_is_left_alone() {
    let mut value = route_object();
    value["spec"]["parentRefs"].as_array_mut().unwrap().truncate(1);
    value["status"]["parents"].as_array_mut().unwrap().truncate(1);
    assert_eq!(patch(&object("HTTPRoute"), &Observed::read(&value), &[], NOW), None);
    value["status"] = json!(null);
    assert_eq!(patch(&object("HTTPRoute"), &Observed::read(&value), &[], NOW), None);
}

#[test]
fn the_board_forgets_what_is_gone() {
    let board = Board::default();
    let before = board.revision();
    board.replace(&object("TransportPolicy"), Observed::default());
    assert!(board.all().is_empty(), "gone meanwhile");
    board.put(object("TransportPolicy"), Observed::default());
    board.remove(&object("TransportPolicy"));
    board.remove(&object("TransportPolicy"));
    assert_eq!((board.all().len(), board.revision()), (0, before + 2));
}
