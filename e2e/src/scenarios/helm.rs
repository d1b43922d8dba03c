//! The mesh by Helm itself: the charts install, members get their sidecars, and it goes away again. Floor 6: imports
//! `suite`, `tools`.

use std::{process::Command, time::Duration};

use anyhow::{Context, Result, ensure};

use super::{
    change::{begin, end},
    install::{images, meshctl, nothing_left},
};
use crate::{
    cache,
    process::must_run,
    suite::{Scenario, Scene},
    tools,
};

/// The scenarios of this file. It begins without a mesh, and ends so.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "mesh-helm",
    "`helm install` of the charts gives a mesh that works; `helm uninstall` and `meshctl uninstall` leave nothing",
    |scene| Box::pin(helm(scene)),
)
.within(240)];

/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(120);
/// Where Helm keeps what it installed.
const RELEASES: &str = "default";

async fn helm(scene: Scene) -> Result<()> {
    images(&scene)?;
    let told = installed_and_used(&scene).await;
    // Also where it failed: what comes after it wants a cluster without a mesh.
    for release in ["mesh", "mesh-crds"] {
        run(&scene, &["uninstall", release, "--wait", "--ignore-not-found"]).await?;
    }
    // What no chart holds: the kinds, which would take their objects with them, and what the mesh made itself.
    let rest = meshctl(&scene, &["uninstall", "--yes"]).await;
    told?;
    rest?;
    nothing_left(&scene).await
}

async fn installed_and_used(scene: &Scene) -> Result<()> {
    let chart = |name: &str| cache::home().join("../charts").join(name).to_string_lossy().into_owned();
    run(scene, &["install", "mesh-crds", &chart("mesh-crds")]).await?;
    let said = run(scene, &["install", "mesh", &chart("mesh"), "--wait", "--timeout", "90s"]).await?;
    ensure!(said.contains("meshctl check"), "its notes do not say what comes next:\n{said}");
    meshctl(scene, &["check", "--wait", "60s"]).await?;
    begin(scene, 2).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    end(scene, 2).await?;
    let set = ["--set", "controller.replicas=2", "--set", "ca.replicas=2"];
    let upgrade = chart("mesh");
    run(scene, &[&["upgrade", "mesh", &upgrade, "--wait", "--timeout", "90s"], &set[..]].concat()).await?;
    meshctl(scene, &["check", "--wait", "60s"]).await.map(drop)
}

/// Runs Helm with an administrator's rights. Gives what it printed.
async fn run(scene: &Scene, args: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::helm()?);
    command.args(args).args(["--namespace", RELEASES]).env("KUBECONFIG", scene.provider.kubeconfig());
    // It dies with the thread that starts it: that one waits for it.
    let output = tokio::task::spawn_blocking(move || must_run(&command, COMMAND)).await.context("helm")??;
    Ok(output.text())
}
