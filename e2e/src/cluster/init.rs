//! The first process of a node: starts the node's programs, starts those again that end, and waits for the orphans that
//! pods leave behind. Part of `cluster`.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::wait::{WaitStatus, wait},
};
use serde_json::{Value, json};

use crate::process::until;

/// How long a program may take to open its socket.
const SOCKET: Duration = Duration::from_secs(30);
/// How long what a program comes after may take.
const AFTER: Duration = Duration::from_secs(120);
/// The pause before a program that has ended is started again; twice as long after each that ends soon.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(8);
/// A program that has run for so long did not end soon.
const LONG: Duration = Duration::from_secs(20);

/// A program of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// Its name, and that of its log in `/var/log`.
    pub name: String,
    /// Its binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Whom it runs as; root where nobody is named.
    pub user: Option<u32>,
    /// A file that is waited for before it is started.
    pub after: Option<PathBuf>,
    /// A file that must be there before the next is started: its socket.
    pub socket: Option<PathBuf>,
}

impl Daemon {
    fn start(&self) -> Result<i32> {
        let log = Path::new("/var/log").join(format!("{}.log", self.name));
        let open = || OpenOptions::new().create(true).append(true).open(&log);
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(open()?).stderr(open()?).current_dir("/");
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        Ok(i32::try_from(child.id())?)
    }
}

/// Writes the list of a node's programs.
///
/// # Errors
/// Where the file cannot be written.
pub fn write(daemons: &[Daemon], path: &Path) -> Result<()> {
    let list: Vec<Value> = daemons
        .iter()
        .map(|one| {
            let Daemon { name, program, args, user, after, socket } = one;
            json!({ "name": name, "program": program, "args": args, "user": user, "after": after, "socket": socket })
        })
        .collect();
    std::fs::write(path, format!("{:#}\n", Value::from(list)))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<Daemon>> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let list: Vec<Value> = serde_json::from_slice(&text)?;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    list.iter()
        .map(|one| {
            let args = one.get("args").and_then(Value::as_array).into_iter().flatten().filter_map(word).collect();
            Ok(Daemon {
                name: one.get("name").and_then(word).context("a program without a name")?,
                program: one.get("program").and_then(word).context("a program without a binary")?.into(),
                args,
                user: one.get("user").and_then(Value::as_u64).map(u32::try_from).transpose()?,
                after: one.get("after").and_then(word).map(PathBuf::from),
                socket: one.get("socket").and_then(word).map(PathBuf::from),
            })
        })
        .collect()
}

/// Runs the programs of a list for as long as the node is there.
///
/// # Errors
/// Where the list cannot be read, or a program not be started.
pub fn run(plan: &Path) -> Result<()> {
    let daemons = read(plan)?;
    let mut running: HashMap<i32, (usize, Instant)> = HashMap::new();
    let mut pauses = vec![AGAIN; daemons.len()];
    for (place, daemon) in daemons.iter().enumerate() {
        if let Some(after) = &daemon.after {
            let what = format!("{} is there, for {}", after.display(), daemon.name);
            // Started all the same: its own log says best what it lacks.
            if let Err(error) = until(&what, AFTER, || Ok(after.exists().then_some(()))) {
                println!("{error:#}");
            }
        }
        running.insert(daemon.start()?, (place, Instant::now()));
        println!("{} started", daemon.name);
        if let Some(socket) = &daemon.socket {
            let what = format!("{} has opened {}", daemon.name, socket.display());
            until(&what, SOCKET, || Ok(socket.exists().then_some(())))?;
        }
    }
    loop {
        let (pid, how) = match wait() {
            Ok(WaitStatus::Exited(pid, code)) => (pid, format!("with status {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, format!("by {signal}")),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error).context("cannot wait for the node's programs"),
        };
        // The others are orphans: what is left of containers.
        let Some((place, begun)) = running.remove(&pid.as_raw()) else { continue };
        let (Some(daemon), Some(pause)) = (daemons.get(place), pauses.get_mut(place)) else { continue };
        if begun.elapsed() >= LONG {
            *pause = AGAIN;
        }
        println!("{} ended {how} after {:.1} s; again in {pause:?}", daemon.name, begun.elapsed().as_secs_f64());
        // The others wait as well; none of them is needed more than this one.
        thread::sleep(*pause);
        *pause = (*pause * 2).min(LONGEST);
        running.insert(daemon.start()?, (place, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plan.json");
        let daemons = vec![
            Daemon {
                name: "a".into(),
                program: "/bin/a".into(),
                args: vec!["--b=c".into()],
                socket: Some("/s".into()),
            },
            Daemon { name: "b".into(), program: "/bin/b".into(), ..Daemon::default() },
        ];
        write(&daemons, &path).unwrap();
        assert_eq!(read(&path).unwrap(), daemons);
    }
}
