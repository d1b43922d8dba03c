//! Where one test plays: its directory, its ports, its addresses. Floor 1: imports `ports`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::ports::Lease;

/// The directory and the numbers of one test.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    lease: Lease,
}

impl Stage {
    /// The test's directory; every user may enter it.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A directory within, made where it is not there.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn subdir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// A file within, written.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.dir.join(name);
        std::fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Ports and addresses.
    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

/// Plays one test. Its directory goes where it succeeds and stays, named in the error, where it fails.
///
/// # Errors
/// Where the test fails.
pub fn stage(name: &str, test: impl FnOnce(&Stage) -> Result<()>) -> Result<()> {
    let lease = Lease::take()?;
    let dir = tempfile::Builder::new()
        .prefix(&format!("mesh-e2e-{name}-"))
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .context("cannot make a directory for the test")?;
    // Kept until the test has succeeded: a panic leaves it there too.
    let stage = Stage { dir: dir.keep(), lease };
    let result = test(&stage);
    match result {
        Ok(()) => std::fs::remove_dir_all(&stage.dir).with_context(|| format!("cannot remove {}", stage.dir.display())),
        Err(error) => Err(error.context(format!("{name} failed; logs and files are in {}", stage.dir.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_stays_after_a_failure_only() {
        let mut gone = PathBuf::new();
        stage("good", |stage| {
            gone = stage.dir().to_owned();
            stage.file("b", "x").map(drop)
        })
        .unwrap();
        assert!(!gone.exists());
        let mut kept = PathBuf::new();
        let error = stage("bad", |stage| {
            kept = stage.dir().to_owned();
            anyhow::bail!("why")
        })
        .unwrap_err();
        assert!(kept.exists());
        assert!(format!("{error:#}").contains("why"));
        std::fs::remove_dir_all(kept).unwrap();
    }
}
