//! One program, called directly and through two sidecars: it must not see a difference. Floor 3: imports `mesh`,
//! `stage`, `transcript`.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context, Result};

use crate::{
    mesh::{Mesh, Plan, Workload, service},
    stage::Stage,
    transcript::Transcript,
};

/// Port of the workload for the first way in; one more for each further.
const TARGET: u16 = 8080;
/// Port of the Service for the first way in.
const PORT: u16 = 80;

/// A way through a mesh to a program.
#[derive(Clone, Debug)]
pub struct Way {
    /// What it is, for errors.
    pub name: String,
    /// Where the client connects.
    pub address: SocketAddr,
}

/// A mesh of one client and one server, with a way to `app` for each protocol that its port is said to speak; `None`:
/// nothing is said, the mesh looks.
///
/// # Errors
/// Where the mesh does not start.
pub fn mesh_around(stage: &Stage, app: SocketAddr, protocols: &[Option<&str>]) -> Result<(Mesh, Vec<Way>)> {
    let ports: Vec<(u16, u16, Option<&str>)> =
        (0..).zip(protocols).map(|(step, protocol)| (PORT + step, TARGET + step, *protocol)).collect();
    let (mut server, mut client) = (Workload::new("shop", "server"), Workload::new("shop", "client"));
    for (port, target, protocol) in &ports {
        server = server.port(*target, app, *protocol);
        client = client.calls(&format!("server.shop:{port}"));
    }
    let plan = Plan::new(stage).object(service("shop", "server", &ports)).workload(server)?.workload(client)?;
    let mesh = plan.start()?;
    let way = |(port, _, protocol): &(u16, u16, Option<&str>)| {
        let name = format!("through two sidecars, protocol {}", protocol.unwrap_or("detected"));
        Ok(Way { name, address: mesh.upstream("shop/client", &format!("server.shop:{port}"))? })
    };
    let ways = ports.iter().map(way).collect::<Result<Vec<_>>>()?;
    Ok((mesh, ways))
}

/// Calls `run` with the address of `app` itself, twice, and with each way through a mesh; every transcript must be the
/// same to the byte.
///
/// # Errors
/// Where a run fails, the mesh does not start, or a transcript differs.
pub fn compare(
    stage: &Stage,
    app: SocketAddr,
    protocols: &[Option<&str>],
    run: impl Fn(SocketAddr) -> Result<Transcript>,
) -> Result<()> {
    let timed = |how: &str, address: SocketAddr| -> Result<Transcript> {
        let start = Instant::now();
        let transcript = run(address).with_context(|| how.to_owned())?;
        // Shown where the test fails or its output is asked for.
        println!("{how}: {:?}", start.elapsed());
        Ok(transcript)
    };
    let direct = timed("direct", app)?;
    stage.file("direct.txt", direct.text())?;
    // A transcript that is not the same twice would say nothing about the mesh.
    direct.must_equal(&timed("direct, again", app)?, "direct, again")?;
    let (mesh, ways) = mesh_around(stage, app, protocols)?;
    for (number, way) in ways.iter().enumerate() {
        let meshed = timed(&way.name, way.address).map_err(|error| mesh.explain(error))?;
        stage.file(&format!("meshed-{number}.txt"), meshed.text())?;
        direct.must_equal(&meshed, &way.name).map_err(|error| mesh.explain(error))?;
    }
    mesh.stop()
}
