//! How long a sidecar takes from its start until it is ready, beside a control plane that runs.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;

use super::{
    plan::{ENDPOINTS, PORTS, Plan, pod_name, service_name},
    plane::{Ca, Controller, Ground, command, seconds},
};
use crate::{
    bench::{cost::cost, figures::Figure},
    process::Process,
};

/// How often it is asked whether it is ready.
const LOOK: Duration = Duration::from_micros(500);
/// How long a start may take.
const LATE: Duration = Duration::from_secs(20);
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(1);

/// Starts of a sidecar, one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Launch {
    /// From the start of the process until `/ready` says so, in milliseconds.
    pub ready_ms: Figure,
    /// Processor time of that, in milliseconds.
    pub cpu_ms: Figure,
    /// Every start: both.
    pub raw: Vec<(f64, f64)>,
}

/// Starts a sidecar so many times.
///
/// # Errors
/// Where it does not become ready.
pub fn measure(ground: &Ground<'_>, ca: &Ca, controller: &Controller, plan: &Plan, starts: usize) -> Result<Launch> {
    let lease = ground.stage.lease();
    let ports = [lease.local()?, lease.local()?, lease.local()?];
    let one = |nth| start(ground, ca, controller, plan, nth, ports);
    let raw: Vec<(f64, f64)> = (0..starts).map(one).collect::<Result<_>>()?;
    let of = |pick: fn(&(f64, f64)) -> f64| Figure::of(raw.iter().map(pick).collect()).context("nothing was started");
    let (ready_ms, cpu_ms) = (of(|one| one.0)?, of(|one| one.1)?);
    Ok(Launch { ready_ms, cpu_ms, raw })
}

fn start(
    ground: &Ground<'_>,
    ca: &Ca,
    controller: &Controller,
    plan: &Plan,
    nth: usize,
    [admin, inbound, outbound]: [SocketAddr; 3],
) -> Result<(f64, f64)> {
    let pod = nth % (plan.services * ENDPOINTS);
    let (name, account) = (pod_name(pod), service_name(pod / ENDPOINTS));
    let namespace = plan.namespace(pod / ENDPOINTS);
    let config = ground.write(
        "mesh-proxy",
        &json!({
            "workload": name, "namespace": namespace,
            "identity": ground.identity(ca.address, &namespace, &account, &name)?,
            "discovery": {"address": controller.address},
            "inbound": {"listeners": [{"listen": inbound, "app": format!("127.0.0.1:{}", PORTS[1])}]},
            "outbound": {"listeners": [{"listen": outbound, "to": plan.target(0)}]},
            "admin": {"listen": admin},
        }),
    )?;
    // A sidecar has a processor that is not the control plane's own, as on a node of its own.
    let program = command(&ground.processors.load.to_string(), "mesh-proxy", &config)?;
    let began = Instant::now();
    let mut proxy = Process::start("mesh-proxy", &program, &ground.dir)?;
    while !is_ready(admin) {
        let gone = proxy.status()?.is_some();
        ensure!(!gone && began.elapsed() < LATE, proxy.explain(anyhow!("the sidecar does not become ready")));
        std::thread::sleep(LOOK);
    }
    let took = began.elapsed().as_secs_f64() * 1e3;
    let used = seconds(cost(proxy.pid())?.total_ns) * 1e3;
    proxy.stop()?;
    Ok((took, used))
}

/// One question, with as little around it as there can be.
fn is_ready(admin: SocketAddr) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(admin)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(head.ends_with(b" 200"))
    };
    ask().unwrap_or(false)
}
