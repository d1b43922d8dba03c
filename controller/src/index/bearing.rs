//! Which changes bear on what is wrong with the mesh as a whole (`review`), and on how much there is: whoever tells that
//! looks at everything, so it must not be for a change that cannot matter. Pure.

use crate::translate::{Workload, WorkloadKind};

/// Kinds whose status says which generation it is about. Others have one too (Pods, EndpointSlices), and theirs changes with
/// every endpoint that comes or goes.
const REPORTED: [&str; 4] = ["HTTPRoute", "AuthorizationPolicy", "TransportPolicy", "ExternalWorkload"];

/// True where somebody asks which generation was looked at.
pub(super) fn counts_generations(kind: &str) -> bool {
    REPORTED.contains(&kind)
}

/// True where a workload that is now `new` may be to policies, and to others, what `old` was not. Whether it can be sent to
/// is no part of that.
pub(super) fn bears(old: Option<&Workload>, new: Option<&Workload>) -> bool {
    let (Some(old), Some(new)) = (old, new) else { return old.is_some() != new.is_some() };
    let same = (old.kind, &old.account, &old.labels, &old.ports) == (new.kind, &new.account, &new.labels, &new.ports);
    // Only those outside of a cluster can claim each other's addresses.
    !same || (new.kind == WorkloadKind::External && old.addresses != new.addresses)
}

#[cfg(test)]
mod tests {
    use crate::fixtures::{cluster, index_of};

    #[test]
    fn endpoints_come_and_go_without_a_look_at_everything() {
        let pod = |generation: u8, account: &str, more: &str| {
            let text = format!(
                "kind: Pod\nmetadata: {{name: a, namespace: one, generation: {generation}{more}}}\n\
                 spec: {{serviceAccountName: {account}}}\nstatus: {{phase: Running, podIP: 10.0.0.1}}"
            );
            cluster(&text).remove(0)
        };
        let slice = |generation: u8, ready: bool| {
            let text = format!(
                "kind: EndpointSlice\nmetadata: {{name: a, namespace: one, generation: {generation}, \
                 labels: {{kubernetes.io/service-name: a}}}}\naddressType: IPv4\n\
                 endpoints: [{{addresses: [10.0.0.1], conditions: {{ready: {ready}}}}}]"
            );
            cluster(&text).remove(0)
        };
        let mut index = index_of(&[pod(1, "web", ""), slice(1, true)]);
        let before = index.edition();
        assert!(!index.apply(&slice(2, false)).is_empty());
        assert!(!index.apply(&pod(2, "web", ", deletionTimestamp: '2026-01-01T00:00:00Z'")).is_empty());
        assert_eq!(index.edition(), before);
        index.apply(&pod(2, "api", ""));
        assert_ne!(index.edition(), before, "a policy for the account may have found somebody");
    }
}
