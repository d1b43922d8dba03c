//! What the controller costs as the mesh grows: memory, the way of a change to the last proxy, and its price.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use tokio::{
    runtime::Runtime,
    time::{Instant, sleep, sleep_until},
};

use super::{
    apiserver::ApiServer,
    fleet::Fleet,
    plan::{ENDPOINTS, Kind, Plan},
    plane::{Controller, Ground},
    store::Store,
};
use crate::bench::{
    cost::{cost, resident},
    figures::Figure,
};

/// From one change to the next: four each second, so that what is done once a second because something changed counts.
const PACE: Duration = Duration::from_millis(250);
/// The same for changes that nobody is told about.
const QUICK_PACE: Duration = Duration::from_millis(10);
/// After the last proxy has acknowledged, until the controller has read that.
const READ: Duration = Duration::from_millis(20);
/// A change reaches every proxy within this time, or something is broken.
const LOST: Duration = Duration::from_secs(30);
/// Nothing happens for this long: what that costs is told too.
const IDLE: Duration = Duration::from_secs(2);
/// Until statuses and the like are written after the start.
const SETTLE: Duration = Duration::from_secs(6);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Numbers of services, the least first.
    pub services: Vec<usize>,
    /// Numbers of proxies, the least first.
    pub proxies: Vec<usize>,
    /// Services of each namespace.
    pub per_namespace: usize,
    /// Changes in each case; at four each second they should last for longer than what the controller does now and then.
    pub changes: usize,
}

/// A controller that has just started.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// Services.
    pub services: usize,
    /// Objects of all kinds.
    pub objects: usize,
    /// Until it was ready.
    pub seconds: f64,
    /// Processor time of that.
    pub cpu_seconds: f64,
    /// Resident memory then, in bytes.
    pub resident: u64,
}

/// One number of services with one number of proxies.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// Services.
    pub services: usize,
    /// Proxies.
    pub proxies: usize,
    /// Resident memory of the controller with all of them connected, in bytes.
    pub resident: u64,
    /// Share of a processor while nothing happens.
    pub idle: f64,
    /// From the change of a slice to the last proxy's acknowledgement, in milliseconds.
    pub slice_ms: Figure,
    /// From the change of a pod.
    pub pod_ms: Figure,
    /// Processor time of the controller from the change of a slice until it has read all acknowledgements, in microseconds.
    pub slice_us: Figure,
    /// The same of a pod.
    pub pod_us: Figure,
    /// Processor time of the whole run for each change, with all that the controller does now and then.
    pub all_us: f64,
    /// The same for each change that no proxy is told about.
    pub unused_us: f64,
    /// Messages for each change, in bytes: to all proxies together.
    pub bytes: f64,
    /// Every change: kind, milliseconds, microseconds.
    pub raw: Vec<(&'static str, f64, f64)>,
}

/// Measures all sizes. `say` gets a line for each.
///
/// # Errors
/// Where the controller does not start, or a change does not arrive.
pub fn measure(
    ground: &Ground<'_>,
    runtime: &Runtime,
    ca: std::net::SocketAddr,
    sizes: &Sizes,
    say: &mut dyn FnMut(&str),
) -> Result<(Vec<Started>, Vec<Case>)> {
    let (mut starts, mut cases) = (Vec::new(), Vec::new());
    for services in &sizes.services {
        let plan = Plan { services: *services, per_namespace: sizes.per_namespace };
        let server = ApiServer::start(Store::new(plan))?;
        let mut controller = ground.controller(ca, &server.kubeconfig())?;
        let started = started(&plan, &controller);
        say(&format!("start    {services:>6} services: ready after {:.2} s", started.seconds));
        starts.push(started);
        let measured = runtime.block_on(async {
            let mut fleet = Fleet::new(plan, &ground.certs, controller.address)?;
            sleep(SETTLE).await;
            for proxies in &sizes.proxies {
                fleet.grow(*proxies).await?;
                let case = case(&server.store, &plan, &controller, &mut fleet, sizes.changes).await?;
                say(&line(&case));
                cases.push(case);
            }
            anyhow::Ok(())
        });
        measured.map_err(|error| controller.process.explain(error))?;
        controller.process.stop()?;
    }
    Ok((starts, cases))
}

fn started(plan: &Plan, controller: &Controller) -> Started {
    let kinds = [
        Kind::Namespace,
        Kind::Node,
        Kind::Pod,
        Kind::Service,
        Kind::EndpointSlice,
        Kind::TransportPolicy,
        Kind::AuthorizationPolicy,
    ];
    Started {
        services: plan.services,
        objects: kinds.into_iter().map(|kind| plan.count(kind)).sum(),
        seconds: controller.ready_seconds,
        cpu_seconds: controller.ready_cpu_seconds,
        resident: controller.resident,
    }
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
async fn case(store: &Store, plan: &Plan, controller: &Controller, fleet: &mut Fleet, changes: usize) -> Result<Case> {
    let pid = controller.process.pid();
    let used = |since: u64| anyhow::Ok((cost(pid)?.total_ns - since) as f64 / 1e3);
    sleep(Duration::from_secs(1)).await;
    let (resident, before) = (resident(pid)?, cost(pid)?.total_ns);
    sleep(IDLE).await;
    let idle = used(before)? / 1e6 / IDLE.as_secs_f64();

    let target = plan.target(0);
    let (mut raw, mut bytes, before) = (Vec::new(), 0, cost(pid)?.total_ns);
    ensure!(fleet.drain() == 0, "proxies were told something although nothing had changed");
    let mut next = Instant::now();
    for nth in 0..changes {
        // Two different endpoints, so that either change shows whatever became of the other.
        let (name, kind, number) =
            if nth % 2 == 0 { ("slice", Kind::EndpointSlice, 0) } else { ("pod", Kind::Pod, ENDPOINTS - 2) };
        sleep_until(next).await;
        let (began, then) = (Instant::now(), cost(pid)?.total_ns);
        store.change(kind, number);
        let arrival = fleet.hear(&target, LOST).await?;
        sleep(READ).await;
        bytes += arrival.bytes;
        raw.push((name, (arrival.last - began).as_secs_f64() * 1e3, used(then)?));
        next = Instant::now().max(next + PACE);
    }
    let all_us = used(before)? / changes.max(1) as f64;
    let unused_us = unused(store, plan, pid, fleet, changes).await?;
    let of = |kind: &str, pick: fn(&(&str, f64, f64)) -> f64| {
        let values = raw.iter().filter(|(name, ..)| *name == kind).map(pick).collect();
        Figure::of(values).context("no change was measured")
    };
    let (slice_ms, slice_us) = (of("slice", |one| one.1)?, of("slice", |one| one.2)?);
    let (pod_ms, pod_us) = (of("pod", |one| one.1)?, of("pod", |one| one.2)?);
    let (services, proxies, bytes) = (plan.services, fleet.size(), bytes as f64 / changes.max(1) as f64);
    Ok(Case { services, proxies, resident, idle, slice_ms, pod_ms, slice_us, pod_us, all_us, unused_us, bytes, raw })
}

/// Changes of a service that no proxy uses: nobody hears of them.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
async fn unused(store: &Store, plan: &Plan, pid: u32, fleet: &mut Fleet, changes: usize) -> Result<f64> {
    let before = cost(pid)?.total_ns;
    for nth in 0..changes {
        let service = plan.services - 1;
        let (kind, number) = if nth % 2 == 0 {
            (Kind::EndpointSlice, service)
        } else {
            (Kind::Pod, service * ENDPOINTS + ENDPOINTS - 2)
        };
        store.change(kind, number);
        sleep(QUICK_PACE).await;
    }
    sleep(QUICK_PACE * 10).await;
    ensure!(fleet.drain() == 0, "proxies were told of a service that they do not use");
    Ok((cost(pid)?.total_ns - before) as f64 / 1e3 / changes.max(1) as f64)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn line(case: &Case) -> String {
    format!(
        "changes  {:>6} services, {:>4} proxies: {:>7.1} MB  slice {:>7.2} ms {:>8.0} us  pod {:>7.2} ms {:>8.0} us  all {:>8.0} us  unused {:>6.0} us",
        case.services,
        case.proxies,
        case.resident as f64 / 1e6,
        case.slice_ms.median,
        case.slice_us.median,
        case.pod_ms.median,
        case.pod_us.median,
        case.all_us,
        case.unused_us
    )
}
