//! Kubernetes itself: is it there, new enough, on time, and the mesh's alone?

use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::Timestamp,
};
use mesh_api::names::GATEWAY_API_VERSION;

use super::known;
use crate::{
    check::{
        facts::{Clock, Facts},
        foreign,
        verdict::{Lines, Verdict, roughly},
    },
    cluster::Version,
};

/// A clock that is further off than this is worth a look, in milliseconds.
const SKEW_WARNING: i64 = 5_000;
/// Certificates start this long before they are made: a clock that is late by more refuses new ones, in milliseconds.
const SKEW_ERROR: i64 = 60_000;
/// First kernel whose tables of family `inet` can redirect.
const KERNEL: (u32, u32) = (5, 2);
/// Processors for which there are images.
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// Does the API server answer?
pub fn reachable(facts: &Facts) -> Verdict {
    match &facts.server {
        Ok(server) => Verdict::ok(format!("{} answers ({})", server.url, server.context)),
        Err(missing) => Verdict::error(
            missing.why.clone(),
            "choose the cluster with --kubeconfig and --context, and look whether it is up",
        ),
    }
}

/// One check says that there is no connection; the others have nothing to add.
fn unreached() -> Verdict {
    Verdict::skipped("the API server does not answer; see api-reachable")
}

/// Is Kubernetes new enough?
pub fn version(facts: &Facts) -> Verdict {
    let Ok(version) = facts.server.as_ref().map(|server| server.version) else { return unreached() };
    let oldest = Version::OLDEST;
    if version < oldest {
        let hint = format!("upgrade the cluster to Kubernetes {oldest} or later");
        return Verdict::error(format!("Kubernetes {version} is older than {oldest}, the oldest that works"), hint);
    }
    Verdict::ok(format!("Kubernetes {version}"))
}

/// Does this machine agree with the API server about the time?
pub fn clock(facts: &Facts) -> Verdict {
    let Ok(server) = &facts.server else { return unreached() };
    let Some(clock) = server.clock else {
        return Verdict::skipped("the API server does not tell the time");
    };
    match sure(clock) {
        off if off < SKEW_WARNING => Verdict::ok("the clocks agree"),
        _ => Verdict::warning(
            format!("the API server's clock is {} this machine's", said(clock)),
            "set one of the two clocks by NTP; times that meshctl shows are off by as much",
        ),
    }
}

/// How far a clock is off at least, in milliseconds.
fn sure(clock: Clock) -> i64 {
    clock.ahead_ms.saturating_abs().saturating_sub(clock.slack_ms.saturating_abs()).max(0)
}

fn said(clock: Clock) -> String {
    let time = roughly(std::time::Duration::from_millis(clock.ahead_ms.unsigned_abs()));
    format!("{time} {}", if clock.ahead_ms > 0 { "ahead of" } else { "behind" })
}

/// Puts a clock that is off into `lines`.
pub fn judge_clock(lines: &mut Lines, whose: &str, clock: Clock) {
    let line = || format!("{whose}: its clock is {} the API server's", said(clock));
    match sure(clock) {
        off if off >= SKEW_ERROR => lines.error(
            line(),
            "set the clock by NTP: certificates that are made elsewhere are not valid yet, or no longer, by this one",
        ),
        off if off >= SKEW_WARNING => lines.warning(line(), "set the clock by NTP, before certificates are refused"),
        _ => {}
    }
}

/// Do sidecars run on the nodes?
pub fn nodes(facts: &Facts) -> Verdict {
    let nodes = known!(&facts.nodes);
    if nodes.is_empty() {
        return Verdict::error("there are no nodes", "add a node: nothing can run");
    }
    let mut lines = Lines::new();
    for node in nodes {
        judge_node(&mut lines, node);
    }
    lines.verdict(format!("{} fit", count(nodes.len(), "node", "nodes")), "thing about nodes", "things about nodes")
}

fn judge_node(lines: &mut Lines, node: &Node) {
    let name = node.metadata.name.as_deref().unwrap_or("?");
    let status = node.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().flatten().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" => {}
        Some(ready) => {
            let why = ready.message.as_deref().or(ready.reason.as_deref()).unwrap_or("it does not say why");
            lines.warning(format!("{name} is not ready: {why}"), "look at the node: kubectl describe node");
        }
        None => lines.warning(format!("{name} never said that it is ready"), "look at the node's kubelet"),
    }
    let Some(info) = status.node_info else { return };
    if info.operating_system != "linux" {
        let line = format!("{name} runs {}: pods on it cannot have sidecars", info.operating_system);
        return lines.warning(line, "keep namespaces that run there out of the mesh");
    }
    if !ARCHITECTURES.contains(&info.architecture.as_str()) {
        let line = format!("{name} has {} processors, for which there are no images", info.architecture);
        lines.error(line, "keep meshed pods off such nodes by a nodeSelector or a taint");
    }
    if let Some(kernel) = kernel(&info.kernel_version)
        && kernel < KERNEL
    {
        let line = format!("{name} has kernel {}, older than {}.{}", info.kernel_version, KERNEL.0, KERNEL.1);
        lines.error(line, "upgrade the node's kernel: connections cannot be redirected to sidecars there");
    }
}

fn kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `1 node`, `3 nodes`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Do the nodes' clocks agree with the API server's?
///
/// A node writes its own time into its Lease each ten seconds, and the API server writes its time beside it when it takes
/// that in: the difference is the skew, however old the Lease is.
pub fn node_clocks(facts: &Facts) -> Verdict {
    let leases = known!(&facts.node_leases);
    let mut lines = Lines::new();
    let mut seen = 0;
    for lease in leases {
        let name = lease.metadata.name.as_deref().unwrap_or("?");
        if let Some(clock) = node_clock(lease) {
            seen += 1;
            judge_clock(&mut lines, name, clock);
        }
    }
    if seen == 0 {
        return Verdict::skipped("no node tells its time in a Lease");
    }
    let good = format!("{} on time", count(seen, "node is", "nodes are"));
    lines.verdict(good, "node's clock is off", "nodes' clocks are off")
}

fn node_clock(lease: &Lease) -> Option<Clock> {
    let said: Timestamp = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let entries = lease.metadata.managed_fields.as_ref()?;
    let taken = entries.iter().filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max()?;
    // The server's reading has whole seconds, and the request has its way.
    Some(Clock { ahead_ms: said.as_millisecond().saturating_sub(taken.as_millisecond()), slack_ms: 1_500 })
}

/// Is the Gateway API served in a version that the mesh reads?
pub fn gateway_api(facts: &Facts) -> Verdict {
    let groups = known!(&facts.groups);
    let (group, wanted) = GATEWAY_API_VERSION.split_once('/').unwrap_or((GATEWAY_API_VERSION, "v1"));
    let Some(versions) = groups.get(group) else {
        return Verdict::ok("not installed, which is fine: without HTTPRoutes each Service is one destination");
    };
    if !versions.iter().any(|version| version == wanted) {
        return Verdict::warning(
            format!(
                "{group} is served as {} only; the mesh reads {wanted}, so routes are not seen",
                versions.join(", ")
            ),
            "install the Gateway API's CRDs of version 1.0 or later, from its own releases",
        );
    }
    let kinds = match facts.kinds.get(GATEWAY_API_VERSION) {
        Some(Ok(kinds)) => kinds,
        Some(Err(missing)) => return missing.verdict(),
        None => return Verdict::ok(format!("{GATEWAY_API_VERSION} is served")),
    };
    if !kinds.iter().any(|kind| kind == "HTTPRoute") {
        return Verdict::warning(
            format!("{GATEWAY_API_VERSION} is served without HTTPRoute"),
            "install the CRD of HTTPRoute from the Gateway API's standard channel",
        );
    }
    Verdict::ok(format!("{GATEWAY_API_VERSION} is served: {}", kinds.join(", ")))
}

/// Is there another mesh?
pub fn other_meshes(facts: &Facts) -> Verdict {
    let groups = known!(&facts.groups);
    let mutating = known!(&facts.mutating);
    let mut lines = Lines::new();
    for mesh in foreign::MESHES {
        let hooks: Vec<_> = mutating.iter().filter(|hook| foreign::is_webhook_of(mesh, hook)).collect();
        for hook in &hooks {
            judge_foreign(&mut lines, facts, mesh, hook);
        }
        let mine: Vec<&str> =
            groups.keys().map(String::as_str).filter(|group| foreign::is_group_of(mesh, group)).collect();
        if hooks.is_empty() && !mine.is_empty() {
            lines.warning(
                format!("{}: its kinds are still there ({}), but no webhook of it", mesh.name, mine.join(", ")),
                format!("where {} is gone, remove its CRDs; where it runs without webhooks, leave them", mesh.name),
            );
        }
    }
    lines.verdict("no other mesh is here", "trace of another mesh", "traces of other meshes")
}

fn judge_foreign(lines: &mut Lines, facts: &Facts, mesh: &foreign::Mesh, hook: &foreign::Hook) {
    let name = hook.metadata.name.as_deref().unwrap_or("?");
    let gone = foreign::services(hook).find(|service| matches!(facts.webhook_services.get(service), Some(Ok(false))));
    match gone {
        Some(service) if foreign::blocks_pods(hook) => lines.error(
            format!(
                "{}: its webhook {name} is left over: its service {service} is gone, and pods are refused",
                mesh.name
            ),
            format!("remove it: kubectl delete mutatingwebhookconfiguration {name}"),
        ),
        Some(service) => lines.warning(
            format!("{}: its webhook {name} is left over: its service {service} is gone", mesh.name),
            format!("remove it: kubectl delete mutatingwebhookconfiguration {name}"),
        ),
        None => lines.warning(
            format!("{}: its webhook {name} changes pods", mesh.name),
            "enable one mesh in each namespace only; a pod with two sidecars reaches nobody",
        ),
    }
}
