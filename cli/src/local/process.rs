//! One child process: how it is started, and how it is ended.
//!
//! A child is started through `meshctl exec`, which ties its life to ours before it becomes the program: the kernel
//! kills it when we die, however we die. It has a process group of its own, so that Ctrl-C in a terminal reaches only
//! us, and we end everything in its order.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom},
    os::unix::{fs::OpenOptionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use mesh_api::names::ENV_PREFIX;
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::process::{Child, Command};

/// A log file that grew beyond this is put aside, in bytes; the one put aside before is lost.
pub const MAX_LOG: u64 = 16 * 1024 * 1024;
/// How much of the end of a log is looked at for its last line, in bytes.
const TAIL: u64 = 4096;

/// Starts children.
#[derive(Clone, Debug)]
pub struct Launcher {
    exe: PathBuf,
}

/// What a process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// This binary with these arguments: a part of the mesh. The mesh's environment variables are kept from it, since
    /// its configuration was made for it.
    Part(Vec<OsString>),
    /// Somebody's program and its arguments.
    Other(Vec<OsString>),
}

/// A process to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// For people: `sidecar of shop/web`.
    pub name: String,
    /// What it runs.
    pub program: Program,
    /// Environment, on top of ours.
    pub env: Vec<(String, String)>,
    /// Working directory, where it is not ours.
    pub dir: Option<PathBuf>,
    /// Where its output goes.
    pub log: PathBuf,
    /// How long it may take to end after SIGTERM.
    pub grace: Duration,
}

impl Launcher {
    /// Children are tied to us by this same binary.
    ///
    /// # Errors
    /// Where the system does not tell which one it is.
    pub fn this() -> io::Result<Self> {
        std::env::current_exe().map(|exe| Self { exe })
    }

    /// Children are tied to us by another copy of this binary.
    #[must_use]
    pub fn at(exe: PathBuf) -> Self {
        Self { exe }
    }

    /// Starts a process, its output into its log.
    ///
    /// # Errors
    /// As the system says. A program that is not there shows by its end with code 127.
    pub fn start(&self, spec: &Spec) -> io::Result<Child> {
        let log = open_log(&spec.log)?;
        let mut command = self.command(spec);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        command.spawn()
    }

    /// Starts a process in the foreground: our terminal is its terminal.
    ///
    /// # Errors
    /// As the system says.
    pub fn start_in_foreground(&self, spec: &Spec) -> io::Result<Child> {
        self.command(spec).spawn()
    }

    fn command(&self, spec: &Spec) -> Command {
        let mut command = Command::new(&self.exe);
        command.arg("exec").arg("--parent").arg(std::process::id().to_string()).arg("--");
        match &spec.program {
            Program::Part(arguments) => {
                command.arg(&self.exe).args(arguments);
                for (name, _) in std::env::vars_os() {
                    if name.to_str().is_some_and(|name| name.starts_with(ENV_PREFIX)) {
                        command.env_remove(name);
                    }
                }
            }
            Program::Other(arguments) => {
                command.args(arguments);
            }
        }
        command.envs(spec.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &spec.dir {
            command.current_dir(dir);
        }
        command.kill_on_drop(true);
        command
    }
}

/// Ends a process and its group: SIGTERM, then, after `grace`, SIGKILL.
///
/// # Errors
/// As the system says.
pub async fn terminate(child: &mut Child, grace: Duration) -> io::Result<ExitStatus> {
    let group = child.id();
    signal(group, Signal::SIGTERM);
    let status = match tokio::time::timeout(grace, child.wait()).await {
        Ok(status) => status?,
        Err(_) => {
            signal(group, Signal::SIGKILL);
            child.kill().await?;
            child.wait().await?
        }
    };
    clear(group);
    Ok(status)
}

/// Ends what a program that is gone started and left behind: it would keep the port of its successor.
pub fn clear(group: Option<u32>) {
    if let Some(group) = group.and_then(|pid| i32::try_from(pid).ok()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

fn signal(group: Option<u32>, signal: Signal) {
    if let Some(pid) = group.and_then(|pid| i32::try_from(pid).ok()) {
        let pid = Pid::from_raw(pid);
        // In the foreground it has no group of its own; or it is gone already.
        if killpg(pid, signal).is_err() {
            let _ = kill(pid, signal);
        }
    }
}

/// `ended with code 3`, `was killed by signal 9 (SIGKILL)`.
#[must_use]
pub fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(127), _) => "could not be started".to_owned(),
        (Some(code), _) => format!("ended with code {code}"),
        (None, Some(number)) => {
            let name = Signal::try_from(number).map_or("unknown", Signal::as_str);
            format!("was killed by signal {number} ({name})")
        }
        (None, None) => "ended".to_owned(),
    }
}

fn open_log(path: &Path) -> io::Result<File> {
    bound_log(path);
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// Puts a log aside that grew too large. Its writer appends, and thus goes on at the new beginning.
pub fn bound_log(path: &Path) {
    if std::fs::metadata(path).is_ok_and(|found| found.len() > MAX_LOG) {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".1");
        let _ = std::fs::copy(path, aside);
        let _ = OpenOptions::new().write(true).open(path).and_then(|file| file.set_len(0));
    }
}

/// The last line of a log that says something.
#[must_use]
pub fn last_line(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let end = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(end.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(300).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(how_it_ended(ExitStatus::from_raw(0)), "ended with code 0");
        assert_eq!(how_it_ended(ExitStatus::from_raw(3 << 8)), "ended with code 3");
        assert_eq!(how_it_ended(ExitStatus::from_raw(127 << 8)), "could not be started");
        assert_eq!(how_it_ended(ExitStatus::from_raw(9)), "was killed by signal 9 (SIGKILL)");
    }

    #[test]
    fn the_last_line_that_says_something_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "x".repeat(9000) + "\nfirst\nlast one \n\n  \n").unwrap();
        assert_eq!(last_line(&path).as_deref(), Some("last one"));
        assert_eq!(last_line(&dir.path().join("none")), None);
    }

    #[test]
    fn a_log_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        File::create(&path).unwrap().set_len(MAX_LOG + 1).unwrap();
        bound_log(&path);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(std::fs::metadata(dir.path().join("log.1")).unwrap().len(), MAX_LOG + 1);
    }
}
