//! Where the cluster of the suite comes from. Floor 4: imports `cluster`, `cache`, `process`.

pub mod kind;

use std::{
    path::{Path, PathBuf},
    process::Command,
    str::FromStr,
};

use anyhow::{Context, Result, bail};

use crate::cluster::{self, Cluster};
use kind::Kind;

/// What can make a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Plain processes in namespaces of this machine.
    Processes,
    /// `kind`: nodes as containers of a Docker daemon.
    Kind,
}

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "processes" => Ok(Self::Processes),
            "kind" => Ok(Self::Kind),
            _ => bail!("there is no provider '{name}'; there are 'processes' and 'kind'"),
        }
    }
}

/// A cluster, whoever made it.
#[derive(Debug)]
pub enum Provider {
    /// Of processes.
    Processes(Cluster),
    /// Of kind.
    Kind(Kind),
}

impl Provider {
    /// Makes a cluster, or takes the one of this name that is up.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub async fn up(choice: Choice, name: &str, nodes: u8) -> Result<Self> {
        Ok(match choice {
            Choice::Processes => Self::Processes(cluster::up(name, nodes).await?),
            Choice::Kind => Self::Kind(Kind::up(name, nodes)?),
        })
    }

    /// Removes a cluster and looks whether anything stays behind.
    ///
    /// # Errors
    /// Where something does.
    pub fn down(choice: Choice, name: &str) -> Result<()> {
        match choice {
            Choice::Processes => cluster::down(name),
            Choice::Kind => Kind::down(name),
        }
    }

    /// Who made it.
    #[must_use]
    pub fn choice(&self) -> Choice {
        match self {
            Self::Processes(_) => Choice::Processes,
            Self::Kind(_) => Choice::Kind,
        }
    }

    /// A kubeconfig of an administrator.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Processes(cluster) => cluster.kubeconfig(),
            Self::Kind(kind) => kind.kubeconfig(),
        }
    }

    /// Imports an archive of images into every node.
    ///
    /// # Errors
    /// Where a node does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        match self {
            Self::Processes(cluster) => cluster.load(archive),
            Self::Kind(kind) => kind.load(archive),
        }
    }

    /// A program that is to run on a node, as root: one of this machine's programs, or of the node's image.
    ///
    /// # Errors
    /// Where there is no such node.
    pub fn on_node(&self, node: &str, program: &str) -> Result<Command> {
        match self {
            Self::Processes(cluster) => cluster.enter(node, program),
            Self::Kind(kind) => Ok(kind.on_node(node, program)),
        }
    }

    /// A program that is to run outside of the cluster's nodes, at the addresses of `outside.example`.
    ///
    /// # Errors
    /// Where this provider has no such place.
    pub fn outside(&self, program: impl AsRef<Path>) -> Result<Command> {
        let program = program.as_ref().to_str().context("an odd path")?;
        match self {
            Self::Processes(cluster) => cluster.enter("fabric", program),
            Self::Kind(_) => bail!("clusters of kind have no place outside"),
        }
    }
}
