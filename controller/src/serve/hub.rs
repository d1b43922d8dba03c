//! The one place that streams and sources share: the index, who watches what, and the answers.
//!
//! Locks are held for look-ups and for working out one answer, never across a wait. They are taken in the order of the
//! fields of [`Hub`], or one at a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use mesh_api::{
    convert::{destination_to_proto, inbound_to_proto, version_of},
    model::{ObjectRef, Target, WorkloadId},
    resources::{CLUSTER_KINDS, KINDS},
    spiffe::SpiffeId,
    sys::Clock,
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Answer, Key, Snapshot},
    cache::Cache,
    watchers::{Mailbox, StreamId, Watchers},
};
use crate::{
    index::{Dirty, Index, Settings, Topic},
    problem::{Problem, Severity},
    resolve::{self, Client},
    review::review,
    source::Event,
    status::{Entry, Overview, ProxyStatus},
    telemetry::Telemetry,
};

/// Events that are taken over under one lock.
const BATCH: usize = 256;

/// Bounds of the service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Streams at once.
    pub streams: usize,
    /// Keys that one stream watches.
    pub subscriptions: usize,
    /// How long a proxy may take nothing while there is something to take.
    pub slow_reader: Duration,
    /// How long a proxy may take to introduce itself.
    pub hello: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 20_000,
            subscriptions: 4096,
            slow_reader: Duration::from_secs(30),
            hello: Duration::from_secs(10),
        }
    }
}

/// Shared by the source's driver, every stream, and the admin server.
#[derive(Debug)]
pub struct Hub {
    index: RwLock<Index>,
    cache: Mutex<Cache>,
    watchers: Mutex<Watchers>,
    streams: Mutex<BTreeMap<StreamId, Arc<Entry>>>,
    source_problems: Mutex<Vec<Problem>>,
    synced: watch::Sender<bool>,
    closing: CancellationToken,
    next_stream: AtomicU64,
    revision: AtomicU64,
    telemetry: Arc<Telemetry>,
    limits: Limits,
    clock: Clock,
}

impl Hub {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(settings: Settings, limits: Limits, clock: Clock, telemetry: Arc<Telemetry>) -> Arc<Self> {
        Arc::new(Self {
            index: RwLock::new(Index::new(settings)),
            cache: Mutex::default(),
            watchers: Mutex::default(),
            streams: Mutex::default(),
            source_problems: Mutex::default(),
            synced: watch::Sender::new(false),
            closing: CancellationToken::new(),
            next_stream: AtomicU64::new(0),
            revision: AtomicU64::new(0),
            telemetry,
            limits,
            clock,
        })
    }

    /// Takes over what a source tells, for as long as it tells.
    pub async fn drive(&self, mut events: mpsc::Receiver<Event>) {
        let mut batch = Vec::with_capacity(BATCH);
        while events.recv_many(&mut batch, BATCH).await > 0 {
            self.commit(batch.drain(..));
        }
    }

    /// Takes over events, and tells the streams that watch what may have changed.
    pub fn commit(&self, events: impl IntoIterator<Item = Event>) {
        let started = Instant::now();
        let (mut dirty, mut synced, mut count) = (Dirty::default(), false, 0);
        let mut changed = false;
        {
            let mut index = self.index.write();
            let edition = index.edition();
            for event in events {
                match event {
                    Event::Apply(resource) => {
                        dirty.merge(index.apply(&resource));
                        count += 1;
                    }
                    Event::Delete(object) => {
                        dirty.merge(index.delete(&object));
                        count += 1;
                    }
                    Event::Problems(problems) => {
                        *self.source_problems.lock() = problems;
                        changed = true;
                    }
                    Event::Synced => synced = true,
                }
            }
            changed |= index.edition() != edition;
            self.cache.lock().invalidate(&dirty);
        }
        self.watchers.lock().tell(&dirty);
        if changed {
            self.revision.fetch_add(1, Ordering::Relaxed);
        }
        if synced {
            self.telemetry.synced.set(1.0);
            self.synced.send_replace(true);
        }
        self.telemetry.source_events.increment(count);
        self.telemetry.dirty_topics.increment(dirty.topics().count() as u64);
        self.telemetry.commit_duration.record(started.elapsed());
    }

    /// Grows with every commit after which something else may be wrong, or there may be more or fewer objects.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision.load(Ordering::Relaxed)
    }

    /// Ends every stream: the process is about to stop.
    pub fn close(&self) {
        self.closing.cancel();
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Becomes true when all that was there at the start is known.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Reads the index; keep it short.
    pub fn with_index<T>(&self, read: impl FnOnce(&Index) -> T) -> T {
        read(&self.index.read())
    }

    /// Every proxy that is connected, in the order of their coming.
    #[must_use]
    pub fn proxies(&self) -> Vec<ProxyStatus> {
        let entries: Vec<Arc<Entry>> = self.streams.lock().values().cloned().collect();
        entries.iter().map(|entry| entry.read()).collect()
    }

    /// Everything that is wrong, in the sources and with the objects.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let mut problems = self.source_problems.lock().clone();
        problems.extend(self.with_index(review));
        problems
    }

    /// Objects that the source cannot read as they are now.
    #[must_use]
    pub fn unread(&self) -> BTreeSet<ObjectRef> {
        self.source_problems.lock().iter().filter_map(|problem| problem.object.clone()).collect()
    }

    /// The state as a whole.
    #[must_use]
    pub fn overview(&self) -> Overview {
        let objects = self.with_index(Index::counts);
        let mut problems = BTreeMap::new();
        for problem in self.problems() {
            let severity = if problem.severity == Severity::Error { "errors" } else { "warnings" };
            *problems.entry(severity.to_owned()).or_default() += 1;
        }
        Overview {
            version: env!("CARGO_PKG_VERSION").into(),
            synced: *self.synced.borrow(),
            objects: objects.into_iter().map(|(kind, count)| (kind.to_string(), count)).collect(),
            proxies: self.streams.lock().len(),
            problems,
        }
    }

    /// Brings the metrics up to date that follow from the whole state.
    pub fn measure(&self) {
        let counts = self.with_index(Index::counts);
        for (_, kind) in KINDS.into_iter().chain(CLUSTER_KINDS) {
            self.telemetry.set_objects(kind, counts.get(kind).copied().unwrap_or_default());
        }
        let problems = self.problems();
        for severity in [Severity::Error, Severity::Warning] {
            let count = problems.iter().filter(|problem| problem.severity == severity).count();
            self.telemetry.problems(severity).set(u32::try_from(count).unwrap_or(u32::MAX));
        }
    }

    pub(super) fn telemetry(&self) -> &Telemetry {
        &self.telemetry
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// What is true now for a key of a proxy.
    pub(super) fn answer(&self, key: &Key, who: &Who) -> Answer {
        let started = Instant::now();
        let answer = match key {
            Key::Inbound => self.inbound(who),
            Key::Destination(target) => self.destination(target, &who.client),
        };
        self.telemetry.resolve_duration.record(started.elapsed());
        answer
    }

    fn destination(&self, target: &Target, client: &Client) -> Answer {
        let (scope, epoch, value) = {
            let index = self.index.read();
            let scope = match resolve::scope(&index, target, client) {
                Ok(scope) => scope,
                Err(missing) => return Answer::Missing(missing.to_string()),
            };
            let cache = self.cache.lock();
            if let Some(shared) = cache.get(target, &scope) {
                self.telemetry.snapshots_shared.increment(1);
                return Answer::Destination(shared);
            }
            let epoch = cache.epoch();
            drop(cache);
            match resolve::destination(&index, target, client) {
                Ok(value) => (scope, epoch, value),
                Err(missing) => return Answer::Missing(missing.to_string()),
            }
        };
        let version = version_of(&destination_to_proto(&value)).into();
        let snapshot = Arc::new(Snapshot { version, value });
        self.cache.lock().put(epoch, target, scope, &snapshot);
        Answer::Destination(snapshot)
    }

    /// Only the workload itself may know who may call it: namespace and service account must be those of the peer.
    fn inbound(&self, who: &Who) -> Answer {
        let found = self.with_index(|index| resolve::inbound(index, &who.workload));
        match found {
            Ok(value)
                if who.identity.namespace_account() == Ok((&*value.workload.namespace, &*value.service_account)) =>
            {
                let version = version_of(&inbound_to_proto(&value)).into();
                Answer::Inbound(Arc::new(Snapshot { version, value }))
            }
            Ok(_) => {
                Answer::Missing(format!("workload {} has another service account than {}", who.workload, who.identity))
            }
            Err(missing) => Answer::Missing(missing.to_string()),
        }
    }
}

/// Who is at the other end of a stream.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) client: Client,
    pub(super) workload: WorkloadId,
    pub(super) identity: SpiffeId,
}

/// A stream that is known to the hub. Dropping it leaves nothing behind.
#[derive(Debug)]
pub(super) struct Registration {
    hub: Arc<Hub>,
    id: StreamId,
    mailbox: Arc<Mailbox>,
    entry: Arc<Entry>,
    topics: BTreeMap<Key, Topic>,
}

/// There are as many streams as there may be.
#[derive(Debug)]
pub(super) struct Full;

impl Registration {
    pub(super) fn new(hub: &Arc<Hub>, status: ProxyStatus) -> Result<Self, Full> {
        let id = hub.next_stream.fetch_add(1, Ordering::Relaxed);
        let entry = Entry::new(status);
        {
            let mut streams = hub.streams.lock();
            if streams.len() >= hub.limits.streams {
                return Err(Full);
            }
            streams.insert(id, entry.clone());
        }
        let mailbox = Arc::new(Mailbox::default());
        hub.watchers.lock().join(id, mailbox.clone());
        hub.telemetry.streams.increment(1.0);
        Ok(Self { hub: hub.clone(), id, mailbox, entry, topics: BTreeMap::new() })
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// From here on, each change of the key's answer is told.
    pub(super) fn watch(&mut self, key: &Key, who: &Who) {
        let topic = match key {
            Key::Inbound => Topic::Workload(who.workload.clone()),
            Key::Destination(target) => Topic::of_target(target),
        };
        if self.topics.insert(key.clone(), topic.clone()).is_none() {
            self.hub.watchers.lock().watch(self.id, key.clone(), &topic);
            self.hub.telemetry.subscriptions.increment(1.0);
        }
        self.entry.watch(&key.to_string());
    }

    pub(super) fn unwatch(&mut self, key: &Key) {
        if let Some(topic) = self.topics.remove(key) {
            self.hub.watchers.lock().unwatch(self.id, key, &topic);
            self.hub.telemetry.subscriptions.decrement(1.0);
        }
        self.entry.unwatch(&key.to_string());
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.hub.watchers.lock().leave(self.id, self.topics.iter());
        self.hub.streams.lock().remove(&self.id);
        self.hub.telemetry.subscriptions.decrement(self.topics.len() as f64);
        self.hub.telemetry.streams.decrement(1.0);
    }
}

#[cfg(test)]
impl Hub {
    /// True where no stream has left anything behind.
    pub(super) fn is_idle(&self) -> bool {
        self.watchers.lock().is_empty() && self.streams.lock().is_empty()
    }
}
