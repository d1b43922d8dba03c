//! What is built once for many runs: Go modules of this directory, kept outside of the checkout under a name that changes
//! with their sources. Floor 1: imports `process`.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;

use crate::process::must_run;

/// How long one build may take, with everything to be fetched. The biggest takes ten minutes on two busy cores.
const BUILD: Duration = Duration::from_secs(2700);

/// How often a build is begun that fails because something cannot be fetched: what was fetched stays.
const FETCHES: usize = 3;

/// A folder of sources, and the command that makes programs of it.
#[derive(Debug)]
pub struct Recipe<'a> {
    /// Its name in the cache.
    pub name: &'a str,
    /// Where the sources are.
    pub sources: PathBuf,
    /// Programs that must be there afterwards.
    pub programs: &'a [&'a str],
    /// Other names of the first program.
    pub links: &'a [&'a str],
    /// Makes the programs in the folder that is put in place of `{out}`; run where the sources are.
    pub command: Vec<String>,
}

impl<'a> Recipe<'a> {
    /// A Go module in a folder of this directory: its own program, or the ones that its `tool` directives name.
    #[must_use]
    pub fn go(name: &'a str, folder: &str, programs: &'a [&'a str], ldflags: &str) -> Self {
        let sources = home().join(folder);
        let what = if sources.join("main.go").is_file() { "." } else { "tool" };
        let ldflags = format!("-ldflags=-s -w {ldflags}");
        let words = ["go", "build", "-trimpath", "-mod=readonly", ldflags.trim(), "-o", "{out}/", what];
        Self { name, sources, programs, links: &[], command: words.map(str::to_owned).to_vec() }
    }

    /// The folder with its programs, built where they are not there yet. Processes that want it at once wait for one build.
    ///
    /// # Errors
    /// Where it cannot be built; the error has the end of the compiler's output.
    pub fn get(&self) -> Result<PathBuf> {
        let folder = root()?.join(format!("{}-{}", self.name, self.key()?));
        if folder.is_dir() {
            return Ok(folder);
        }
        let lock = root()?.join(format!("{}.lock", self.name));
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(lock)?;
        // Held no longer than a build may take.
        lock.lock().with_context(|| format!("cannot lock the build of {}", self.name))?;
        if !folder.is_dir() {
            self.build(&folder)
                .with_context(|| format!("cannot build {} from {}", self.name, self.sources.display()))?;
        }
        Ok(folder)
    }

    /// One program of it.
    ///
    /// # Errors
    /// As [`Recipe::get`].
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        Ok(self.get()?.join(name))
    }

    fn build(&self, folder: &Path) -> Result<()> {
        eprintln!("building {} (once; kept in {})", self.name, folder.display());
        let begun = Instant::now();
        let fresh = tempfile::Builder::new().prefix(&format!(".{}-", self.name)).tempdir_in(root()?)?;
        let out = fresh.path().to_string_lossy().into_owned();
        let words: Vec<String> = self.command.iter().map(|word| word.replace("{out}", &out)).collect();
        let (program, args) = words.split_first().context("an empty command")?;
        let mut command = Command::new(program);
        command.args(args).env("CGO_ENABLED", "0").current_dir(&self.sources);
        let mut tries = 1..=FETCHES;
        while let (Some(number), Err(error)) = (tries.next(), must_run(&command, BUILD)) {
            if number == FETCHES || !is_of_network(&format!("{error:#}")) {
                return Err(error);
            }
            eprintln!("{}: something could not be fetched; once more", self.name);
        }
        for program in self.programs {
            ensure!(fresh.path().join(program).is_file(), "the build did not make '{program}'");
        }
        if let Some(first) = self.programs.first() {
            for link in self.links {
                std::os::unix::fs::symlink(first, fresh.path().join(link))?;
            }
        }
        fs::set_permissions(fresh.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        fs::rename(fresh.keep(), folder)?;
        eprintln!("built {} in {:.0} s", self.name, begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Changes with the sources and the command.
    fn key(&self) -> Result<String> {
        let what = || format!("cannot read {}", self.sources.display());
        let mut files: Vec<PathBuf> = fs::read_dir(&self.sources)
            .with_context(what)?
            .flatten()
            .map(|file| file.path())
            .filter(|path| path.is_file())
            .collect();
        files.sort();
        let mut digest = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            digest.update(&(bytes.len() as u64).to_be_bytes());
            digest.update(bytes);
        };
        for word in self.command.iter().map(String::as_str).chain(self.links.iter().copied()) {
            add(word.as_bytes());
        }
        for file in files {
            add(file.file_name().unwrap_or_default().as_encoded_bytes());
            add(&fs::read(&file).with_context(what)?);
        }
        Ok(digest.finish().as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }
}

/// True for what Go says where a module cannot be fetched for reasons that pass.
fn is_of_network(said: &str) -> bool {
    let passing = ["timeout", "connection reset", "unexpected EOF", "502", "503", "504", "temporary failure"];
    said.lines().any(|line| line.contains("Get \"http") && passing.iter().any(|word| line.contains(word)))
}

/// This directory of the checkout.
#[must_use]
pub fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The cache: `$E2E_CACHE`, or `~/.cache/mesh-e2e`.
///
/// # Errors
/// Where it cannot be made.
pub fn root() -> Result<PathBuf> {
    let root = match (std::env::var_os("E2E_CACHE"), std::env::home_dir()) {
        (Some(dir), _) if !dir.is_empty() => PathBuf::from(dir),
        (_, Some(home)) => home.join(".cache/mesh-e2e"),
        (_, None) => std::env::temp_dir().join("mesh-e2e-cache"),
    };
    fs::create_dir_all(&root).with_context(|| format!("cannot make the cache {}", root.display()))?;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe<'a>(name: &'a str, sources: &Path, programs: &'a [&'a str], command: &[&str]) -> Recipe<'a> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Recipe { name, sources: sources.to_owned(), programs, links: &["other"], command }
    }

    #[test]
    fn a_build_is_kept_until_its_sources_change() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("test-cache-{}", std::process::id());
        fs::write(dir.path().join("a"), "one").unwrap();
        let recipe = recipe(&name, dir.path(), &["a"], &["cp", "a", "{out}/a"]);
        let first = recipe.get().unwrap();
        assert_eq!(fs::read_to_string(first.join("other")).unwrap(), "one");
        fs::write(first.join("a"), "kept").unwrap();
        assert_eq!(recipe.get().unwrap(), first);
        assert_eq!(fs::read_to_string(first.join("a")).unwrap(), "kept");
        fs::write(dir.path().join("a"), "two").unwrap();
        let second = recipe.get().unwrap();
        assert_eq!(fs::read_to_string(second.join("a")).unwrap(), "two");
        for made in [first, second, root().unwrap().join(format!("{name}.lock"))] {
            let _ = if made.is_dir() { fs::remove_dir_all(made) } else { fs::remove_file(made) };
        }
    }

    #[test]
    fn what_could_not_be_fetched_is_told_from_what_does_not_build() {
        let fetch =
            r#"a.go:1:2: k8s.io/x@v0.1.0: Get "https://modules.example/x.zip": net/http: TLS handshake timeout"#;
        assert!(is_of_network(fetch));
        for other in ["main.go:3:1: undefined: timeout", r#"Get "https://modules.example/x": 404 Not Found"#] {
            assert!(!is_of_network(other), "{other}");
        }
    }

    #[test]
    fn a_build_that_could_not_fetch_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("test-cache-fetch-{}", std::process::id());
        fs::write(dir.path().join("a"), "one").unwrap();
        let flag = dir.path().join("tried").to_string_lossy().into_owned();
        let script = format!(
            "[ -e {flag} ] || {{ mkdir {flag}; echo 'Get \"https://x\": i/o timeout' >&2; exit 1; }}; cp a {{out}}/a"
        );
        let recipe = recipe(&name, dir.path(), &["a"], &["sh", "-c", &script]);
        let made = recipe.get().unwrap();
        fs::remove_dir_all(made).unwrap();
        fs::remove_file(root().unwrap().join(format!("{name}.lock"))).unwrap();
    }

    #[test]
    fn a_failed_build_leaves_nothing_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("test-cache-bad-{}", std::process::id());
        let recipe = recipe(&name, dir.path(), &["a"], &["sh", "-c", "echo because >&2; exit 1"]);
        assert!(format!("{:#}", recipe.get().unwrap_err()).contains("because"));
        let left = fs::read_dir(root().unwrap()).unwrap().flatten();
        assert_eq!(
            left.filter(|file| file.path().is_dir() && file.file_name().to_string_lossy().contains(&name)).count(),
            0
        );
        fs::remove_file(root().unwrap().join(format!("{name}.lock"))).unwrap();
    }
}
