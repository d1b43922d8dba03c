//! The task that looks at the folders: soon after the kernel says that something moved, and slowly by itself in case
//! it did not say.

use std::{path::PathBuf, sync::Arc, time::Duration};

use notify::{RecursiveMode, Watcher};
use tokio::{sync::mpsc, time::Instant};

use super::State;
use crate::source::Event;

/// How a folder is watched.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folders, or single files.
    pub roots: Vec<PathBuf>,
    /// How long to wait for more after something moved. A change is in force soon after this.
    pub debounce: Duration,
    /// How often to look although nothing was heard.
    pub rescan: Duration,
}

impl Options {
    /// The defaults for these folders.
    #[must_use]
    pub fn new(roots: Vec<PathBuf>) -> Self {
        Self { roots, debounce: Duration::from_millis(50), rescan: Duration::from_secs(5) }
    }
}

/// Watches folders and sends what changes, until the receiver is gone.
///
/// # Errors
/// Where a look at the disk panicked: it is a fault of this program, and the caller should end with it.
pub async fn watch(options: Options, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let (moved, mut moves) = mpsc::channel(1);
    let mut watcher = Watching::new(options.roots.clone(), moved);
    let mut state = State::new(options.roots);
    loop {
        // First the watch, then the look: what changes in between is heard.
        let watching;
        (state, watcher, watching) = tokio::task::spawn_blocking(move || {
            watcher.renew();
            let found = state.scan();
            (state, watcher, found)
        })
        .await?;
        for event in watching {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
        tokio::select! {
            () = events.closed() => return Ok(()),
            () = tokio::time::sleep(options.rescan) => {}
            _ = moves.recv() => settle(&mut moves, options.debounce).await,
        }
    }
}

/// Waits until nothing moved for half the time, at most for the whole.
async fn settle(moves: &mut mpsc::Receiver<()>, debounce: Duration) {
    let end = Instant::now() + debounce;
    loop {
        let quiet = (Instant::now() + debounce / 2).min(end);
        match tokio::time::timeout_at(quiet, moves.recv()).await {
            Ok(Some(())) if Instant::now() < end => {}
            _ => return,
        }
    }
}

/// The kernel's watches. Where one cannot be set (the folder is not there yet, no watches are left), the slow look
/// has to do, and each look tries again.
struct Watching {
    watcher: Option<notify::RecommendedWatcher>,
    roots: Vec<(PathBuf, bool)>,
    moved: mpsc::Sender<()>,
    heard: Arc<std::sync::atomic::AtomicBool>,
}

impl Watching {
    fn new(roots: Vec<PathBuf>, moved: mpsc::Sender<()>) -> Self {
        let roots = roots.into_iter().map(|root| (root, false)).collect();
        Self { watcher: None, roots, moved, heard: Arc::default() }
    }

    fn renew(&mut self) {
        if self.heard.swap(false, std::sync::atomic::Ordering::Relaxed) {
            // A root itself went away; its watch went with it.
            self.roots.iter_mut().for_each(|(_, set)| *set = false);
        }
        if self.watcher.is_none() {
            self.watcher = self.start();
        }
        let Some(watcher) = &mut self.watcher else { return };
        for (root, set) in self.roots.iter_mut().filter(|(_, set)| !set) {
            match watcher.watch(root, RecursiveMode::Recursive) {
                Ok(()) => *set = true,
                Err(error) => tracing::debug!(root = %root.display(), %error, "no watch; it is looked at now and then"),
            }
        }
    }

    fn start(&self) -> Option<notify::RecommendedWatcher> {
        let (moved, heard) = (self.moved.clone(), self.heard.clone());
        let roots: Vec<PathBuf> = self.roots.iter().map(|(root, _)| root.clone()).collect();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let event = match event {
                Ok(event) if event.kind.is_access() => return,
                other => other,
            };
            if event.is_ok_and(|event| event.kind.is_remove() && event.paths.iter().any(|path| roots.contains(path))) {
                heard.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            // Full: a look is due anyway.
            let _ = moved.try_send(());
        });
        watcher.inspect_err(|error| tracing::warn!(%error, "no watches; folders are looked at now and then")).ok()
    }
}
