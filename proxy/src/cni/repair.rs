//! Pods that came before the plugin: they find that they are not redirected, and cannot do anything about it. They are
//! started anew. Floor 2: imports `cluster`.
//!
//! Of a pod whose check has failed the network stays as it is for as long as the pod is there. Only its owner can help, by
//! making another one.

use std::time::Duration;

use mesh_api::{backoff::Backoff, names, sys::Sys};
use metrics::Counter;
use tokio::{sync::watch, time::Instant};

use super::{
    cluster::{Cluster, ClusterError, Event},
    credentials::Credentials,
    pod::Pod,
};

/// What is done with a pod that has to be started anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// It is deleted; its owner makes another one.
    Delete,
    /// It gets a label, for somebody else to see.
    Label,
    /// Nothing.
    Off,
}

/// What is thought of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// There is nothing to do.
    Fine,
    /// It has to be started anew.
    Broken,
    /// It has to be started anew, but nobody would make another one.
    Alone,
}

/// Looks whether the pod's check found that it is not redirected.
#[must_use]
pub fn judge(pod: &Pod) -> Judgement {
    // One that waits for its init containers; one that has ended is its owner's business.
    if pod.metadata.deletion_timestamp.is_some() || pod.status.phase != "Pending" || !pod.relies_on_plugin() {
        return Judgement::Fine;
    }
    let failed = pod.status.init_container_statuses.iter().any(|container| {
        let ended = container.state.terminated.as_ref().or(container.last_state.terminated.as_ref());
        // Another status says that it was not able to look.
        container.name == names::INIT_CONTAINER && ended.is_some_and(|ended| ended.exit_code == 1)
    });
    match (failed, pod.metadata.owner_references.iter().any(|owner| owner.controller)) {
        (false, _) => Judgement::Fine,
        (true, true) => Judgement::Broken,
        (true, false) => Judgement::Alone,
    }
}

/// So many a minute, and so many at once.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    each_minute: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    /// Full.
    #[must_use]
    pub fn new(each_minute: u32, now: Instant) -> Self {
        let each_minute = f64::from(each_minute);
        Self { each_minute, left: each_minute, at: now }
    }

    /// Takes one; false where there is none.
    pub fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        self.left = (self.left + passed * self.each_minute).min(self.each_minute);
        self.at = now;
        let some = self.left >= 1.0;
        if some {
            self.left -= 1.0;
        }
        some
    }
}

/// Counters of what was done.
#[derive(Clone)]
pub struct Counters {
    /// Pods that were deleted, or labelled.
    pub repaired: Counter,
    /// Looks at pods that were left alone: nobody would make another one.
    pub alone: Counter,
    /// Looks at pods that were left for later: there were too many.
    pub later: Counter,
    /// Questions to the cluster that failed.
    pub failed: Counter,
}

/// Looks after the pods of one node.
pub struct Repair<C> {
    /// Sockets and time.
    pub sys: Sys,
    /// The way to the cluster, which changes.
    pub credentials: C,
    /// Name of the node.
    pub node: String,
    /// What is done.
    pub mode: Mode,
    /// How often at most.
    pub budget: Budget,
    /// Nothing is done while this is false: another pod would be no better off.
    pub installed: watch::Receiver<bool>,
    /// What was done.
    pub counters: Counters,
}

impl<C: Fn() -> Result<Credentials, ClusterError> + Send> Repair<C> {
    /// Runs for ever.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        loop {
            // What ends, ends after minutes, or with an error.
            match self.round(&mut backoff).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.counters.failed.increment(1);
                    tracing::warn!(%error, "the node's pods cannot be watched");
                }
            }
            tokio::time::sleep(backoff.next_wait(rand::random())).await;
        }
    }

    /// The list, and what happens after it, for some minutes.
    async fn round(&mut self, backoff: &mut Backoff) -> Result<(), ClusterError> {
        let cluster = Cluster::new(self.sys.clone(), (self.credentials)()?)?;
        let (pods, since) = cluster.pods(&self.node).await?;
        for pod in &pods {
            self.look(&cluster, pod).await;
        }
        let mut watch = cluster.watch(&self.node, &since).await?;
        while let Some(event) = watch.next().await? {
            backoff.reset();
            if let Event::Present(pod) = event {
                self.look(&cluster, &pod).await;
            }
        }
        Ok(())
    }

    /// A pod that is left for later comes by again: when its check fails once more, or with the next list.
    async fn look(&mut self, cluster: &Cluster, pod: &Pod) {
        let (namespace, name) = (pod.metadata.namespace.as_str(), pod.metadata.name.as_str());
        match judge(pod) {
            Judgement::Fine => return,
            Judgement::Alone if self.mode == Mode::Delete => {
                self.counters.alone.increment(1);
                tracing::warn!(namespace, name, "pod is not redirected and has no owner: delete it and make it anew");
                return;
            }
            Judgement::Alone | Judgement::Broken => (),
        }
        let labelled = pod.metadata.labels.contains_key(names::LABEL_REPAIR);
        if !*self.installed.borrow() || self.mode == Mode::Off || (self.mode == Mode::Label && labelled) {
            return;
        }
        if !self.budget.take(Instant::now()) {
            self.counters.later.increment(1);
            return;
        }
        let done = match self.mode {
            Mode::Label => cluster.label(pod, names::LABEL_REPAIR, names::REPAIR_VALUE).await,
            _ => cluster.delete(pod).await,
        };
        let action = if self.mode == Mode::Label { "labelled" } else { "deleted" };
        match done {
            Ok(()) => {
                self.counters.repaired.increment(1);
                tracing::info!(
                    namespace,
                    name,
                    uid = pod.metadata.uid,
                    action,
                    reason = "NotRedirected",
                    "pod repaired"
                );
            }
            Err(error) => {
                self.counters.failed.increment(1);
                tracing::warn!(namespace, name, %error, "pod is not redirected and cannot be repaired");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(change: impl FnOnce(&mut Value)) -> Pod {
        let mut pod = json!({
            "metadata": {
                "name": "web-1",
                "labels": { "mesh.dev/injected": "true" },
                "annotations": { "mesh.dev/injection": r#"{"cni":true,"redirect":["--proxy-uid=15400"]}"# },
                "ownerReferences": [{ "controller": true, "kind": "ReplicaSet" }],
            },
            "status": {
                "phase": "Pending",
                "initContainerStatuses": [
                    { "name": "mesh-init", "state": { "terminated": { "exitCode": 1, "reason": "Error" } } },
                    { "name": "mesh-proxy", "state": { "waiting": { "reason": "PodInitializing" } } },
                ],
            },
        });
        change(&mut pod);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn only_who_failed_the_check_is_broken() {
        assert_eq!(judge(&pod(|_| ())), Judgement::Broken);
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let again = pod(|pod| {
            let init = &mut pod["status"]["initContainerStatuses"][0];
            init["lastState"] = init["state"].take();
            init["state"] = waiting;
        });
        assert_eq!(judge(&again), Judgement::Broken);
        assert_eq!(judge(&pod(|pod| pod["metadata"]["ownerReferences"] = json!([]))), Judgement::Alone);
        let init = |state: Value| pod(|pod| pod["status"]["initContainerStatuses"][0]["state"] = state);
        for fine in [
            init(json!({ "terminated": { "exitCode": 0 } })),
            init(json!({ "terminated": { "exitCode": 2 } })),
            init(json!({ "terminated": { "exitCode": 137 } })),
            init(json!({ "running": {} })),
            pod(|pod| pod["status"]["initContainerStatuses"][0]["name"] = json!("other")),
            pod(|pod| pod["status"]["phase"] = json!("Running")),
            pod(|pod| pod["status"]["phase"] = json!("Failed")),
            pod(|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z")),
            pod(|pod| pod["metadata"]["labels"] = json!({})),
            // Its init container redirects by itself, and failed.
            pod(|pod| {
                pod["metadata"]["annotations"]["mesh.dev/injection"] = json!(r#"{"redirect":["--proxy-uid=1"]}"#)
            }),
        ] {
            assert_eq!(judge(&fine), Judgement::Fine, "{fine:?}");
        }
    }

    #[test]
    fn a_budget_is_spent_and_comes_back() {
        let start = Instant::now();
        let mut budget = Budget::new(3, start);
        assert_eq!([0; 5].map(|_| budget.take(start)), [true, true, true, false, false]);
        assert!(!budget.take(start + Duration::from_secs(19)));
        assert!(budget.take(start + Duration::from_secs(21)));
        assert!(!budget.take(start + Duration::from_secs(21)));
        let later = start + Duration::from_secs(3600);
        assert_eq!([0; 4].map(|_| budget.take(later)), [true, true, true, false]);
        assert!(!Budget::new(0, start).take(later));
    }
}
