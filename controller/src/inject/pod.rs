//! A pod as JSON, looked at.

use mesh_api::{config::nearest, names};
use serde_json::{Map, Value};

use super::{
    reason::{Fault, Reason, shown},
    template::Owner,
};

/// The lists that a pod's containers are in.
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
/// Every annotation of a pod that means something to the mesh.
const ANNOTATIONS: [&str; 14] = [
    names::INJECT,
    names::ANNOTATION_INJECTION,
    names::ANNOTATION_SKIP_INBOUND_PORTS,
    names::ANNOTATION_SKIP_OUTBOUND_PORTS,
    names::ANNOTATION_SKIP_SUBNETS,
    names::ANNOTATION_OPAQUE_PORTS,
    names::ANNOTATION_PROXY_CPU_REQUEST,
    names::ANNOTATION_PROXY_CPU_LIMIT,
    names::ANNOTATION_PROXY_MEMORY_REQUEST,
    names::ANNOTATION_PROXY_MEMORY_LIMIT,
    names::ANNOTATION_PROXY_LOG_LEVEL,
    names::ANNOTATION_PROXY_ACCESS_LOG,
    names::ANNOTATION_PROXY_IMAGE,
    names::ANNOTATION_NATIVE_SIDECAR,
];

/// One container of a pod, of whatever kind.
#[derive(Clone, Copy, Debug)]
pub struct ContainerRef<'a> {
    /// The list that it is in: `initContainers`, `containers`, `ephemeralContainers`.
    pub list: &'static str,
    /// Its place in the list.
    pub at: usize,
    /// It.
    pub json: &'a Value,
}

impl ContainerRef<'_> {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.json.get("name").and_then(Value::as_str).unwrap_or_default()
    }

    /// True for the two that the mesh puts in.
    #[must_use]
    pub fn is_of_mesh(&self) -> bool {
        [names::PROXY_CONTAINER, names::INIT_CONTAINER].contains(&self.name())
    }

    fn field(&self, below: &str) -> String {
        format!("spec.{}[{}].{below}", self.list, self.at)
    }
}

/// Every container of a pod: init, native sidecar, plain, ephemeral. Whoever asks for ports, probes or users asks here.
pub fn all_containers(pod: &Value) -> impl Iterator<Item = ContainerRef<'_>> {
    let spec = pod.get("spec");
    LISTS.into_iter().flat_map(move |list| {
        let containers = spec.and_then(|spec| spec.get(list)).and_then(Value::as_array).into_iter().flatten();
        containers.enumerate().map(move |(at, json)| ContainerRef { list, at, json })
    })
}

/// A pod whose shape was checked as far as it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Pod<'a> {
    json: &'a Value,
    spec: &'a Map<String, Value>,
}

impl<'a> Pod<'a> {
    pub(super) fn new(json: &'a Value) -> Result<Self, Fault> {
        let wrong = |field: &str, message: &str| Err(Fault::new(Reason::NotAPod, field, message.to_owned()));
        if !json.is_object() {
            return wrong("", "the object is not a Pod but no map at all");
        }
        if json.get("kind").is_some_and(|kind| kind != "Pod") {
            return wrong("kind", "the object is not a Pod");
        }
        for part in ["labels", "annotations"] {
            let Some(map) = json.get("metadata").and_then(|metadata| metadata.get(part)) else { continue };
            let field = format!("metadata.{part}");
            match map {
                Value::Null => {}
                Value::Object(map) => {
                    if let Some((key, _)) = map.iter().find(|(_, value)| !value.is_string()) {
                        return wrong(&format!("{field}[{}]", shown(key)), "the value is not a text; put it in quotes");
                    }
                }
                _ => return wrong(&field, "not a map"),
            }
        }
        if json.get("metadata").is_some_and(|metadata| !metadata.is_object() && !metadata.is_null()) {
            return wrong("metadata", "not a map");
        }
        let Some(spec) = json.get("spec").and_then(Value::as_object) else {
            return wrong("spec", "a Pod has a map here");
        };
        for list in LISTS.into_iter().chain(["volumes"]) {
            match spec.get(list) {
                None | Some(Value::Null) => {}
                Some(Value::Array(entries)) if entries.iter().all(Value::is_object) => {}
                Some(_) => return wrong(&format!("spec.{list}"), "not a list of maps"),
            }
        }
        if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            return wrong("spec.containers", "a Pod has at least one container");
        }
        Ok(Self { json, spec })
    }

    pub(super) fn json(&self) -> &'a Value {
        self.json
    }

    fn metadata(&self, key: &str) -> Option<&'a Value> {
        self.json.get("metadata")?.get(key)
    }

    pub(super) fn label(&self, name: &str) -> Option<&'a str> {
        self.metadata("labels")?.get(name)?.as_str()
    }

    pub(super) fn annotation(&self, name: &str) -> Option<&'a str> {
        self.metadata("annotations")?.get(name)?.as_str()
    }

    /// True where an earlier injection left its mark: containers with the mesh's names are the mesh's.
    pub(super) fn is_injected(&self) -> bool {
        self.label(names::LABEL_INJECTED).is_some() || self.annotation(names::ANNOTATION_INJECTION).is_some()
    }

    pub(super) fn host_network(&self) -> bool {
        self.spec.get("hostNetwork") == Some(&Value::Bool(true))
    }

    /// The policy of a pod that may not know the cluster's names.
    pub(super) fn other_dns(&self) -> Option<&'a str> {
        self.spec.get("dnsPolicy")?.as_str().filter(|policy| ["None", "Default"].contains(policy))
    }

    /// True where the pod as a whole says what it may use: what its containers say must fit into that.
    pub(super) fn has_resources(&self) -> bool {
        let side = |side: &str| self.spec.get("resources").and_then(|all| all.get(side)?.as_object());
        ["requests", "limits"].iter().any(|name| side(name).is_some_and(|amounts| !amounts.is_empty()))
    }

    /// True where the pod as a whole is confined by a profile that was made for the application.
    pub(super) fn has_own_apparmor(&self) -> bool {
        let profile = self.spec.get("securityContext").and_then(|context| context.get("appArmorProfile"));
        profile.and_then(|profile| profile.get("type")).is_some_and(|kind| kind == "Localhost")
    }

    pub(super) fn grace_seconds(&self) -> u64 {
        // 30: the default of Kubernetes.
        self.spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(30)
    }

    pub(super) fn has_init_containers(&self) -> bool {
        all_containers(self.json).any(|one| one.list == "initContainers" && !one.is_of_mesh())
    }

    /// The field that says so.
    pub(super) fn windows(&self) -> Option<&'static str> {
        if self.spec.get("os").and_then(|os| os.get("name")).is_some_and(|name| name == "windows") {
            return Some("spec.os.name");
        }
        let selector = self.spec.get("nodeSelector")?;
        let windows = |key: &str| selector.get(key).is_some_and(|name| name == "windows");
        (windows("kubernetes.io/os") || windows("beta.kubernetes.io/os")).then_some("spec.nodeSelector")
    }

    /// The application's own first container.
    pub(super) fn first_container(&self) -> Option<&'a str> {
        let mine = all_containers(self.json).find(|one| one.list == "containers" && !one.is_of_mesh())?;
        mine.json.get("name")?.as_str()
    }

    /// The workload that the pod belongs to: the Deployment, not its ReplicaSet; the CronJob, not its Job; itself where
    /// nobody owns it.
    pub(super) fn owner(&self) -> Owner {
        let name = self.owner_name();
        let labelled = self.label("batch.kubernetes.io/job-name").is_some();
        Owner { name, job: labelled || self.controller().is_some_and(|(kind, _)| kind == "Job") }
    }

    fn owner_name(&self) -> String {
        let own = || {
            let name = self.metadata("name").and_then(Value::as_str).filter(|name| !name.is_empty());
            let generated = self.metadata("generateName").and_then(Value::as_str).unwrap_or_default();
            name.unwrap_or_else(|| generated.trim_end_matches('-')).to_owned()
        };
        let Some((kind, name)) = self.controller() else { return own() };
        let parent = match kind {
            "ReplicaSet" => {
                let hash = self.label("pod-template-hash").or_else(|| self.label("rollouts-pod-template-hash"));
                hash.and_then(|hash| name.strip_suffix(hash)).and_then(|start| start.strip_suffix('-'))
            }
            // A CronJob names its Jobs by the minute that they are for.
            "Job" => name.rsplit_once('-').and_then(|(start, end)| {
                let minute = (8..=10).contains(&end.len()) && end.bytes().all(|byte| byte.is_ascii_digit());
                minute.then_some(start)
            }),
            _ => None,
        };
        parent.filter(|parent| !parent.is_empty()).unwrap_or(name).to_owned()
    }

    fn controller(&self) -> Option<(&'a str, &'a str)> {
        let owners = self.metadata("ownerReferences")?.as_array()?;
        let owner = owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))?;
        Some((owner.get("kind")?.as_str()?, owner.get("name")?.as_str()?))
    }

    /// What makes a sidecar impossible although it is wanted.
    pub(super) fn check(&self, native: bool, job: bool, faults: &mut Vec<Fault>) {
        if !native && job {
            let message = format!(
                "the pod of a Job would never end beside a plain sidecar; use Kubernetes 1.29 or later, or annotate the \
                 pod with {}=disabled",
                names::INJECT
            );
            faults.push(Fault::new(Reason::JobNeedsNativeSidecar, "metadata.ownerReferences", message));
        }
        self.check_users(faults);
        let injected = self.is_injected();
        for container in all_containers(self.json) {
            if container.is_of_mesh() && !injected {
                let message = format!("`{}` is the name of a container of the mesh; choose another", container.name());
                faults.push(Fault::new(Reason::ReservedName, container.field("name"), message));
            }
            if !container.is_of_mesh() {
                check_ports(container, faults);
            }
        }
        let volumes = self.spec.get("volumes").and_then(Value::as_array).into_iter().flatten();
        for (at, _) in
            volumes.enumerate().filter(|(_, volume)| volume.get("name") == Some(&names::IDENTITY_VOLUME.into()))
        {
            if !injected {
                let message =
                    format!("`{}` is the name of a volume of the mesh; choose another", names::IDENTITY_VOLUME);
                faults.push(Fault::new(Reason::ReservedName, format!("spec.volumes[{at}].name"), message));
            }
        }
    }

    fn check_users(&self, faults: &mut Vec<Fault>) {
        let user = |of: Option<&Value>| of?.get("securityContext")?.get("runAsUser")?.as_u64();
        let message = || {
            let id = names::PROXY_UID;
            format!("{id} is the sidecar's user: the application's connections would go round it; choose another")
        };
        let everybody = self.spec.get("securityContext").and_then(|context| context.get("runAsUser")?.as_u64());
        for container in all_containers(self.json).filter(|one| !one.is_of_mesh()) {
            let own = user(Some(container.json));
            if own == Some(names::PROXY_UID.into()) {
                let field = container.field("securityContext.runAsUser");
                faults.push(Fault::new(Reason::ReservedUser, field, message()));
            } else if own.is_none() && everybody == Some(names::PROXY_UID.into()) {
                faults.push(Fault::new(Reason::ReservedUser, "spec.securityContext.runAsUser", message()));
                return;
            }
        }
    }

    /// Annotations that look like the mesh's and are not.
    pub(super) fn unknown_annotations(&self) -> Vec<String> {
        let annotations = self.metadata("annotations").and_then(Value::as_object).into_iter().flatten();
        let ours = annotations.filter(|(name, _)| name.split_once('/').is_some_and(|(group, _)| group == names::GROUP));
        ours.filter(|(name, _)| !ANNOTATIONS.contains(&name.as_str()))
            .map(|(name, _)| {
                let hint = nearest(name, ANNOTATIONS.into_iter())
                    .map(|known| format!("; did you mean {known}?"))
                    .unwrap_or_default();
                format!("there is no annotation {}{hint}", shown(name))
            })
            .collect()
    }
}

fn check_ports(container: ContainerRef<'_>, faults: &mut Vec<Fault>) {
    let ports = container.json.get("ports").and_then(Value::as_array).into_iter().flatten();
    for (at, port) in ports.enumerate() {
        let number = port.get("containerPort").and_then(Value::as_u64).unwrap_or_default();
        let tcp = port.get("protocol").is_none_or(|protocol| protocol == "TCP");
        let reserved = [names::PORT_INBOUND, names::PORT_OUTBOUND, names::PORT_ADMIN];
        if tcp && reserved.iter().any(|own| u64::from(*own) == number) {
            let message = format!("{number} is a port of the sidecar; let the application listen on another");
            let field = container.field(&format!("ports[{at}].containerPort"));
            faults.push(Fault::new(Reason::ReservedPort, field, message));
        }
    }
}
