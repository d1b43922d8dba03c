//! Programs that tests and demonstrations use beside the mesh: Helm, Jaeger, Prometheus. Built or fetched once. Floor 2:
//! imports `cache`, `oci`, `process`.
//!
//! Nothing can be pulled in the cluster of processes: the images have the names that the chart `mesh-viz` asks for, and
//! what there is of the same programs here.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cache::{self, Recipe},
    oci::Image,
    process::must_run,
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

/// Where Prometheus is.
///
/// # Errors
/// Where Debian's package cannot be had.
pub fn prometheus() -> Result<PathBuf> {
    let recipe = Recipe {
        name: "prometheus",
        sources: cache::home().join("tools/prometheus"),
        programs: &["prometheus", "promtool"],
        links: &[],
        command: ["sh", "fetch.sh", "{out}"].map(str::to_owned).to_vec(),
    };
    recipe.program("prometheus").context("the package lists may be missing: apt-get update")
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

/// Writes the image of a program, with the libraries that it is linked with, beside the program.
fn write(image: Image, path: &str, program: &Path) -> Result<PathBuf> {
    let mut image = image.file(path, 0o755, program);
    for library in libraries(program)? {
        let name = library.to_string_lossy().into_owned();
        image = image.file(&name, 0o755, library);
    }
    image.write_once(program.parent().context("an odd path")?)
}

/// The libraries that a program is linked with, by the names that it asks for; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = crate::process::run(Command::new("ldd").arg(program), Duration::from_secs(10))?;
    if !output.status.success() {
        // What it says of a static program. Anything else shows when the program is run.
        must_run(Command::new("test").arg("-x").arg(program), Duration::from_secs(10))?;
        return Ok(Vec::new());
    }
    Ok(output
        .text()
        .lines()
        .flat_map(str::split_whitespace)
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}
