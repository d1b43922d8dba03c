//! The mesh comes and goes, as its users make it. Floor 6: imports `suite`.

use std::{path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use mesh_api::names;

use super::change;
use crate::{
    bin,
    process::run,
    suite::{READY, Scenario, Scene, eventually},
};

/// What must be done before the mesh's other scenarios,
pub const BEFORE: &[Scenario] =
    &[Scenario::new("mesh-install", "`meshctl install` ends well, and `check` and `status` say so", |scene| {
        Box::pin(install(scene))
    })
    .within(240)];

/// and after all of them.
pub const AFTER: &[Scenario] = &[Scenario::new(
    "mesh-uninstall",
    "`meshctl uninstall` leaves nothing of the mesh in the cluster, and applications go on",
    |scene| Box::pin(uninstall(scene)),
)
.within(180)];

/// How long `meshctl` may take.
const MESHCTL: Duration = Duration::from_secs(150);

/// Images of the mesh, as `scripts/images.sh` leaves them.
const IMAGES: [&str; 3] = ["proxy", "controller", "ca"];

/// Runs `meshctl` with an administrator's rights. Gives what it printed.
pub(super) async fn meshctl(scene: &Scene, args: &[&str]) -> Result<String> {
    let mut command = Command::new(bin::meshctl()?);
    command.args(args).env("KUBECONFIG", scene.provider.kubeconfig());
    // It dies with the thread that starts it: that one waits for it.
    let output = tokio::task::spawn_blocking(move || run(&command, MESHCTL)).await.context("meshctl")??;
    let said = format!("{}{}", output.text(), output.error_text());
    ensure!(output.status.success(), "meshctl {args:?} failed:\n{said}");
    Ok(said)
}

/// Lets the pods of the scenario's namespace have sidecars.
pub(super) async fn admit(scene: &Scene) -> Result<()> {
    let label = format!("{}=enabled", names::INJECT);
    scene.kubectl(&["label", "namespace", &scene.namespace, "--overwrite", &label]).await.map(drop)
}

/// Brings one of the mesh's images into the cluster.
pub(super) fn load(scene: &Scene, image: &str) -> Result<()> {
    let archive = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../target/images/{image}.tar"));
    ensure!(archive.is_file(), "{} is not there: make it with scripts/images.sh", archive.display());
    scene.provider.load(&archive).map(drop)
}

/// Imports the mesh's images.
pub(super) fn images(scene: &Scene) -> Result<()> {
    for image in IMAGES {
        load(scene, image)?;
    }
    Ok(())
}

async fn install(scene: Scene) -> Result<()> {
    images(&scene)?;
    meshctl(&scene, &["check", "--pre"]).await?;
    let said = meshctl(&scene, &["install"]).await?;
    ensure!(!said.is_empty(), "it says nothing");
    meshctl(&scene, &["check", "--wait", "60s"]).await?;
    meshctl(&scene, &["status"]).await?;
    Ok(())
}

async fn uninstall(scene: Scene) -> Result<()> {
    change::begin(&scene, 2).await?;
    meshctl(&scene, &["uninstall", "--yes"]).await?;
    nothing_left(&scene).await?;
    // Those that have sidecars go on with what these know.
    change::end(&scene, 2).await?;
    plain_again(&scene).await
}

/// Applications that are restarted have no sidecars, and reach each other.
async fn plain_again(scene: &Scene) -> Result<()> {
    scene.kubectl(&["rollout", "restart", "deployment/echo"]).await?;
    scene.kubectl(&["rollout", "status", "deployment/echo", "--timeout=60s"]).await?;
    scene.client("client").await?;
    let gone = async || {
        let selector = format!("{}={}", names::LABEL_INJECTED, names::INJECTED_VALUE);
        let old = scene.server.pods(&scene.namespace, &selector).await?;
        // The load has ended, and its pod is there as long as nobody deletes it.
        let running = |pod: &&Pod| pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        ensure!(!old.iter().any(|pod| running(&pod)), "pods have sidecars still");
        Ok(())
    };
    eventually(READY, gone).await?;
    let said = scene.programs("client", &["get", "-n", "20", "-fresh", "-url", "http://echo/", "-want", "200"]).await?;
    ensure!(said.lines().filter(|line| line.starts_with("200 echo-")).count() == 20, "not the echo server:\n{said}");
    Ok(())
}

/// Fails where anything of the mesh is in the cluster.
pub(super) async fn nothing_left(scene: &Scene) -> Result<()> {
    let kinds = scene.kubectl(&["api-resources", "--verbs=list", "--output", "name"]).await?;
    let kinds: Vec<&str> =
        kinds.lines().filter(|kind| !kind.starts_with("events") && !kind.contains("metrics.k8s.io")).collect();
    ensure!(!kinds.iter().any(|kind| kind.ends_with(names::GROUP)), "kinds of the mesh are still served: {kinds:?}");
    let kinds = kinds.join(",");
    let arguments = ["get", &kinds, "--all-namespaces", "--output", "name", "--ignore-not-found"];
    let all = scene.kubectl(&arguments).await?;
    let ours = |line: &&str| line.contains("mesh-") || line.ends_with("/mesh");
    // The suite's own namespaces are named after the mesh's scenarios.
    let left: Vec<&str> = all.lines().filter(ours).filter(|line| !line.contains("/e2e-")).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
