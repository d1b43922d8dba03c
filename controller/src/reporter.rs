//! Writes what is wrong with objects into their status, where their authors look: the leader only, and only what differs
//! from what is there. Floor 5: imports `serve`, `conditions`.
//!
//! It never waits for its own writes: they come back as changes of the objects, and then nothing differs any more. Who
//! fights over a status with another writer is slowed down, object by object.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Error as KubeError,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
};
use mesh_api::{
    backoff::Backoff,
    model::ObjectRef,
    names,
    resources::{KINDS, schema},
    sys::Sys,
};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use crate::{
    conditions::{Board, Observed, patch},
    problem::Problem,
    serve::Hub,
    telemetry::{StatusWrite, Telemetry},
};

/// How often to look whether anything changed. Everything that changes in between is one look.
const LOOK: Duration = Duration::from_secs(1);
/// Most writes of one look: the rest waits for the next one.
const MAX_WRITES: usize = 50;
/// An object that was written is not written again for this long; twice as long each time, where that is soon after.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(120);
/// After a failure that is not about one object, nothing is written for this long, twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What reporting needs.
pub struct Reporter {
    /// What is known, and what is wrong with it.
    pub hub: Arc<Hub>,
    /// What the API server holds.
    pub board: Arc<Board>,
    /// To it.
    pub client: Client,
    /// Whether this replica is the one that writes.
    pub leader: watch::Receiver<bool>,
    /// Clock and randomness.
    pub sys: Sys,
    /// Where to count.
    pub telemetry: Arc<Telemetry>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").finish_non_exhaustive()
    }
}

/// When an object was written, and when it may be again.
#[derive(Clone, Copy, Debug)]
struct Written {
    at: Instant,
    wait: Duration,
}

impl Reporter {
    /// Reports for as long as anybody leads.
    pub async fn run(mut self) {
        let mut synced = self.hub.synced();
        if synced.wait_for(|synced| *synced).await.is_err() {
            return std::future::pending().await;
        }
        let mut written: HashMap<ObjectRef, Written> = HashMap::new();
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        loop {
            // Whoever becomes the leader looks at everything.
            if self.leader.wait_for(|leads| *leads).await.is_err() {
                return std::future::pending().await;
            }
            let mut done = None;
            while *self.leader.borrow() {
                let now = (self.hub.revision(), self.board.revision());
                if done != Some(now) {
                    match self.look(&mut written).await {
                        Ok(true) => done = Some(now),
                        Ok(false) => {}
                        Err(error) => {
                            let wait = self.sys.entropy.jitter(backoff.next_wait(u32::MAX));
                            tracing::warn!(%error, ?wait, "statuses cannot be written; nothing else depends on them");
                            tokio::time::sleep(wait).await;
                            continue;
                        }
                    }
                    backoff.reset();
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// Writes what differs; true where nothing is left to do.
    async fn look(&self, written: &mut HashMap<ObjectRef, Written>) -> Result<bool, KubeError> {
        let now = Instant::now();
        written.retain(|_, last| last.at + last.wait * 2 > now);
        let (mut complete, mut count) = (true, 0);
        for (object, observed, status) in self.due() {
            let early = written.get(&object).is_some_and(|last| last.at + last.wait > now);
            if early || count >= MAX_WRITES || !*self.leader.borrow() {
                complete = false;
                continue;
            }
            count += 1;
            let wait = written.get(&object).map_or(SHORTEST, |last| (last.wait * 2).min(LONGEST));
            written.insert(object.clone(), Written { at: Instant::now(), wait });
            match self.write(&object, &observed, &status).await {
                Ok(now) => {
                    self.telemetry.status_writes(StatusWrite::Written).increment(1);
                    self.board.replace(&object, now);
                }
                // Written by somebody else meanwhile, or gone: what is there now is on its way here.
                Err(KubeError::Api(status)) if matches!(status.code, 404 | 409) => {
                    self.telemetry.status_writes(StatusWrite::Conflict).increment(1);
                    complete = false;
                }
                // This object's own fault; others may be well.
                Err(KubeError::Api(status)) if matches!(status.code, 400 | 422) => {
                    self.telemetry.status_writes(StatusWrite::Failed).increment(1);
                    tracing::warn!(%object, version = observed.version, %status, "a status was refused");
                    complete = false;
                }
                Err(error) => {
                    self.telemetry.status_writes(StatusWrite::Failed).increment(1);
                    return Err(error);
                }
            }
        }
        Ok(complete)
    }

    /// Every object whose status is not what it should be.
    fn due(&self) -> Vec<(ObjectRef, Observed, Value)> {
        let problems = self.hub.problems();
        let mut by_object: BTreeMap<&ObjectRef, Vec<&Problem>> = BTreeMap::new();
        for problem in &problems {
            if let Some(object) = &problem.object {
                by_object.entry(object).or_default().push(problem);
            }
        }
        let unread = self.hub.unread();
        let seconds = i64::try_from(self.sys.clock.unix().as_secs()).unwrap_or_default();
        let now = Timestamp::from_second(seconds).unwrap_or_default().to_string();
        let due = |(object, observed): (ObjectRef, Observed)| {
            // What was not taken over yet is not judged yet; what cannot be read never will be.
            let judged = self.hub.with_index(|index| index.generation(&object));
            if judged != Some(observed.generation) && !unread.contains(&object) {
                return None;
            }
            let about = by_object.get(&object).map(Vec::as_slice).unwrap_or_default();
            let status = patch(&object, &observed, about, &now)?;
            Some((object, observed, status))
        };
        self.board.all().into_iter().filter_map(due).collect()
    }

    async fn write(&self, object: &ObjectRef, observed: &Observed, status: &Value) -> Result<Observed, KubeError> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &object.namespace, &resource(&object.kind, observed));
        let params =
            PatchParams { field_manager: Some(names::CONTROLLER_ACCOUNT.to_owned()), ..PatchParams::default() };
        let written = api.patch_status(&object.name, &params, &Patch::Merge(status)).await?;
        Ok(Observed::read(&serde_json::to_value(&written).map_err(KubeError::SerdeError)?))
    }
}

/// How a kind with a status is asked for: in the version in which it is read.
fn resource(kind: &str, observed: &Observed) -> ApiResource {
    let group = KINDS.iter().find(|(_, name)| *name == kind).map_or("", |(group, _)| group);
    let usual = if group == names::GROUP { "v1alpha1" } else { "v1" };
    let version = observed.api_version.rsplit_once('/').map_or(usual, |(_, version)| version);
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: format!("{group}/{version}"),
        kind: kind.to_owned(),
        plural: schema::plural(kind),
    }
}
