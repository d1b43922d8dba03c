//! From JSON as an API server holds it to one object, decoded by itself: one that cannot be read hurts nobody else. Pure.
//! What a manifest's text goes through is in `decode`; the rules are the same.

use mesh_api::{
    config::nearest,
    model::{Name, ObjectRef},
    resources::{Metadata, Resource},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{decode::name_fault, stand_in::stand_in};
use crate::problem::{Problem, Reason, Severity};

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// The object, or what is wrong with it.
    pub outcome: Result<Box<Resource>, Box<Problem>>,
    /// What stands in for a policy that cannot be read and never could.
    pub stand_in: Option<Box<Resource>>,
}

/// Reads one object of `kind`, which is one of [`mesh_api::resources::KINDS`] or its kin in a cluster; `apiVersion` and
/// `kind` are not looked at: in lists an API server leaves them out.
#[must_use]
pub fn read(kind: &str, value: &Value) -> Read {
    let wrong = |object: Option<ObjectRef>, field: String, message: String| {
        let (place, reason, severity) = (None, Reason::Invalid, Severity::Error);
        Box::new(Problem { place, object, field, reason, severity, message })
    };
    let metadata = value.get("metadata").map(Metadata::deserialize);
    let metadata = match metadata.unwrap_or_else(|| Ok(Metadata::default())) {
        Ok(metadata) => metadata,
        Err(error) => {
            let problem = wrong(name_only(kind, value), "metadata".into(), error.to_string());
            return Read { outcome: Err(problem), stand_in: None };
        }
    };
    let object = ObjectRef {
        kind: kind.into(),
        namespace: metadata.namespace.as_str().into(),
        name: metadata.name.as_str().into(),
    };
    match typed(kind, value) {
        Ok(resource) => match name_fault(&resource) {
            None => Read { outcome: Ok(Box::new(resource)), stand_in: None },
            Some((field, message)) => Read { outcome: Err(wrong(Some(object), field.into(), message)), stand_in: None },
        },
        Err((field, message)) => {
            let stand_in = stand_in(kind, &metadata, value).filter(|resource| name_fault(resource).is_none());
            Read { outcome: Err(wrong(Some(object), field, message)), stand_in: stand_in.map(Box::new) }
        }
    }
}

/// What can be told of an object whose metadata cannot be read as a whole.
fn name_only(kind: &str, value: &Value) -> Option<ObjectRef> {
    let text = |field: &str| value.pointer(&format!("/metadata/{field}"))?.as_str().map(Name::from);
    let namespace = text("namespace").unwrap_or_else(|| "".into());
    Some(ObjectRef { kind: kind.into(), namespace, name: text("name")? })
}

fn typed(kind: &str, value: &Value) -> Result<Resource, (String, String)> {
    Ok(match kind {
        "Namespace" => Resource::Namespace(one(value)?),
        "Service" => Resource::Service(one(value)?),
        "HTTPRoute" => Resource::HttpRoute(one(value)?),
        "AuthorizationPolicy" => Resource::AuthorizationPolicy(one(value)?),
        "TransportPolicy" => Resource::TransportPolicy(one(value)?),
        "ExternalWorkload" => Resource::ExternalWorkload(one(value)?),
        "Node" => Resource::Node(one(value)?),
        "Pod" => Resource::Pod(one(value)?),
        "EndpointSlice" => Resource::EndpointSlice(one(value)?),
        other => return Err((String::new(), format!("unknown kind {other}"))),
    })
}

fn one<T: DeserializeOwned>(value: &Value) -> Result<T, (String, String)> {
    let mut track = serde_path_to_error::Track::new();
    T::deserialize(serde_path_to_error::Deserializer::new(value, &mut track)).map_err(|error| {
        // Where a key itself is at fault, its name is in the message, not in the path.
        (track.path().to_string().trim_end_matches(['?', '.']).to_owned(), said(&error.to_string()))
    })
}

/// As `decode` says it: which of the known names was probably meant.
fn said(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let known = ["unknown field", "unknown variant"].iter().any(|start| message.starts_with(start));
    let Some(wrong) = quoted.next().filter(|_| known) else { return message.to_owned() };
    let start = if message.starts_with("unknown field") {
        format!("unknown field `{wrong}`")
    } else {
        format!("`{wrong}` is not known")
    };
    let expected: Vec<&str> = quoted.collect();
    match nearest(wrong, expected.iter().copied()) {
        Some(name) => format!("{start}; did you mean `{name}`?"),
        None => format!("{start}; known are {}", expected.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problem(kind: &str, value: &Value) -> (String, String) {
        let problem = read(kind, value).outcome.unwrap_err();
        (problem.field, problem.message)
    }

    #[test]
    fn every_kind_is_read_without_its_header() {
        let metadata = json!({"name": "x", "namespace": "ns", "uid": "u", "managedFields": [{"manager": "kubectl"}]});
        for (kind, spec) in [
            ("Service", json!({"ports": [{"port": 80, "nodePort": 30000}], "ipFamilies": ["IPv4"]})),
            ("HTTPRoute", json!({"rules": [{"matches": []}], "useDefaultGateways": "All"})),
            ("AuthorizationPolicy", json!({"rules": []})),
            ("TransportPolicy", json!({"mode": "Strict"})),
            ("ExternalWorkload", json!({"address": "10.0.0.1"})),
            ("Pod", json!({"containers": [{"name": "a"}]})),
            ("EndpointSlice", json!({})),
        ] {
            let read = read(kind, &json!({"metadata": metadata, "spec": spec, "status": {"x": 1}}));
            assert_eq!(read.outcome.unwrap().kind(), kind);
        }
        for kind in ["Namespace", "Node"] {
            assert_eq!(read(kind, &json!({"metadata": {"name": "x"}})).outcome.unwrap().kind(), kind);
        }
    }

    #[test]
    fn faults_are_told_by_field_and_policies_are_stood_in_for() {
        let metadata = json!({"name": "p", "namespace": "ns"});
        let policy =
            json!({"metadata": metadata, "spec": {"targetRefs": [{"kind": "Service", "name": "web"}], "rulez": []}});
        let (field, message) = problem("AuthorizationPolicy", &policy);
        assert_eq!((field.as_str(), message.as_str()), ("spec.rulez", "unknown field `rulez`; did you mean `rules`?"));
        let Some(Resource::AuthorizationPolicy(stand_in)) = read("AuthorizationPolicy", &policy).stand_in.map(|it| *it)
        else {
            panic!("no stand-in")
        };
        assert_eq!(stand_in.spec.target_refs[0].name, "web");
        let mode = json!({"metadata": metadata, "spec": {"mode": "Strikt"}});
        assert_eq!(problem("TransportPolicy", &mode).1, "`Strikt` is not known; did you mean `Strict`?");
        assert!(read("TransportPolicy", &mode).stand_in.is_some());
        let (field, _) = problem("Service", &json!({"metadata": metadata, "spec": {"ports": [{"port": 99999}]}}));
        assert_eq!(field, "spec.ports[0].port");
        let read = read("Service", &json!({"metadata": {"name": "p", "namespace": "ns", "labels": 7}}));
        assert_eq!(read.outcome.unwrap_err().object.unwrap().to_string(), "Service/ns/p");
        for nothing in [json!({}), json!({"metadata": {}}), json!(null), json!([1])] {
            let read = super::read("Pod", &nothing);
            assert!(read.outcome.is_err() && read.stand_in.is_none(), "{nothing}");
        }
    }
}
