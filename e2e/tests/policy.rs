//! Who may call whom, where requests go, and how fast a change of either takes effect.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use mesh_api::names;
use mesh_e2e::{
    http::{Answer, Load, get, send},
    mesh::{Mesh, Plan, Workload, allow, backend, deny, path_is, route, rule_from_account, service, strict},
    process::until,
    programs,
    stage::{Stage, stage},
    tls,
};

/// How long a change may take from the file to the first request that sees it.
const LIVE: Duration = Duration::from_secs(1);
/// How long it is waited for a change, before it is said how long it took.
const WAIT: Duration = Duration::from_secs(10);
const REQUEST: Duration = Duration::from_secs(5);

/// A service `web` with two versions behind it, and two callers: `client` and `stranger`.
fn shop(stage: &Stage) -> Result<Mesh> {
    let mut plan = Plan::new(stage)
        .object(service("shop", "web", &[(80, 8080, None)]))
        .object(route("shop", "web", "web", &[backend("v1", 80, 1)]))
        .workload(Workload::new("shop", "client").calls("web.shop:80").calls("v1.shop:80"))?
        .workload(Workload::new("shop", "stranger").calls("web.shop:80").calls("v1.shop:80"))?;
    for version in ["v1", "v2"] {
        let app = stage.lease().local()?;
        let run = programs::command("http-echo", &["-listen", &app.to_string(), "-name", version])?;
        plan = plan
            .object(service("shop", version, &[(80, 8080, None)]))
            .workload(Workload::new("shop", version).port(8080, app, None).run(&run))?;
    }
    plan.start()
}

/// Waits until an answer `fits`; gives how long that took.
fn takes(mesh: &Mesh, way: SocketAddr, path: &str, what: &str, fits: impl Fn(&Answer) -> bool) -> Result<Duration> {
    let begin = Instant::now();
    until(what, WAIT, || Ok(fits(&get(way, path, REQUEST)?).then_some(()))).map_err(|error| mesh.explain(error))?;
    Ok(begin.elapsed())
}

fn in_time(what: &str, took: Duration) -> Result<()> {
    println!("{what}: {took:?}");
    ensure!(took < LIVE, "{what} took {took:?}");
    Ok(())
}

#[test]
fn a_denial_names_its_policy() -> Result<()> {
    stage("policy-deny", |stage| {
        let mesh = shop(stage)?;
        let way = mesh.upstream("shop/client", "v1.shop:80")?;
        ensure!(get(way, "/admin/users", REQUEST)?.status == 200);
        let policy = deny("shop", "no-admin", "v1", vec![path_is("/admin/*")]);
        mesh.put(&policy)?;
        in_time("a denial", takes(&mesh, way, "/admin/users", "admin is denied", |answer| answer.status == 403)?)?;
        let denied = get(way, "/admin/users", REQUEST)?;
        ensure!(denied.header(names::HEADER_POLICY) == "AuthorizationPolicy/shop/no-admin", "{denied:?}");
        ensure!(!denied.header(names::HEADER_ERROR).is_empty(), "{denied:?}");
        ensure!(denied.header("x-backend").is_empty(), "the application saw a request that was denied: {denied:?}");
        // Spelt otherwise, it is the same path.
        for path in ["/admin/", "//admin/users", "/x/../admin/users", "/%61dmin/users"] {
            let answer = get(way, path, REQUEST)?;
            let ended = answer.status == 403 || answer.status == 400;
            ensure!(ended && answer.header("x-backend").is_empty(), "{path}: {answer:?}");
        }
        ensure!(get(way, "/administrator", REQUEST)?.status == 200, "more was denied than the policy says");
        mesh.remove(&policy)?;
        in_time("an end of a denial", takes(&mesh, way, "/admin/users", "admin is allowed", |a| a.status == 200)?)?;
        mesh.stop()
    })
}

#[test]
fn callers_are_told_apart() -> Result<()> {
    stage("policy-identity", |stage| {
        let mesh = shop(stage)?;
        let (client, stranger) =
            (mesh.upstream("shop/client", "v1.shop:80")?, mesh.upstream("shop/stranger", "v1.shop:80")?);
        mesh.put(&allow("shop", "only-client", "v1", vec![rule_from_account("shop/client")]))?;
        in_time("a refusal", takes(&mesh, stranger, "/", "the stranger is refused", |answer| answer.status == 403)?)?;
        // A claim in a header is worth nothing: the application sees who it was that called.
        let id = |account: &str| format!("spiffe://{}/ns/shop/sa/{account}", names::DEFAULT_TRUST_DOMAIN);
        let request = http::Request::get("/?mesh").header(names::HEADER_CLIENT_ID, id("stranger"));
        let seen = send(client, request, "", REQUEST)?;
        let told: Vec<String> =
            seen.text().lines().filter(|line| line.starts_with(names::HEADER_CLIENT_ID)).map(str::to_owned).collect();
        let want = format!("{}: {}", names::HEADER_CLIENT_ID, id("client"));
        ensure!(seen.status == 200 && told == [want], "{told:?} {seen:?}");
        let claim = http::Request::get("/").header(names::HEADER_CLIENT_ID, id("client"));
        ensure!(send(stranger, claim, "", REQUEST)?.status == 403, "a header got the stranger in");
        mesh.stop()
    })
}

#[test]
fn strict_refuses_the_plain() -> Result<()> {
    stage("policy-strict", |stage| {
        let mesh = shop(stage)?;
        let sidecar = mesh.inbound("shop/v1", 8080)?;
        ensure!(get(sidecar, "/", REQUEST)?.status == 200, "permissive lets in plain connections");
        mesh.put(&strict("shop"))?;
        until("plain connections are refused", WAIT, || {
            Ok(match get(sidecar, "/", REQUEST) {
                Ok(answer) => (answer.header("x-backend").is_empty()).then_some(()),
                Err(_) => Some(()),
            })
        })
        .map_err(|error| mesh.explain(error))?;
        // Not a byte of the application, whatever is said.
        let mut socket = TcpStream::connect_timeout(&sidecar, REQUEST)?;
        socket.set_read_timeout(Some(REQUEST))?;
        socket.write_all(b"GET / HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        // Reset or ended: both are refusals.
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        ensure!(!answer.to_ascii_lowercase().contains("x-backend"), "{answer}");
        tls::chain(sidecar)?;
        ensure!(get(mesh.upstream("shop/client", "v1.shop:80")?, "/", REQUEST)?.status == 200);
        mesh.stop()
    })
}

#[test]
fn requests_are_split_by_weight() -> Result<()> {
    stage("policy-split", |stage| {
        let mesh = shop(stage)?;
        let way = mesh.upstream("shop/client", "web.shop:80")?;
        mesh.put(&route("shop", "web", "web", &[backend("v1", 80, 90), backend("v2", 80, 10)]))?;
        in_time(
            "a split",
            takes(&mesh, way, "/", "the second version gets a share", |a| a.header("x-backend") == "v2")?,
        )?;
        let report = Load::new(way, "/", 400).counting("x-backend").run(Duration::from_secs(5))?;
        report.must_be_clean().map_err(|error| mesh.explain(error))?;
        let second = report.values.get("v2").copied().unwrap_or_default();
        // A tenth, give or take four and a half standard deviations of a fair draw: sqrt(n * 0.1 * 0.9).
        let (sent, share) = (report.sent as f64, second as f64);
        let most = 4.5 * (sent * 0.09).sqrt();
        println!("{second} of {} went to the second version", report.sent);
        ensure!(
            (share - sent * 0.1).abs() <= most,
            "{second} of {sent} went to the second version: {:?}",
            report.values
        );
        mesh.stop()
    })
}

#[test]
fn a_change_is_live_within_a_second() -> Result<()> {
    stage("policy-live", |stage| {
        let mesh = shop(stage)?;
        let way = mesh.upstream("shop/client", "web.shop:80")?;
        let load = Load::new(way, "/", 100).start()?;
        for version in ["v2", "v1", "v2"] {
            mesh.put(&route("shop", "web", "web", &[backend(version, 80, 1)]))?;
            in_time("a change", takes(&mesh, way, "/", "requests move", |a| a.header("x-backend") == version)?)?;
            for _ in 0..20 {
                let answer = get(way, "/", REQUEST)?;
                ensure!(answer.header("x-backend") == version, "after the change: {answer:?}");
            }
        }
        load.stop()?.must_be_clean().map_err(|error| mesh.explain(error))?;
        mesh.stop()
    })
}

/// A policy as a user writes it; the action is in line 7.
fn policy(action: &str) -> String {
    format!(
        "apiVersion: mesh.dev/v1alpha1
kind: AuthorizationPolicy
metadata:
  name: hand-written
  namespace: shop
spec:
  action: {action}
  targetRefs:
    - kind: Service
      name: v1
  rules:
    - to:
        - paths: [/secret]
"
    )
}

#[test]
fn a_broken_file_changes_nothing_and_is_reported() -> Result<()> {
    stage("policy-broken", |stage| {
        let mut mesh = shop(stage)?;
        let way = mesh.upstream("shop/client", "v1.shop:80")?;
        mesh.put_file("policy.yaml", &policy("Deny"))?;
        takes(&mesh, way, "/secret", "the policy holds", |answer| answer.status == 403)?;
        let load = Load::new(way, "/", 100).start()?;

        mesh.put_file("policy.yaml", &policy("Denny"))?;
        let says = |line: &str| line.contains("policy.yaml") && (line.contains(":7") || line.contains("line 7"));
        let line = mesh.wait_for_line("names policy.yaml and line 7", says, WAIT)?;
        println!("{line}");
        // Everything else still changes, and what the file said before still holds.
        let split = mesh.upstream("shop/client", "web.shop:80")?;
        mesh.put(&route("shop", "web", "web", &[backend("v2", 80, 1)]))?;
        takes(&mesh, split, "/", "another file's change takes effect", |answer| answer.header("x-backend") == "v2")?;
        thread::sleep(LIVE);
        let kept = get(way, "/secret", REQUEST)?;
        ensure!(kept.status == 403, "a broken file opened what it had closed: {kept:?}");

        mesh.put_file("policy.yaml", "{[ this is no YAML at all\n")?;
        thread::sleep(LIVE);
        ensure!(get(way, "/secret", REQUEST)?.status == 403, "a broken file opened what it had closed");

        mesh.put_file("policy.yaml", &policy("Audit"))?;
        takes(&mesh, way, "/secret", "the mended file takes effect", |answer| answer.status == 200)?;
        load.stop()?.must_be_clean().map_err(|error| mesh.explain(error))?;
        mesh.stop()
    })
}
