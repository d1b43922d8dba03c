//! The programs written for these tests, in Go: one binary, built once. Floor 2: imports `process`.

use std::{
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::process::must_run;

/// How long the first build may take, with everything to be fetched.
const BUILD: Duration = Duration::from_secs(600);

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
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (sources, bin) = (home.join("programs"), home.join("bin"));
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let binary = bin.join(format!("programs-{:016x}", hash(&sources)?));
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(bin.join("lock"))?;
    // Held for minutes at most: the build under it has a deadline.
    lock.lock().context("cannot lock the build of the programs")?;
    if !binary.is_file() {
        build(&sources, &bin, &binary)?;
    }
    Ok(binary)
}

fn build(sources: &Path, bin: &Path, binary: &Path) -> Result<()> {
    for old in fs::read_dir(bin)?.flatten().filter(|file| file.file_name().to_string_lossy().starts_with("programs-")) {
        fs::remove_file(old.path())?;
    }
    let fresh = bin.join("programs-fresh");
    let mut go = Command::new("go");
    go.args(["build", "-trimpath", "-mod=readonly", "-o"]).arg(&fresh).arg(".").current_dir(sources);
    must_run(&go, BUILD).context("the test programs do not build (Go 1.26 and its module proxy are needed)")?;
    fs::rename(&fresh, binary).context("cannot put the programs in their place")
}

/// A number that changes with the sources.
fn hash(sources: &Path) -> Result<u64> {
    let mut files: Vec<PathBuf> = fs::read_dir(sources)
        .with_context(|| format!("cannot read {}", sources.display()))?
        .flatten()
        .map(|file| file.path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "go" || kind == "mod" || kind == "sum"))
        .collect();
    files.sort();
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.file_name().hash(&mut hasher);
        std::io::read_to_string(File::open(&file)?)?.hash(&mut hasher);
    }
    Ok(hasher.finish())
}
