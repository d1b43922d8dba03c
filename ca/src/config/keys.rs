//! The meaning of every key of the configuration, for the reference page.

/// Every key and its meaning.
pub const KEYS: &[(&str, &str)] = &[
    ("trust_domain", "Trust domain of the mesh: the one root of trust, and the host part of every identity."),
    ("listen", "Where members ask for certificates and follow the trust bundle."),
    (
        "admin",
        "Where the admin server listens. Health and metrics are everybody's; all else is answered to this machine (or pod) and to port-forwards only.",
    ),
    (
        "store",
        "Where roots and issuers are kept: `folder`, or `kubernetes`: in the Secret `mesh-ca`, shared by every replica, whose leader (Lease `mesh-ca`) rotates them and keeps the ConfigMap `mesh-trust` in every namespace.",
    ),
    (
        "authentication",
        "How members prove who they are: `join` (tokens that the key of join tokens signed) or `kubernetes` (service-account tokens, by TokenReview).",
    ),
    ("state_folder", "Folder of roots, issuers and the key of join tokens."),
    ("join_key_file", "File of the key of join tokens; empty: `join.key` in the state folder."),
    (
        "kubernetes.kubeconfig",
        "File that says how to reach the cluster; empty: as `KUBECONFIG` says, or the pod's service account.",
    ),
    ("kubernetes.namespace", "Namespace of the Secret and the Lease."),
    ("kubernetes.timeout", "One call of the API server takes at most this long."),
    (
        "token_review.check_address",
        "Whether a call must come from an address of the pod that its token is bound to (of its node, for a pod on the host's network).",
    ),
    (
        "token_review.allow_unbound",
        "Whether tokens that are bound to no pod are taken as well; nothing is known of where these may come from.",
    ),
    ("supplied.roots_file", "PEM file of roots that somebody else makes; the three files of `supplied` go together."),
    (
        "supplied.chain_file",
        "PEM file of the issuer's certificate that somebody else makes, and what links it to a root.",
    ),
    ("supplied.key_file", "PEM file of that issuer's private key, mode 0640 or less."),
    ("certificates.default_ttl", "Validity of a certificate where the member has no wish."),
    ("certificates.min_ttl", "Shortest validity; at least `1s`. A shorter wish is raised to it."),
    ("certificates.max_ttl", "Longest validity; at most a day. A longer wish is cut to it."),
    ("rotation.root_lifetime", "Validity of a root; its successor is announced at two thirds."),
    (
        "rotation.issuer_lifetime",
        "Validity of an issuer; its successor signs at two thirds. At least three times `certificates.max_ttl`.",
    ),
    ("rotation.overlap", "From announcing a new root to signing under it: every member must have heard of it by then."),
    ("rotation.retire", "From signing under a new root to forgetting the old one; at least `certificates.max_ttl`."),
    ("rotation.check_interval", "How often to look whether something is due, or was replaced."),
    (
        "limits.connections",
        "Connections at once: one for each member, about 40 KiB each. For each one more, one that asks for nothing is closed, or one of the address that has most.",
    ),
    (
        "limits.connections_per_address",
        "Connections of one address at once; for each one more, one of its own is closed. Pods on a node's network share its address.",
    ),
    ("limits.first_call", "A connection without any call is closed after this time."),
    ("limits.watchers", "Members that follow the trust bundle at once."),
    ("limits.concurrent", "Certificates made at once."),
    ("limits.waiting", "Calls that wait for their turn; further ones are refused."),
    ("limits.deadline", "A call takes at most this long, waiting included."),
    ("limits.refill", "One holder of an identity gets one more certificate each time this passes."),
    ("limits.burst", "Certificates that one holder of an identity gets at once after a pause."),
    ("limits.holders", "Holders whose rate is kept at once."),
    ("log.level", "Log level, such as `info` or `info,mesh_ca=debug`."),
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
