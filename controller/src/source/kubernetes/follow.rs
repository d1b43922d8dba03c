//! Follows one kind: lists it, watches it, and begins again when something breaks, for as long as anybody listens.

use std::{pin::Pin, sync::Arc, time::Duration};

use kube::{
    Api, Client, Error as KubeError,
    core::ApiResource,
    runtime::watcher::{self, Event as Watched, watcher},
};
use mesh_api::{backoff::Backoff, sys::Sys};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tokio_stream::{Stream, StreamExt as _};

use super::{Brought, kinds::KINDS, seen::Seen, state::Step};
use crate::telemetry::{Telemetry, WatchMetrics};

/// Between two tries.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// Without a fault for this long, the next wait is short again.
const CALM: Duration = Duration::from_secs(60);
/// A page of a list takes at most this long.
const PAGE: Duration = Duration::from_secs(60);
/// After this many failures in a row a watch is begun anew, with a list: what an API server answers to a watch is read as
/// events, whatever it is, and only a list tells what it means.
const MAX_FAILURES: u32 = 3;
/// A watch that was taken up again and has not failed for this long is up: it tells nothing while nothing changes.
const QUIET: Duration = Duration::from_secs(35);
/// The API server ends a watch after this many seconds, to be taken up where it ended. One that is dead without a word is
/// noticed soon after.
const WATCH: u32 = 90;

/// What every follower needs.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) client: Client,
    pub(super) sys: Sys,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) brought: mpsc::Sender<Brought>,
    /// Told where the API server may not know the kind any more.
    pub(super) hurry: Arc<Notify>,
}

/// A watch of some kind.
type Watch<const KIND: usize> = Pin<Box<dyn Stream<Item = watcher::Result<Watched<Seen<KIND>>>> + Send>>;

/// Follows the kind with this number in [`KINDS`].
pub(super) async fn follow(kind: usize, version: &str, follower: Follower) {
    let Some(resource) = KINDS.get(kind).map(|kind| kind.resource(version)) else { return };
    match kind {
        0 => follower.run::<0>(resource).await,
        1 => follower.run::<1>(resource).await,
        2 => follower.run::<2>(resource).await,
        3 => follower.run::<3>(resource).await,
        4 => follower.run::<4>(resource).await,
        5 => follower.run::<5>(resource).await,
        6 => follower.run::<6>(resource).await,
        7 => follower.run::<7>(resource).await,
        8 => follower.run::<8>(resource).await,
        _ => {}
    }
}

/// How one watch ended.
enum End {
    /// Nobody listens.
    Unheard,
    /// It is to be begun anew, with a list.
    Anew,
}

impl Follower {
    async fn run<const KIND: usize>(self, resource: ApiResource) {
        let metrics = self.telemetry.watch(KINDS.get(KIND).map_or("", |kind| kind.name));
        let mut waits = Waits { backoff: Backoff::new(SHORTEST, LONGEST), last: None };
        let api: Api<Seen<KIND>> = Api::all_with(self.client.clone(), &resource);
        let config = watcher::Config::default().timeout(WATCH);
        let fields = KINDS.get(KIND).map_or("", |kind| kind.fields);
        let config = if fields.is_empty() { config } else { config.fields(fields) };
        loop {
            let watch = Box::pin(watcher(api.clone(), config.clone()));
            if let End::Unheard = self.watch(watch, &metrics, &mut waits).await {
                return;
            }
        }
    }

    async fn watch<const KIND: usize>(&self, mut watch: Watch<KIND>, metrics: &WatchMetrics, waits: &mut Waits) -> End {
        let kind = KINDS.get(KIND).map_or("", |kind| kind.name);
        let (mut listing, mut up, mut failures) = (true, false, 0);
        loop {
            let next = match (listing, up) {
                (true, _) => timeout(PAGE, watch.next()).await,
                (false, false) => timeout(QUIET, watch.next()).await,
                (false, true) => Ok(watch.next().await),
            };
            let step = match next {
                Ok(Some(Ok(event))) => {
                    listing = matches!(event, Watched::Init | Watched::InitApply(_));
                    match event {
                        Watched::Init => {
                            metrics.lists.increment(1);
                            Step::Listing
                        }
                        Watched::InitApply(seen) | Watched::Apply(seen) => Step::Seen(Box::new(seen.into_body())),
                        Watched::Delete(seen) => Step::Gone(Box::new(seen.into_body())),
                        Watched::InitDone => Step::Listed,
                    }
                }
                Ok(Some(Err(error))) => {
                    up = false;
                    failures += 1;
                    metrics.up.set(0.0);
                    metrics.errors.increment(1);
                    // Perhaps the cluster has not got the kind any more.
                    self.hurry.notify_one();
                    let wait = waits.next(&self.sys);
                    tracing::warn!(kind, %error, ?wait, "a watch failed; what is known stays in force");
                    tokio::time::sleep(wait).await;
                    // A version that is too old is told in the stream or as the answer; the watcher knows the former.
                    if code(&error) == Some(410) || failures >= MAX_FAILURES {
                        return End::Anew;
                    }
                    continue;
                }
                Ok(None) => return End::Anew,
                Err(_) if !listing => {
                    up = true;
                    metrics.up.set(1.0);
                    continue;
                }
                Err(_) => {
                    metrics.up.set(0.0);
                    metrics.errors.increment(1);
                    tracing::warn!(kind, waited = ?PAGE, "a list does not come; what is known stays in force");
                    return End::Anew;
                }
            };
            (up, failures) = (!listing, 0);
            metrics.up.set(if up { 1.0 } else { 0.0 });
            if self.brought.send(Brought::Step(KIND, step)).await.is_err() {
                return End::Unheard;
            }
        }
    }
}

/// Waits between tries.
struct Waits {
    backoff: Backoff,
    last: Option<Instant>,
}

impl Waits {
    fn next(&mut self, sys: &Sys) -> Duration {
        if self.last.replace(Instant::now()).is_some_and(|last| last.elapsed() > CALM) {
            self.backoff.reset();
        }
        // Jittered once more, for the replicas lost the API server at the same moment.
        sys.entropy.jitter(self.backoff.next_wait(u32::MAX))
    }
}

/// HTTP status of a failure.
fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error;
    match error {
        Error::InitialListFailed(KubeError::Api(status))
        | Error::WatchStartFailed(KubeError::Api(status))
        | Error::WatchFailed(KubeError::Api(status)) => Some(status.code),
        Error::WatchError(status) => Some(status.code),
        _ => None,
    }
}
