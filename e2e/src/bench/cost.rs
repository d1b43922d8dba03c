//! What a process costs: processor time, memory, system calls. All of its children and threads count.

use std::{
    fs,
    ops::{Add, Sub},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::Serialize;

use crate::process::{Process, signal};

/// How deep a tree of processes may be.
const DEPTH: usize = 4;

/// Processor time that was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cost {
    /// All of it, in nanoseconds, as the scheduler counts.
    pub total_ns: u64,
    /// In the program, in ticks of 10 ms: for the share alone.
    pub user_ticks: u64,
    /// In the kernel, likewise.
    pub kernel_ticks: u64,
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            total_ns: self.total_ns + other.total_ns,
            user_ticks: self.user_ticks + other.user_ticks,
            kernel_ticks: self.kernel_ticks + other.kernel_ticks,
        }
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            kernel_ticks: self.kernel_ticks.saturating_sub(before.kernel_ticks),
        }
    }
}

/// What a process and its children have used so far.
///
/// # Errors
/// Where it is gone.
pub fn cost(pid: u32) -> Result<Cost> {
    let mut sum = Cost::default();
    for pid in tree(pid)? {
        sum = sum + own_cost(pid)?;
    }
    Ok(sum)
}

/// Resident memory of a process and its children, in bytes.
///
/// # Errors
/// Where it is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for pid in tree(pid)? {
        let status = read(&format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().next().context("an empty VmRSS")?.parse()?;
        sum += kib * 1024;
    }
    Ok(sum)
}

fn own_cost(pid: u32) -> Result<Cost> {
    let mut cost = Cost::default();
    for task in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        // A thread may end between the two.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        cost.total_ns += text.split_whitespace().next().context("an empty schedstat")?.parse::<u64>()?;
    }
    let stat = read(&format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit_once(") ").context("an odd stat")?.1.split_whitespace().collect();
    // Numbers 14 and 15, counted from 1; the first here is number 3.
    let tick = |nth: usize| fields.get(nth).context("a short stat").and_then(|text| Ok(text.parse::<u64>()?));
    (cost.user_ticks, cost.kernel_ticks) = (tick(11)?, tick(12)?);
    Ok(cost)
}

/// A process and what it begot.
fn tree(pid: u32) -> Result<Vec<u32>> {
    let (mut all, mut level) = (vec![pid], vec![pid]);
    for _ in 0..DEPTH {
        let mut below = Vec::new();
        for pid in level {
            for child in read(&format!("/proc/{pid}/task/{pid}/children"))?.split_whitespace() {
                below.push(child.parse()?);
            }
        }
        all.extend(&below);
        level = below;
    }
    Ok(all)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// System calls of a process and its children, counted while this lives.
#[derive(Debug)]
pub struct Calls {
    tracer: Process,
    file: std::path::PathBuf,
}

impl Calls {
    /// Begins to count.
    ///
    /// # Errors
    /// Where `strace` cannot be started.
    pub fn of(name: &str, pid: u32, dir: &Path) -> Result<Self> {
        let file = dir.join(format!("{name}.strace"));
        let mut command = Command::new("strace");
        command.args(["-c", "-f", "-o"]).arg(&file);
        for pid in tree(pid)? {
            command.args(["-p", &pid.to_string()]);
        }
        let mut tracer = Process::start(&format!("strace-{name}"), &command, dir)?;
        tracer.wait_for_line("attached", Duration::from_secs(10))?;
        Ok(Self { tracer, file })
    }

    /// How many there were, and of which kind: the most frequent first.
    ///
    /// # Errors
    /// Where `strace` does not say.
    pub fn stop(mut self) -> Result<(u64, Vec<(String, u64)>)> {
        signal(self.tracer.pid(), Signal::SIGINT)?;
        self.tracer.wait(Duration::from_secs(10))?;
        let text = fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        let mut kinds: Vec<(String, u64)> = text.lines().filter_map(kind).collect();
        kinds.sort_by_key(|(_, calls)| std::cmp::Reverse(*calls));
        Ok((kinds.iter().map(|(_, calls)| calls).sum(), kinds))
    }
}

/// `% time, seconds, usecs/call, calls, [errors,] syscall`
fn kind(line: &str) -> Option<(String, u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = words.last()?;
    let counted = words.len() >= 5 && words.first()?.parse::<f64>().is_ok() && *name != "total";
    counted.then(|| Some(((*name).to_owned(), words.get(3)?.parse().ok()?)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_process_costs_something_and_its_children_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        // The child ends with its parent: nobody else would end it.
        command.args(["-c", "sh -c 'while kill -0 $PPID 2> /dev/null; do :; done' & wait"]);
        let busy = Process::start("busy", &command, dir.path()).unwrap();
        let before = cost(busy.pid()).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let used = cost(busy.pid()).unwrap() - before;
        assert!(used.total_ns > 20_000_000, "{used:?}");
        assert!(resident(busy.pid()).unwrap() > 500_000);
        assert!(cost(u32::MAX).is_err());
    }

    #[test]
    fn counts_of_calls_are_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n------ ----\n \
                    66.66    0.000010           1      1234        12 read\n 33.34    0.000005           1       100           \
                    epoll_wait\n100.00    0.000015           1      1334        12 total\n";
        let kinds: Vec<_> = text.lines().filter_map(kind).collect();
        assert_eq!(kinds, [("read".to_owned(), 1234), ("epoll_wait".to_owned(), 100)]);
    }
}
