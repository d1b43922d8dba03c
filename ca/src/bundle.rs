//! The trusted roots in every namespace: ConfigMap [`TRUST_CONFIG_MAP`], which members mount for their first contact.
//! Floor 4: imports `cluster`, `issuer`, `telemetry`.
//!
//! The leader watches namespaces and these ConfigMaps, writes where something is missing or was changed, and everywhere
//! when the roots change, so many at once and so many a second. A namespace that is being deleted is left alone.

mod desk;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Resource as _,
    api::{DeleteParams, Patch, PatchParams},
    core::{PartialObjectMeta, Request},
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use mesh_api::names::{TRUST_CONFIG_MAP, TRUST_KEY};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_stream::StreamExt as _;

use self::desk::{Desk, Job, Outcome, Print};
use crate::{
    cluster::{Cluster, ClusterError},
    issuer::Issuing,
    telemetry,
};

/// Name in `managedFields`, and the value of the label.
const MANAGER: &str = "mesh-ca";
/// Label that says who keeps the ConfigMap.
const LABEL: &str = "app.kubernetes.io/managed-by";
/// Writes at once.
const AT_ONCE: usize = 8;
/// From one write to the next, at least: a change of root reaches a thousand namespaces within twenty seconds.
const PACE: Duration = Duration::from_millis(20);

/// Keeps the ConfigMaps while this replica leads.
#[derive(Debug)]
pub struct Bundles {
    cluster: Cluster,
    issuing: watch::Receiver<Arc<Issuing>>,
    leading: watch::Receiver<bool>,
}

/// What happens.
enum Happening {
    Namespace(Event<PartialObjectMeta<Namespace>>),
    ConfigMap(Event<ConfigMap>),
}

/// What one watch has seen since it began anew.
#[derive(Default)]
struct Listing {
    names: BTreeSet<String>,
    /// The first list was complete.
    known: bool,
}

impl Bundles {
    /// Hands out the roots of `issuing`.
    #[must_use]
    pub fn new(cluster: Cluster, issuing: watch::Receiver<Arc<Issuing>>, leading: watch::Receiver<bool>) -> Self {
        Self { cluster, issuing, leading }
    }

    /// Runs for as long as the process does.
    pub async fn run(mut self) {
        loop {
            if self.leading.wait_for(|leads| *leads).await.is_err() {
                return;
            }
            tracing::info!("the roots are handed out to every namespace from here");
            let mut leading = self.leading.clone();
            tokio::select! {
                () = self.keep() => return,
                _ = leading.wait_for(|leads| !*leads) => metrics::gauge!(telemetry::TRUST_BEHIND).set(0.0),
            }
        }
    }

    /// Until the issuer's driver ends.
    async fn keep(&mut self) {
        let client = self.cluster.client();
        let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), watcher::Config::default());
        let only_ours = watcher::Config::default().fields(&format!("metadata.name={TRUST_CONFIG_MAP}"));
        let config_maps = watcher(Api::<ConfigMap>::all(client), only_ours);
        let namespaces = namespaces.default_backoff().map(|event| event.map(Happening::Namespace));
        let config_maps = config_maps.default_backoff().map(|event| event.map(Happening::ConfigMap));
        let mut happenings = std::pin::pin!(namespaces.merge(config_maps));

        let (mut listed_namespaces, mut listed_maps) = (Listing::default(), Listing::default());
        let mut desk = Desk::default();
        let mut trust = Arc::new(self.issuing.borrow_and_update().trust_pem());
        desk.want(print_of(&trust));
        let mut writing: JoinSet<(String, Print, Outcome)> = JoinSet::new();
        let mut not_before = Instant::now();
        loop {
            metrics::gauge!(telemetry::TRUST_BEHIND).set(desk.behind() as f64);
            let now = Instant::now();
            let mut later = None;
            // Before both were seen completely, what seems to be missing may be there.
            if listed_namespaces.known && listed_maps.known && writing.len() < AT_ONCE {
                if now < not_before {
                    later = Some(not_before);
                } else {
                    let (job, again) = desk.next(now);
                    later = again;
                    if let Some(job) = job {
                        writing.spawn(write(self.cluster.clone(), job, Arc::clone(&trust)));
                        not_before = now + PACE;
                        continue;
                    }
                }
            }
            tokio::select! {
                happening = happenings.next() => match happening {
                    Some(Ok(Happening::Namespace(event))) => take_namespace(&mut desk, &mut listed_namespaces, event),
                    Some(Ok(Happening::ConfigMap(event))) => take_config_map(&mut desk, &mut listed_maps, event),
                    // It begins anew by itself, with growing waits.
                    Some(Err(error)) => tracing::warn!(%error, "namespaces or their roots cannot be watched; trying again"),
                    None => return,
                },
                Some(done) = writing.join_next() => match done {
                    Ok((namespace, print, outcome)) => desk.done(&namespace, print, outcome),
                    Err(error) => {
                        tracing::error!(%error, "writing the roots failed");
                        return;
                    }
                },
                changed = self.issuing.changed() => match changed {
                    Ok(()) => {
                        trust = Arc::new(self.issuing.borrow_and_update().trust_pem());
                        desk.want(print_of(&trust));
                    }
                    Err(_) => return,
                },
                () = sleep_until(later.unwrap_or(now)), if later.is_some() => {}
            }
        }
    }
}

fn take_namespace(desk: &mut Desk, listing: &mut Listing, event: Event<PartialObjectMeta<Namespace>>) {
    match event {
        Event::Init => listing.names.clear(),
        Event::InitApply(object) | Event::Apply(object) => {
            let Some(name) = object.metadata.name else { return };
            desk.namespace(&name, object.metadata.deletion_timestamp.is_some());
            listing.names.insert(name);
        }
        Event::Delete(object) => desk.namespace_gone(object.metadata.name.as_deref().unwrap_or_default()),
        Event::InitDone => {
            desk.only_namespaces(&listing.names);
            listing.known = true;
            listing.names.clear();
        }
    }
}

fn take_config_map(desk: &mut Desk, listing: &mut Listing, event: Event<ConfigMap>) {
    match event {
        Event::Init => listing.names.clear(),
        Event::InitApply(object) | Event::Apply(object) => {
            let Some(namespace) = object.metadata.namespace.clone() else { return };
            desk.config_map(&namespace, print_of_object(&object), object.immutable == Some(true));
            listing.names.insert(namespace);
        }
        Event::Delete(object) => desk.config_map_gone(object.metadata.namespace.as_deref().unwrap_or_default()),
        Event::InitDone => {
            desk.only_config_maps(&listing.names);
            listing.known = true;
            listing.names.clear();
        }
    }
}

/// A digest of the roots with our label: equal where nothing needs to be done.
fn print_of(trust: &str) -> Print {
    digest(&[MANAGER, trust])
}

fn print_of_object(object: &ConfigMap) -> Print {
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(LABEL));
    let roots = object.data.as_ref().and_then(|data| data.get(TRUST_KEY));
    digest(&[label.map_or("", String::as_str), roots.map_or("", String::as_str)])
}

fn digest(parts: &[&str]) -> Print {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    let mut print = [0; 32];
    for (to, from) in print.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    print
}

async fn write(cluster: Cluster, job: Job, trust: Arc<String>) -> (String, Print, Outcome) {
    let requests = Request::new(ConfigMap::url_path(&(), Some(&job.namespace)));
    let print = print_of(&trust);
    let outcome = match put(&cluster, &requests, job.replace, &trust).await {
        Ok(()) => Outcome::Written,
        Err(error) if error.is_missing() || error.is_terminating() => Outcome::Gone,
        Err(error) => {
            tracing::warn!(namespace = job.namespace, %error, "the roots were not written; trying again");
            if error.is_invalid() && !job.replace { Outcome::Immutable } else { Outcome::Failed }
        }
    };
    let label = match outcome {
        Outcome::Written => "written",
        Outcome::Gone => "gone",
        Outcome::Immutable | Outcome::Failed => "failed",
    };
    metrics::counter!(telemetry::TRUST_WRITES, "outcome" => label).increment(1);
    (job.namespace, print, outcome)
}

async fn put(cluster: &Cluster, requests: &Request, replace: bool, trust: &str) -> Result<(), ClusterError> {
    if replace {
        match cluster.call::<Value>(requests.delete(TRUST_CONFIG_MAP, &DeleteParams::default())).await {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
    }
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": TRUST_CONFIG_MAP, "labels": { LABEL: MANAGER } },
        "data": { TRUST_KEY: trust },
    });
    // Made where it is not there, put right where it is, in one call.
    let parameters = PatchParams::apply(MANAGER).force();
    cluster.call::<Value>(requests.patch(TRUST_CONFIG_MAP, &parameters, &Patch::Apply(object))).await.map(drop)
}
