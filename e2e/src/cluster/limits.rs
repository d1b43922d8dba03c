//! What a machine must have left for a cluster, looked at before anything is made. Part of `cluster`.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::{Context, Result, ensure};

/// Watchers of files (inotify instances) that root's programs of a node open, with some for logs that are followed.
const WATCHERS: u64 = 12;
/// Memory that a node's programs take, in MiB.
const MEMORY_OF_A_NODE: u64 = 300;
/// The same of the control plane.
const MEMORY_OF_CONTROL: u64 = 700;

/// Refuses where the machine has not enough left.
///
/// # Errors
/// What it lacks.
pub fn check(nodes: u8) -> Result<()> {
    let nodes = u64::from(nodes);
    let most = number("/proc/sys/fs/inotify/max_user_instances")?;
    // The kernel counts them for each user; the control plane's is another in each cluster.
    let (used, needed) = (watchers(Path::new("/proc"), 0), nodes * WATCHERS);
    ensure!(
        used + needed <= most,
        "a cluster needs {needed} watchers of files, and {used} of the {most} that this machine allows are in use: remove \
         another cluster, or raise fs.inotify.max_user_instances"
    );
    let free = available(&fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?);
    let needed = MEMORY_OF_CONTROL + nodes * MEMORY_OF_A_NODE;
    ensure!(free >= needed, "a cluster needs {needed} MiB of memory, and this machine has {free} MiB left");
    Ok(())
}

fn number(path: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.trim().parse().with_context(|| format!("an odd number in {path}"))
}

/// How many watchers all processes of a user have open together.
fn watchers(proc: &Path, user: u32) -> u64 {
    let files = |process: fs::DirEntry| fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
    let all = fs::read_dir(proc).into_iter().flatten().flatten();
    let own = all.filter(|process| process.metadata().is_ok_and(|about| about.uid() == user));
    let open = own.flat_map(files);
    open.filter(|file| fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == "anon_inode:inotify")).count() as u64
}

/// Memory that can still be had, in MiB.
fn available(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default() / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        assert_eq!(available("MemTotal: 10 kB\nMemAvailable:   2097152 kB\n"), 2048);
        assert_eq!(available(""), 0);
    }

    #[test]
    fn watchers_are_counted() {
        let proc = tempfile::tempdir().unwrap();
        let fd = proc.path().join("1/fd");
        fs::create_dir_all(&fd).unwrap();
        for (name, to) in [("3", "anon_inode:inotify"), ("4", "/dev/null"), ("5", "anon_inode:inotify")] {
            std::os::unix::fs::symlink(to, fd.join(name)).unwrap();
        }
        let user = fs::metadata(&fd).unwrap().uid();
        assert_eq!(watchers(proc.path(), user), 2);
        assert_eq!(watchers(proc.path(), user + 1), 0);
    }
}
