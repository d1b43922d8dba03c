//! What a cluster is made of: programs that are built once, programs of Debian, images. Part of `cluster`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    cache::{self, Recipe},
    oci::Image,
    programs,
};

/// The image of the process that holds a pod's namespaces.
pub const PAUSE: &str = "mesh.dev/e2e/pause:1";
/// The image of the cluster's DNS.
pub const COREDNS: &str = "mesh.dev/e2e/coredns:1";
/// The image of the programs of this suite (`/programs`), with a shell and the small tools of busybox.
pub const PROGRAMS: &str = "mesh.dev/e2e/programs:1";

/// What the one binary of Kubernetes is called by.
const KUBERNETES: [&str; 7] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "kubectl"];
const CONTAINERD: [&str; 3] = ["containerd", "containerd-shim-runc-v2", "ctr"];
const CNI: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
/// Programs of Debian, and the packages that they come in.
const DEBIAN: [(&str, &str); 8] = [
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("sysctl", "procps"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("busybox", "busybox-static"),
    ("cc", "gcc"),
];

/// Everything that a cluster needs, ready.
#[derive(Clone, Debug)]
pub struct Parts {
    kubernetes: PathBuf,
    containerd: PathBuf,
    cni: PathBuf,
    images: Vec<PathBuf>,
}

impl Parts {
    /// Gets them, building what is not there yet.
    ///
    /// # Errors
    /// Where a program of Debian is missing, or something does not build.
    pub fn get() -> Result<Self> {
        let missing: Vec<&str> =
            DEBIAN.iter().filter(|(program, _)| which(program).is_none()).map(|(_, package)| *package).collect();
        if !missing.is_empty() {
            bail!("programs are missing; `make setup` installs their packages: {}", missing.join(" "));
        }
        Ok(Self {
            kubernetes: kubernetes()?,
            containerd: Recipe::go("containerd", "tools/containerd", &CONTAINERD, "").get()?,
            cni: Recipe::go("cni", "tools/cni", &CNI, "").get()?,
            images: images()?,
        })
    }

    /// Puts the programs into a cluster's folder, so that what is rebuilt meanwhile does not disturb it.
    ///
    /// # Errors
    /// Where they cannot be copied.
    pub fn install(&self, bin: &Path) -> Result<()> {
        fs::create_dir_all(bin)?;
        place(&self.kubernetes.join("kubernetes"), &bin.join("kubernetes"))?;
        for name in KUBERNETES {
            std::os::unix::fs::symlink("kubernetes", bin.join(name))?;
        }
        for name in CONTAINERD {
            place(&self.containerd.join(name), &bin.join(name))?;
        }
        let own = crate::bin::mesh_cluster()?;
        // Copied: the original is what the next build writes to.
        fs::copy(&own, bin.join("mesh-cluster")).with_context(|| format!("cannot copy {}", own.display()))?;
        Ok(())
    }

    /// Puts the plugins of the pods' network into a node's folder for them.
    ///
    /// # Errors
    /// Where they cannot be copied.
    pub fn install_cni(&self, bin: &Path) -> Result<()> {
        fs::create_dir_all(bin)?;
        CNI.iter().try_for_each(|name| place(&self.cni.join(name), &bin.join(name)))
    }

    /// Archives of the images that every node has.
    #[must_use]
    pub fn images(&self) -> &[PathBuf] {
        &self.images
    }
}

/// The folder of Kubernetes' programs.
///
/// # Errors
/// Where it cannot be built.
pub fn kubernetes() -> Result<PathBuf> {
    let module = cache::home().join("kubernetes/go.mod");
    let text = fs::read_to_string(&module).with_context(|| format!("cannot read {}", module.display()))?;
    let version = version(&text).with_context(|| format!("no version of k8s.io/kubernetes in {}", module.display()))?;
    let mut recipe = Recipe::go("kubernetes", "kubernetes", &["kubernetes"], &flags(version)?);
    recipe.links = &KUBERNETES;
    recipe.get()
}

/// The version of Kubernetes that a go.mod asks for.
fn version(module: &str) -> Option<&str> {
    module.lines().find_map(|line| line.trim().trim_start_matches("require ").strip_prefix("k8s.io/kubernetes "))
}

/// What the linker is told, for the version that servers and clients name themselves by.
fn flags(version: &str) -> Result<String> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else { bail!("an odd version: {version}") };
    let package = "k8s.io/component-base/version";
    Ok(format!("-X {package}.gitVersion={version} -X {package}.gitMajor={major} -X {package}.gitMinor={minor}"))
}

fn images() -> Result<Vec<PathBuf>> {
    let pause = Recipe {
        name: "pause",
        sources: cache::home().join("cluster/pause"),
        programs: &["pause"],
        links: &[],
        command: ["cc", "-static", "-Os", "-s", "-o", "{out}/pause", "pause.c"].map(str::to_owned).to_vec(),
    };
    let coredns = Recipe::go("coredns", "tools/coredns", &["coredns"], "");
    Ok(vec![
        image(Image::new(PAUSE).entrypoint(["/pause"]).user("65535:65535"), "/pause", &pause.program("pause")?)?,
        image(Image::new(COREDNS).entrypoint(["/coredns"]), "/coredns", &coredns.program("coredns")?)?,
        programs_image()?,
    ])
}

/// The archive of the programs' image.
///
/// # Errors
/// Where it cannot be made.
pub fn programs_image() -> Result<PathBuf> {
    let busybox = which("busybox").context("busybox is missing: install busybox-static")?;
    let mut shell = Image::new(PROGRAMS).file("/bin/busybox", 0o755, busybox).directory("/tmp", 0o1777, (0, 0));
    for tool in
        ["sh", "cat", "ls", "sleep", "echo", "env", "id", "nc", "ip", "ps", "grep", "head", "test", "touch", "true"]
    {
        shell = shell.link(&format!("/bin/{tool}"), "busybox");
    }
    image(shell.entrypoint(["/programs"]), "/programs", &programs::binary()?)
}

/// The archive of an image with one program of the cache, kept beside the program.
fn image(image: Image, path: &str, program: &Path) -> Result<PathBuf> {
    let archive = program.with_extension("image.tar");
    if !archive.is_file() {
        image.file(path, 0o755, program).write(&archive)?;
    }
    Ok(archive)
}

/// Where a program is that users can call by its name.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from));
    places.map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A second name of a file, or a copy where the file is on another disk.
fn place(from: &Path, to: &Path) -> Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => fs::copy(from, to).map(drop),
        other => other,
    }
    .with_context(|| format!("cannot put {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_comes_from_the_module() {
        let text = fs::read_to_string(cache::home().join("kubernetes/go.mod")).unwrap();
        let version = version(&text).unwrap();
        assert!(version.starts_with("v1."), "{version}");
        assert!(flags(version).unwrap().contains("gitMajor=1 "));
        assert_eq!(super::version("module x\n"), None);
    }
}
