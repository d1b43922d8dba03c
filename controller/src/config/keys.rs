//! The meaning of every key of the configuration, for the reference page.

/// Every key and its meaning.
pub const KEYS: &[(&str, &str)] = &[
    ("listen", "Where proxies ask, over mutual TLS."),
    ("source.kind", "Where objects come from: `files` or `kubernetes`."),
    ("source.folders", "Of `files`: folders of manifests (or single files), read with all folders below them."),
    ("source.debounce", "After a file changed, wait this long for more; at most `10s`."),
    ("source.rescan", "Look this often although no change was heard of; at least `100ms`."),
    (
        "source.kubeconfig",
        "Of `kubernetes`: how the API server is reached; empty: as a pod, or by the kubeconfig of whoever runs it.",
    ),
    (
        "source.discovery",
        "Of `kubernetes`: ask this often which kinds the cluster has (Gateway API's and the mesh's own may come and go); at least `1s`.",
    ),
    ("leader.lease", "Name of the Lease by which one of several replicas writes statuses; only with `kubernetes`."),
    ("leader.namespace", "Namespace of the Lease."),
    ("leader.identity", "Name of this replica, which no other has; empty: the machine's, which is the pod's."),
    ("leader.duration", "A lease that is not renewed for this long is free; `10s` to `10m`."),
    (
        "defaults.transport",
        "Where no TransportPolicy speaks: `permissive` (plain connections are let in too) or `strict`.",
    ),
    ("defaults.allow", "Where no AuthorizationPolicy speaks: whether calls are let in."),
    ("identity.trust_domain", "Trust domain of the mesh: of the controller itself and of every member."),
    ("identity.ca", "`HOST:PORT` of the certificate authority; a host name is resolved at each connection."),
    ("identity.token_file", "File with the bootstrap token; read again for each certificate."),
    (
        "identity.roots_file",
        "PEM file with the roots to trust for the first contact; read again when it cannot be made.",
    ),
    ("identity.validity_seconds", "Wished validity of certificates; 0 leaves it to the authority."),
    (
        "admin.listen",
        "Where the admin server listens. Health and metrics are everybody's; all else is answered to this machine (or pod) and to port-forwards only.",
    ),
    ("limits.streams", "Streams of proxies at once; further ones are refused."),
    ("limits.subscriptions", "Destinations that one proxy watches at once."),
    (
        "limits.slow_reader",
        "A proxy that takes nothing for this long, while there is something to take, is let go; at least `1s`.",
    ),
    ("inject.image", "Image of the sidecar."),
    ("inject.pull_policy", "When nodes fetch it: `IfNotPresent`, `Always` or `Never`."),
    (
        "inject.native",
        "Whether sidecars are init containers that stay: `auto` (where the cluster is 1.29 or later), `true` or `false`.",
    ),
    ("inject.cni", "Whether a CNI plugin redirects connections; then pods need no privilege, and look whether it did."),
    ("inject.cpu_request", "CPU that a proxy asks for; empty: none."),
    (
        "inject.cpu_limit",
        "CPU that a proxy may use, and rounded up the threads that it carries traffic with; empty: no limit, one thread.",
    ),
    ("inject.memory_request", "Memory that a proxy asks for; empty: none."),
    ("inject.memory_limit", "Memory that a proxy may use; empty: no limit."),
    ("inject.log_level", "Log level of proxies."),
    ("inject.log_format", "Log format of proxies: `text` or `json`."),
    ("inject.access_log", "Whether each request gets a line in the proxy's log."),
    ("inject.otlp_endpoint", "Where proxies send spans, such as `http://collector.tracing:4317`; empty: nowhere."),
    ("inject.trace_ratio", "Share of the traces begun at a proxy that is recorded."),
    (
        "inject.skip_inbound_ports",
        "Ports of applications that are reached without the proxy, such as `9100,8000-8010`.",
    ),
    ("inject.skip_outbound_ports", "Ports that applications reach without the proxy."),
    ("inject.skip_subnets", "Networks that applications reach without the proxy, such as `10.0.0.0/8,fd00::/8`."),
    ("inject.ca", "Address of the certificate authority as pods see it."),
    ("inject.discovery", "Address of the controller as pods see it."),
    ("webhook.listen", "Where API servers ask for injection and validation; null: nowhere, as outside of a cluster."),
    ("log.level", "Log level, such as `info` or `info,mesh_controller=debug`."),
    ("log.format", "`text` or `json`."),
];

#[cfg(test)]
mod tests {
    use super::KEYS;
    use crate::config::Config;

    #[test]
    fn every_key_has_a_meaning() {
        let defaults = mesh_api::config::keys_of(&Config::default());
        let mut keys: Vec<&str> = defaults.iter().map(|(key, _)| key.as_str()).collect();
        let mut told: Vec<&str> = KEYS.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        told.sort_unstable();
        assert_eq!(keys, told);
    }
}
