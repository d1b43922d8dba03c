//! Keeps one process running: starts it, starts it again when it ends, ends it when it is told to.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_api::backoff::Backoff;
use rand::Rng as _;
use tokio::{process::Child, sync::watch, task::JoinHandle};

use super::{
    process::{self, Launcher, Spec},
    report::Reporter,
};
use crate::io::Tone;

/// Waits before a process is started again grow from the first to the second.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Who ran this long begins again with the shortest wait.
const STABLE: Duration = Duration::from_secs(10);

/// What is wanted of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// It runs; when it ends, it is started again.
    Up,
    /// It is left alone: not ended, and not started again.
    Left,
    /// It is ended.
    Down,
}

/// What a process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Runs, as this process.
    Running(u32),
    /// Ended by itself, and is not started again yet: how it ended.
    Broken(String),
    /// Not started, or ended as it was told.
    Down,
}

impl Doing {
    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match self {
            Self::Running(pid) => Some(*pid),
            Self::Broken(_) | Self::Down => None,
        }
    }
}

/// A process that is kept. Dropping it kills the process.
#[derive(Debug)]
pub struct Kept {
    log: PathBuf,
    wanted: Arc<watch::Sender<Wanted>>,
    doing: watch::Receiver<Doing>,
    task: JoinHandle<()>,
}

impl Kept {
    /// Keeps a process as `spec` says; `first` says whether it is started now. `changed` is marked at every change of
    /// what it does.
    #[must_use]
    pub fn new(launcher: Launcher, spec: Spec, first: Wanted, reporter: Reporter, changed: watch::Sender<()>) -> Self {
        let (wanted, orders) = watch::channel(first);
        let (tell, doing) = watch::channel(Doing::Down);
        let log = spec.log.clone();
        let keeper = Keeper { launcher, spec, reporter, orders, tell, changed };
        Self { log, wanted: Arc::new(wanted), doing, task: tokio::spawn(keeper.run()) }
    }

    /// What it does now.
    #[must_use]
    pub fn doing(&self) -> Doing {
        self.doing.borrow().clone()
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> &std::path::Path {
        &self.log
    }

    /// Changes what is wanted.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(wanted);
    }

    /// What is wanted.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        *self.wanted.borrow()
    }

    /// Ends the process and waits until it is gone, which its grace bounds.
    pub async fn stop(&self) {
        self.want(Wanted::Down);
        let mut doing = self.doing.clone();
        // The keeper's own end is the end of its process too.
        let _ = doing.wait_for(|doing| *doing == Doing::Down).await;
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    launcher: Launcher,
    spec: Spec,
    reporter: Reporter,
    orders: watch::Receiver<Wanted>,
    tell: watch::Sender<Doing>,
    changed: watch::Sender<()>,
}

impl Keeper {
    /// Until the order to do so is withdrawn by dropping it.
    async fn run(mut self) {
        let mut backoff = Backoff::new(AGAIN.0, AGAIN.1);
        loop {
            let wanted = *self.orders.borrow_and_update();
            if wanted != Wanted::Up {
                if wanted == Wanted::Down && *self.tell.borrow() != Doing::Down {
                    self.say(Doing::Down);
                }
                if self.orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let started = Instant::now();
            let end = match self.launcher.start(&self.spec) {
                Ok(child) => match self.watch(child).await {
                    Some(end) => end,
                    None => {
                        backoff.reset();
                        self.say(Doing::Down);
                        continue;
                    }
                },
                Err(error) => format!("could not be started: {error}"),
            };
            if started.elapsed() > STABLE {
                backoff.reset();
            }
            let wait = backoff.next_wait(rand::rng().next_u32());
            self.broke(&end, wait).await;
        }
    }

    /// Until the process ended: how, or `None` where it was told to.
    async fn watch(&mut self, mut child: Child) -> Option<String> {
        let group = child.id();
        self.say(Doing::Running(group.unwrap_or_default()));
        let ended = tokio::select! {
            ended = child.wait() => Some(ended),
            _ = self.orders.wait_for(|wanted| *wanted == Wanted::Down) => None,
        };
        match ended {
            Some(Ok(status)) => {
                process::clear(group);
                Some(process::how_it_ended(status))
            }
            Some(Err(error)) => Some(format!("cannot be watched: {error}")),
            None => {
                if let Err(error) = process::terminate(&mut child, self.spec.grace).await {
                    self.reporter.say(Tone::Warn, format!("{} cannot be ended: {error}", self.spec.name));
                }
                None
            }
        }
    }

    async fn broke(&mut self, how: &str, wait: Duration) {
        let again = match *self.orders.borrow() {
            Wanted::Up => format!("; starting it again in {:.1}s", wait.as_secs_f64()),
            Wanted::Left | Wanted::Down => String::new(),
        };
        // Who was killed had no last word.
        let last = process::last_line(&self.spec.log).filter(|_| !how.contains("signal"));
        let said = last.map(|line| format!("\n  it said: {line}")).unwrap_or_default();
        let log = self.spec.log.display();
        self.reporter.say(Tone::Bad, format!("{} {how}{again} (log: {log}){said}", self.spec.name));
        self.say(Doing::Broken(how.to_owned()));
        let down = self.orders.wait_for(|wanted| *wanted == Wanted::Down);
        if tokio::time::timeout(wait, down).await.is_ok() {
            self.say(Doing::Down);
        }
    }

    fn say(&self, doing: Doing) {
        self.tell.send_replace(doing);
        self.changed.send_replace(());
    }
}
