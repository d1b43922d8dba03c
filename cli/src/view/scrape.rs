//! One look at the metrics of every sidecar.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use crate::{
    local::state::MeshFile,
    query::{
        self,
        prometheus::{self, Sample},
    },
};

/// Sidecars asked at once.
const AT_ONCE: usize = 32;

/// What every sidecar said at one time.
#[derive(Clone, Debug)]
pub struct Scrape {
    /// When.
    pub at: Instant,
    /// By `NAMESPACE/NAME`; `None` where it did not answer.
    pub sidecars: BTreeMap<String, Option<Vec<Sample>>>,
}

impl Scrape {
    /// Time since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Duration {
        self.at.saturating_duration_since(earlier.at)
    }

    /// Samples of one metric of one sidecar.
    pub fn of<'a>(&'a self, workload: &str, metric: &'a str) -> impl Iterator<Item = &'a Sample> + 'a {
        let samples = self.sidecars.get(workload).and_then(Option::as_ref);
        samples.into_iter().flatten().filter(move |sample| sample.name == metric)
    }
}

/// Asks every sidecar.
pub async fn scrape(mesh: &MeshFile) -> Scrape {
    let at = Instant::now();
    let mut sidecars = BTreeMap::new();
    let mut asking = JoinSet::new();
    for workload in &mesh.workloads {
        let name = format!("{}/{}", workload.namespace, workload.name);
        let Some(sidecar) = &workload.sidecar else { continue };
        sidecars.insert(name.clone(), None);
        if asking.len() >= AT_ONCE
            && let Some(Ok((name, samples))) = asking.join_next().await
        {
            sidecars.insert(name, samples);
        }
        asking.spawn(ask(name, sidecar.admin));
    }
    while let Some(Ok((name, samples))) = asking.join_next().await {
        sidecars.insert(name, samples);
    }
    Scrape { at, sidecars }
}

async fn ask(name: String, admin: SocketAddr) -> (String, Option<Vec<Sample>>) {
    let page = query::get(admin, "/metrics").await.and_then(|answer| answer.text());
    (name, page.ok().map(|page| prometheus::parse(&page)))
}
