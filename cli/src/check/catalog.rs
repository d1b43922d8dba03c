//! Every check, once: its name (which is its page's), its place, its judge. Floor 2 of `check`: imports `judge`.

use serde::Serialize;

use super::{
    facts::Facts,
    judge::{certificates, cluster, cni, configuration, control, injection, install, proxies, webhook},
    verdict::Verdict,
};

/// What is looked at together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Category {
    /// Kubernetes itself.
    Cluster,
    /// What installing needs.
    Install,
    /// The mesh's own programs.
    ControlPlane,
    /// Injection and validation.
    Webhook,
    /// Roots, issuers, leaves.
    Certificates,
    /// What users wrote.
    Configuration,
    /// The CNI plugin.
    Cni,
    /// Pods and their sidecars.
    DataPlane,
}

impl Category {
    /// The heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Install => "installation",
            Self::ControlPlane => "control plane",
            Self::Webhook => "webhook",
            Self::Certificates => "certificates",
            Self::Configuration => "configuration",
            Self::Cni => "cni plugin",
            Self::DataPlane => "data plane",
        }
    }
}

/// Which checks are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before an installation: can the mesh be installed here?
    Before,
    /// Afterwards: is the control plane well?
    Installed,
    /// As well: are the proxies?
    Proxies,
}

/// A check.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name, stable: scripts ask for it, and its page is called so.
    pub name: &'static str,
    /// Where it stands.
    pub category: Category,
    /// What it holds, as a sentence that is true where all is well.
    pub title: &'static str,
    /// Decides.
    pub judge: fn(&Facts) -> Verdict,
}

impl Check {
    /// Whether it belongs to a stage.
    #[must_use]
    pub fn is_of(&self, stage: Stage) -> bool {
        match self.category {
            Category::Cluster => true,
            Category::Install => stage == Stage::Before,
            Category::DataPlane => stage == Stage::Proxies,
            _ => stage != Stage::Before,
        }
    }

    /// Its page, from the root of the repository.
    #[must_use]
    pub fn page(&self) -> String {
        format!("docs/checks/{}.md", self.name)
    }
}

macro_rules! check {
    ($name:literal, $category:ident, $judge:path, $title:literal) => {
        Check { name: $name, category: Category::$category, title: $title, judge: $judge }
    };
}

/// Every check, in the order in which they are shown.
pub const CHECKS: &[Check] = &[
    check!("api-reachable", Cluster, cluster::reachable, "The API server answers, and takes us in"),
    check!("api-version", Cluster, cluster::version, "Kubernetes is new enough"),
    check!("api-clock", Cluster, cluster::clock, "This machine and the API server agree about the time"),
    check!("nodes", Cluster, cluster::nodes, "Sidecars can run on the nodes"),
    check!("node-clocks", Cluster, cluster::node_clocks, "The nodes' clocks agree with the API server's"),
    check!("gateway-api", Cluster, cluster::gateway_api, "The Gateway API is served in a version that the mesh reads"),
    check!("other-meshes", Cluster, cluster::other_meshes, "No other mesh takes part in the pods' traffic"),
    check!("install-rights", Install, install::rights, "You may create what an installation consists of"),
    check!("install-leftovers", Install, install::leftovers, "Nothing is left of an earlier installation"),
    check!("control-plane-deployments", ControlPlane, control::deployments, "The deployments are available"),
    check!("control-plane-pods", ControlPlane, control::pods, "The control plane's pods run and are ready"),
    check!("control-plane-versions", ControlPlane, control::versions, "The control plane is of meshctl's version"),
    check!("control-plane-crds", ControlPlane, control::crds, "The mesh's own kinds are served"),
    check!("control-plane-services", ControlPlane, control::services, "The services lead to ready pods"),
    check!("control-plane-leases", ControlPlane, control::leases, "Each part has a leader, and it is alive"),
    check!("control-plane-clocks", ControlPlane, control::clocks, "The control plane's clocks agree with the server's"),
    check!("webhook-configuration", Webhook, webhook::configuration, "The webhooks are registered as they should be"),
    check!("webhook-ca-bundle", Webhook, webhook::ca_bundle, "The API server trusts the webhooks by the mesh's roots"),
    check!("webhook-certificate", Webhook, webhook::certificate, "The webhooks show a certificate that is accepted"),
    check!("webhook-answers", Webhook, webhook::answers, "The API server reaches the webhook, and pods are injected"),
    check!("ca-roots", Certificates, certificates::roots, "The roots are valid, and every replica has the same ones"),
    check!("ca-issuer", Certificates, certificates::issuer, "The issuer is valid, and every replica has the same one"),
    check!("trust-bundles", Certificates, certificates::bundles, "Every namespace has the authority's trust bundle"),
    check!("control-plane-certificates", Certificates, certificates::own, "The control plane's certificates are valid"),
    check!(
        "problems",
        Configuration,
        configuration::problems,
        "The controller finds nothing wrong with what was written"
    ),
    check!("conditions", Configuration, configuration::conditions, "Routes and policies are accepted"),
    check!("cni-daemonset", Cni, cni::daemon_set, "The CNI plugin runs on every node"),
    check!("cni-nodes", Cni, cni::nodes, "The CNI plugin is in force on every node"),
    check!("pods-injected", DataPlane, injection::missing, "Pods that should have a sidecar have one"),
    check!("pods-excluded", DataPlane, injection::excluded, "Pods with a sidecar should have one"),
    check!("pods-current", DataPlane, injection::current, "Sidecars are made from the settings that are in force"),
    check!("pods-admitted", DataPlane, injection::admitted, "Namespaces allow the pods that injection makes"),
    check!("pods-one-mesh", DataPlane, injection::one_mesh, "No pod has the sidecars of two meshes"),
    check!("proxies-running", DataPlane, proxies::running, "The sidecars run and are ready"),
    check!("proxies-version", DataPlane, proxies::versions, "The sidecars are of the control plane's version"),
    check!("proxies-connected", DataPlane, proxies::connected, "The sidecars are connected to a controller"),
    check!("proxies-in-sync", DataPlane, proxies::in_sync, "The sidecars run the configuration that they were sent"),
    check!("proxies-certificates", DataPlane, proxies::certificates, "The sidecars' certificates are valid"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_fit_a_file_and_categories_stand_together() {
        let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), CHECKS.len());
        let fits = |name: &str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
        assert!(names.iter().all(|name| fits(name)), "{names:?}");
        let categories: Vec<_> = CHECKS.iter().map(|check| check.category).collect();
        assert!(categories.is_sorted());
    }
}
