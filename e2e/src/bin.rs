//! Where the binaries of this repository are. Floor 1.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The `meshctl` that was built beside this test.
///
/// # Errors
/// Where there is none: the error names the command that builds it.
pub fn meshctl() -> Result<PathBuf> {
    near("meshctl", "meshctl")
}

/// The `mesh-cluster` that was built beside this program.
///
/// # Errors
/// Where there is none: the error names the command that builds it.
pub fn mesh_cluster() -> Result<PathBuf> {
    near("mesh-cluster", "mesh-e2e")
}

/// A program as it is shipped, made by `scripts/images.sh` beside this program: the younger one, where a plain release
/// build is there too.
///
/// # Errors
/// Where there is none.
pub fn shipped(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this program is")?;
    let image = format!("{}-unknown-linux-gnu/image", std::env::consts::ARCH);
    // TARGET/PROFILE/deps/TEST, or TARGET/PROFILE/TEST.
    let targets = exe.ancestors().skip(2).take(2);
    let built = targets.flat_map(|target| [image.as_str(), "release"].map(|profile| target.join(profile).join(name)));
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let youngest = built.filter(|path| path.is_file()).max_by_key(age);
    youngest.with_context(|| format!("there is no release build of {name}: run `scripts/images.sh` first"))
}

fn near(name: &str, package: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this test is")?;
    // TARGET/PROFILE/deps/TEST, or TARGET/PROFILE/TEST.
    for dir in exe.ancestors().skip(1).take(2) {
        let found = dir.join(name);
        if found.is_file() {
            return Ok(found);
        }
    }
    bail!("there is no {name} near {}; build it first: cargo build -p {package}", exe.display())
}
