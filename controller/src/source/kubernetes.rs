//! An API server as a source: every kind is listed and watched by a task of its own (`follow`), objects are read one by
//! one while they are parsed (`seen`), and `state` turns what comes into events. Which kinds the cluster has is asked now
//! and then (`discover`): Gateway API's and the mesh's own may come and go.
//!
//! While the API server cannot be reached, what is known stays in force.

mod discover;
mod follow;
mod kinds;
mod seen;
mod state;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::Client;
use mesh_api::sys::Sys;
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
};

use self::{
    discover::{Known, look},
    follow::{Follower, follow},
    state::{State, Step},
};
use super::Event;
use crate::{conditions::Board, telemetry::Telemetry};

/// What watches brought and was not looked at yet.
const WAITING: usize = 256;

/// How an API server is read.
pub struct Options {
    /// To it.
    pub client: Client,
    /// How often to ask which kinds it has.
    pub discovery: Duration,
    /// Clock and randomness.
    pub sys: Sys,
    /// Where to count.
    pub telemetry: Arc<Telemetry>,
    /// Where the statuses of objects are put.
    pub board: Arc<Board>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("discovery", &self.discovery).finish_non_exhaustive()
    }
}

/// What the source's tasks bring.
enum Brought {
    /// A watch of a kind.
    Step(usize, Step),
    /// Which kinds there are.
    Served(Known),
}

/// Watches an API server and sends what changes, until the receiver is gone.
///
/// # Errors
/// Where a task of the source panicked: it is a fault of this program, and the caller should end with it.
pub async fn watch(options: Options, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let Options { client, discovery, sys, telemetry, board } = options;
    let (brought, mut bringing) = mpsc::channel(WAITING);
    let hurry = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(look(client.clone(), discovery, hurry.clone(), telemetry.clone(), brought.clone()));
    let follower = Follower { client, sys, telemetry, brought, hurry };
    let mut running: BTreeMap<usize, (&'static str, AbortHandle)> = BTreeMap::new();
    let mut state = State::new(board);
    loop {
        let told = tokio::select! {
            () = events.closed() => return Ok(()),
            Some(ended) = tasks.join_next() => match ended {
                // A kind that is not there any more.
                Err(error) if error.is_cancelled() => continue,
                Err(error) => return Err(error.into()),
                Ok(()) => continue,
            },
            Some(brought) = bringing.recv() => match brought {
                // What was on its way when its watch was ended.
                Brought::Step(kind, _) if !running.contains_key(&kind) => continue,
                Brought::Step(kind, step) => state.take(kind, step),
                Brought::Served(known) => {
                    rewatch(&known, &follower, &mut running, &mut tasks);
                    if !known.complete {
                        continue;
                    }
                    let there: Vec<bool> = known.served.iter().map(Option::is_some).collect();
                    state.serve(&there)
                }
            },
        };
        for event in told {
            if events.send(event).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Starts watches of kinds that came, and ends those of kinds that went or are served otherwise.
fn rewatch(
    known: &Known,
    follower: &Follower,
    running: &mut BTreeMap<usize, (&'static str, AbortHandle)>,
    tasks: &mut JoinSet<()>,
) {
    for (kind, version) in known.served.iter().enumerate() {
        let name = kinds::KINDS.get(kind).map_or("", |kind| kind.name);
        follower.telemetry.watch(name).served.set(if version.is_some() { 1.0 } else { 0.0 });
        if running.get(&kind).map(|(version, _)| *version) == *version {
            continue;
        }
        if let Some((_, task)) = running.remove(&kind) {
            task.abort();
        }
        tracing::info!(
            kind = name,
            version,
            "the cluster {} the kind",
            if version.is_some() { "has" } else { "has not" }
        );
        if let Some(version) = version {
            let task = tasks.spawn(follow(kind, version, follower.clone()));
            running.insert(kind, (*version, task));
        }
    }
}
