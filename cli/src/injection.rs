//! What `inject`, `uninject` and `check-inject` share: which manifests are meant, what sidecars are made from, how a decision is
//! told. Floor 2: imports `manifest`, `cluster`.

pub mod explain;
pub mod live;
mod source;

pub use source::{Input, read_inputs};

use std::path::PathBuf;

use mesh_api::config::{ConfigErrors, Sources, load};
use mesh_controller::{
    config::Config,
    inject::{Namespace, Settings, Template, Version},
};
use serde_json::Value;

/// What sidecars are made from, as arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct SettingsArgs {
    /// A setting of injection, as in the section [inject] of the controller's configuration. Can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    pub sets: Vec<(String, String)>,
    /// The controller's configuration, whose section [inject] holds.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Version of the cluster that the manifests are for, such as 1.30 [default: a recent one].
    #[arg(long, value_name = "VERSION")]
    pub kubernetes_version: Option<Version>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it has no `=`; write KEY=VALUE, as in cni=true")?;
    Ok((format!("inject.{key}"), value.to_owned()))
}

impl SettingsArgs {
    /// The settings.
    ///
    /// # Errors
    /// Every mistake.
    pub fn read(&self) -> Result<Settings, ConfigErrors> {
        let sources = Sources { file: self.config.as_deref(), environment: Vec::new(), flags: self.sets.clone() };
        Ok(settings(load(&sources)?))
    }

    /// True where nothing was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.config.is_none()
    }
}

/// What of a controller's configuration makes sidecars.
#[must_use]
pub fn settings(config: Config) -> Settings {
    Settings { config: config.inject, trust_domain: config.identity.trust_domain, addresses: None }
}

/// Kind, namespace and name of what a template is part of.
#[must_use]
pub fn title(template: &Template, namespace: &str) -> String {
    let name = if template.name.is_empty() { "(unnamed)" } else { &template.name };
    format!("{} {}/{name}", template.kind, template.namespace.as_deref().unwrap_or(namespace))
}

/// Namespaces that a stream of manifests describes, by what it says of them.
#[must_use]
pub fn namespaces(objects: &[Value]) -> Vec<Namespace> {
    let namespaces = objects.iter().filter(|object| {
        object.get("kind").is_some_and(|kind| kind == "Namespace")
            && object.get("apiVersion").is_some_and(|v| v == "v1")
    });
    let read = |object: &Value| {
        let metadata = object.get("metadata")?;
        let labels = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
        let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
        Some(Namespace { name: metadata.get("name")?.as_str()?.to_owned(), labels })
    };
    namespaces.filter_map(read).collect()
}
