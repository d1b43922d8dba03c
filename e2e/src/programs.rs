//! The programs written for these tests, in Go: one static binary, built once. Floor 2: imports `cache`.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::cache::Recipe;

/// A command of the programs: `grpc-server`, `ws-client` and so on, with its arguments.
///
/// # Errors
/// Where the programs cannot be built.
pub fn command(name: &str, args: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary()?);
    command.arg(name).args(args);
    Ok(command)
}

/// The programs' binary, built where its sources have changed. Tests that want it at once wait for one build.
///
/// # Errors
/// Where Go is not there, or the build fails.
pub fn binary() -> Result<PathBuf> {
    Recipe::go("programs", "programs", &["programs"], "")
        .program("programs")
        .context("the test programs do not build (Go 1.26 and its module proxy are needed)")
}
