//! The mesh's own programs: there, ready, of one version, led, reached.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerStatus, Pod},
    },
    jiff::Timestamp,
};
use mesh_api::names::{API_VERSION, CA_ACCOUNT, CONTROLLER_ACCOUNT, GROUP, SYSTEM_NAMESPACE, WEBHOOK_SERVICE};

use super::known;
use crate::check::{
    facts::Facts,
    judge::cluster::{count, judge_clock},
    pods,
    verdict::{Lines, Verdict, roughly},
};

/// The deployments of the control plane; their service accounts, services and leases are called the same.
pub const PARTS: [&str; 2] = [CA_ACCOUNT, CONTROLLER_ACCOUNT];
/// A container that began anew more often than this is worth a look.
const MANY_RESTARTS: i32 = 5;
/// A clock may be off by this much before a lease is taken for dead, in milliseconds.
const LEASE_LENIENCY: i64 = 5_000;
/// What to do where nothing is installed.
const INSTALL: &str = "install it: meshctl install";

/// One of the deployments.
#[must_use]
pub fn deployment<'a>(deployments: &'a [Deployment], name: &str) -> Option<&'a Deployment> {
    deployments.iter().find(|deployment| deployment.metadata.name.as_deref() == Some(name))
}

/// The part of the mesh that a pod is of, by its service account.
#[must_use]
pub fn part_of<'a>(pod: &Pod, parts: &[&'a str]) -> Option<&'a str> {
    let account = pod.spec.as_ref()?.service_account_name.as_deref()?;
    parts.iter().copied().find(|part| *part == account)
}

/// A verdict for everything that needs a control plane, where there is none.
pub fn absent(facts: &Facts) -> Option<Verdict> {
    let deployments = facts.deployments.as_ref().ok()?;
    let any = PARTS.iter().any(|part| deployment(deployments, part).is_some());
    (!any).then(|| Verdict::skipped("Mesh is not installed"))
}

/// Are the deployments available?
pub fn deployments(facts: &Facts) -> Verdict {
    let deployments = known!(&facts.deployments);
    if absent(facts).is_some() {
        return Verdict::error(
            format!("Mesh is not installed: {SYSTEM_NAMESPACE} has none of its deployments"),
            INSTALL,
        );
    }
    let mut lines = Lines::new();
    let mut good = Vec::new();
    for part in PARTS {
        match deployment(deployments, part) {
            Some(deployment) => good.push(judge_deployment(&mut lines, part, deployment)),
            None => lines.error(format!("{part} is not there"), "install it again: meshctl upgrade"),
        }
    }
    lines.verdict(good.join(", "), "deployment is not as it should be", "deployments are not as they should be")
}

fn judge_deployment(lines: &mut Lines, part: &str, deployment: &Deployment) -> String {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let available = status.available_replicas.unwrap_or(0);
    let bad = status.conditions.iter().flatten().find(|condition| match condition.type_.as_str() {
        "ReplicaFailure" => condition.status == "True",
        "Progressing" => condition.status == "False",
        _ => false,
    });
    let why = bad.and_then(|condition| condition.message.as_deref()).map(|why| format!(": {why}")).unwrap_or_default();
    let line = format!("{part}: {available} of {} available{why}", count_replicas(wanted));
    if wanted == 0 {
        lines.error(
            format!("{part} is scaled to nothing"),
            format!("kubectl scale -n {SYSTEM_NAMESPACE} deployment/{part} --replicas=1"),
        );
    } else if available == 0 {
        lines.error(
            line,
            format!("see control-plane-pods, and kubectl describe -n {SYSTEM_NAMESPACE} deployment/{part}"),
        );
    } else if available < wanted {
        lines.warning(
            line,
            format!("see control-plane-pods, and kubectl describe -n {SYSTEM_NAMESPACE} deployment/{part}"),
        );
    } else if status.updated_replicas.unwrap_or(0) < wanted {
        lines.warning(format!("{part}: a rollout is under way{why}"), "wait for it: meshctl check --wait 2m");
    }
    format!("{part} {available}/{wanted}")
}

fn count_replicas(wanted: i32) -> String {
    count(usize::try_from(wanted).unwrap_or(0), "replica", "replicas")
}

/// Do the pods run, and are they ready?
pub fn pods(facts: &Facts) -> Verdict {
    if let Some(verdict) = absent(facts) {
        return verdict;
    }
    let pods = known!(&facts.system_pods);
    let mut lines = Lines::new();
    let mine: Vec<&Pod> = pods.iter().filter(|pod| pods::is_alive(pod) && part_of(pod, &PARTS).is_some()).collect();
    for pod in &mine {
        let name = pod.metadata.name.as_deref().unwrap_or("?");
        let said = facts.replicas.iter().find(|replica| replica.pod == name);
        let logs = format!("kubectl logs -n {SYSTEM_NAMESPACE} {name}");
        match (pods::not_running(pod), said.map(|said| &said.not_ready)) {
            (_, Some(Ok(Some(why)))) => lines.error(format!("{name} is not ready: {}", why.trim()), logs),
            (Some(why), _) => lines.error(format!("{name}: {why}"), logs),
            (None, Some(Err(missing))) => lines.warning(format!("{name}: {}", missing.why), logs),
            (None, _) => {}
        }
        for status in pods::statuses(pod).filter(|status| status.restart_count > MANY_RESTARTS) {
            lines.warning(
                format!("{name}: {} began anew {} times{}", status.name, status.restart_count, last_end(status)),
                format!("kubectl logs -n {SYSTEM_NAMESPACE} {name} --previous"),
            );
        }
    }
    if mine.is_empty() {
        return Verdict::error("there are no pods of the control plane", "see control-plane-deployments");
    }
    lines.verdict(format!("{} ready", count(mine.len(), "pod is", "pods are")), "thing about pods", "things about pods")
}

fn last_end(status: &ContainerStatus) -> String {
    let last = status.last_state.as_ref().and_then(|last| last.terminated.as_ref());
    let Some(last) = last else { return String::new() };
    let reason = last.reason.as_deref().unwrap_or("Error");
    format!(", last with {reason}, exit code {}", last.exit_code)
}

/// Is the control plane of meshctl's version?
pub fn versions(facts: &Facts) -> Verdict {
    if let Some(verdict) = absent(facts) {
        return verdict;
    }
    let pods = known!(&facts.system_pods);
    let mut lines = Lines::new();
    for pod in pods.iter().filter(|pod| pods::is_alive(pod)) {
        let (Some(part), Some(name)) = (part_of(pod, &PARTS), pod.metadata.name.as_deref()) else { continue };
        let version = version_of(facts, pod, part, name);
        if !version.is_empty() && version != facts.meshctl {
            lines.warning(
                format!("{name} is of version {version}, meshctl of {}", facts.meshctl),
                "bring both to one version: meshctl upgrade for the control plane, or the meshctl of the control plane's version",
            );
        }
    }
    lines.verdict(
        format!("all of version {}", facts.meshctl),
        "pod is of another version",
        "pods are of another version",
    )
}

/// What the program says itself, else the image's tag.
#[must_use]
pub fn version_of(facts: &Facts, pod: &Pod, part: &str, name: &str) -> String {
    let replica = facts.replicas.iter().find(|replica| replica.pod == name);
    let overview =
        replica.and_then(|replica| replica.controller.as_ref()).and_then(|pages| pages.overview.as_ref().ok());
    if let Some(overview) = overview {
        return overview.version.clone();
    }
    let image =
        pods::containers(pod).find(|container| container.image.as_deref().is_some_and(|image| names_part(image, part)));
    image.and_then(|container| container.image.as_deref()).map(pods::tag).unwrap_or_default().to_owned()
}

/// `mesh.dev/ca:0.1.0` is of `mesh-ca`.
fn names_part(image: &str, part: &str) -> bool {
    let last = image.rsplit('/').next().unwrap_or(image);
    let name = last.split([':', '@']).next().unwrap_or(last);
    part.strip_prefix("mesh-") == Some(name) || part == name
}

/// Are the mesh's own kinds served?
pub fn crds(facts: &Facts) -> Verdict {
    if let Some(verdict) = absent(facts) {
        return verdict;
    }
    let groups = known!(&facts.groups);
    let hint = "apply the CRDs: meshctl install and meshctl upgrade do";
    let Some(versions) = groups.get(GROUP) else {
        return Verdict::error(format!("{GROUP} is not served: its CRDs are not installed"), hint);
    };
    let served = match facts.kinds.get(API_VERSION) {
        Some(Ok(kinds)) => kinds,
        Some(Err(missing)) => return missing.verdict(),
        None => {
            return Verdict::error(
                format!("{GROUP} is served as {} only, not as {API_VERSION}", versions.join(", ")),
                hint,
            );
        }
    };
    let wanted = mesh_api::resources::KINDS.iter().filter(|(group, _)| *group == GROUP).map(|(_, kind)| *kind);
    let (there, gone): (Vec<&str>, Vec<&str>) = wanted.partition(|kind| served.iter().any(|served| served == kind));
    if gone.is_empty() {
        return Verdict::ok(format!("{API_VERSION} is served: {}", there.join(", ")));
    }
    Verdict::error(format!("{API_VERSION} is served without {}", gone.join(", ")), hint)
}

/// Do the services lead to ready pods?
pub fn services(facts: &Facts) -> Verdict {
    if let Some(verdict) = absent(facts) {
        return verdict;
    }
    let slices = known!(&facts.endpoints);
    let mut lines = Lines::new();
    let mut good = Vec::new();
    for service in [CA_ACCOUNT, CONTROLLER_ACCOUNT, WEBHOOK_SERVICE] {
        let of = slices.iter().filter(|slice| {
            let labels = slice.metadata.labels.as_ref();
            labels.and_then(|labels| labels.get("kubernetes.io/service-name")).is_some_and(|name| name == service)
        });
        let endpoints = of.flat_map(|slice| &slice.endpoints);
        let ready = endpoints.filter(|one| one.conditions.as_ref().is_none_or(|is| is.ready != Some(false)));
        // A pod with an IPv4 and an IPv6 address stands in two slices.
        let pods: BTreeSet<_> = ready
            .map(|one| {
                one.target_ref.as_ref().and_then(|pod| pod.name.clone()).unwrap_or_else(|| one.addresses.join(","))
            })
            .collect();
        if pods.is_empty() {
            let hint =
                format!("see control-plane-pods; where they are ready, compare the selector of the Service {service}");
            lines.error(format!("{service} leads to no ready pod"), hint);
        }
        good.push(format!("{service} {}", pods.len()));
    }
    lines.verdict(format!("ready endpoints: {}", good.join(", ")), "service leads nowhere", "services lead nowhere")
}

/// Has each part a leader that is alive?
pub fn leases(facts: &Facts) -> Verdict {
    if let Some(verdict) = absent(facts) {
        return verdict;
    }
    let leases = known!(&facts.leases);
    let now = facts.cluster_now();
    let mut lines = Lines::new();
    let mut good = Vec::new();
    for part in PARTS {
        let lease = leases.iter().find(|lease| lease.metadata.name.as_deref() == Some(part));
        let spec = lease.and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let holder = spec.holder_identity.filter(|holder| !holder.is_empty());
        let hint = format!(
            "kubectl logs -n {SYSTEM_NAMESPACE} deployment/{part}: it says why it does not lead; may it write Leases?"
        );
        match (holder, spec.renew_time) {
            (Some(holder), Some(renewed)) => {
                let duration = i64::from(spec.lease_duration_seconds.unwrap_or(15)) * 1000;
                let age = age_ms(now, renewed.0);
                if age > duration + LEASE_LENIENCY {
                    let age = roughly(Duration::from_millis(age.unsigned_abs()));
                    lines.error(format!("{part}: {holder} led it until {age} ago, and nobody took over"), hint);
                }
                good.push(format!("{part} by {holder}"));
            }
            _ => lines.error(format!("{part} has no leader"), hint),
        }
    }
    lines.verdict(format!("led: {}", good.join(", ")), "part has no leader", "parts have no leader")
}

fn age_ms(now: Timestamp, then: Timestamp) -> i64 {
    now.as_millisecond().saturating_sub(then.as_millisecond())
}

/// Do the control plane's clocks agree with the API server's?
pub fn clocks(facts: &Facts) -> Verdict {
    if let Some(verdict) = absent(facts) {
        return verdict;
    }
    let mut lines = Lines::new();
    let mut seen = 0;
    for replica in &facts.replicas {
        if let Some(clock) = replica.clock {
            seen += 1;
            judge_clock(&mut lines, &replica.pod, clock);
        }
    }
    if seen == 0 {
        return Verdict::skipped("no pod of the control plane told the time");
    }
    lines.verdict(format!("{} on time", count(seen, "pod is", "pods are")), "clock is off", "clocks are off")
}
