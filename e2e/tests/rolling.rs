//! Three instances of a service are restarted one after another under load: no request fails.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use mesh_e2e::{
    http::{Load, get},
    mesh::{Plan, Workload, service},
    process::until,
    programs,
    stage::stage,
};

/// Requests a second.
const RATE: u32 = 500;
/// How long an instance that is back may take to get its share again.
const SHARE: Duration = Duration::from_secs(15);
const REQUEST: Duration = Duration::from_secs(5);

#[test]
fn one_after_another() -> Result<()> {
    stage("rolling", |stage| {
        let names = ["web-1", "web-2", "web-3"];
        let mut plan = Plan::new(stage)
            .object(service("shop", "web", &[(80, 8080, None)]))
            .workload(Workload::new("shop", "client").calls("web.shop:80"))?;
        for name in names {
            let app = stage.lease().local()?;
            let run = programs::command("http-echo", &["-listen", &app.to_string(), "-name", name])?;
            plan = plan.workload(Workload::of("shop", "web", name).port(8080, app, None).run(&run))?;
        }
        let mesh = plan.start()?;
        let way = mesh.upstream("shop/client", "web.shop:80")?;
        // Each takes a while, so that every restart meets requests that are under way.
        let load = Load::new(way, "/delay/20", RATE).counting("x-backend").start()?;
        thread::sleep(Duration::from_secs(1));
        for name in names {
            mesh.restart(&format!("shop/{name}"))?;
            // Only then the next: else there would be a moment with none.
            until(&format!("{name} gets requests again"), SHARE, || {
                Ok((get(way, "/", REQUEST)?.header("x-backend") == name).then_some(()))
            })
            .map_err(|error| mesh.explain(error))?;
        }
        thread::sleep(Duration::from_secs(1));
        let report = load.stop()?;
        println!("{} requests, by instance {:?}, half within {:?}", report.sent, report.values, report.latency(0.5));
        report.must_be_clean().map_err(|error| mesh.explain(error))?;
        ensure!(names.iter().all(|name| report.values.contains_key(*name)), "{:?}", report.values);
        mesh.stop()
    })
}
