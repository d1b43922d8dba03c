//! Programs that tests and demonstrations use beside the mesh: Helm, Jaeger, Prometheus. Built once. Floor 2: imports
//! `cache`, `oci`.
//!
//! Nothing can be pulled in the cluster of processes: the images have the names that the chart `mesh-viz` asks for, and
//! what there is of the same programs here.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cache::{self, Recipe},
    oci::Image,
};

/// Where Helm is.
///
/// # Errors
/// Where it cannot be built.
pub fn helm() -> Result<PathBuf> {
    Recipe::go("helm", "tools/helm", &["helm"], "").program("helm")
}

/// Where Jaeger is: OTLP over gRPC on 4317, its query API on 16686. Without pages: those are not part of its module.
///
/// # Errors
/// Where it cannot be built.
pub fn jaeger() -> Result<PathBuf> {
    Recipe::go("jaeger", "tools/jaeger", &["jaeger"], "").program("jaeger")
}

/// Where Prometheus is: the whole of it, which finds its targets in Kubernetes and nowhere else. Debian's cannot do that.
///
/// # Errors
/// Where it cannot be built.
pub fn prometheus() -> Result<PathBuf> {
    let mut recipe = Recipe::go("prometheus", "tools/prometheus", &["prometheus"], "");
    recipe.command.insert(2, "-tags=remove_all_sd,enable_kubernetes_sd".to_owned());
    recipe.program("prometheus")
}

/// The archive of Jaeger's image.
///
/// # Errors
/// As [`jaeger`].
pub fn jaeger_image() -> Result<PathBuf> {
    let image = Image::new(&name("jaeger")?).entrypoint(["/jaeger"]).user("65532:65532");
    write(image, "/jaeger", &jaeger()?)
}

/// The archive of Prometheus' image.
///
/// # Errors
/// As [`prometheus`].
pub fn prometheus_image() -> Result<PathBuf> {
    let image = Image::new(&name("prometheus")?)
        .entrypoint(["/prometheus"])
        .command(["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"])
        .user("65532:65532")
        .directory("/data", 0o700, (65532, 65532));
    write(image, "/prometheus", &prometheus()?)
}

/// The whole name of the image that the chart asks for.
fn name(program: &str) -> Result<String> {
    let path = cache::home().join("../charts/mesh-viz/values.yaml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let values: Value = serde_saphyr::from_str(&text).with_context(|| format!("{} is no YAML", path.display()))?;
    let short = values.pointer(&format!("/{program}/image")).and_then(Value::as_str);
    Ok(format!("docker.io/{}", short.with_context(|| format!("{} names no image of {program}", path.display()))?))
}

fn write(image: Image, path: &str, program: &Path) -> Result<PathBuf> {
    image.file(path, 0o755, program).write_once(program.parent().context("an odd path")?)
}
