//! The benchmark of the control plane, on loopback: the programs as they are shipped, beside an API server and proxies that
//! are pretended. Floor 4: imports `bench`'s certificates and figures, `bin`, `http`, `process`, `stage`.
//!
//! ```text
//!   API server ──watch──> controller ══ mutual TLS, one stream a proxy ══> proxies
//!   processor 0           processor 1                                      processor 0
//! ```
//! Floors within: `report` on `figures`, which judge what `growth`, `authority` and `launch` measure; these stand on `fleet`
//! and `plane`, and those on `apiserver`, `store`,
//! `objects` and `plan`.

pub mod apiserver;
pub mod authority;
pub mod figures;
pub mod fleet;
pub mod growth;
pub mod launch;
pub mod objects;
pub mod plan;
pub mod plane;
pub mod report;
pub mod store;

use std::time::Duration;

use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::resource::{Resource, getrlimit, setrlimit},
    unistd::Pid,
};
use tokio::runtime::Builder;

use self::{apiserver::ApiServer, growth::Sizes, plan::Plan, plane::Ground, report::Outcome, store::Store};
use super::{arena::Processors, report::Machine};
use crate::stage::Stage;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Sizes of the mesh.
    pub sizes: Sizes,
    /// How long certificates are asked for one after the other.
    pub certificates: Duration,
    /// Members that ask for one at once.
    pub members: usize,
    /// Starts of a sidecar.
    pub starts: usize,
}

/// Measures. `say` gets a line for each step. The calling thread, and what it starts, keeps to one processor from then on.
///
/// # Errors
/// Where a program does not start, or a change does not arrive.
pub fn run(stage: &Stage, wish: &Wish, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let processors = Processors::of_this_machine();
    let mut machine = Machine::look(processors)?;
    machine.pinned = format!("control plane on {}, API server and proxies on {}", processors.proxies, processors.load);
    keep_to(processors.load)?;
    // One thread: all that is pretended has one processor anyway.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let ground = Ground::new(stage, processors)?;
    let ca = ground.ca()?;

    let rate = runtime.block_on(authority::rate(&ground, &ca, wish.certificates));
    let rate = rate.map_err(|error| ca.process.explain(error))?;
    say(&format!("ca       {:.0} certificates each second, {:.0} us each", rate.per_second, rate.cpu_us));
    let burst = runtime.block_on(authority::burst(&ground, &ca, wish.members));
    let burst = burst.map_err(|error| ca.process.explain(error))?;
    say(&format!("ca       {} of {} at once, the last after {:.0} ms", burst.answered, burst.members, burst.last_ms));

    let services = *wish.sizes.services.first().context("no number of services")?;
    let plan = Plan { services, per_namespace: wish.sizes.per_namespace };
    let launch = {
        let server = ApiServer::start(Store::new(plan))?;
        let controller = ground.controller(ca.address, &server.kubeconfig())?;
        launch::measure(&ground, &ca, &controller, &plan, wish.starts)?
    };
    say(&format!("sidecar  ready after {:.1} ms", launch.ready_ms.median));

    let (starts, cases) = growth::measure(&ground, &runtime, ca.address, &wish.sizes, say)?;
    machine.done()?;
    Ok(Outcome { machine, starts, cases, rate, burst, launch })
}

/// This thread, and all that it starts, runs on one processor and may have as many files open as the system lets it.
fn keep_to(processor: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(processor)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("cannot keep to one processor")?;
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("cannot open more files")
}
