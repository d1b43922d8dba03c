//! Certificates, the key that signs them, and the root change under load: no request fails.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{
    http::Load,
    mesh::{Component, Mesh, Plan, Workload, service},
    process::until,
    programs,
    stage::stage,
    tls::{Chain, chain},
};

/// Requests a second.
const RATE: u32 = 200;
/// Life of a certificate.
const TTL: Duration = Duration::from_secs(20);
/// How long a new root is trusted before it signs.
const OVERLAP: Duration = Duration::from_secs(3);
/// How long an old root is trusted after that.
const RETIRE: Duration = Duration::from_secs(25);

/// Waits until both sidecars show a chain that `fits`; gives the chains.
fn both(
    what: &str,
    sidecars: [SocketAddr; 2],
    deadline: Duration,
    fits: impl Fn(usize, &Chain) -> bool,
) -> Result<[Chain; 2]> {
    until(what, deadline, || {
        let [client, server] = sidecars;
        let chains = [chain(client)?, chain(server)?];
        Ok(chains.iter().enumerate().all(|(which, chain)| fits(which, chain)).then_some(chains))
    })
}

fn rotate(mesh: &Mesh, what: &str) -> Result<()> {
    let ca = mesh.state()?.component_admin(Component::Ca)?;
    mesh.command(ca, &format!("/rotate/{what}")).map(drop)
}

#[test]
fn leaf_issuer_and_root() -> Result<()> {
    stage("rotation", |stage| {
        let (app, own) = (stage.lease().local()?, stage.lease().local()?);
        let run = programs::command("http-echo", &["-listen", &app.to_string(), "-name", "web"])?;
        let idle = programs::command("tcp-echo", &["-listen", &own.to_string()])?;
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        // The client has a port too, only so that its certificate can be looked at.
        let mesh = Plan::new(stage)
            .object(service("shop", "web", &[(80, 8080, None)]))
            .workload(Workload::new("shop", "web").port(8080, app, None).run(&run))?
            .workload(Workload::new("shop", "client").port(8080, own, None).run(&idle).calls("web.shop:80"))?
            .set("ca.certificates.min_ttl", "5s")
            .set("ca.certificates.default_ttl", &seconds(TTL))
            .set("ca.certificates.max_ttl", &seconds(TTL))
            .set("ca.rotation.overlap", &seconds(OVERLAP))
            .set("ca.rotation.retire", &seconds(RETIRE))
            .set("ca.rotation.check_interval", "500ms")
            .start()?;
        let sidecars = [mesh.inbound("shop/client", 8080)?, mesh.inbound("shop/web", 8080)?];
        let load = Load::new(mesh.upstream("shop/client", "web.shop:80")?, "/", RATE).start()?;
        let result = rotations(&mesh, sidecars);
        let report = load.stop()?;
        println!(
            "{} requests, half within {:?}, all within {:?}",
            report.sent,
            report.latency(0.5),
            report.latency(1.0)
        );
        result.and_then(|()| report.must_be_clean()).map_err(|error| mesh.explain(error))?;
        mesh.stop()
    })
}

fn rotations(mesh: &Mesh, sidecars: [SocketAddr; 2]) -> Result<()> {
    let start = Instant::now();
    let at = |what: &str| println!("{what} after {:?}", start.elapsed());
    let first = both("both have certificates", sidecars, TTL, |_, _| true)?;
    ensure!(first[1].uris.iter().any(|uri| uri.ends_with("/ns/shop/sa/web")), "{:?}", first[1]);
    ensure!(first[0].uris.iter().any(|uri| uri.ends_with("/ns/shop/sa/client")), "{:?}", first[0]);

    let leaf =
        both("both renew their certificates", sidecars, TTL, |which, chain| chain.serial != first[which].serial)?;
    at("leaves renewed");
    ensure!(leaf[1].issuer == first[1].issuer && leaf[1].uris == first[1].uris, "{first:?} {leaf:?}");

    rotate(mesh, "issuer").context("of the issuer")?;
    let issuer = both("both are signed by the new issuer", sidecars, OVERLAP + TTL, |which, chain| {
        chain.issuer != leaf[which].issuer
    })?;
    at("issuer rotated");
    ensure!(issuer[0].root == first[0].root && issuer[1].root == first[1].root, "the root changed with its issuer");

    rotate(mesh, "root").context("of the root")?;
    let rotated = Instant::now();
    let root = both("both are signed under the new root", sidecars, OVERLAP + TTL, |which, chain| {
        chain.root != first[which].root
    })?;
    at("root rotated");
    ensure!(root[0].root == root[1].root && root[0].uris == first[0].uris, "{root:?}");
    // Until the old root is trusted by nobody any more, and a little beyond.
    thread::sleep((OVERLAP + RETIRE + Duration::from_secs(3)).saturating_sub(rotated.elapsed()));
    at("old root retired");
    Ok(())
}
