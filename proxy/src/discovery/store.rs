//! What is held, by key and version, and what a message of the controller does to it: pure but for the channels that
//! carry the news on.

use std::{collections::HashMap, sync::Arc};

use mesh_api::{
    convert::{delta_from_proto, destination_from_proto, inbound_from_proto},
    model::{Target, destination::Destination, policy::InboundPolicy},
    proto::{self, watch_response::Body},
};
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use super::{Follow, State};

/// One thing that is followed.
struct Entry<T> {
    news: watch::Sender<State<T>>,
    version: String,
    /// Since when nobody follows it.
    idle_since: Option<Instant>,
}

impl<T> Entry<T> {
    fn new() -> Self {
        Self { news: watch::channel(State::Waiting).0, version: String::new(), idle_since: None }
    }

    fn known(&self) -> Option<Arc<T>> {
        match &*self.news.borrow() {
            State::Known(value) => Some(Arc::clone(value)),
            State::Waiting | State::Missing(_) => None,
        }
    }

    fn set(&mut self, version: String, state: State<T>) {
        self.version = version;
        self.news.send_replace(state);
    }
}

/// Everything that is followed.
pub(super) struct Store {
    destinations: HashMap<Target, Entry<Destination>>,
    inbound: Entry<InboundPolicy>,
    max: usize,
}

/// What to tell the controller after a message.
#[derive(Debug, PartialEq)]
pub(super) enum Reply {
    /// In force.
    Ack(proto::Ack),
    /// Not usable; what was there before stays in force.
    Nack(proto::Nack),
    /// Nothing is held, or the change does not fit what is: the whole is needed.
    Again(proto::Subscribe),
    /// Nobody follows that any more.
    Unsubscribe(proto::Unsubscribe),
}

/// What a message brought, for the counter.
pub(super) fn kind_of(body: Option<&Body>) -> &'static str {
    match body {
        Some(Body::Destination(_)) => "destination",
        Some(Body::Delta(_)) => "delta",
        Some(Body::Inbound(_)) => "inbound",
        Some(Body::NotFound(_)) => "not_found",
        Some(Body::Current(_)) => "current",
        None => "unknown",
    }
}

/// One thing that is held, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// What it is.
    pub key: String,
    /// Its version; empty where the controller has not answered yet.
    pub version: String,
    /// `waiting`, `known` or the reason why it is missing.
    pub state: String,
    /// By backend: endpoints ready, and all.
    pub backends: Vec<(String, usize, usize)>,
}

impl Store {
    pub(super) fn new(max: usize) -> Self {
        Self { destinations: HashMap::new(), inbound: Entry::new(), max }
    }

    /// Follows the own inbound policy.
    pub(super) fn follow_inbound(&self) -> Follow<InboundPolicy> {
        self.inbound.news.subscribe()
    }

    /// Follows a destination; with what the controller must be told. `None`: too many are in use.
    pub(super) fn follow(&mut self, target: &Target) -> Option<(Follow<Destination>, Vec<Reply>)> {
        if let Some(entry) = self.destinations.get_mut(target) {
            entry.idle_since = None;
            return Some((entry.news.subscribe(), Vec::new()));
        }
        let mut tell = Vec::new();
        if self.destinations.len() >= self.max {
            // Whatever nobody uses makes room, what does not exist first: a scan must not shut out real destinations.
            let unused = self.destinations.iter().filter(|(_, entry)| entry.news.receiver_count() == 0);
            let (gone, _) = unused
                .min_by_key(|(_, entry)| (entry.known().is_some(), entry.idle_since.is_none(), entry.idle_since))?;
            let gone = gone.clone();
            self.destinations.remove(&gone);
            tell.push(Reply::Unsubscribe(proto::Unsubscribe { key: Some(key_of(&gone)) }));
        }
        let entry = self.destinations.entry(target.clone()).or_insert_with(Entry::new);
        tell.push(Reply::Again(subscribe(target, "")));
        Some((entry.news.subscribe(), tell))
    }

    /// A subscription for everything, with what is held of it.
    pub(super) fn subscriptions(&self) -> Vec<proto::Subscribe> {
        let inbound = proto::Subscribe { key: Some(inbound_key()), version: self.inbound.version.clone() };
        let destinations = self.destinations.iter().map(|(target, entry)| subscribe(target, &entry.version));
        std::iter::once(inbound).chain(destinations).collect()
    }

    /// Forgets what nobody has followed since `before`.
    pub(super) fn forget_idle(&mut self, now: Instant, before: Instant) -> Vec<Reply> {
        let mut gone = Vec::new();
        self.destinations.retain(|target, entry| {
            if entry.news.receiver_count() > 0 {
                entry.idle_since = None;
                return true;
            }
            let since = *entry.idle_since.get_or_insert(now);
            if since <= before {
                gone.push(Reply::Unsubscribe(proto::Unsubscribe { key: Some(key_of(target)) }));
            }
            since > before
        });
        gone
    }

    /// Takes a message in.
    pub(super) fn apply(&mut self, message: proto::WatchResponse) -> Option<Reply> {
        let (key, version) = (message.key?, message.version);
        let outcome = match (key.key.as_ref()?, message.body) {
            (proto::key::Key::Inbound(_), body) => self.apply_inbound(&version, body),
            (proto::key::Key::Destination(text), body) => {
                let Some(entry) = text.parse().ok().and_then(|target: Target| self.destinations.get_mut(&target))
                else {
                    return Some(Reply::Unsubscribe(proto::Unsubscribe { key: Some(key) }));
                };
                apply_destination(entry, &version, body)
            }
        };
        Some(match outcome {
            Ok(()) => Reply::Ack(proto::Ack { key: Some(key), version }),
            Err(Refused::Invalid(reason)) => Reply::Nack(proto::Nack { key: Some(key), version, reason }),
            Err(Refused::Base) => Reply::Again(proto::Subscribe { key: Some(key), version: String::new() }),
        })
    }

    fn apply_inbound(&mut self, version: &str, body: Option<Body>) -> Result<(), Refused> {
        match body {
            Some(Body::Inbound(policy)) => {
                let policy = inbound_from_proto(policy).map_err(|error| Refused::Invalid(error.to_string()))?;
                self.inbound.set(version.to_owned(), State::Known(Arc::new(policy)));
                Ok(())
            }
            // Without its own policy a workload would be open: the last one stays in force.
            Some(Body::NotFound(missing)) => {
                tracing::warn!(reason = missing.reason, "the controller does not know this workload");
                if self.inbound.known().is_none() {
                    self.inbound.set(String::new(), State::Missing(missing.reason.into()));
                }
                Ok(())
            }
            Some(Body::Current(_)) => Ok(()),
            _ => Err(Refused::Invalid("not an inbound policy".to_owned())),
        }
    }

    /// For people.
    pub(super) fn dump(&self) -> Vec<Held> {
        let mut held: Vec<Held> = self.destinations.iter().map(|(target, entry)| held(target, entry)).collect();
        held.sort_by(|left, right| left.key.cmp(&right.key));
        let state = describe(&self.inbound.news.borrow());
        held.insert(
            0,
            Held { key: "inbound".into(), version: self.inbound.version.clone(), state, backends: Vec::new() },
        );
        held
    }
}

enum Refused {
    Invalid(String),
    Base,
}

fn apply_destination(entry: &mut Entry<Destination>, version: &str, body: Option<Body>) -> Result<(), Refused> {
    let invalid = |error: mesh_api::convert::Invalid| Refused::Invalid(error.to_string());
    match body {
        Some(Body::Destination(destination)) => {
            let destination = destination_from_proto(destination).map_err(invalid)?;
            entry.set(version.to_owned(), State::Known(Arc::new(destination)));
        }
        Some(Body::Delta(delta)) => {
            let base = entry.known().filter(|_| entry.version == delta.base_version).ok_or(Refused::Base)?;
            let mut destination = Destination::clone(&base);
            destination.apply(delta_from_proto(delta).map_err(invalid)?).map_err(|_| Refused::Base)?;
            entry.set(version.to_owned(), State::Known(Arc::new(destination)));
        }
        Some(Body::NotFound(missing)) => entry.set(String::new(), State::Missing(missing.reason.into())),
        Some(Body::Current(_)) => {}
        Some(Body::Inbound(_)) | None => return Err(Refused::Invalid("not a destination".to_owned())),
    }
    Ok(())
}

fn held(target: &Target, entry: &Entry<Destination>) -> Held {
    let known = entry.known();
    let backends = known.iter().flat_map(|known| &known.backends).map(|(id, backend)| {
        let ready = backend.endpoints.values().filter(|endpoint| endpoint.ready).count();
        (id.to_string(), ready, backend.endpoints.len())
    });
    Held {
        key: target.to_string(),
        version: entry.version.clone(),
        backends: backends.collect(),
        state: describe(&entry.news.borrow()),
    }
}

fn describe<T>(state: &State<T>) -> String {
    match state {
        State::Waiting => "waiting".into(),
        State::Known(_) => "known".into(),
        State::Missing(reason) => format!("missing: {reason}"),
    }
}

fn key_of(target: &Target) -> proto::Key {
    proto::Key { key: Some(proto::key::Key::Destination(target.to_string())) }
}

fn inbound_key() -> proto::Key {
    proto::Key { key: Some(proto::key::Key::Inbound(true)) }
}

fn subscribe(target: &Target, version: &str) -> proto::Subscribe {
    proto::Subscribe { key: Some(key_of(target)), version: version.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn target() -> Target {
        "web.shop.svc:80".parse().unwrap()
    }

    fn message(version: &str, body: Body) -> proto::WatchResponse {
        proto::WatchResponse { key: Some(key_of(&target())), version: version.into(), body: Some(body) }
    }

    fn destination(addresses: &[&str]) -> proto::Destination {
        let id = proto::BackendId { namespace: "shop".into(), name: "web".into(), port: 80 };
        let endpoints = addresses.iter().map(|address| endpoint(address)).collect();
        let backend = proto::Backend { id: Some(id), protocol: 0, endpoints };
        proto::Destination { port: 80, backends: vec![backend], ..proto::Destination::default() }
    }

    fn endpoint(address: &str) -> proto::Endpoint {
        proto::Endpoint { address: address.into(), weight: 1, ready: true, ..proto::Endpoint::default() }
    }

    fn delta(base: &str, add: &str, remove: &str) -> Body {
        let id = proto::BackendId { namespace: "shop".into(), name: "web".into(), port: 80 };
        let change = proto::BackendDelta { id: Some(id), upsert: vec![endpoint(add)], remove: vec![remove.to_owned()] };
        Body::Delta(proto::DestinationDelta { base_version: base.into(), backends: vec![change] })
    }

    fn addresses(follow: &Follow<Destination>) -> Vec<String> {
        match &*follow.borrow() {
            State::Known(known) => {
                known.backends.values().flat_map(|b| b.endpoints.keys().map(ToString::to_string)).collect()
            }
            other => vec![describe(other)],
        }
    }

    #[tokio::test]
    async fn whole_then_changes_then_gone() {
        let mut store = Store::new(10);
        let (follow, tell) = store.follow(&target()).unwrap();
        assert!(matches!(tell.as_slice(), [Reply::Again(_)]));
        assert_eq!(addresses(&follow), ["waiting"]);
        let reply = store.apply(message("1", Body::Destination(destination(&["10.0.0.1:1", "10.0.0.2:1"]))));
        assert!(matches!(reply, Some(Reply::Ack(_))));
        let reply = store.apply(message("2", delta("1", "10.0.0.3:1", "10.0.0.1:1")));
        assert!(matches!(reply, Some(Reply::Ack(_))));
        assert_eq!(addresses(&follow), ["10.0.0.2:1", "10.0.0.3:1"]);
        assert_eq!(store.subscriptions()[1].version, "2");

        let reply = store.apply(message("9", delta("8", "10.0.0.4:1", "10.0.0.1:1")));
        assert!(matches!(reply, Some(Reply::Again(_))), "the base does not fit");
        let mut bad = destination(&["nowhere"]);
        bad.port = 1;
        let reply = store.apply(message("3", Body::Destination(bad)));
        assert!(matches!(&reply, Some(Reply::Nack(nack)) if nack.reason.contains("endpoints[0]")), "{reply:?}");
        assert_eq!(addresses(&follow), ["10.0.0.2:1", "10.0.0.3:1"], "the last good state stays");

        store.apply(message("", Body::NotFound(proto::NotFound { reason: "deleted".into() })));
        assert_eq!(addresses(&follow), ["missing: deleted"]);
    }

    #[tokio::test]
    async fn unused_destinations_are_forgotten_and_their_number_is_bounded() {
        let mut store = Store::new(1);
        let (follow, _) = store.follow(&target()).unwrap();
        assert!(store.follow(&"other.shop:80".parse().unwrap()).is_none());
        let now = Instant::now();
        assert!(store.forget_idle(now, now).is_empty(), "somebody follows it");
        drop(follow);
        let later = now + Duration::from_secs(10);
        assert!(store.forget_idle(now + Duration::from_secs(1), now).is_empty(), "not idle for long enough");
        assert_eq!(store.forget_idle(later, later).len(), 1);
        let reply = store.apply(message("1", Body::Destination(destination(&[]))));
        assert!(matches!(reply, Some(Reply::Unsubscribe(_))), "nobody follows it any more");
        let (_, tell) = store.follow(&"other.shop:80".parse().unwrap()).unwrap();
        assert_eq!(tell.len(), 1);
        let (_, tell) = store.follow(&"third.shop:80".parse().unwrap()).unwrap();
        assert!(matches!(tell.as_slice(), [Reply::Unsubscribe(_), Reply::Again(_)]), "an unused one makes room");
    }

    #[tokio::test]
    async fn j15_a_lost_policy_never_opens() {
        let mut store = Store::new(1);
        let inbound = store.follow_inbound();
        let policy = proto::InboundPolicy {
            default_port: Some(proto::InboundPort::default()),
            ..proto::InboundPolicy::default()
        };
        let answer = |body| proto::WatchResponse { key: Some(inbound_key()), version: "1".into(), body: Some(body) };
        store.apply(answer(Body::Inbound(policy)));
        store.apply(answer(Body::NotFound(proto::NotFound::default())));
        assert!(matches!(&*inbound.borrow(), State::Known(_)));
        let reply = store.apply(answer(Body::Inbound(proto::InboundPolicy::default())));
        assert!(matches!(reply, Some(Reply::Nack(_))));
        assert!(matches!(&*inbound.borrow(), State::Known(_)));
    }
}
