//! Programs that tests and demonstrations use beside the mesh: Helm, Jaeger, Prometheus. Built or fetched once. Floor 2:
//! imports `cache`, `oci`, `process`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    cache::{self, Recipe},
    oci::Image,
    process::must_run,
};

/// Jaeger with everything in one process: OTLP on 4317 and 4318, queries on 16686. Without pages: those are not part of
/// its module.
pub const JAEGER: &str = "mesh.dev/e2e/jaeger:1";
/// Prometheus, on 9090; its configuration is `/etc/prometheus/prometheus.yml`.
pub const PROMETHEUS: &str = "mesh.dev/e2e/prometheus:2";

/// Where Helm is.
///
/// # Errors
/// Where it cannot be built.
pub fn helm() -> Result<PathBuf> {
    Recipe::go("helm", "tools/helm", &["helm"], "").program("helm")
}

/// Where Jaeger is.
///
/// # Errors
/// Where it cannot be built.
pub fn jaeger() -> Result<PathBuf> {
    Recipe::go("jaeger", "tools/jaeger", &["all-in-one"], "").program("all-in-one")
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
    let image = Image::new(JAEGER).entrypoint(["/all-in-one"]).user("65532:65532").directory("/tmp", 0o1777, (0, 0));
    write(image, "/all-in-one", &jaeger()?)
}

/// The archive of Prometheus' image.
///
/// # Errors
/// As [`prometheus`].
pub fn prometheus_image() -> Result<PathBuf> {
    let image = Image::new(PROMETHEUS)
        .entrypoint(["/prometheus"])
        .command(["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/data"])
        .user("65532:65532")
        .directory("/data", 0o700, (65532, 65532));
    write(image, "/prometheus", &prometheus()?)
}

/// Writes the image of a program, with the libraries that it is linked with, beside the program.
fn write(image: Image, path: &str, program: &Path) -> Result<PathBuf> {
    let archive = program.with_extension("image.tar");
    if !archive.is_file() {
        let mut image = image.file(path, 0o755, program);
        for library in libraries(program)? {
            let name = library.to_string_lossy().into_owned();
            image = image.file(&name, 0o755, library);
        }
        image.write(&archive)?;
    }
    Ok(archive)
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
