//! The kinds that are read from an API server.

use kube::core::ApiResource;

/// One kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    /// As in manifests.
    pub(super) name: &'static str,
    /// API group; empty for the core group.
    pub(super) group: &'static str,
    /// Versions that can be read, the preferred one first.
    pub(super) versions: &'static [&'static str],
    /// As in paths.
    pub(super) plural: &'static str,
    /// Nothing but its metadata is asked for.
    pub(super) only_metadata: bool,
    /// The cluster may be without it, and may get or lose it at any time.
    pub(super) optional: bool,
    /// Which objects; empty: all.
    pub(super) fields: &'static str,
    /// It has a status that the controller writes.
    pub(super) reported: bool,
}

const BUILT_IN: Kind = Kind {
    name: "",
    group: "",
    versions: &["v1"],
    plural: "",
    only_metadata: false,
    optional: false,
    fields: "",
    reported: false,
};
const OWN: Kind =
    Kind { group: mesh_api::names::GROUP, versions: &["v1alpha1"], optional: true, reported: true, ..BUILT_IN };

/// All of them. Those without which nothing works come first.
pub(super) const KINDS: [Kind; 9] = [
    Kind { name: "Namespace", plural: "namespaces", only_metadata: true, ..BUILT_IN },
    Kind { name: "Node", plural: "nodes", only_metadata: true, ..BUILT_IN },
    // What has ended has no address any more, and there may be very many of them.
    Kind { name: "Pod", plural: "pods", fields: "status.phase!=Succeeded,status.phase!=Failed", ..BUILT_IN },
    Kind { name: "Service", plural: "services", ..BUILT_IN },
    Kind { name: "EndpointSlice", group: "discovery.k8s.io", plural: "endpointslices", ..BUILT_IN },
    Kind {
        name: "HTTPRoute",
        group: "gateway.networking.k8s.io",
        versions: &["v1", "v1beta1"],
        plural: "httproutes",
        ..OWN
    },
    Kind { name: "AuthorizationPolicy", plural: "authorizationpolicies", ..OWN },
    Kind { name: "TransportPolicy", plural: "transportpolicies", ..OWN },
    Kind { name: "ExternalWorkload", plural: "externalworkloads", ..OWN },
];

impl Kind {
    /// How it is asked for in one of its versions.
    pub(super) fn resource(&self, version: &str) -> ApiResource {
        let api_version = if self.group.is_empty() { version.to_owned() } else { format!("{}/{version}", self.group) };
        ApiResource {
            group: self.group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: self.name.to_owned(),
            plural: self.plural.to_owned(),
        }
    }
}

/// Number of a kind in [`KINDS`].
#[cfg(test)]
pub(super) fn number_of(name: &str) -> usize {
    KINDS.iter().position(|kind| kind.name == name).unwrap()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_api::resources;

    use super::*;

    #[test]
    fn every_kind_that_the_mesh_reads_is_here_once() {
        let here: BTreeSet<(&str, &str)> = KINDS.iter().map(|kind| (kind.group, kind.name)).collect();
        assert_eq!(here, resources::KINDS.into_iter().chain(resources::CLUSTER_KINDS).collect());
        assert_eq!(here.len(), KINDS.len());
        assert_eq!(KINDS[number_of("Pod")].resource("v1").api_version, "v1");
        assert_eq!(KINDS[number_of("HTTPRoute")].resource("v1").api_version, "gateway.networking.k8s.io/v1");
    }
}
