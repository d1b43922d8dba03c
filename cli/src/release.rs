//! The mesh that is installed in a cluster: what is known of it, what a change would change, and how it comes, changes
//! and goes. Floor 2: imports `chart`, `cluster`, `io`.

pub mod ask;
pub mod change;
pub mod diff;
pub mod order;
pub mod put;
pub mod record;
pub mod remove;
pub mod rights;
pub mod wait;

use std::path::PathBuf;

use anyhow::Context;
use serde_json::Value;

use crate::{
    chart::{self, Chart, Object, Release},
    cluster::{Cluster, ClusterArgs, Version, objects::Objects},
};

/// Version of this program and of what it installs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where values come from: arguments that `install` and `upgrade` share.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Values")]
pub struct ValueArgs {
    /// Several replicas of everything, on different nodes where there are enough (values-ha.yaml).
    #[arg(long)]
    pub ha: bool,
    /// Redirect connections by a CNI plugin on each node, so that no pod needs NET_ADMIN (cni.enabled=true).
    #[arg(long)]
    pub cni: bool,
    /// File of values, YAML. Can be repeated; later ones come on top.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// A value, in Helm's syntax: ca.replicas=3,proxy.accessLog=true. Can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
}

impl ValueArgs {
    /// The values that are given, nothing else.
    ///
    /// # Errors
    /// [`chart::ChartError`].
    pub fn given(&self, chart: &Chart) -> Result<Value, chart::ChartError> {
        let mut whole = Value::Object(serde_json::Map::new());
        if self.ha {
            chart::values::overlay(&mut whole, &chart.preset("values-ha.yaml")?);
        }
        if self.cni {
            chart::values::overlay(&mut whole, &serde_json::json!({ "cni": { "enabled": true } }));
        }
        chart::values::overlay(&mut whole, &chart::values::given(&self.files, &self.sets)?);
        Ok(whole)
    }

    /// True where nothing is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.ha && !self.cni && self.files.is_empty() && self.sets.is_empty()
    }
}

/// What a version of the mesh consists of.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Kinds of `mesh.dev`.
    pub kinds: Vec<Object>,
    /// The control plane, in the order in which it is applied.
    pub objects: Vec<Object>,
}

impl Wanted {
    /// What comes of the charts with the values `given`. Kinds stay out where they are not wanted.
    ///
    /// # Errors
    /// [`chart::ChartError`].
    pub fn rendered(given: &Value, upgrade: bool, with_kinds: bool) -> Result<Self, chart::ChartError> {
        let release = Release { upgrade, ..Release::default() };
        let mut objects = Chart::carried(chart::MESH)?.render(given, &release)?;
        objects.sort_by_key(|object| order::rank(&object.key));
        let kinds = if with_kinds {
            Chart::carried(chart::MESH_CRDS)?.render(&serde_json::json!({}), &release)?
        } else {
            Vec::new()
        };
        Ok(Self { kinds, objects })
    }
}

/// A cluster, and its objects.
#[derive(Debug)]
pub struct Site {
    /// The cluster.
    pub cluster: Cluster,
    /// Its objects.
    pub objects: Objects,
}

impl Site {
    /// Connects.
    ///
    /// # Errors
    /// [`crate::cluster::ClusterError`].
    pub async fn connect(args: &ClusterArgs) -> anyhow::Result<Self> {
        let cluster = Cluster::connect(args).await?;
        let objects = Objects::new(&cluster);
        Ok(Self { cluster, objects })
    }

    /// Fails where the cluster is too old.
    ///
    /// # Errors
    /// What it would take.
    pub fn require_version(&self) -> anyhow::Result<()> {
        let version = self.cluster.version();
        anyhow::ensure!(
            version >= Version::OLDEST,
            "the cluster has Kubernetes {version}; the mesh needs {} or newer (native sidecars)",
            Version::OLDEST
        );
        Ok(())
    }

    /// Fails where Helm holds the control plane: two installers would undo each other's work.
    ///
    /// # Errors
    /// That it does, or the cluster does not say.
    pub async fn require_not_helms(&self, instead: &str) -> anyhow::Result<()> {
        let key = chart::object::Key {
            api_version: "apps/v1".to_owned(),
            kind: "Deployment".to_owned(),
            namespace: mesh_api::names::SYSTEM_NAMESPACE.to_owned(),
            name: mesh_api::names::CONTROLLER_ACCOUNT.to_owned(),
        };
        let found = self.objects.get(&key).await.context("cannot look for an installed mesh")?;
        let release =
            found.as_ref().and_then(|found| found.pointer("/metadata/annotations/meta.helm.sh~1release-name"));
        if let Some(release) = release.and_then(Value::as_str) {
            anyhow::bail!("the mesh was installed by Helm, as release {release}; use: {instead}");
        }
        Ok(())
    }
}
