//! The suite's own tools, tried without a mesh: a test that could not fail would prove nothing.

use std::{process::Command, time::Duration};

use anyhow::{Result, ensure};
use mesh_e2e::{
    capture::Capture,
    http::{Load, get},
    netns::Netns,
    process::{Process, must_run},
    programs,
    stage::{Stage, stage},
};

const START: Duration = Duration::from_secs(10);

fn echo(stage: &Stage, name: &str) -> Result<(Process, std::net::SocketAddr)> {
    let address = stage.lease().local()?;
    let command = programs::command("http-echo", &["-listen", &address.to_string(), "-name", name])?;
    let mut process = Process::start(name, &command, stage.dir())?;
    process.wait_for_port(address, START)?;
    Ok((process, address))
}

#[test]
fn a_capture_finds_what_is_readable() -> Result<()> {
    stage("capture", |stage| {
        let (_process, address) = echo(stage, "echo")?;
        let (_other, elsewhere) = echo(stage, "other")?;
        let capture = Capture::loopback(stage, "here", &[address.port()])?;
        get(address, "/readable-marker", START)?;
        get(elsewhere, "/another-marker", START)?;
        let packets = capture.stop()?;
        ensure!(packets.hold(b"readable-marker"), "what was sent in plain is not in the capture");
        ensure!(!packets.hold(b"another-marker"), "the capture holds another port's packets");
        Ok(())
    })
}

#[test]
fn a_namespace_has_its_own_network() -> Result<()> {
    stage("netns", |stage| {
        let netns = Netns::create(stage.lease())?;
        let port = stage.lease().port()?;
        let address = (netns.far(), port).into();
        let mut command = netns.command(programs::binary()?);
        command.args(["http-echo", "-listen", &format!("0.0.0.0:{port}")]);
        let mut process = Process::start("within", &command, stage.dir())?;
        process.wait_for_port(address, START)?;
        let capture = Capture::within(stage, "link", &[port], &netns)?;
        let seen = get(address, "/over-the-link", START)?.text();
        ensure!(seen.contains("/over-the-link"), "{seen}");
        // The same port is free outside.
        ensure!(get(([127, 0, 0, 1], port).into(), "/", START).is_err());
        let mut curl = netns.command("curl");
        curl.args(["-q", "-sS", "--noproxy", "*", &format!("http://127.0.0.1:{port}/inside")]);
        ensure!(must_run(&curl, START)?.text().contains("/inside"));
        let packets = capture.stop()?;
        ensure!(packets.hold(b"over-the-link") && !packets.hold(b"/inside"));
        let name = netns.name().to_owned();
        drop((process, netns));
        let left = must_run(Command::new("ip").args(["netns", "list"]), START)?.text();
        ensure!(!left.contains(&name), "left behind: {left}");
        Ok(())
    })
}

#[test]
fn a_load_counts_every_failure() -> Result<()> {
    stage("load", |stage| {
        let (process, address) = echo(stage, "counted")?;
        let report = Load::new(address, "/", 300).counting("x-backend").run(Duration::from_secs(2))?;
        report.must_be_clean()?;
        ensure!((500..700).contains(&report.sent), "{} requests in two seconds", report.sent);
        ensure!(report.values.get("counted") == Some(&report.sent), "{:?}", report.values);
        ensure!(report.latency(0.5) < Duration::from_millis(200), "{:?}", report.latency(0.5));
        let bad = Load::new(address, "/status/503", 100).run(Duration::from_millis(300))?;
        ensure!(bad.statuses.get(&503) == Some(&bad.sent) && bad.must_be_clean().is_err());
        // Open-loop: slow answers do not slow it.
        let slow = Load::new(address, "/delay/500", 200).run(Duration::from_secs(1))?;
        slow.must_be_clean()?;
        ensure!(slow.sent >= 180, "only {} requests left", slow.sent);
        let dying = Load::new(address, "/", 100).start()?;
        drop(process);
        std::thread::sleep(Duration::from_millis(500));
        let report = dying.stop()?;
        ensure!(report.errors > 0, "{report:?}");
        let error = report.must_be_clean().map_err(|error| error.to_string()).err().unwrap_or_default();
        ensure!(error.contains("without an answer") && error.contains("the first after"), "{error}");
        Ok(())
    })
}
