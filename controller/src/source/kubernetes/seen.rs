//! An object as it comes from an API server: read while it is parsed, so that nothing stays of what the mesh does not
//! use, and no object can spoil the list or the watch that it comes in.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{ApiResource, DynamicResourceScope, Resource as KubeResource};
use mesh_api::resources::{Metadata, Resource};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::kinds::KINDS;
use crate::{
    conditions::Observed,
    source::object::{Read, read},
};

/// One object of the kind with this number in [`KINDS`].
#[derive(Clone, Debug)]
pub(super) struct Seen<const KIND: usize> {
    /// Name, namespace, uid and version: what a watch needs.
    meta: ObjectMeta,
    body: Body,
}

/// What is kept of an object.
#[derive(Clone, Debug)]
pub(super) struct Body {
    /// Its namespace; empty where the kind has none.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// Tells it from another one of the same name at another time.
    pub(super) uid: String,
    /// What could be read.
    pub(super) read: Read,
    /// Its status, where the controller writes that.
    pub(super) observed: Option<Box<Observed>>,
}

impl<const KIND: usize> Seen<KIND> {
    pub(super) fn into_body(self) -> Body {
        self.body
    }
}

impl Body {
    /// Reads an object of a kind.
    pub(super) fn new(kind: usize, value: &Value) -> Self {
        let text =
            |field: &str| value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default();
        let kind = KINDS.get(kind);
        let mut read = read(kind.map_or("", |kind| kind.name), value);
        for resource in read.outcome.iter_mut().chain(&mut read.stand_in) {
            trim(resource);
        }
        Self {
            namespace: text("namespace").to_owned(),
            name: text("name").to_owned(),
            uid: text("uid").to_owned(),
            read,
            observed: kind.filter(|kind| kind.reported).map(|_| Box::new(Observed::read(value))),
        }
    }
}

/// Annotations are read by the mesh's own names only; what others keep there can be large.
fn trim(resource: &mut Resource) {
    let Metadata { annotations, .. } = resource.metadata_mut();
    annotations.retain(|name, _| name.split_once('/').is_some_and(|(prefix, _)| prefix == mesh_api::names::GROUP));
}

impl<'de, const KIND: usize> Deserialize<'de> for Seen<KIND> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let body = Body::new(KIND, &value);
        let version = value.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned);
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let meta = ObjectMeta {
            name: some(&body.name),
            namespace: some(&body.namespace),
            uid: some(&body.uid),
            resource_version: version,
            ..ObjectMeta::default()
        };
        Ok(Self { meta, body })
    }
}

impl<const KIND: usize> KubeResource for Seen<KIND> {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &ApiResource) -> Cow<'_, str> {
        resource.kind.as_str().into()
    }

    fn group(resource: &ApiResource) -> Cow<'_, str> {
        resource.group.as_str().into()
    }

    fn version(resource: &ApiResource) -> Cow<'_, str> {
        resource.version.as_str().into()
    }

    fn plural(resource: &ApiResource) -> Cow<'_, str> {
        resource.plural.as_str().into()
    }

    fn metadata_api() -> bool {
        KINDS.get(KIND).is_some_and(|kind| kind.only_metadata)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
