//! curl and an HTTP server of the Go world, for what nginx does not do: trailers, streams, early ends.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::Result;
use mesh_e2e::{
    compare::compare,
    process::Process,
    programs,
    stage::{Stage, stage},
    transcript::Transcript,
};

use crate::curl::Curl;

const START: Duration = Duration::from_secs(10);

fn start(stage: &Stage) -> Result<(Process, SocketAddr)> {
    let address = stage.lease().local()?;
    let command = programs::command("http-echo", &["-listen", &address.to_string()])?;
    let mut process = Process::start("http-echo", &command, stage.dir())?;
    process.wait_for_port(address, START)?;
    Ok((process, address))
}

fn run(address: SocketAddr, dir: &Path, version: &str) -> Result<Transcript> {
    let curl = Curl::new(address, dir).always(&[version]);
    let body = dir.join("body.txt");
    std::fs::write(&body, "some text\n".repeat(5000))?;
    let body = body.display().to_string();
    let mut t = Transcript::new();
    for (title, path, options) in [
        ("get", "/?q=1", &["-H", "X-One: 1", "-H", "X-One: 2", "-H", "Accept-Language: de"][..]),
        ("post", "/form", &["-d", "a=b&c=d"]),
        ("put", "/file", &["-T", &body, "-H", "Expect:"]),
        ("a length of nothing", "/", &["-X", "POST", "-H", "Content-Length: 0"]),
        ("forwarded before", "/", &["-H", "X-Forwarded-For: 192.0.2.1", "-H", "Forwarded: for=192.0.2.1"]),
        ("an unusual status", "/status/418", &[]),
        ("an unknown status", "/status/599", &[]),
        ("no content", "/status/204", &[]),
        ("trailers", "/trailers", &["-H", "TE: trailers"]),
        ("late", "/delay/1500", &[]),
        ("sized", "/bytes/3000000", &[]),
        ("streamed", "/stream/100/1", &[]),
        ("after a break", "/?again", &[]),
    ] {
        let answer = curl.get(path, options)?.replace("\\n", "\n");
        // Field names have no case (RFC 9110 section 5.1); curl shows those of trailers as they came.
        t.step(title, if title == "trailers" { answer.to_ascii_lowercase() } else { answer });
    }
    // Over HTTP/2 it is a race, without any mesh too, whether curl sees the answer or the reset of its upload first.
    let early = curl.get("/early", &["-d", "x"])?;
    if version.contains("http2") {
        let refused = early.contains(" 403") || early.contains("curl exit Some(92)");
        t.line(format_args!("refused early: {refused}"));
    } else {
        t.step("refused early", early.lines().skip(1).collect::<Vec<_>>().join("\n"));
    }
    // How much of it arrives before the break is nobody's promise; that it does not look complete is.
    let broken = curl.get("/abort", &[])?;
    // A hop that hears of the break before it has passed anything on rightly says 502.
    let looks_complete = broken.starts_with("curl exit Some(0)") && !broken.contains(" 502");
    t.line(format_args!("what was broken off looks complete: {looks_complete}"));
    // One line a tenth of a second, for one second: a hop that collects the body would send the first with the last.
    let times =
        curl.raw(&["-o", "/dev/null", "-w", "%{time_starttransfer} %{time_total}", "http://app.test/stream/10/100"])?;
    let seconds: Vec<f64> = times.split(' ').filter_map(|time| time.parse().ok()).collect();
    let passed_on = matches!(seconds.as_slice(), [first, all] if *first < 0.5 && *all >= 0.9);
    t.line(format_args!("each line is passed on at once: {passed_on}"));
    Ok(t)
}

#[test]
fn echo_http1() -> Result<()> {
    stage("echo-http1", |stage| {
        let (_process, address) = start(stage)?;
        compare(stage, address, &[None, Some("http")], |address| run(address, stage.dir(), "--http1.1"))
    })
}

#[test]
fn echo_http2() -> Result<()> {
    stage("echo-http2", |stage| {
        let (_process, address) = start(stage)?;
        compare(stage, address, &[None, Some("http2")], |address| run(address, stage.dir(), "--http2-prior-knowledge"))
    })
}
