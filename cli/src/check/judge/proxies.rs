//! The sidecars: running, of one version, connected, in sync, certified.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};
use mesh_api::names::CONTROLLER_ACCOUNT;
use mesh_controller::status::ProxyStatus;

use super::{control, known};
use crate::check::{
    facts::{Facts, Fault},
    judge::cluster::count,
    pods,
    verdict::{Lines, Verdict},
};

/// When a sidecar's certificate ends.
const EXPIRY: &str = "mesh_certificate_expiry_timestamp_seconds";
/// A certificate with less left than this should have been renewed, whatever its life, in seconds.
const SOON: i64 = 60;
/// What was sent may take this long to be acknowledged before it is told, in milliseconds.
const PATIENCE: u64 = 10_000;

/// Pods with a sidecar that live.
fn meshed(pods: &[Pod]) -> Vec<&Pod> {
    pods.iter().filter(|pod| pods::is_alive(pod) && pods::sidecar(pod).is_some()).collect()
}

/// Do the sidecars run, and are they ready?
pub fn running(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let pods = meshed(pods);
    let mut lines = Lines::new();
    for pod in &pods {
        let name = pods::name(pod);
        let own = pod.metadata.namespace.as_deref().zip(pod.metadata.name.as_deref()).unwrap_or_default();
        let logs = format!("kubectl logs -n {} {} -c {}", own.0, own.1, mesh_api::names::PROXY_CONTAINER);
        let status = pods::sidecar_status(pod);
        match status {
            Some(status) => {
                if let Some(why) = pods::trouble(status) {
                    lines.error(format!("{name}: {why}"), logs);
                }
            }
            None => {
                if let Some(why) = pods::not_running(pod) {
                    lines.error(format!("{name}: {why}"), format!("kubectl describe -n {} pod {}", own.0, own.1));
                }
            }
        }
        // What stands in front of the sidecar keeps it from starting.
        let init = pods::statuses(pod).find(|status| status.name == mesh_api::names::INIT_CONTAINER);
        if let Some(why) = init.and_then(pods::trouble) {
            let logs = format!("kubectl logs -n {} {} -c {}", own.0, own.1, mesh_api::names::INIT_CONTAINER);
            lines.error(format!("{name}: {why}"), logs);
        }
    }
    lines.verdict(
        format!("{} ready", count(pods.len(), "sidecar is", "sidecars are")),
        "sidecar does not work",
        "sidecars do not work",
    )
}

/// Are the sidecars of the control plane's version?
pub fn versions(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let control = control_version(facts);
    let connected = proxies(facts).unwrap_or_default();
    let mut lines = Lines::new();
    let meshed = meshed(pods);
    for pod in &meshed {
        let name = pods::name(pod);
        let told =
            connected.get(name.as_str()).map(|proxy| proxy.version.as_str()).filter(|version| !version.is_empty());
        let image =
            pods::sidecar(pod).and_then(|container| container.image.as_deref()).map(pods::tag).unwrap_or_default();
        let version = told.unwrap_or(image);
        if !version.is_empty() && version != control {
            lines.warning(
                format!("{name}: {version}, the control plane {control}"),
                "restart the workloads that own them: a new pod gets the sidecar of the control plane's version",
            );
        }
    }
    lines.verdict(
        format!("{} of version {control}", count(meshed.len(), "sidecar is", "sidecars are")),
        "sidecar is of another version",
        "sidecars are of another version",
    )
}

fn control_version(facts: &Facts) -> &str {
    let pages = facts.replicas_of(CONTROLLER_ACCOUNT).filter_map(|replica| replica.controller.as_ref());
    let versions = pages.filter_map(|pages| pages.overview.as_ref().ok()).map(|overview| overview.version.as_str());
    versions.into_iter().find(|version| !version.is_empty()).unwrap_or(&facts.meshctl)
}

/// Connected proxies of all controllers by `NAMESPACE/POD`: each is connected to one of them; where it moves, the newest
/// connection holds.
pub fn proxies(facts: &Facts) -> Result<BTreeMap<String, &ProxyStatus>, Verdict> {
    if let Some(verdict) = control::absent(facts) {
        return Err(verdict);
    }
    let mut all: BTreeMap<String, &ProxyStatus> = BTreeMap::new();
    let mut asked = 0;
    for replica in facts.replicas_of(CONTROLLER_ACCOUNT) {
        let Some(pages) = &replica.controller else { continue };
        // Without one replica's page its proxies would look lost.
        let proxies = pages.proxies.as_ref().map_err(|missing| missing.verdict())?;
        asked += 1;
        for proxy in proxies {
            let name = format!("{}/{}", proxy.namespace, proxy.workload);
            let newer = all.get(&name).is_none_or(|other| other.since_ms < proxy.since_ms);
            if newer {
                all.insert(name, proxy);
            }
        }
    }
    if asked == 0 { Err(Verdict::skipped("no controller answers; see control-plane-pods")) } else { Ok(all) }
}

/// Are the sidecars connected?
pub fn connected(facts: &Facts) -> Verdict {
    let pods = known!(&facts.pods);
    let connected = match proxies(facts) {
        Ok(proxies) => proxies,
        Err(verdict) => return verdict,
    };
    let mut lines = Lines::new();
    let running: Vec<&Pod> = meshed(pods).into_iter().filter(|pod| pods::is_running(pod)).collect();
    for pod in &running {
        let name = pods::name(pod);
        if !connected.contains_key(&name) {
            lines.error(
                format!("{name}: connected to no controller; it keeps what it knew last"),
                "look at the sidecar's log for what it says about discovery; see trust-bundles and control-plane-services",
            );
        }
    }
    lines.verdict(
        format!("{} connected", count(running.len(), "sidecar is", "sidecars are")),
        "sidecar is not connected",
        "sidecars are not connected",
    )
}

/// Do the sidecars run what they were sent?
pub fn in_sync(facts: &Facts) -> Verdict {
    let connected = match proxies(facts) {
        Ok(proxies) => proxies,
        Err(verdict) => return verdict,
    };
    let now = u64::try_from(facts.cluster_now().as_millisecond()).unwrap_or(0);
    let mut lines = Lines::new();
    let mut good = 0;
    let scoped =
        connected.iter().filter(|(_, proxy)| facts.scope.as_ref().is_none_or(|scope| proxy.namespace == *scope));
    for (name, proxy) in scoped {
        let mut behind = false;
        for (key, status) in proxy.keys.iter().filter(|(_, status)| !status.is_current()) {
            if let Some(refusal) = &status.refused {
                behind = true;
                lines.error(
                    format!("{name}: refused {key}: {}", refusal.reason),
                    "see proxies-version and problems; the sidecar keeps what it had",
                );
            } else if now.saturating_sub(status.sent_ms) > PATIENCE {
                behind = true;
                lines.warning(
                    format!("{name}: {key} was sent and is not acknowledged"),
                    "the sidecar is slow or hangs: look at its log, and at its CPU limit",
                );
            }
        }
        good += usize::from(!behind);
    }
    lines.verdict(
        format!("{} current", count(good, "sidecar is", "sidecars are")),
        "thing is not in force",
        "things are not in force",
    )
}

/// Are the sidecars' certificates valid?
pub fn certificates(facts: &Facts) -> Verdict {
    let now = facts.cluster_now();
    let mut lines = Lines::new();
    let mut seen = 0;
    let mut rights = None;
    for (name, samples) in &facts.proxies {
        let samples = match samples {
            Ok(samples) => samples,
            Err(missing) if missing.fault == Fault::Rights => {
                rights = Some(missing.verdict());
                continue;
            }
            Err(missing) => {
                lines.warning(format!("{name}: {}", missing.why), "see proxies-running");
                continue;
            }
        };
        seen += 1;
        let ends =
            samples.iter().find(|sample| sample.name == EXPIRY).map(|sample| sample.value).filter(|at| *at > 0.0);
        let ends = ends.and_then(|at| Timestamp::from_second(at as i64).ok());
        let hint = "look at the sidecar's log for what it says about its identity; see control-plane-services and trust-bundles";
        match ends {
            None => lines.error(format!("{name}: it has no certificate"), hint),
            Some(ends) if ends < now => lines.error(format!("{name}: its certificate expired {ends}"), hint),
            Some(ends) if ends.as_second() - now.as_second() < SOON => {
                lines.warning(format!("{name}: its certificate ends {ends} and was not renewed"), hint);
            }
            Some(_) => {}
        }
    }
    match (seen, rights) {
        (0, Some(verdict)) => verdict,
        (0, None) if facts.proxies.is_empty() => Verdict::skipped("there are no running sidecars to ask"),
        _ => lines.verdict(
            format!("{} valid", count(seen, "certificate is", "certificates are")),
            "certificate is not as it should be",
            "certificates are not as they should be",
        ),
    }
}
