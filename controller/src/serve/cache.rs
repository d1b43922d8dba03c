//! Answers that streams share. An entry lives exactly as long as some stream remembers having sent it, so the cache
//! needs no eviction and never holds what nobody watches.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use mesh_api::model::{Target, destination::Destination};

use super::answer::Snapshot;
use crate::{
    index::{Dirty, Topic},
    resolve::Scope,
};

/// Most entries, dead ones included; beyond that answers are worked out for each stream.
const MAX_ENTRIES: usize = 100_000;

/// Answers of one topic.
type Entries = HashMap<(Target, Scope), Weak<Snapshot<Destination>>>;

#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Topic, Entries>,
    count: usize,
    sweep_at: usize,
    epoch: u64,
}

impl Cache {
    /// Changes with every commit: an answer may be put only in the epoch in which it was worked out.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(super) fn get(&self, target: &Target, scope: &Scope) -> Option<Arc<Snapshot<Destination>>> {
        // The two clones are cheap: names are shared.
        self.entries.get(&Topic::of_target(target))?.get(&(target.clone(), scope.clone()))?.upgrade()
    }

    pub(super) fn put(&mut self, epoch: u64, target: &Target, scope: Scope, snapshot: &Arc<Snapshot<Destination>>) {
        if self.count >= self.sweep_at {
            self.sweep();
        }
        if epoch != self.epoch || self.count >= MAX_ENTRIES {
            return;
        }
        let entries = self.entries.entry(Topic::of_target(target)).or_default();
        if entries.insert((target.clone(), scope), Arc::downgrade(snapshot)).is_none() {
            self.count += 1;
        }
    }

    pub(super) fn invalidate(&mut self, dirty: &Dirty) {
        self.epoch += 1;
        for topic in dirty.topics() {
            if let Some(gone) = self.entries.remove(topic) {
                self.count -= gone.len();
            }
        }
    }

    /// Drops what nobody remembers; at most once for each doubling.
    fn sweep(&mut self) {
        self.entries.retain(|_, entries| {
            entries.retain(|_, snapshot| snapshot.strong_count() > 0);
            !entries.is_empty()
        });
        self.count = self.entries.values().map(HashMap::len).sum();
        self.sweep_at = (self.count * 2).clamp(64, MAX_ENTRIES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{SHOP, client, index, target};

    fn snapshot() -> Arc<Snapshot<Destination>> {
        let value = crate::resolve::destination(&index(SHOP), &target("web.shop:80"), &client("shop")).unwrap();
        Arc::new(Snapshot { version: "v".into(), value })
    }

    #[test]
    fn lives_as_long_as_it_is_remembered_and_no_longer_than_it_is_true() {
        let mut cache = Cache::default();
        let (kept, web) = (snapshot(), target("web.shop:80"));
        cache.put(cache.epoch(), &web, Scope::Shared, &kept);
        assert!(cache.get(&web, &Scope::Shared).is_some());
        assert!(cache.get(&web, &Scope::Namespace("front".into())).is_none());
        let mut index = index(SHOP);
        let old = cache.epoch();
        let gone = crate::fixtures::object_ref("ExternalWorkload", "shop", "web-1");
        cache.invalidate(&index.delete(&gone));
        assert!(cache.get(&web, &Scope::Shared).is_none());
        cache.put(old, &web, Scope::Shared, &kept);
        assert!(cache.get(&web, &Scope::Shared).is_none(), "worked out before the change");
        for port in 1..5000 {
            let passing = snapshot_of(&kept);
            cache.put(cache.epoch(), &target(&format!("web.shop:{port}")), Scope::Shared, &passing);
        }
        assert!(cache.count <= 64, "{}", cache.count);
    }

    fn snapshot_of(other: &Snapshot<Destination>) -> Arc<Snapshot<Destination>> {
        Arc::new(Snapshot { version: other.version.clone(), value: other.value.clone() })
    }
}
