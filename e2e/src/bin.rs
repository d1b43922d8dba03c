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
