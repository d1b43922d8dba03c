//! gRPC and WebSocket: the clients make their transcripts themselves.

use std::time::Duration;

use anyhow::Result;
use mesh_e2e::{
    compare::compare,
    process::{Process, must_run},
    programs,
    stage::stage,
    transcript::Transcript,
};

const START: Duration = Duration::from_secs(10);
const CLIENT: Duration = Duration::from_secs(120);

fn play(name: &str, protocols: &[Option<&str>]) -> Result<()> {
    stage(name, |stage| {
        let address = stage.lease().local()?;
        let server = programs::command(&format!("{name}-server"), &["-listen", &address.to_string()])?;
        let mut process = Process::start(&format!("{name}-server"), &server, stage.dir())?;
        process.wait_for_port(address, START)?;
        compare(stage, address, protocols, |address| {
            let client = programs::command(&format!("{name}-client"), &["-target", &address.to_string()])?;
            let mut t = Transcript::new();
            t.line(must_run(&client, CLIENT)?.text());
            Ok(t)
        })
    })
}

#[test]
fn grpc() -> Result<()> {
    play("grpc", &[None, Some("grpc"), Some("kubernetes.io/h2c")])
}

#[test]
fn websocket() -> Result<()> {
    play("ws", &[None, Some("kubernetes.io/ws"), Some("http")])
}
