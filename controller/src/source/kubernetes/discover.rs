//! Which of the kinds a cluster has, asked now and then: Gateway API's and the mesh's own can come and go.

use std::{sync::Arc, time::Duration};

use kube::Client;
use tokio::{
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{Brought, kinds::KINDS};
use crate::telemetry::Telemetry;

/// An answer takes at most this long.
const DEADLINE: Duration = Duration::from_secs(10);
/// While it is not sure whether a kind is there, look this often.
const SOON: Duration = Duration::from_secs(1);
/// A kind that is missing this many times in a row is gone: an API server that has just started, or one of several that
/// is behind, must not take policies away.
const MISSES: u8 = 3;

/// In which version each of [`KINDS`] is served; `None`: not at all, or not that anybody knows of.
pub(super) type Served = Vec<Option<&'static str>>;

/// What is known of what an API server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// What it serves.
    pub(super) served: Served,
    /// What is not in there is not there; false while nobody can be sure.
    pub(super) complete: bool,
}

/// Looks for as long as anybody listens, at least every `interval`, and at once when `hurry` is told.
pub(super) async fn look(
    client: Client,
    interval: Duration,
    hurry: Arc<Notify>,
    telemetry: Arc<Telemetry>,
    brought: mpsc::Sender<Brought>,
) {
    let mut sight = Sight::default();
    let mut told = None;
    loop {
        let wait = match timeout(DEADLINE, ask(&client)).await {
            Ok(Ok(now)) => {
                let sure = sight.take(&now);
                let known = sight.known();
                if told.as_ref() != Some(&known) {
                    told = Some(known.clone());
                    if brought.send(Brought::Served(known)).await.is_err() {
                        return;
                    }
                }
                if sure { interval } else { SOON }
            }
            Ok(Err(error)) => {
                telemetry.discovery_errors.increment(1);
                tracing::warn!(%error, "cannot ask the API server what it serves; what is known stays in force");
                SOON.max(interval / 2)
            }
            Err(_) => {
                telemetry.discovery_errors.increment(1);
                tracing::warn!(waited = ?DEADLINE, "the API server does not say what it serves; what is known stays in force");
                SOON.max(interval / 2)
            }
        };
        tokio::select! {
            () = brought.closed() => return,
            () = tokio::time::sleep(wait) => {}
            // Not more often than that, whoever asks.
            () = async { hurry.notified().await; tokio::time::sleep(SOON).await } => {}
        }
    }
}

/// What the API server serves now.
async fn ask(client: &Client) -> kube::Result<Served> {
    let groups = client.list_api_groups().await?;
    let mut served: Served =
        KINDS.iter().map(|kind| kind.versions.first().copied().filter(|_| !kind.optional)).collect();
    for (kind, slot) in KINDS.iter().zip(&mut served).filter(|(kind, _)| kind.optional) {
        let Some(group) = groups.groups.iter().find(|group| group.name == kind.group) else { continue };
        let there = |version: &&&str| group.versions.iter().any(|served| served.version == **version);
        for version in kind.versions.iter().filter(there) {
            let resources = client.list_api_group_resources(&format!("{}/{version}", kind.group)).await?;
            let watched = |verbs: &[String]| verbs.iter().any(|verb| verb == "watch");
            if resources.resources.iter().any(|found| found.name == kind.plural && watched(&found.verbs)) {
                *slot = Some(*version);
                break;
            }
        }
    }
    Ok(served)
}

/// What was seen of the kinds over time. Pure.
#[derive(Debug, Default)]
struct Sight {
    served: Served,
    misses: Vec<u8>,
}

impl Sight {
    /// Takes over a look; true where nothing is in doubt.
    fn take(&mut self, now: &Served) -> bool {
        self.served.resize(now.len(), None);
        self.misses.resize(now.len(), 0);
        for ((slot, misses), now) in self.served.iter_mut().zip(&mut self.misses).zip(now) {
            match now {
                Some(_) => (*slot, *misses) = (*now, 0),
                None => *misses = misses.saturating_add(1).min(MISSES),
            }
            if *misses >= MISSES {
                *slot = None;
            }
        }
        self.misses.iter().all(|misses| *misses == 0 || *misses >= MISSES)
    }

    /// What can be said now.
    fn known(&self) -> Known {
        let known = |(slot, misses): (&Option<&str>, &u8)| slot.is_some() || *misses >= MISSES;
        let complete = !self.served.is_empty() && self.served.iter().zip(&self.misses).all(known);
        Known { served: self.served.clone(), complete }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_gone_when_it_is_missing_for_long_and_there_at_once() {
        let known = |served: &[Option<&'static str>], complete| Known { served: served.to_vec(), complete };
        let mut sight = Sight::default();
        assert!(!sight.take(&vec![Some("v1"), None]));
        assert_eq!(sight.known(), known(&[Some("v1"), None], false), "one look proves nothing");
        assert!(!sight.take(&vec![Some("v1"), None]));
        assert!(sight.take(&vec![Some("v1"), None]));
        assert_eq!(sight.known(), known(&[Some("v1"), None], true));
        for version in ["v1beta1", "v1"] {
            assert!(sight.take(&vec![Some("v1"), Some(version)]));
            assert_eq!(sight.known(), known(&[Some("v1"), Some(version)], true));
        }
        for _ in 0..2 {
            assert!(!sight.take(&vec![Some("v1"), None]));
            assert_eq!(sight.known(), known(&[Some("v1"), Some("v1")], true), "still in force");
        }
        assert!(sight.take(&vec![Some("v1"), None]));
        assert_eq!(sight.known(), known(&[Some("v1"), None], true));
    }
}
