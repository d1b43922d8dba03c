//! Clusters of `kind`: for machines with a Docker daemon that can pull kind's node image. Part of `provider`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Recipe},
    process::must_run,
};

/// How long a cluster may take to be there, with its image to be pulled.
const UP: Duration = Duration::from_secs(900);
/// How long anything else may take.
const COMMAND: Duration = Duration::from_secs(180);
/// The cluster's shape, but for its workers.
const CONFIG: &str = include_str!("../../cluster/kind.yaml");

/// A cluster of kind.
#[derive(Clone, Debug)]
pub struct Kind {
    name: String,
    kind: PathBuf,
    kubeconfig: PathBuf,
}

impl Kind {
    /// Makes a cluster, or takes the one of this name.
    ///
    /// # Errors
    /// Where no Docker daemon answers, or kind fails.
    pub fn up(name: &str, nodes: u8) -> Result<Self> {
        must_run(Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]), COMMAND).context(
            "kind needs a Docker daemon, and none answers here; the provider 'processes' needs none: PROVIDER=processes",
        )?;
        let kind = Self::named(name)?;
        if kind.exists()? {
            return Ok(kind);
        }
        let config = kind.kubeconfig.with_extension("yaml");
        let mut text = CONFIG.to_owned();
        for _ in 1..nodes {
            text.push_str("  - role: worker\n");
        }
        fs::write(&config, text).with_context(|| format!("cannot write {}", config.display()))?;
        let mut create = kind.command(&["create", "cluster", "--wait", "180s", "--config"]);
        create.arg(&config).arg("--kubeconfig").arg(&kind.kubeconfig);
        must_run(&create, UP).context("kind cannot make the cluster")?;
        kind.load(&crate::cluster::parts::programs_image()?)?;
        Ok(kind)
    }

    /// Removes a cluster.
    ///
    /// # Errors
    /// Where kind fails.
    pub fn down(name: &str) -> Result<()> {
        let kind = Self::named(name)?;
        let mut delete = kind.command(&["delete", "cluster", "--kubeconfig"]);
        must_run(delete.arg(&kind.kubeconfig), COMMAND).context("kind cannot remove the cluster").map(drop)
    }

    /// A kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// Imports an archive of images into every node.
    ///
    /// # Errors
    /// Where kind fails.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let mut load = self.command(&["load", "image-archive"]);
        must_run(load.arg(archive), COMMAND).with_context(|| format!("cannot load {}", archive.display())).map(drop)
    }

    /// A program of a node's image, to run on that node.
    #[must_use]
    pub fn on_node(&self, node: &str, program: &str) -> Command {
        // kind's names: NAME-control-plane, NAME-worker, NAME-worker2.
        let container = match node.trim_start_matches("node-").parse() {
            Ok(1) => "control-plane".to_owned(),
            Ok(2) => "worker".to_owned(),
            Ok(number) => format!("worker{}", number - 1_u8),
            Err(_) => node.to_owned(),
        };
        let mut command = Command::new("docker");
        command.args(["exec", &format!("{}-{container}", self.name), program]);
        command
    }

    fn named(name: &str) -> Result<Self> {
        crate::cluster::plan::check_name(name)?;
        let kind = Recipe::go("kind", "tools/kind", &["kind"], "").program("kind")?;
        let kubeconfig = cache::root()?.join(format!("kind-{name}.kubeconfig"));
        Ok(Self { name: name.to_owned(), kind, kubeconfig })
    }

    fn exists(&self) -> Result<bool> {
        let mut list = Command::new(&self.kind);
        let output = must_run(list.args(["get", "clusters"]), COMMAND)?.text();
        Ok(output.lines().any(|line| line.trim() == self.name) && self.kubeconfig.is_file())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.kind);
        command.args(words).args(["--name", &self.name]);
        command
    }
}
