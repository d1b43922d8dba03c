//! What the runner has to say while it works. It never waits for whoever listens: what cannot be handed on is dropped
//! and counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc;

use crate::io::Tone;

/// Notices that may wait to be shown.
const WAITING: usize = 1024;

/// One line about something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// What it means.
    pub tone: Tone,
    /// The line.
    pub text: String,
}

/// Takes notices. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Reporter {
    to: mpsc::Sender<Notice>,
    dropped: Arc<AtomicU64>,
}

/// Gives notices.
#[derive(Debug)]
pub struct Notices {
    from: mpsc::Receiver<Notice>,
    dropped: Arc<AtomicU64>,
}

/// Both ends.
#[must_use]
pub fn reporter() -> (Reporter, Notices) {
    let (to, from) = mpsc::channel(WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    (Reporter { to, dropped: Arc::clone(&dropped) }, Notices { from, dropped })
}

impl Reporter {
    /// Something happened.
    pub fn say(&self, tone: Tone, text: impl Into<String>) {
        if self.to.try_send(Notice { tone, text: text.into() }).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Notices {
    /// The next one; `None` once nothing can happen any more.
    pub async fn next(&mut self) -> Option<Notice> {
        self.from.recv().await
    }

    /// The next one that is there already.
    pub fn ready(&mut self) -> Option<Notice> {
        let lost = self.dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            return Some(Notice { tone: Tone::Warn, text: format!("{lost} lines left out: output is too slow") });
        }
        self.from.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_listener_loses_lines_and_is_told() {
        let (reporter, mut notices) = reporter();
        for n in 0..WAITING + 5 {
            reporter.say(Tone::Plain, n.to_string());
        }
        assert_eq!(notices.ready().unwrap().text, "5 lines left out: output is too slow");
        assert_eq!(notices.next().await.unwrap().text, "0");
    }
}
