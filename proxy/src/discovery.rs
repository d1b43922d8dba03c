//! What the proxy knows of the mesh: only what it was asked for. Floor 3: imports `config` and `telemetry`.
//!
//! One stream to the controller carries every subscription. The last known state stays in force while it is away, for
//! old connections and new ones alike; a stream that comes back says what is held and gets what differs.

mod client;
mod store;

pub use client::{Client, Connection};
pub use store::Held;

use std::sync::Arc;

use mesh_api::model::{Target, destination::Destination, policy::InboundPolicy};
use tokio::sync::{mpsc, oneshot, watch};

/// What is known of one thing.
#[derive(Debug)]
pub enum State<T> {
    /// The controller has not answered yet.
    Waiting,
    /// It is this.
    Known(Arc<T>),
    /// There is no such thing, or it is not for this proxy to know.
    Missing(Arc<str>),
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Waiting => Self::Waiting,
            Self::Known(value) => Self::Known(Arc::clone(value)),
            Self::Missing(reason) => Self::Missing(Arc::clone(reason)),
        }
    }
}

/// Follows one thing. While somebody holds it, the subscription lives.
pub type Follow<T> = watch::Receiver<State<T>>;

/// Asks the client; for every thread.
#[derive(Clone, Debug)]
pub struct Discovery {
    commands: mpsc::Sender<Command>,
    inbound: Follow<InboundPolicy>,
}

#[derive(Debug)]
enum Command {
    Follow(Target, oneshot::Sender<Option<Follow<Destination>>>),
    Dump(oneshot::Sender<Vec<Held>>),
}

impl Discovery {
    /// Follows a destination. `None` where too many are followed already, or the proxy stops.
    pub async fn follow(&self, target: Target) -> Option<Follow<Destination>> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Follow(target, answer)).await.ok()?;
        answered.await.ok()?
    }

    /// Follows the policy of the own workload.
    #[must_use]
    pub fn inbound(&self) -> Follow<InboundPolicy> {
        self.inbound.clone()
    }

    /// What is held now, for the admin server.
    pub async fn dump(&self) -> Vec<Held> {
        let (answer, answered) = oneshot::channel();
        if self.commands.send(Command::Dump(answer)).await.is_err() {
            return Vec::new();
        }
        answered.await.unwrap_or_default()
    }
}
