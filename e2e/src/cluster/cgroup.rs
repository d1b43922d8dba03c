//! Control groups of a cluster on this machine, version 1 (also the hybrid layout) and version 2. Part of `cluster`.
//!
//! Each node has a group of its own below the cluster's, in every hierarchy; the node's namespace shows it as the root.
//! All processes of a cluster are in its groups, so that nothing can escape [`Groups::kill`].

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::until;

/// How long killed processes may take to go.
const GONE: Duration = Duration::from_secs(20);

/// A hierarchy of control groups, and where this process is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// `cpu`, `cpu,cpuacct`, `name=systemd`; empty for version 2.
    controllers: String,
    /// The group that clusters' groups are made in.
    home: PathBuf,
}

/// What this machine has.
#[derive(Clone, Debug)]
pub struct Layout {
    hierarchies: Vec<Hierarchy>,
}

/// The groups of one cluster: a folder in each hierarchy.
#[derive(Clone, Debug)]
pub struct Groups {
    dirs: Vec<PathBuf>,
}

impl Layout {
    /// Finds out what this machine has.
    ///
    /// # Errors
    /// Where it has no usable control groups.
    pub fn detect() -> Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let hierarchies = parse(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?);
        if hierarchies.is_empty() {
            bail!("this machine has no mounted control groups with a memory and a cpu controller");
        }
        Ok(Self { hierarchies })
    }

    /// 1 or 2.
    #[must_use]
    pub fn version(&self) -> u8 {
        if self.hierarchies.iter().all(|hierarchy| hierarchy.controllers.is_empty()) { 2 } else { 1 }
    }

    /// What a node mounts within, for version 1: a line for each, `FOLDER OPTIONS`.
    #[must_use]
    pub fn mounts(&self) -> String {
        let line = |controllers: &str| match controllers.strip_prefix("name=") {
            Some(name) => format!("{name} none,{controllers}"),
            None => format!("{controllers} {controllers}"),
        };
        self.hierarchies.iter().map(|hierarchy| line(&hierarchy.controllers)).collect::<Vec<_>>().join("\n")
    }

    /// The groups that a cluster has, or would have.
    #[must_use]
    pub fn groups(&self, name: &str) -> Groups {
        Groups { dirs: self.hierarchies.iter().map(|hierarchy| hierarchy.home.join(name)).collect() }
    }
}

impl Groups {
    /// Those that an earlier run has written down.
    #[must_use]
    pub fn from_dirs(dirs: Vec<PathBuf>) -> Self {
        Self { dirs }
    }

    /// Their folders.
    #[must_use]
    pub fn dirs(&self) -> &[PathBuf] {
        &self.dirs
    }

    /// A group within.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self { dirs: self.dirs.iter().map(|dir| dir.join(name)).collect() }
    }

    /// Makes them where they are not there, with every controller handed on.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(&self) -> Result<()> {
        for dir in &self.dirs {
            let what = || format!("cannot make the control group {}", dir.display());
            let parent = dir.parent().with_context(what)?;
            hand_down(parent).with_context(what)?;
            if !dir.is_dir() {
                fs::create_dir(dir).with_context(what)?;
            }
            // A new group of version 1 has no processors and no memory, and takes no process before it has.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if parent.join(file).is_file() && !parent.join("cgroup.controllers").exists() {
                    let value = fs::read_to_string(parent.join(file)).with_context(what)?;
                    fs::write(dir.join(file), value.trim()).with_context(what)?;
                }
            }
        }
        Ok(())
    }

    /// Host pids of all processes in them, and in groups below.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for group in self.dirs.iter().flat_map(|dir| tree(dir)) {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 1));
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// Kills every process in them; waits until none is left.
    ///
    /// # Errors
    /// Where one does not go.
    pub fn kill(&self) -> Result<()> {
        until("the cluster's processes are gone", GONE, || {
            let left = self.processes();
            for pid in &left {
                // One that is gone already is what is wanted.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
            Ok(left.is_empty().then_some(()))
        })
        .with_context(|| format!("processes that do not end: {:?}", self.processes()))
    }

    /// Removes them, deepest first.
    ///
    /// # Errors
    /// Where one stays.
    pub fn remove(&self) -> Result<()> {
        let mut reason = String::new();
        until("the cluster's control groups are gone", GONE, || {
            let mut gone = true;
            for group in self.dirs.iter().flat_map(|dir| tree(dir)) {
                // A group can be busy for a moment after its last process has ended.
                if let Err(error) = fs::remove_dir(&group)
                    && group.exists()
                {
                    reason = format!("{}: {error}", group.display());
                    gone = false;
                }
            }
            Ok(gone.then_some(()))
        })
        .map_err(|error| error.context(reason))
    }

    /// Those of their folders that are there.
    #[must_use]
    pub fn left(&self) -> Vec<PathBuf> {
        self.dirs.iter().filter(|dir| dir.exists()).cloned().collect()
    }
}

/// Version 2: hands all controllers of a group down to the groups within.
fn hand_down(group: &Path) -> Result<()> {
    let Ok(controllers) = fs::read_to_string(group.join("cgroup.controllers")) else { return Ok(()) };
    let control = group.join("cgroup.subtree_control");
    let already = fs::read_to_string(&control)?;
    for controller in controllers.split_whitespace().filter(|name| !already.split_whitespace().any(|had| had == *name))
    {
        fs::write(&control, format!("+{controller}")).with_context(|| {
            format!("{} cannot hand {controller} down: are there processes in it?", group.display())
        })?;
    }
    Ok(())
}

/// A group and all below it, deepest first.
fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let children = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        all.extend(tree(&child.path()));
    }
    all.push(dir.to_owned());
    all
}

/// Pure: the hierarchies from the two tables of the kernel. Where version 1 has controllers, those count: what is left to
/// version 2 in the hybrid layout is nothing that pods need.
fn parse(own: &str, mounts: &str) -> Vec<Hierarchy> {
    let mut first = Vec::new();
    let mut second = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let Some(mount) = mount_of(controllers, mounts) else { continue };
        let hierarchy = |home: PathBuf| Hierarchy { controllers: controllers.to_owned(), home };
        if controllers.is_empty() {
            // Only the root may have processes and hand controllers down too.
            second.push(hierarchy(mount.into()));
        } else {
            first.push(hierarchy(Path::new(mount).join(path.trim_start_matches('/'))));
        }
    }
    if first.iter().any(|hierarchy| hierarchy.controllers.split(',').any(|name| name == "memory")) {
        first
    } else {
        second
    }
}

/// Where the hierarchy of these controllers is mounted.
fn mount_of<'a>(controllers: &str, mounts: &'a str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let fits = match controllers {
            "" => kind == "cgroup2",
            _ => kind == "cgroup" && controllers.split(',').all(|name| options.split(',').any(|one| one == name)),
        };
        (fits && root == "/").then_some(point)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_layout_is_version_1() {
        let own = "9:name=systemd:/\n4:memory:/deep/er\n1:cpu,cpuacct:/\n0::/\n";
        let mounts = "30 23 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                      31 23 0:27 / /sys/fs/cgroup/memory rw,relatime shared:3 - cgroup cgroup rw,memory\n\
                      32 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout { hierarchies: parse(own, mounts) };
        assert_eq!(layout.version(), 1);
        assert_eq!(layout.mounts(), "systemd none,name=systemd\nmemory memory\ncpu,cpuacct cpu,cpuacct");
        let dirs = layout.groups("c").dirs;
        assert_eq!(dirs[1], Path::new("/sys/fs/cgroup/memory/deep/er/c"));
        assert_eq!(dirs[2], Path::new("/sys/fs/cgroup/cpu,cpuacct/c"));
    }

    #[test]
    fn one_mount_is_version_2() {
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = Layout { hierarchies: parse("0::/user.slice/x\n", mounts) };
        assert_eq!(layout.version(), 2);
        assert_eq!(layout.groups("c").dirs, [Path::new("/sys/fs/cgroup/c")]);
        assert!(parse("0::/\n", "").is_empty());
    }
}
