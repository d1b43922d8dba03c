//! The charts that the program carries: their values, their schema, and the objects that come of them. Floor 0.
//!
//! The Helm charts are the source of truth: what is installed is what `helm template` gives. A chart is written in the
//! part of Helm's language that [`render`](self::engine) knows; a test holds the two equal.

mod embedded;
mod engine;
mod functions;
pub mod object;
pub mod schema;
pub mod values;
pub mod yaml;

pub use embedded::{MESH, MESH_CRDS, MESH_VIZ};
pub use object::Object;

use serde_json::{Value, json};

use embedded::Files;

/// Why a chart gives no objects. Nothing was changed anywhere.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// A file with values, or a value of `--set`, that is not one.
    #[error("{whose}: {why}")]
    Input {
        /// File or flag.
        whose: String,
        /// What is wrong.
        why: String,
    },
    /// Values that the chart does not take, one line each.
    #[error("the chart {chart} does not take these values:\n  {}", .mistakes.join("\n  "))]
    Values {
        /// Name of the chart.
        chart: &'static str,
        /// Each with its path.
        mistakes: Vec<String>,
    },
    /// The chart itself is wrong, or there is none of this name.
    #[error("the chart {chart} is broken, which is a defect of this program: {why}")]
    Broken {
        /// Name of the chart.
        chart: &'static str,
        /// Where and how.
        why: String,
    },
}

/// A chart that the program carries.
#[derive(Clone, Debug)]
pub struct Chart {
    name: &'static str,
    version: String,
    app_version: String,
    defaults: Value,
    schema: Option<Value>,
    files: Files,
}

/// What `.Release` and `.Capabilities` say.
#[derive(Clone, Debug)]
pub struct Release {
    /// Name of the release.
    pub name: String,
    /// Namespace of the release; the charts name their own.
    pub namespace: String,
    /// Whether there was one before.
    pub upgrade: bool,
    /// Version of the cluster, such as `v1.36.0`.
    pub kube_version: String,
}

impl Default for Release {
    fn default() -> Self {
        Self {
            name: "mesh".to_owned(),
            namespace: mesh_api::names::SYSTEM_NAMESPACE.to_owned(),
            upgrade: false,
            kube_version: "v1.32.0".to_owned(),
        }
    }
}

impl Chart {
    /// The chart of this name: [`MESH`], [`MESH_CRDS`] or [`MESH_VIZ`].
    ///
    /// # Errors
    /// [`ChartError::Broken`].
    pub fn carried(name: &'static str) -> Result<Self, ChartError> {
        let broken = |why: String| ChartError::Broken { chart: name, why };
        let files = embedded::files(name).ok_or_else(|| broken("it is not there".to_owned()))?;
        let parse = |file: &str| match files.get(file) {
            None => Ok(json!({})),
            Some(text) => yaml::one(text).map_err(|why| broken(format!("{file}: {why}"))),
        };
        let about = parse("Chart.yaml")?;
        let said = |key: &str| about.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let schema = files.get("values.schema.json").map(serde_json::from_str);
        let schema = schema.transpose().map_err(|error| broken(format!("values.schema.json: {error}")))?;
        let defaults = parse("values.yaml")?;
        Ok(Self { name, version: said("version"), app_version: said("appVersion"), defaults, schema, files })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `values.yaml`.
    #[must_use]
    pub fn defaults(&self) -> &Value {
        &self.defaults
    }

    /// Another file of values that lies beside `values.yaml`, such as `values-ha.yaml`.
    ///
    /// # Errors
    /// [`ChartError::Broken`].
    pub fn preset(&self, file: &str) -> Result<Value, ChartError> {
        let broken = |why: String| ChartError::Broken { chart: self.name, why: format!("{file}: {why}") };
        let text = self.files.get(file).ok_or_else(|| broken("it is not there".to_owned()))?;
        yaml::one(text).map_err(broken)
    }

    /// The values in force: the chart's own, with `given` on top.
    ///
    /// # Errors
    /// [`ChartError::Values`].
    pub fn values(&self, given: &Value) -> Result<Value, ChartError> {
        let mut whole = self.defaults.clone();
        values::merge(&mut whole, given);
        let mistakes = self.schema.as_ref().map(|schema| schema::mistakes(schema, &whole)).unwrap_or_default();
        if mistakes.is_empty() { Ok(whole) } else { Err(ChartError::Values { chart: self.name, mistakes }) }
    }

    /// The objects that come of the chart with the values `given` on top of its own, in the order of its files.
    ///
    /// # Errors
    /// [`ChartError`].
    pub fn render(&self, given: &Value, release: &Release) -> Result<Vec<Object>, ChartError> {
        let broken = |why: String| ChartError::Broken { chart: self.name, why };
        let context = json!({
            "Values": self.values(given)?,
            "Chart": { "Name": self.name, "Version": self.version, "AppVersion": self.app_version },
            "Release": {
                "Name": release.name, "Namespace": release.namespace, "Service": "Helm",
                "IsUpgrade": release.upgrade, "IsInstall": !release.upgrade,
            },
            "Capabilities": { "KubeVersion": { "Version": release.kube_version } },
        });
        let mut objects = Vec::new();
        for (file, text) in engine::render(&self.files, &context).map_err(broken)? {
            let documents = yaml::many(&text).map_err(|why| broken(format!("{file}: {why}")))?;
            for document in documents.into_iter().filter(|document| !document.is_null()) {
                objects.push(Object::new(document).map_err(|why| broken(format!("{file}: {why}")))?);
            }
        }
        Ok(objects)
    }
}

#[cfg(test)]
mod tests;
