//! Who watches what, and the mailboxes.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::answer::Key;
use crate::index::{Dirty, Topic};

/// Names one stream for as long as the process lives.
pub(super) type StreamId = u64;

/// Keys of one stream to look at again. Holds each key once, so it is bounded by the stream's subscriptions.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    keys: Mutex<HashSet<Key>>,
    notify: Notify,
}

impl Mailbox {
    /// Waits until something may be there.
    pub(super) async fn filled(&self) {
        self.notify.notified().await;
    }

    /// Empties it.
    pub(super) fn take(&self) -> HashSet<Key> {
        std::mem::take(&mut self.keys.lock())
    }

    fn put(&self, key: &Key) {
        self.keys.lock().insert(key.clone());
        self.notify.notify_one();
    }
}

/// By topic, who must look again when it is dirty.
#[derive(Debug, Default)]
pub(super) struct Watchers {
    mailboxes: HashMap<StreamId, Arc<Mailbox>>,
    topics: HashMap<Topic, HashSet<(StreamId, Key)>>,
}

impl Watchers {
    pub(super) fn join(&mut self, id: StreamId, mailbox: Arc<Mailbox>) {
        self.mailboxes.insert(id, mailbox);
    }

    pub(super) fn leave<'a>(&mut self, id: StreamId, watched: impl Iterator<Item = (&'a Key, &'a Topic)>) {
        for (key, topic) in watched {
            self.unwatch(id, key, topic);
        }
        self.mailboxes.remove(&id);
    }

    pub(super) fn watch(&mut self, id: StreamId, key: Key, topic: &Topic) {
        self.topics.entry(topic.clone()).or_default().insert((id, key));
    }

    pub(super) fn unwatch(&mut self, id: StreamId, key: &Key, topic: &Topic) {
        if let Some(watching) = self.topics.get_mut(topic) {
            watching.remove(&(id, key.clone()));
            if watching.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Tells everybody who watches one of the topics.
    pub(super) fn tell(&self, dirty: &Dirty) {
        for (id, key) in dirty.topics().filter_map(|topic| self.topics.get(topic)).flatten() {
            if let Some(mailbox) = self.mailboxes.get(id) {
                mailbox.put(key);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.mailboxes.is_empty() && self.topics.is_empty()
    }
}
