//! By what other meshes are known. Pure. Floor 0 of `check`.

use k8s_openapi::api::{admissionregistration::v1::MutatingWebhookConfiguration, core::v1::Pod};

use super::pods;

/// A registered webhook.
pub type Hook = MutatingWebhookConfiguration;

/// Another mesh.
#[derive(Debug)]
pub struct Mesh {
    /// Its name.
    pub name: &'static str,
    /// Its API groups: these, and what ends with a dot and these.
    groups: &'static [&'static str],
    /// What the names of its webhook configurations begin with.
    webhooks: &'static [&'static str],
    /// Its sidecar's container.
    sidecar: &'static str,
}

/// Those that are known.
pub const MESHES: &[Mesh] = &[
    Mesh { name: "Istio", groups: &["istio.io"], webhooks: &["istio"], sidecar: "istio-proxy" },
    Mesh { name: "Linkerd", groups: &["linkerd.io"], webhooks: &["linkerd"], sidecar: "linkerd-proxy" },
    Mesh { name: "Consul", groups: &["consul.hashicorp.com"], webhooks: &["consul"], sidecar: "consul-dataplane" },
    Mesh { name: "Kuma", groups: &["kuma.io"], webhooks: &["kuma", "kong-mesh"], sidecar: "kuma-sidecar" },
    Mesh { name: "App Mesh", groups: &["appmesh.k8s.aws"], webhooks: &["appmesh"], sidecar: "envoy" },
    Mesh { name: "Open Service Mesh", groups: &["openservicemesh.io"], webhooks: &["osm"], sidecar: "osm-proxy" },
];

/// True where `group` is one of the mesh's.
#[must_use]
pub fn is_group_of(mesh: &Mesh, group: &str) -> bool {
    mesh.groups.iter().any(|own| group.strip_suffix(own).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// True where the webhook is one of the mesh's and changes pods.
#[must_use]
pub fn is_webhook_of(mesh: &Mesh, hook: &Hook) -> bool {
    let name = hook.metadata.name.as_deref().unwrap_or_default();
    mesh.webhooks.iter().any(|prefix| name.starts_with(prefix)) && hook.webhooks.iter().flatten().any(changes_pods)
}

fn changes_pods(webhook: &k8s_openapi::api::admissionregistration::v1::MutatingWebhook) -> bool {
    let rules = webhook.rules.iter().flatten();
    rules.flat_map(|rule| rule.resources.iter().flatten()).any(|resource| resource == "pods" || resource == "*")
}

/// True where pods are refused while the webhook does not answer.
#[must_use]
pub fn blocks_pods(hook: &Hook) -> bool {
    hook.webhooks
        .iter()
        .flatten()
        .any(|webhook| changes_pods(webhook) && webhook.failure_policy.as_deref() != Some("Ignore"))
}

/// The Services that a webhook calls, as `NAMESPACE/NAME`.
pub fn services(hook: &Hook) -> impl Iterator<Item = String> + '_ {
    let services = hook.webhooks.iter().flatten().filter_map(|webhook| webhook.client_config.service.as_ref());
    services.map(|service| format!("{}/{}", service.namespace, service.name))
}

/// The mesh whose sidecar a pod has.
#[must_use]
pub fn sidecar_of(pod: &Pod) -> Option<&'static Mesh> {
    MESHES.iter().find(|mesh| pods::containers(pod).any(|container| container.name == mesh.sidecar))
}
