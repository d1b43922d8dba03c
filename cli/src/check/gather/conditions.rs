//! The conditions of the objects that the mesh reads: of its own kinds, and of routes as far as the mesh wrote them.

use std::collections::BTreeMap;

use kube::{
    Api, Client,
    api::ListParams,
    core::{ApiResource, DynamicObject, GroupVersionKind},
};
use mesh_api::names::{API_VERSION, GATEWAY_API_VERSION, GROUP};
use serde_json::Value;

use super::api::list;
use crate::check::facts::{Condition, Fact};

/// Kinds of the Gateway API that the mesh reads and gives a status.
const ROUTES: [&str; 4] = ["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"];

/// All conditions; of kinds that are not served there are none.
pub async fn conditions(client: &Client, kinds: &BTreeMap<&'static str, Fact<Vec<String>>>) -> Fact<Vec<Condition>> {
    let mut all = Vec::new();
    for version in [API_VERSION, GATEWAY_API_VERSION] {
        let Some(kinds) = kinds.get(version) else { continue };
        let kinds = kinds.as_ref().map_err(Clone::clone)?;
        let own = version == API_VERSION;
        for kind in kinds.iter().filter(|kind| own || ROUTES.contains(&kind.as_str())) {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
            let objects = list(api, &format!("the objects of kind {kind}"), ListParams::default()).await?;
            all.extend(objects.iter().flat_map(|object| of(kind, object)));
        }
    }
    Ok(all)
}

/// The conditions of one object.
pub fn of(kind: &str, object: &DynamicObject) -> Vec<Condition> {
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let name = format!("{kind} {namespace}/{}", object.metadata.name.as_deref().unwrap_or("?"));
    let status = object.data.get("status");
    let array = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let mut found = array(status.and_then(|status| status.get("conditions")));
    // Each parent's conditions are its controller's; others' are none of ours.
    for parent in array(status.and_then(|status| status.get("parents"))) {
        let controller = parent.get("controllerName").and_then(Value::as_str).unwrap_or_default();
        if controller.split('/').next() == Some(GROUP) {
            found.extend(array(parent.get("conditions")));
        }
    }
    found.iter().map(|condition| one(&name, condition)).collect()
}

fn one(object: &str, condition: &Value) -> Condition {
    let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let status = match text("status").as_str() {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    };
    Condition {
        object: object.to_owned(),
        kind: text("type"),
        status,
        reason: text("reason"),
        message: text("message"),
    }
}
