//! The control plane goes away and comes back: no request fails, and changes flow again.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mesh_e2e::{
    http::{Load, get},
    mesh::{Component, Mesh, Plan, Workload, backend, route, service},
    process::{signal, until},
    programs,
    stage::{Stage, stage},
    tls,
};
use nix::sys::signal::Signal;

/// Requests a second.
const RATE: u32 = 200;
/// Life of a certificate: it is to be renewed at about two thirds of that.
const TTL: Duration = Duration::from_secs(32);
/// When the outage ends, as a share of that.
const OUTAGE: f64 = 0.72;
/// How long a change may take once everybody is back: reconnecting backs off, but not for long.
const FLOWS: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(5);

/// Two versions of a service, all requests going to the first.
fn two_versions(stage: &Stage, settings: &[(&str, &str)]) -> Result<Mesh> {
    let mut plan = Plan::new(stage)
        .object(service("shop", "web", &[(80, 8080, None)]))
        .object(route("shop", "web", "web", &[backend("v1", 80, 1)]))
        .workload(Workload::new("shop", "client").calls("web.shop:80"))?;
    for version in ["v1", "v2"] {
        let app = stage.lease().local()?;
        let run = programs::command("http-echo", &["-listen", &app.to_string(), "-name", version])?;
        plan = plan
            .object(service("shop", version, &[(80, 8080, None)]))
            .workload(Workload::new("shop", version).port(8080, app, None).run(&run))?;
    }
    for (key, value) in settings {
        plan = plan.set(key, value);
    }
    plan.start()
}

/// Sends everything to `version` and waits until it arrives there.
fn shift(mesh: &Mesh, version: &str) -> Result<()> {
    let way = mesh.upstream("shop/client", "web.shop:80")?;
    mesh.put(&route("shop", "web", "web", &[backend(version, 80, 1)]))?;
    until(&format!("requests reach {version}"), FLOWS, || {
        Ok((get(way, "/", REQUEST)?.header("x-backend") == version).then_some(()))
    })
    .map_err(|error| mesh.explain(error))
}

#[test]
fn killed() -> Result<()> {
    stage("outage-killed", |stage| {
        let ttl = format!("{}s", TTL.as_secs());
        let ttls = ["min_ttl", "default_ttl", "max_ttl"].map(|key| (format!("ca.certificates.{key}"), ttl.as_str()));
        let settings = ttls.each_ref().map(|(key, value)| (key.as_str(), *value));
        let mesh = two_versions(stage, &settings)?;
        let begin = Instant::now();
        let way = mesh.upstream("shop/client", "web.shop:80")?;
        let server = mesh.inbound("shop/v1", 8080)?;
        let load = Load::new(way, "/", RATE).counting("x-backend").start()?;
        let before = tls::chain(server)?;
        let (controller, ca) = (mesh.kill(Component::Controller)?, mesh.kill(Component::Ca)?);
        // A change that nobody can carry now: it must wait, not be lost.
        mesh.put(&route("shop", "web", "web", &[backend("v2", 80, 1)]))?;
        // Long enough that certificates were to be renewed meanwhile, and short enough that none has run out.
        let outage = TTL.mul_f64(OUTAGE).saturating_sub(begin.elapsed());
        thread::sleep(outage);
        ensure!(get(way, "/", REQUEST)?.header("x-backend") == "v1", "something changed without a controller");
        ensure!(tls::chain(server)? == before, "a certificate was renewed without a certificate authority");
        mesh.revive(ca)?;
        mesh.revive(controller)?;
        until("the change made in the outage takes effect", FLOWS, || {
            Ok((get(way, "/", REQUEST)?.header("x-backend") == "v2").then_some(()))
        })
        .map_err(|error| mesh.explain(error))?;
        shift(&mesh, "v1")?;
        // Past the end of the certificates of before: whoever still serves them fails.
        thread::sleep((TTL + Duration::from_secs(3)).saturating_sub(begin.elapsed()));
        let after = tls::chain(server)?;
        ensure!(after.serial != before.serial, "the certificate was not renewed after the outage");
        let report = load.stop()?;
        report.must_be_clean().map_err(|error| mesh.explain(error))?;
        ensure!(report.values.keys().eq(["v1", "v2"]), "{:?}", report.values);
        mesh.stop()
    })
}

/// Worse than dead: connections stay open, and nobody answers.
#[test]
fn frozen() -> Result<()> {
    stage("outage-frozen", |stage| {
        let mesh = two_versions(stage, &[])?;
        let way = mesh.upstream("shop/client", "web.shop:80")?;
        let load = Load::new(way, "/", RATE).start()?;
        let state = mesh.state()?;
        let pids = [state.pid(Component::Controller)?, state.pid(Component::Ca)?];
        for pid in pids {
            signal(pid, Signal::SIGSTOP)?;
        }
        thread::sleep(Duration::from_secs(8));
        for pid in pids {
            signal(pid, Signal::SIGCONT)?;
        }
        shift(&mesh, "v2")?;
        load.stop()?.must_be_clean().map_err(|error| mesh.explain(error))?;
        mesh.stop()
    })
}
