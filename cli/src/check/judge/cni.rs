//! The CNI plugin: does it run, and is it in force, on every node?

use mesh_api::names::{LABEL_REPAIR, REPAIR_VALUE, SYSTEM_NAMESPACE};

use super::known;
use crate::check::{
    facts::{Facts, Missing},
    judge::{cluster::count, control},
    pods,
    verdict::{Lines, Verdict},
    wish,
};

/// DaemonSet, service account and label of the plugin's agent.
pub const AGENT: &str = "mesh-cni";
/// True where the plugin is there.
fn is_there(facts: &Facts) -> Result<bool, Missing> {
    let sets = facts.daemon_sets.as_ref().map_err(Clone::clone)?;
    Ok(sets.iter().any(|set| set.metadata.name.as_deref() == Some(AGENT)))
}

/// Pods that count on the plugin.
fn counted_on(facts: &Facts) -> usize {
    let pods = facts.pods.iter().flatten().filter(|pod| pods::is_alive(pod));
    pods.filter(|pod| wish::record(pod).is_some_and(|record| record.cni)).count()
}

/// Does the plugin run on every node?
pub fn daemon_set(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    let sets = known!(&facts.daemon_sets);
    let Some(set) = sets.iter().find(|set| set.metadata.name.as_deref() == Some(AGENT)) else {
        let enabled = facts.inject.as_ref().is_ok_and(|settings| settings.config.cni);
        return match counted_on(facts) {
            0 if enabled => Verdict::error(
                "new pods count on the CNI plugin, and it is not there: they will not start",
                "install it: meshctl upgrade --set cni.enabled=true; or switch it off where sidecars are made too",
            ),
            0 => Verdict::ok("not used: an init container of each pod redirects its connections"),
            pods => Verdict::error(
                format!("{} on the CNI plugin, and it is not there", count(pods, "pod counts", "pods count")),
                "install it: meshctl upgrade --set cni.enabled=true; or restart these pods, so that an init container redirects",
            ),
        };
    };
    let status = set.status.clone().unwrap_or_default();
    let (wanted, ready) = (status.desired_number_scheduled, status.number_ready);
    let hint = format!(
        "kubectl describe -n {SYSTEM_NAMESPACE} daemonset/{AGENT}; pods with sidecars do not start on these nodes"
    );
    if wanted == 0 {
        return Verdict::error("its DaemonSet fits no node", "look at its nodeSelector and tolerations");
    }
    if ready < wanted {
        return Verdict::error(
            format!("ready on {ready} of {}", count(usize::try_from(wanted).unwrap_or(0), "node", "nodes")),
            hint,
        );
    }
    if status.updated_number_scheduled.unwrap_or(0) < wanted {
        return Verdict::warning("a rollout is under way", "wait for it: meshctl check --wait 2m");
    }
    Verdict::ok(format!("ready on {}", count(usize::try_from(wanted).unwrap_or(0), "node", "nodes")))
}

/// Is the plugin in force on every node?
pub fn nodes(facts: &Facts) -> Verdict {
    if let Some(verdict) = control::absent(facts) {
        return verdict;
    }
    if !known!(is_there(facts)) {
        return Verdict::skipped("the CNI plugin is not used");
    }
    let pods = known!(&facts.system_pods);
    let nodes = known!(&facts.nodes);
    let mut lines = Lines::new();
    let agents: Vec<_> =
        pods.iter().filter(|pod| pods::is_alive(pod) && control::part_of(pod, &[AGENT]).is_some()).collect();
    for pod in &agents {
        let name = pod.metadata.name.as_deref().unwrap_or("?");
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("(no node)");
        let logs = format!("kubectl logs -n {SYSTEM_NAMESPACE} {name}; pods with sidecars do not start on that node");
        let said = facts.replicas.iter().find(|replica| replica.pod == name).map(|replica| &replica.not_ready);
        match (said, pods::not_running(pod)) {
            (Some(Ok(Some(why))), _) => lines.error(format!("{node}: {}", why.trim()), logs),
            (_, Some(why)) => lines.error(format!("{node}: {why}"), logs),
            (Some(Err(missing)), None) => lines.warning(format!("{node}: {}", missing.why), logs),
            (_, None) => {}
        }
    }
    for pod in facts.pods.iter().flatten().filter(|pod| pods::label(pod, LABEL_REPAIR) == Some(REPAIR_VALUE)) {
        lines.error(
            format!("{}: it was started without the plugin, and waits for its network", pods::name(pod)),
            "delete the pod, so that it is made anew; or let the agent do that: cni.repair=delete",
        );
    }
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let served =
            agents.iter().any(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(name));
        if !served {
            lines.warning(
                format!("{name} has no agent: pods with sidecars do not start there"),
                "where the node is to take such pods, let the DaemonSet tolerate its taints",
            );
        }
    }
    lines.verdict(
        format!("in force on {}", count(agents.len(), "node", "nodes")),
        "node is without it",
        "nodes are without it",
    )
}
