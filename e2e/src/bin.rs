//! Where the mesh's own binary is. Floor 1.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The `meshctl` that was built beside this test.
///
/// # Errors
/// Where there is none: the error names the command that builds it.
pub fn meshctl() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where this test is")?;
    // TARGET/PROFILE/deps/TEST, or TARGET/PROFILE/TEST.
    for dir in exe.ancestors().skip(1).take(2) {
        let found = dir.join("meshctl");
        if found.is_file() {
            return Ok(found);
        }
    }
    bail!("there is no meshctl near {}; build it first: cargo build -p meshctl", exe.display())
}
