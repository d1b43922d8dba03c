//! What a pod says about its sidecar. Pure. Floor 0 of `check`.
//!
//! A sidecar may be an init container that stays or a plain container: nothing here looks at one list only.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use mesh_api::names::{INJECTED_VALUE, LABEL_INJECTED, PROXY_CONTAINER};

/// `NAMESPACE/NAME`.
#[must_use]
pub fn name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    format!("{}/{}", metadata.namespace.as_deref().unwrap_or("?"), metadata.name.as_deref().unwrap_or("?"))
}

/// All containers, those that run before the others among them.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    init.iter().chain(spec.map(|spec| spec.containers.as_slice()).unwrap_or_default())
}

/// How all containers are.
pub fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
    init.iter().chain(status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default())
}

/// The sidecar.
#[must_use]
pub fn sidecar(pod: &Pod) -> Option<&Container> {
    containers(pod).find(|container| container.name == PROXY_CONTAINER)
}

/// How the sidecar is.
#[must_use]
pub fn sidecar_status(pod: &Pod) -> Option<&ContainerStatus> {
    statuses(pod).find(|status| status.name == PROXY_CONTAINER)
}

/// True where the pod has a sidecar, or says so.
#[must_use]
pub fn is_injected(pod: &Pod) -> bool {
    sidecar(pod).is_some() || label(pod, LABEL_INJECTED) == Some(INJECTED_VALUE)
}

/// The value of a label.
#[must_use]
pub fn label<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(name).map(String::as_str)
}

/// The phase; empty where there is none yet.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// True where it neither ended nor is about to.
#[must_use]
pub fn is_alive(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase(pod), "Succeeded" | "Failed")
}

/// True where it runs and nobody asked it to end.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    is_alive(pod) && phase(pod) == "Running"
}

/// The tag of an image; empty where it has none.
#[must_use]
pub fn tag(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    let last = image.rsplit_once('/').map_or(image, |(_, last)| last);
    last.split_once(':').map_or("", |(_, tag)| tag)
}

/// Why a container does not run or is not ready, in one sentence; `None`: it is ready, or ended well.
#[must_use]
pub fn trouble(status: &ContainerStatus) -> Option<String> {
    let state = status.state.clone().unwrap_or_default();
    if let Some(waiting) = state.waiting {
        let reason = waiting.reason.unwrap_or_else(|| "waiting".into());
        // Whatever is in front of it has its own trouble.
        if reason == "PodInitializing" {
            return None;
        }
        let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
        let ended = last.map(|last| format!("; it ended with exit code {}", last.exit_code)).unwrap_or_default();
        let message = waiting.message.map(|message| format!(": {message}")).unwrap_or_default();
        return Some(format!("{}: {reason}{message}{ended}", status.name));
    }
    if let Some(ended) = state.terminated {
        return (ended.exit_code != 0).then(|| format!("{}: ended with exit code {}", status.name, ended.exit_code));
    }
    (!status.ready).then(|| format!("{}: runs, but is not ready", status.name))
}

/// Why a pod that should run does not, in one sentence.
#[must_use]
pub fn not_running(pod: &Pod) -> Option<String> {
    if let Some(trouble) = statuses(pod).find_map(trouble) {
        return Some(trouble);
    }
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let unscheduled =
        conditions.into_iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return Some(condition.message.clone().unwrap_or_else(|| "it is not scheduled".into()));
    }
    (phase(pod) != "Running")
        .then(|| format!("its phase is {}", if phase(pod).is_empty() { "unknown" } else { phase(pod) }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> ContainerStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn tags_are_read() {
        let tags = ["mesh.dev/proxy:0.1.0", "host:5000/a/b", "host:5000/a/b:v1@sha256:00", "a"].map(tag);
        assert_eq!(tags, ["0.1.0", "", "v1", ""]);
    }

    #[test]
    fn a_container_says_its_trouble() {
        let base = json!({"name": "c", "image": "", "imageID": "", "restartCount": 0, "ready": false});
        let with = |key: &str, value: serde_json::Value| {
            let mut base = base.clone();
            base[key] = value;
            trouble(&status(base))
        };
        assert_eq!(trouble(&status(base.clone())), Some("c: runs, but is not ready".into()));
        assert_eq!(with("ready", json!(true)), None);
        assert_eq!(with("state", json!({"terminated": {"exitCode": 0}})), None);
        assert_eq!(with("state", json!({"waiting": {"reason": "PodInitializing"}})), None);
        let waiting = with("state", json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}));
        assert_eq!(waiting, Some("c: ImagePullBackOff: no such image".into()));
    }

    #[test]
    fn a_native_sidecar_is_found_like_a_plain_one() {
        for list in ["initContainers", "containers"] {
            let mut value = json!({"metadata": {}, "spec": {"containers": []}});
            value["spec"][list] = json!([{"name": PROXY_CONTAINER}]);
            let pod: Pod = serde_json::from_value(value).unwrap();
            assert!(is_injected(&pod), "{list}");
        }
    }
}
