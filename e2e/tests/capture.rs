//! Nothing that an application sends can be read between two sidecars.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{
    capture::Capture,
    http::send,
    mesh::{Plan, Workload, service},
    process::Process,
    programs,
    stage::stage,
};

const START: Duration = Duration::from_secs(10);
const EXCHANGE: Duration = Duration::from_secs(10);

/// Words that no other packet on this machine holds.
const HEADER: &str = "marker-in-a-header-5d1f";
const PATH: &str = "/marker-in-the-path-92ac";
const BODY: &str = "marker-in-the-body-07be";
const ANSWER: &str = "marker-in-the-answer-c3e8";
const STREAM: &str = "marker-in-a-byte-stream-44d0";
const GREETING: &str = "marker-in-a-greeting-b6f9";

#[test]
fn markers_are_seen_at_the_programs_and_nowhere_between() -> Result<()> {
    stage("capture", |stage| {
        let lease = stage.lease();
        let (http, tcp) = (lease.local()?, lease.local()?);
        let (http_port, tcp_port) = (lease.port()?, lease.port()?);
        let echo = programs::command("http-echo", &["-listen", &http.to_string(), "-name", ANSWER])?;
        let mut echo = Process::start("http-echo", &echo, stage.dir())?;
        echo.wait_for_port(http, START)?;
        let raw = programs::command("tcp-echo", &["-listen", &tcp.to_string(), "-greeting", GREETING])?;
        let mut raw = Process::start("tcp-echo", &raw, stage.dir())?;
        raw.wait_for_port(tcp, START)?;
        let server = Workload::new("shop", "server").port(http_port, http, None).port(tcp_port, tcp, None);
        let client = Workload::new("shop", "client").calls("server.shop:80").calls("server.shop:81");
        let mesh = Plan::new(stage)
            .object(service("shop", "server", &[(80, http_port, None), (81, tcp_port, None)]))
            .workload(server)?
            .workload(client)?
            .start()?;
        let http_way = mesh.upstream("shop/client", "server.shop:80")?;
        let tcp_way = mesh.upstream("shop/client", "server.shop:81")?;

        let caller = Capture::loopback(stage, "caller", &[http_way.port(), tcp_way.port()])?;
        let between = Capture::loopback(stage, "between", &[http_port, tcp_port])?;
        let program = Capture::loopback(stage, "program", &[http.port(), tcp.port()])?;
        let request = http::Request::post(PATH).header("x-secret", HEADER);
        let answer = send(http_way, request, BODY, EXCHANGE).map_err(|error| mesh.explain(error))?;
        ensure!(answer.status == 200 && answer.text().contains(HEADER), "{answer:?}");
        let echoed = exchange(tcp_way).map_err(|error| mesh.explain(error))?;
        ensure!(echoed == format!("{GREETING}{STREAM}"), "{echoed:?}");
        let (caller, between, program) = (caller.stop()?, between.stop()?, program.stop()?);

        for marker in [HEADER, PATH, BODY, ANSWER, STREAM, GREETING] {
            let marker_bytes = marker.as_bytes();
            // First that the captures see anything: else the last line would prove nothing.
            ensure!(caller.hold(marker_bytes), "{marker}: not seen at the caller, so the capture is blind");
            ensure!(program.hold(marker_bytes), "{marker}: not seen at the program, so the capture is blind");
            ensure!(!between.hold(marker_bytes), "{marker}: readable between the sidecars");
        }
        ensure!(between.size() > 2000, "only {} bytes passed between the sidecars", between.size());
        // TLS 1.3 keeps certificates from the eyes of others too.
        ensure!(!between.hold(b"spiffe://"), "the sidecars' identities are readable between them");
        mesh.stop()
    })
}

/// Reads the greeting and the echo of a marker, until the server closes.
fn exchange(address: std::net::SocketAddr) -> Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, EXCHANGE)?;
    socket.set_read_timeout(Some(EXCHANGE))?;
    // Not before the greeting: the server speaks first.
    let mut greeting = vec![0; GREETING.len()];
    socket.read_exact(&mut greeting).context("the greeting")?;
    socket.write_all(STREAM.as_bytes())?;
    socket.shutdown(Shutdown::Write)?;
    let mut all = String::from_utf8_lossy(&greeting).into_owned();
    socket.read_to_string(&mut all).context("the echo")?;
    Ok(all)
}
