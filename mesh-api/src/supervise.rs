//! Tasks whose end is noticed: where one that should run for ever ends or panics, the process ends with its name.
//! Floor 0.

use std::future::Future;

use tokio::task::{JoinError, JoinSet};

/// A group of tasks that should all run until the process stops. Dropping it ends them.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<(&'static str, Result<(), String>)>,
}

/// A task that should have run for ever did not. The process should end: what it would still do is only half of it.
#[derive(Debug, thiserror::Error)]
pub enum TaskEnded {
    /// It returned.
    #[error("the task `{0}` ended")]
    Returned(&'static str),
    /// It failed.
    #[error("the task `{0}` failed: {1}")]
    Failed(&'static str, String),
    /// It panicked.
    #[error("a task panicked: {0}")]
    Panicked(JoinError),
}

impl Supervisor {
    /// An empty group.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that has no failure of its own.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(async move {
            task.await;
            (name, Ok(()))
        });
    }

    /// Starts a task that can fail.
    pub fn spawn_fallible<E: std::fmt::Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, task.await.map_err(|error| format!("{error:#}"))) });
    }

    /// Waits until the first task ends; for ever where there is none.
    pub async fn first_end(&mut self) -> TaskEnded {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok((name, Ok(())))) => TaskEnded::Returned(name),
            Some(Ok((name, Err(why)))) => TaskEnded::Failed(name, why),
            Some(Err(panic)) => TaskEnded::Panicked(panic),
        }
    }
}

/// Completes at SIGTERM or SIGINT. Where the handlers cannot be set, never.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_end_is_named() {
        let mut group = Supervisor::new();
        group.spawn("stays", std::future::pending());
        group.spawn_fallible("goes", async { Err::<(), _>("out of luck") });
        assert_eq!(group.first_end().await.to_string(), "the task `goes` failed: out of luck");
        group.spawn("breaks", async { panic!("on purpose") });
        assert!(matches!(group.first_end().await, TaskEnded::Panicked(_)));
    }
}
