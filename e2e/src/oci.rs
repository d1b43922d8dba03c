//! Container images made without a registry or a daemon: OCI archives of one layer, the same bytes for the same content.
//! Floor 0.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! mesh_e2e::oci::Image::new("mesh.dev/proxy:0.1.0")
//!     .file("/mesh-proxy", 0o755, "target/release/mesh-proxy")
//!     .entrypoint(["/mesh-proxy"])
//!     .user("15400:15400")
//!     .write("proxy.tar".as_ref())?;
//! # Ok(())
//! # }
//! ```
//!
//! The archive is what `ctr images import`, `kind load image-archive` and `skopeo` read: the OCI image layout 1.0 as a tar
//! file, with the image's name in the annotations that containerd looks at, and a `manifest.json` for Docker.

mod tar;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader, BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use serde_json::{Value, json};

use tar::Tar;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image that is to be written.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    entries: BTreeMap<String, Entry>,
    entrypoint: Vec<String>,
    command: Vec<String>,
    env: Vec<String>,
    labels: BTreeMap<String, String>,
    user: String,
    architecture: String,
}

#[derive(Clone, Debug)]
enum Entry {
    Directory { mode: u32, owner: (u32, u32) },
    Copy { mode: u32, from: PathBuf },
    Text { mode: u32, content: Vec<u8> },
    Link { target: String },
}

impl Image {
    /// An empty image. `name` has its registry and its tag: `mesh.dev/proxy:0.1.0`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            entries: BTreeMap::new(),
            entrypoint: Vec::new(),
            command: Vec::new(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()],
            labels: BTreeMap::new(),
            user: String::new(),
            architecture: match std::env::consts::ARCH {
                "aarch64" => "arm64",
                _ => "amd64",
            }
            .to_owned(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a file of this machine, read when the image is written. `path` is absolute within the image; the directories
    /// above it are there without being named.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, from: impl Into<PathBuf>) -> Self {
        self.entries.insert(path.to_owned(), Entry::Copy { mode, from: from.into() });
        self
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn text(mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.entries.insert(path.to_owned(), Entry::Text { mode, content: content.into() });
        self
    }

    /// Adds a directory with a mode and an owner (user, group) of its own, such as `/tmp`.
    #[must_use]
    pub fn directory(mut self, path: &str, mode: u32, owner: (u32, u32)) -> Self {
        self.entries.insert(path.to_owned(), Entry::Directory { mode, owner });
        self
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.entries.insert(path.to_owned(), Entry::Link { target: target.to_owned() });
        self
    }

    /// What is run, before the arguments.
    #[must_use]
    pub fn entrypoint<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.entrypoint = words.into_iter().map(Into::into).collect();
        self
    }

    /// The arguments where nobody gives others.
    #[must_use]
    pub fn command<S: Into<String>>(mut self, words: impl IntoIterator<Item = S>) -> Self {
        self.command = words.into_iter().map(Into::into).collect();
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push(format!("{name}={value}"));
        self
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Whom it runs as: `UID` or `UID:GID`. Numbers, so that no file of names is needed in the image.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// The architecture that it says it is for, `amd64` or `arm64`; this machine's where none is given.
    #[must_use]
    pub fn architecture(mut self, architecture: &str) -> Self {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// Writes the archive; gives the digest of the manifest (`sha256:...`). A file that was there is replaced at the end,
    /// at once.
    ///
    /// # Errors
    /// Where a file cannot be read or written, or a path does not fit into an archive.
    pub fn write(&self, archive: &Path) -> Result<String> {
        let what = || format!("cannot write the image {} to {}", self.name, archive.display());
        let dir = archive.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(dir).with_context(what)?;
        let mut out = tempfile::NamedTempFile::new_in(dir).with_context(what)?;
        let mut layer = tempfile::tempfile_in(dir).with_context(what)?;
        let digest = self.assemble(out.as_file_mut(), &mut layer).with_context(what)?;
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        out.as_file().set_permissions(readable).with_context(what)?;
        out.persist(archive).with_context(what)?;
        Ok(digest)
    }

    fn assemble(&self, out: &mut File, layer: &mut File) -> Result<String> {
        let (repository, tag) = self.name.rsplit_once(':').context("the name of an image needs a tag")?;
        ensure!(repository.contains('/'), "the name of an image needs a registry: {}", self.name);
        let (layer_digest, layer_size) = self.layer(layer)?;
        let config = to_bytes(&self.config(&layer_digest))?;
        let config_digest = sha256(&config);
        let manifest = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": format!("sha256:{config_digest}"), "size": config.len() },
            "layers": [{ "mediaType": LAYER, "digest": format!("sha256:{layer_digest}"), "size": layer_size }],
        }))?;
        let manifest_digest = sha256(&manifest);
        let index = to_bytes(&json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{
                "mediaType": MANIFEST,
                "digest": format!("sha256:{manifest_digest}"),
                "size": manifest.len(),
                "platform": { "architecture": self.architecture, "os": "linux" },
                "annotations": {
                    "io.containerd.image.name": self.name,
                    "org.opencontainers.image.ref.name": tag,
                },
            }],
        }))?;
        let docker = to_bytes(&json!([{
            "Config": format!("blobs/sha256/{config_digest}"),
            "RepoTags": [self.name],
            "Layers": [format!("blobs/sha256/{layer_digest}")],
        }]))?;

        let mut tar = Tar::new(BufWriter::new(out));
        tar.directory("blobs", 0o755, (0, 0))?;
        tar.directory("blobs/sha256", 0o755, (0, 0))?;
        tar.bytes(&format!("blobs/sha256/{config_digest}"), 0o644, &config)?;
        tar.bytes(&format!("blobs/sha256/{manifest_digest}"), 0o644, &manifest)?;
        layer.rewind()?;
        tar.file(&format!("blobs/sha256/{layer_digest}"), 0o644, layer_size, &mut BufReader::new(layer))?;
        tar.bytes("index.json", 0o644, &index)?;
        tar.bytes("manifest.json", 0o644, &docker)?;
        tar.bytes("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        tar.finish()?.flush()?;
        Ok(format!("sha256:{manifest_digest}"))
    }

    /// Writes the layer; gives its digest in hexadecimal and its size.
    fn layer(&self, out: &mut File) -> Result<(String, u64)> {
        let mut entries = self.entries.clone();
        for path in self.entries.keys() {
            ensure!(path.starts_with('/') && !path.contains("/../"), "{path} is no absolute path");
            for parent in Path::new(path).ancestors().skip(1).filter(|parent| *parent != Path::new("/")) {
                let parent = parent.to_string_lossy().into_owned();
                entries.entry(parent).or_insert(Entry::Directory { mode: 0o755, owner: (0, 0) });
            }
        }
        let mut tar = Tar::new(Digested::new(BufWriter::new(out)));
        for (path, entry) in &entries {
            let name = path.trim_start_matches('/');
            match entry {
                Entry::Directory { mode, owner } => tar.directory(name, *mode, *owner)?,
                Entry::Text { mode, content } => tar.bytes(name, *mode, content)?,
                Entry::Link { target } => tar.link(name, target)?,
                Entry::Copy { mode, from } => {
                    let mut file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
                    let size = file.metadata()?.len();
                    tar.file(name, *mode, size, &mut file)
                        .with_context(|| format!("cannot copy {}", from.display()))?;
                }
            }
        }
        let mut digested = tar.finish()?;
        digested.flush()?;
        Ok(digested.done())
    }

    fn config(&self, layer: &str) -> Value {
        let mut config = serde_json::Map::new();
        config.insert("Env".to_owned(), json!(self.env));
        for (key, words) in [("Entrypoint", &self.entrypoint), ("Cmd", &self.command)] {
            if !words.is_empty() {
                config.insert(key.to_owned(), json!(words));
            }
        }
        if !self.user.is_empty() {
            config.insert("User".to_owned(), json!(self.user));
        }
        if !self.labels.is_empty() {
            config.insert("Labels".to_owned(), json!(self.labels));
        }
        json!({
            "architecture": self.architecture,
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        })
    }
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("cannot write JSON")
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A writer that sums up what goes through it.
struct Digested<W> {
    inner: W,
    digest: digest::Context,
    size: u64,
}

impl<W: Write> Digested<W> {
    fn new(inner: W) -> Self {
        Self { inner, digest: digest::Context::new(&digest::SHA256), size: 0 }
    }

    fn done(self) -> (String, u64) {
        (hex(self.digest.finish().as_ref()), self.size)
    }
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(bytes.get(..written).unwrap_or_default());
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::must_run;
    use std::{process::Command, time::Duration};

    fn sample() -> Image {
        Image::new("mesh.dev/e2e/sample:1")
            .text("/etc/deep/er/greeting", 0o640, "hello")
            .directory("/tmp", 0o1777, (0, 0))
            .link("/greeting", "etc/deep/er/greeting")
            .entrypoint(["/bin/sample"])
            .user("15400:15400")
    }

    #[test]
    fn the_same_content_makes_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.tar"), dir.path().join("two.tar"));
        assert_eq!(sample().write(&one).unwrap(), sample().write(&two).unwrap());
        assert_eq!(fs::read(one).unwrap(), fs::read(two).unwrap());
    }

    #[test]
    fn the_archive_is_read_by_the_systems_tar() {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("sample.tar");
        let digest = sample().write(&archive).unwrap();
        let tar = |args: &[&str]| {
            let mut command = Command::new("tar");
            command.current_dir(dir.path()).args(args);
            must_run(&command, Duration::from_secs(10)).unwrap().text()
        };
        tar(&["-xf", "sample.tar"]);
        let manifest = fs::read(dir.path().join("blobs").join(digest.replace(':', "/"))).unwrap();
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "/");
        let list = tar(&["-tvf", &format!("blobs/{layer}")]);
        assert!(list.contains("drwxrwxrwt 0/0"), "{list}");
        assert!(list.contains("-rw-r-----"), "{list}");
        assert!(list.contains("etc/deep/er/greeting"), "{list}");
        assert!(list.contains("greeting -> etc/deep/er/greeting"), "{list}");
    }

    #[test]
    fn a_name_without_a_tag_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = Image::new("mesh.dev/x").write(&dir.path().join("x.tar")).unwrap_err();
        assert!(format!("{error:#}").contains("needs a tag"), "{error:#}");
    }
}
