//! What one stream watches and was sent: the part of a stream that decides. No wait, no channel.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use mesh_api::{
    convert::{delta_to_proto, destination_to_proto, inbound_to_proto},
    proto::{self, watch_request::Message, watch_response::Body},
};
use tonic::Status;

use super::{
    answer::{Key, Reply, Sent, decide},
    hub::{Hub, Registration, Who},
};
use crate::{status::cut, telemetry::MessageKind};

/// Answers to keys that cannot be watched, waiting for room. While there are so many, nothing more is read.
const MAX_REJECTED: usize = 64;
/// Longest key, in bytes.
const MAX_KEY: usize = 300;
/// Longest version, in bytes.
const MAX_VERSION: usize = 128;

pub(super) struct Session {
    hub: Arc<Hub>,
    registration: Registration,
    who: Who,
    sent: HashMap<Key, Sent>,
    /// Keys to look at, each once, in the order of their turn: one that changes all the time starves no other.
    queue: VecDeque<Key>,
    queued: HashSet<Key>,
    rejected: VecDeque<proto::WatchResponse>,
}

impl Session {
    pub(super) fn new(hub: Arc<Hub>, registration: Registration, who: Who) -> Self {
        let (sent, queued) = (HashMap::new(), HashSet::new());
        Self { hub, registration, who, sent, queue: VecDeque::new(), queued, rejected: VecDeque::new() }
    }

    /// True where there may be something to send.
    pub(super) fn has_work(&self) -> bool {
        !self.queue.is_empty() || !self.rejected.is_empty()
    }

    /// True where one more message of the proxy can be taken.
    pub(super) fn has_room(&self) -> bool {
        self.rejected.len() < MAX_REJECTED
    }

    /// Waits until something that is watched may have changed.
    pub(super) async fn changed(&self) {
        self.registration.mailbox().filled().await;
    }

    /// Takes over what may have changed.
    pub(super) fn collect(&mut self) {
        for key in self.registration.mailbox().take() {
            if self.sent.contains_key(&key) {
                self.enqueue(key);
            }
        }
    }

    /// Takes one message of the proxy.
    pub(super) fn take(&mut self, message: Option<Message>) -> Result<(), Status> {
        match message {
            Some(Message::Subscribe(subscribe)) => self.subscribe(subscribe),
            Some(Message::Unsubscribe(unsubscribe)) => self.unsubscribe(unsubscribe.key),
            Some(Message::Ack(ack)) => self.ack(ack),
            Some(Message::Nack(nack)) => self.nack(nack),
            Some(Message::Hello(_)) => Err(Status::invalid_argument("hello stands at the beginning, once")),
            // Of a newer proxy; what it cannot do without, it notices by the missing answer.
            None => Ok(()),
        }
    }

    fn subscribe(&mut self, subscribe: proto::Subscribe) -> Result<(), Status> {
        let key = match read_key(subscribe.key.as_ref())? {
            Ok(key) => key,
            Err(reason) => return self.reject(subscribe.key, reason),
        };
        let most = self.hub.limits().subscriptions;
        if !self.sent.contains_key(&key) && self.sent.len() >= most {
            let reason = format!("this stream watches {most} keys already; unsubscribe from some first");
            return self.reject(subscribe.key, reason);
        }
        self.registration.watch(&key, &self.who);
        let claimed = if subscribe.version.len() > MAX_VERSION { "" } else { subscribe.version.as_str() };
        self.sent.insert(key.clone(), Sent::Claimed(claimed.into()));
        self.enqueue(key);
        Ok(())
    }

    fn reject(&mut self, key: Option<proto::Key>, reason: String) -> Result<(), Status> {
        let body = Some(Body::NotFound(proto::NotFound { reason }));
        self.rejected.push_back(proto::WatchResponse { key, version: String::new(), body });
        Ok(())
    }

    fn unsubscribe(&mut self, key: Option<proto::Key>) -> Result<(), Status> {
        if let Ok(key) = read_key(key.as_ref())? {
            self.registration.unwatch(&key);
            self.sent.remove(&key);
            if self.queued.remove(&key) {
                self.queue.retain(|queued| *queued != key);
            }
        }
        Ok(())
    }

    fn ack(&mut self, ack: proto::Ack) -> Result<(), Status> {
        if let Ok(key) = read_key(ack.key.as_ref())? {
            self.hub.telemetry().acks.increment(1);
            self.registration.entry().acked(&key.to_string(), cut(&ack.version, MAX_VERSION));
        }
        Ok(())
    }

    fn nack(&mut self, nack: proto::Nack) -> Result<(), Status> {
        if let Ok(key) = read_key(nack.key.as_ref())? {
            let version = cut(&nack.version, MAX_VERSION);
            self.hub.telemetry().nacks.increment(1);
            let (workload, reason) = (&self.who.workload, cut(&nack.reason, 256));
            tracing::warn!(%workload, %key, version, reason, "a proxy refused a version and keeps what it had");
            self.registration.entry().refused(&key.to_string(), version, &nack.reason, self.hub.clock().now());
            if let Some(sent) = self.sent.get_mut(&key) {
                sent.refused();
            }
        }
        Ok(())
    }

    fn enqueue(&mut self, key: Key) {
        if self.queued.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    /// Looks at the next key; `None` where there is nothing new about it.
    pub(super) fn next(&mut self) -> Option<proto::WatchResponse> {
        if let Some(rejected) = self.rejected.pop_front() {
            self.hub.telemetry().messages(MessageKind::NotFound).increment(1);
            return Some(rejected);
        }
        let key = self.queue.pop_front()?;
        self.queued.remove(&key);
        let sent = self.sent.get_mut(&key)?;
        let answer = self.hub.answer(&key, &self.who);
        let reply = decide(sent, &answer)?;
        *sent = Sent::after(&answer);
        let (kind, version, body) = to_wire(reply);
        self.hub.telemetry().messages(kind).increment(1);
        self.registration.entry().sent(&key.to_string(), &version, self.hub.clock().now());
        Some(proto::WatchResponse { key: Some(write_key(&key)), version, body: Some(body) })
    }
}

/// The outer error ends the stream, the inner one is answered.
fn read_key(key: Option<&proto::Key>) -> Result<Result<Key, String>, Status> {
    match key.and_then(|key| key.key.as_ref()) {
        Some(proto::key::Key::Inbound(_)) => Ok(Ok(Key::Inbound)),
        Some(proto::key::Key::Destination(text)) if text.len() > MAX_KEY => {
            Err(Status::invalid_argument(format!("a destination has at most {MAX_KEY} bytes")))
        }
        Some(proto::key::Key::Destination(text)) => {
            Ok(text.parse().map(Key::Destination).map_err(|error: mesh_api::model::TargetError| error.to_string()))
        }
        None => Err(Status::invalid_argument("a key is missing, or of a kind that is not known here")),
    }
}

/// Keys go back in their canonical form: `NAME.NAMESPACE.svc:PORT` or `IP:PORT`.
fn write_key(key: &Key) -> proto::Key {
    let key = match key {
        Key::Inbound => proto::key::Key::Inbound(true),
        Key::Destination(target) => proto::key::Key::Destination(target.to_string()),
    };
    proto::Key { key: Some(key) }
}

fn to_wire(reply: Reply) -> (MessageKind, String, Body) {
    match reply {
        Reply::Destination(now) => {
            (MessageKind::Full, now.version.to_string(), Body::Destination(destination_to_proto(&now.value)))
        }
        Reply::Delta { base, delta, version } => {
            (MessageKind::Delta, version.to_string(), Body::Delta(delta_to_proto(&delta, &base)))
        }
        Reply::Inbound(now) => {
            (MessageKind::Inbound, now.version.to_string(), Body::Inbound(inbound_to_proto(&now.value)))
        }
        Reply::Current(version) => (MessageKind::Current, version.to_string(), Body::Current(proto::Current {})),
        Reply::NotFound(reason) => (MessageKind::NotFound, String::new(), Body::NotFound(proto::NotFound { reason })),
    }
}
