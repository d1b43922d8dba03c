//! How far a component of the mesh is, and what its pods wait for.

use k8s_openapi::api::core::v1::{ContainerState, Event, Pod};
use kube::{
    Api, Client,
    api::{ListParams, LogParams},
};
use serde_json::Value;

use super::objects::{Objects, RequestError, answer};
use crate::chart::object::Key;

/// Longest text of one reason.
const MAX_REASON: usize = 300;

/// How far one component is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is.
    pub key: Key,
    /// Replicas that are ready and of the newest kind.
    pub ready: i64,
    /// Replicas that there should be.
    pub wanted: i64,
    /// Nothing is left to wait for.
    pub done: bool,
    /// What its pods wait for.
    pub reasons: Vec<String>,
}

/// True for kinds that [`look`] knows.
#[must_use]
pub fn is_waited_for(kind: &str) -> bool {
    matches!(
        kind,
        "Deployment"
            | "DaemonSet"
            | "MutatingWebhookConfiguration"
            | "ValidatingWebhookConfiguration"
            | "CustomResourceDefinition"
    )
}

/// Looks how far a component is.
///
/// # Errors
/// [`RequestError`].
pub async fn look(objects: &Objects, client: &Client, key: &Key) -> Result<Progress, RequestError> {
    let Some(value) = objects.get(key).await? else {
        let reasons = vec!["it is not there".to_owned()];
        return Ok(Progress { key: key.clone(), ready: 0, wanted: 1, done: false, reasons });
    };
    let mut progress = progress(key, &value);
    if !progress.done && matches!(key.kind.as_str(), "Deployment" | "DaemonSet") {
        progress.reasons = reasons(client, key, &value).await?;
    }
    Ok(progress)
}

/// What an object itself says of how far it is.
#[must_use]
pub fn progress(key: &Key, value: &Value) -> Progress {
    let number = |path: &str| value.pointer(path).and_then(Value::as_i64);
    let seen = number("/status/observedGeneration").unwrap_or(0) >= number("/metadata/generation").unwrap_or(0);
    let mut reasons = Vec::new();
    let (ready, wanted, done) = match key.kind.as_str() {
        "Deployment" => {
            let wanted = number("/spec/replicas").unwrap_or(1);
            let of = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
            let ready = of("availableReplicas").min(of("updatedReplicas"));
            (ready, wanted, seen && ready >= wanted && of("replicas") == of("updatedReplicas"))
        }
        "DaemonSet" => {
            let of = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
            let wanted = of("desiredNumberScheduled");
            let ready = of("numberAvailable").min(of("updatedNumberScheduled"));
            (ready, wanted, seen && ready >= wanted)
        }
        "CustomResourceDefinition" => {
            let conditions = value.pointer("/status/conditions").and_then(Value::as_array);
            let is = |condition: &Value| condition["type"] == "Established" && condition["status"] == "True";
            let done = conditions.is_some_and(|conditions| conditions.iter().any(is));
            (i64::from(done), 1, done)
        }
        _ => {
            let hooks = value.get("webhooks").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let known = |hook: &&Value| hook.pointer("/clientConfig/caBundle").is_some_and(|bundle| bundle != "");
            let ready = hooks.iter().filter(known).count();
            if ready < hooks.len() {
                reasons.push("the controller has not said yet which roots vouch for it".to_owned());
            }
            let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
            (count(ready), count(hooks.len()), ready == hooks.len())
        }
    };
    Progress { key: key.clone(), ready, wanted, done, reasons }
}

async fn reasons(client: &Client, key: &Key, value: &Value) -> Result<Vec<String>, RequestError> {
    let labels = value.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
    let selector = pairs.collect::<Vec<_>>().join(",");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &key.namespace);
    let listed = answer("listing pods", pods.list(&ListParams::default().labels(&selector))).await?;
    let mut reasons = Vec::new();
    for pod in newest(&listed.items) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(trouble) = trouble(pod) else { continue };
        let detail = match &trouble {
            Trouble::Told(_) => None,
            Trouble::Crash { container, .. } => last_words(&pods, &name, container).await,
            Trouble::Waiting(_) => warning(client, &key.namespace, &name).await,
        };
        let detail = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
        reasons.push(shortened(&format!("pod {name} {}{detail}", trouble.text())));
    }
    let condition = |name: &str| {
        let conditions = value.pointer("/status/conditions").and_then(Value::as_array)?;
        conditions.iter().find(|condition| condition["type"] == name && condition["status"] == "True")?["message"]
            .as_str()
    };
    if let Some(failure) = condition("ReplicaFailure") {
        reasons.push(shortened(failure));
    }
    Ok(reasons)
}

/// Pods of the newest kind only: what is wrong with those that are replaced matters no more.
fn newest(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    let kind = |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref()?;
        labels.get("pod-template-hash").or_else(|| labels.get("controller-revision-hash")).cloned()
    };
    let youngest = pods.iter().max_by_key(|pod| pod.metadata.creation_timestamp.clone().map(|time| time.0));
    let wanted = youngest.and_then(kind);
    pods.iter().filter(move |pod| wanted.is_none() || kind(pod) == wanted)
}

/// Why a pod is not ready.
#[derive(Debug, PartialEq, Eq)]
enum Trouble {
    /// It says so itself.
    Told(String),
    /// A container of it ends: its last words say more.
    Crash { container: String, text: String },
    /// It does not say; what the cluster warned of may.
    Waiting(String),
}

impl Trouble {
    fn text(&self) -> &str {
        match self {
            Self::Told(text) | Self::Waiting(text) | Self::Crash { text, .. } => text,
        }
    }
}

/// None for a pod that is ready, or on its way out.
fn trouble(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let conditions = status.conditions.as_deref().unwrap_or_default();
    let condition = |name: &str| conditions.iter().find(|condition| condition.type_ == name);
    if pod.metadata.deletion_timestamp.is_some() || condition("Ready").is_some_and(|ready| ready.status == "True") {
        return None;
    }
    if let Some(scheduled) = condition("PodScheduled").filter(|scheduled| scheduled.status == "False") {
        let why = scheduled.message.clone().unwrap_or_default();
        return Some(Trouble::Told(format!("finds no node: {why}")));
    }
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for container in containers.filter(|container| !container.ready) {
        let name = container.name.clone();
        let state = container.state.as_ref();
        let ended = |state: &ContainerState| state.terminated.as_ref().map(|ended| ended.exit_code);
        let code = state.and_then(ended).or_else(|| container.last_state.as_ref().and_then(ended));
        let waiting = state.and_then(|state| state.waiting.as_ref());
        let crashes = waiting.is_none_or(|waiting| waiting.reason.as_deref() == Some("CrashLoopBackOff"));
        if let Some(code) = code.filter(|code| *code != 0 && crashes) {
            // The same words whatever it does at this moment: it is started again and again.
            let text = format!("container {name} crashes, last with code {code}");
            return Some(Trouble::Crash { container: name, text });
        }
        let Some(waiting) = waiting else { continue };
        let message = waiting.message.clone().unwrap_or_default();
        match waiting.reason.as_deref().unwrap_or_default() {
            "ContainerCreating" | "PodInitializing" | "CrashLoopBackOff" => {}
            "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" | "InvalidImageName" => {
                return Some(Trouble::Told(format!("cannot get the image {}: {message}", container.image)));
            }
            reason => return Some(Trouble::Told(format!("container {name}: {reason} {message}"))),
        }
    }
    let running = status.phase.as_deref() == Some("Running");
    Some(Trouble::Waiting(if running { "runs, but is not ready yet" } else { "is being started" }.to_owned()))
}

/// The last line of a container that crashed: of its run before where it runs again.
async fn last_words(pods: &Api<Pod>, pod: &str, container: &str) -> Option<String> {
    for previous in [true, false] {
        let container = Some(container.to_owned());
        let params = LogParams { container, previous, tail_lines: Some(3), ..LogParams::default() };
        let log = answer("reading a log", pods.logs(pod, &params)).await.unwrap_or_default();
        if let Some(line) = log.lines().rev().find(|line| !line.trim().is_empty()) {
            return Some(line.trim().to_owned());
        }
    }
    None
}

/// What the cluster warned of last about a pod.
async fn warning(client: &Client, namespace: &str, pod: &str) -> Option<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), namespace);
    let fields = format!("involvedObject.kind=Pod,involvedObject.name={pod},type=Warning");
    let listed = answer("listing events", events.list(&ListParams::default().fields(&fields).limit(100))).await.ok()?;
    let time = |event: &Event| event.last_timestamp.clone().map(|time| time.0);
    let last = listed.items.into_iter().max_by_key(time)?;
    last.message.map(|message| message.trim().to_owned())
}

fn shortened(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= MAX_REASON {
        return text;
    }
    text.chars().take(MAX_REASON).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(kind: &str) -> Key {
        Key { api_version: "apps/v1".into(), kind: kind.into(), namespace: "n".into(), name: "x".into() }
    }

    #[test]
    fn a_rollout_is_done_when_only_new_replicas_are_left() {
        let deployment = |generation: i64, replicas: i64, updated: i64, available: i64| {
            let status = json!({ "observedGeneration": 2, "replicas": replicas, "updatedReplicas": updated, "availableReplicas": available });
            let value =
                json!({ "metadata": { "generation": generation }, "spec": { "replicas": 2 }, "status": status });
            let progress = progress(&key("Deployment"), &value);
            (progress.ready, progress.wanted, progress.done)
        };
        assert_eq!(deployment(2, 2, 2, 2), (2, 2, true));
        assert_eq!(deployment(3, 2, 2, 2), (2, 2, false), "the change was not even seen");
        assert_eq!(deployment(2, 3, 2, 2), (2, 2, false), "an old one is left");
        assert_eq!(deployment(2, 2, 1, 2), (1, 2, false));
        let hooks = |bundle: Value| {
            let value = json!({ "webhooks": [{ "clientConfig": { "caBundle": "eA==" } }, { "clientConfig": bundle }] });
            progress(&key("MutatingWebhookConfiguration"), &value).done
        };
        assert!(hooks(json!({ "caBundle": "eA==" })));
        assert!(!hooks(json!({})) && !hooks(json!({ "caBundle": "" })));
    }

    fn told(status: Value) -> Option<Trouble> {
        let pod = json!({ "metadata": { "name": "p" }, "status": status });
        trouble(&serde_json::from_value(pod).unwrap())
    }

    fn container(state: Value) -> Value {
        json!([{ "name": "ca", "image": "i:1", "imageID": "", "ready": false, "restartCount": 4, "state": state,
            "lastState": { "terminated": { "exitCode": 1 } } }])
    }

    #[test]
    fn pods_that_are_replaced_do_not_matter() {
        let pod = |name: &str, hash: &str, time: &str| {
            let metadata = json!({ "name": name, "labels": { "pod-template-hash": hash }, "creationTimestamp": time });
            serde_json::from_value::<Pod>(json!({ "metadata": metadata })).unwrap()
        };
        let pods = [pod("old", "1", "2026-01-01T00:00:00Z"), pod("new", "2", "2026-01-02T00:00:00Z")];
        let names: Vec<_> = newest(&pods).filter_map(|pod| pod.metadata.name.as_deref()).collect();
        assert_eq!(names, ["new"]);
    }

    #[test]
    fn it_is_said_why_a_pod_is_not_ready() {
        assert_eq!(told(json!({ "conditions": [{ "type": "Ready", "status": "True" }] })), None);
        let unscheduled =
            json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" }] });
        assert_eq!(told(unscheduled), Some(Trouble::Told("finds no node: 0/1 nodes".into())));
        let pull = container(json!({ "waiting": { "reason": "ImagePullBackOff", "message": "Back-off" } }));
        let wanted = Trouble::Told("cannot get the image i:1: Back-off".into());
        assert_eq!(told(json!({ "containerStatuses": pull })), Some(wanted));
        let crash = container(json!({ "waiting": { "reason": "CrashLoopBackOff" } }));
        let text = "container ca crashes, last with code 1".to_owned();
        let wanted = || Some(Trouble::Crash { container: "ca".into(), text: text.clone() });
        assert_eq!(told(json!({ "containerStatuses": crash })), wanted());
        let again = container(json!({ "running": {} }));
        assert_eq!(told(json!({ "phase": "Running", "containerStatuses": again })), wanted());
        let creating = container(json!({ "waiting": { "reason": "ContainerCreating" } }));
        let wanted = Trouble::Waiting("is being started".into());
        assert_eq!(told(json!({ "phase": "Pending", "containerStatuses": creating })), Some(wanted));
        let wanted = Trouble::Waiting("runs, but is not ready yet".into());
        assert_eq!(told(json!({ "phase": "Running" })), Some(wanted));
    }
}
