//! Children that die with their guard: started into a log file, awaited with deadlines, ended by pid. Floor 0.
//!
//! A child is started through `setpriv --pdeathsig`, so that it also dies when the test process is killed. The kernel
//! counts the *thread* that started it as its parent: start children on the test's own thread.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes at the end of a log that are read.
const LOG: u64 = 4 << 20;
/// Lines of a log that an error shows.
const TAIL: usize = 40;
/// How long a child may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(15);
/// The same for one that nobody waits for any more.
const LAST: Duration = Duration::from_secs(3);

/// A running child.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    /// Where its own part of the log begins: an earlier process may have had the same name.
    from: u64,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`, its output going to `DIR/NAME.log`.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start(name: &str, command: &Command, dir: &Path) -> Result<Self> {
        Self::start_as(name, command, dir, None)
    }

    /// As [`Process::start`], as another user.
    ///
    /// # Errors
    /// Where it cannot be started.
    pub fn start_as(name: &str, command: &Command, dir: &Path, user: Option<&str>) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let (out, err) = (open()?, open()?);
        let from = out.metadata()?.len();
        let child = guarded(command, user)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name} ({command:?})"))?;
        Ok(Self { name: name.to_owned(), child, log, from, ended: None })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        read_end(&self.log, self.from)
    }

    /// Waits until it has printed a line that holds `text`; gives the line.
    ///
    /// # Errors
    /// Where it ends before that, or the deadline passes.
    pub fn wait_for_line(&mut self, text: &str, deadline: Duration) -> Result<String> {
        self.wait_for_line_that(&format!("holds '{text}'"), |line| line.contains(text), deadline)
    }

    /// Waits until it has printed a line that `fits`; gives the line.
    ///
    /// # Errors
    /// Where it ends before that, or the deadline passes.
    pub fn wait_for_line_that(
        &mut self,
        what: &str,
        fits: impl Fn(&str) -> bool,
        deadline: Duration,
    ) -> Result<String> {
        let what = format!("{} prints a line that {what}", self.name);
        until(&what, deadline, || {
            // Looked at first: what it printed before it ended counts.
            let ended = self.must_run();
            if let Some(line) = self.log().lines().find(|line| fits(line)) {
                return Ok(Some(line.to_owned()));
            }
            ended.map(|()| None)
        })
        .map_err(|error| self.explain(error))
    }

    /// Waits until somebody accepts connections on `address`.
    ///
    /// # Errors
    /// Where the child ends before that, or the deadline passes.
    pub fn wait_for_port(&mut self, address: SocketAddr, deadline: Duration) -> Result<()> {
        let what = format!("{} listens on {address}", self.name);
        until(&what, deadline, || {
            self.must_run()?;
            Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok().map(drop))
        })
        .map_err(|error| self.explain(error))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// Where the deadline passes.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        until(&format!("{} ends", self.name), deadline, || self.status()).map_err(|error| self.explain(error))
    }

    /// Asks it to end, waits, and kills it where it does not.
    ///
    /// # Errors
    /// Where it had to be killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.status()? {
            return Ok(status);
        }
        signal(self.pid(), Signal::SIGTERM)?;
        match self.wait(GRACE) {
            Ok(status) => Ok(status),
            Err(error) => {
                self.kill();
                Err(error.context("it had to be killed"))
            }
        }
    }

    /// Its status where it has ended.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn status(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Adds the end of the log to an error.
    #[must_use]
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let log = self.log();
        anyhow!("{error:#}\n--- end of {}:\n{}", self.log.display(), tail(&log))
    }

    fn must_run(&mut self) -> Result<()> {
        match self.status()? {
            Some(status) => bail!("{} has ended: {status}", self.name),
            None => Ok(()),
        }
    }

    fn kill(&mut self) {
        // Already ended is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Asked first: a server that is killed can leave its workers behind.
        let gone = self.ended.is_some() || signal(self.pid(), Signal::SIGTERM).and_then(|()| self.wait(LAST)).is_ok();
        if !gone {
            self.kill();
        }
    }
}

/// What a program printed that has run to its end.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    #[must_use]
    pub fn error_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// Runs `command` to its end, whatever that is, within `deadline`.
///
/// # Errors
/// Where it cannot be started, or does not end in time.
pub fn run(command: &Command, deadline: Duration) -> Result<Output> {
    run_with(command, None, None, deadline)
}

/// As [`run`], with a failure of the program as an error.
///
/// # Errors
/// As [`run`], and where the program fails.
pub fn must_run(command: &Command, deadline: Duration) -> Result<Output> {
    let output = run(command, deadline)?;
    if !output.status.success() {
        let (out, err) = (output.text(), output.error_text());
        bail!("{command:?} failed: {}\n{}\n{}", output.status, tail(&out), tail(&err));
    }
    Ok(output)
}

/// As [`run`], as another user or with a file as standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with(command: &Command, user: Option<&str>, input: Option<&Path>, deadline: Duration) -> Result<Output> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let stdin = match input {
        Some(path) => Stdio::from(File::open(path).with_context(|| format!("cannot open {}", path.display()))?),
        None => Stdio::null(),
    };
    let child = guarded(command, user)
        .stdin(stdin)
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let mut process = Process { name: format!("{command:?}"), child, log: PathBuf::new(), from: 0, ended: None };
    let ended = until(&format!("{command:?} ends"), deadline, || process.status());
    let read = |mut file: File| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let (stdout, stderr) = (read(out)?, read(err)?);
    match ended {
        Ok(status) => Ok(Output { status, stdout, stderr }),
        Err(error) => Err(error.context(format!(
            "its output so far:\n{}\n{}",
            tail(&String::from_utf8_lossy(&stdout)),
            tail(&String::from_utf8_lossy(&stderr))
        ))),
    }
}

/// Looks again and again until `look` gives something.
///
/// # Errors
/// The error of `look`, or that the deadline passed.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() >= deadline {
            bail!("waited {deadline:?} in vain until {what}");
        }
        thread::sleep(LOOK);
    }
}

/// Sends a signal to one process.
///
/// # Errors
/// Where there is no such process.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).with_context(|| format!("{pid} is no process id"))?;
    kill(Pid::from_raw(raw), signal).with_context(|| format!("cannot send {signal} to {pid}"))
}

/// True while there is such a process that has not ended.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let Ok(raw) = i32::try_from(pid) else { return false };
    if kill(Pid::from_raw(raw), None) == Err(Errno::ESRCH) {
        return false;
    }
    // A process that has ended and was not waited for is in state Z.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// The last lines of a text.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL)..).unwrap_or_default().join("\n")
}

/// The end of a file from some byte on, as text; nothing where it cannot be read.
fn read_end(path: &Path, from: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG).max(from)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// `command`, dying with the thread that starts it.
fn guarded(command: &Command, user: Option<&str>) -> Command {
    let mut guarded = Command::new("setpriv");
    // Not killed: whoever has children of its own is to end them.
    guarded.args(["--pdeathsig", "TERM"]);
    if let Some(user) = user {
        guarded.args(["--reuid", user, "--regid", user, "--init-groups"]);
    }
    guarded.arg("--").arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => guarded.env(key, value),
            None => guarded.env_remove(key),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        guarded.current_dir(dir);
    }
    guarded
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(5);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_line_is_awaited_and_a_drop_kills() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start("p", &shell("echo up; exec sleep 60"), dir.path()).unwrap();
        assert_eq!(process.wait_for_line("up", SHORT).unwrap(), "up");
        let pid = process.pid();
        assert!(is_alive(pid));
        drop(process);
        assert!(!is_alive(pid));
    }

    #[test]
    fn errors_show_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start("p", &shell("echo because >&2; exit 3"), dir.path()).unwrap();
        let error = process.wait_for_line("never", SHORT).unwrap_err().to_string();
        assert!(error.contains("because") && error.contains("has ended"), "{error}");
    }

    #[test]
    fn the_log_of_an_earlier_process_is_not_its_own() {
        let dir = tempfile::tempdir().unwrap();
        for word in ["first", "second"] {
            let mut process = Process::start("p", &shell(&format!("echo {word}")), dir.path()).unwrap();
            process.wait(SHORT).unwrap();
            assert_eq!(process.log(), format!("{word}\n"));
        }
    }

    #[test]
    fn a_deadline_ends_a_run() {
        let error = run(&shell("echo begun; sleep 60"), Duration::from_millis(300)).unwrap_err();
        assert!(format!("{error:#}").contains("begun"), "{error:#}");
        assert!(must_run(&shell("exit 1"), SHORT).is_err());
        assert_eq!(must_run(&shell("echo fine"), SHORT).unwrap().text(), "fine\n");
    }

    #[test]
    fn another_user() {
        assert_eq!(run_with(&shell("id -un"), Some("daemon"), None, SHORT).unwrap().text(), "daemon\n");
    }
}
