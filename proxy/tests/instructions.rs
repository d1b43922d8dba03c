//! How many instructions of its own a proxy spends on one request: counted, so that it is the same on every machine of a
//! kind, busy or not. Whoever makes a request dearer by more than a twentieth has to move the baseline, and say why.
//!
//! The release build is counted, under `valgrind --tool=callgrind`: run `scripts/images.sh` first. The kernel's share is not
//! in it; `make bench` measures that.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{fs, path::Path, process::Command, time::Duration};

use mesh_api::model::Protocol;
use mesh_proxy::config::{InboundListener, OutboundListener};

use self::{
    apps::{Wire, app, ok},
    mesh::{Plane, destination, endpoint, free_port, open, policy},
    release::Proxy,
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;
#[path = "support/release.rs"]
mod release;

/// Requests that are counted, after a few that are not.
const REQUESTS: u64 = 1000;
const FEW: u64 = 50;
/// Both ends wait so long before they speak: so a proxy, slow as it is under callgrind, rests before each message, and whether
/// two of them are dealt with in one go is no matter of luck.
const REST: Duration = Duration::from_millis(4);
/// What a program of the field sends.
const REQUEST: &str = "GET /100 HTTP/1.1\r\nHost: cart.shop\r\nUser-Agent: mesh-load\r\nAccept: */*\r\n\r\n";
/// How much more than the baseline is let through.
const MORE: f64 = 1.05;
/// How much less asks for a new baseline: else the next one may grow by that much again.
const LESS: f64 = 0.90;

/// Names a folder that keeps what callgrind wrote, as SIDE.callgrind: for `callgrind_annotate`, of a build with symbols.
const KEEP: &str = "CALLGRIND_OUT";

/// The baseline: a line for each side, its name and the instructions for one request.
fn baseline() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.txt")
}

/// The instructions that one side spends on each request.
async fn count(side: &str) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let answer = ok(&"x".repeat(100));
    let address = app(move |mut wire: Wire, _| {
        let answer = answer.clone();
        async move {
            while wire.head().await.is_some() {
                tokio::time::sleep(REST).await;
                wire.try_send(answer.clone()).await;
            }
        }
    })
    .await;
    let plane = Plane::start().await;
    let (entry, inbound) = (free_port(), free_port());
    let (target, known) = destination("cart", Protocol::Http1, vec![endpoint(inbound, Some("cart"))]);
    plane.change(|world| {
        world.destinations.insert(target, known);
        world.inbound.insert("cart-1".into(), policy("cart-1", "cart", open(Protocol::Http1)));
        world.inbound.insert("web-1".into(), policy("web-1", "web", open(Protocol::Detect)));
    });
    let mut server = plane.config("cart-1", "cart");
    server.inbound.listeners.push(InboundListener { listen: inbound, app: address });
    let mut client = plane.config("web-1", "web");
    client.outbound.listeners.push(OutboundListener { listen: entry, to: "cart.shop:80".into() });
    let file = folder.path().join("counted");
    let out = format!("--callgrind-out-file={}", file.display());
    let counted = ["valgrind", "--quiet", "--tool=callgrind", &out];
    let by = |who: &str| if who == side { &counted[..] } else { &[] };
    let server = Proxy::start(server, folder.path(), by("inbound")).await;
    let client = Proxy::start(client, folder.path(), by("outbound")).await;
    let mut wire = Wire::connect(entry).await;
    let pid = if side == "outbound" { client.pid() } else { server.pid() };
    ask(&mut wire, FEW).await;
    control("--zero", pid);
    ask(&mut wire, REQUESTS).await;
    control("--dump", pid);
    // The first dump has this number.
    let file = folder.path().join("counted.1");
    if let Some(kept) = std::env::var_os(KEEP) {
        fs::copy(&file, Path::new(&kept).join(format!("{side}.callgrind"))).unwrap();
    }
    let text = fs::read_to_string(&file).expect("callgrind has written what it counted");
    let line = text.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    line.expect("a sum").split_whitespace().next().unwrap().parse::<u64>().unwrap() / REQUESTS
}

async fn ask(wire: &mut Wire, requests: u64) {
    for _ in 0..requests {
        tokio::time::sleep(REST).await;
        wire.send(REQUEST).await;
        let (head, body) = wire.message().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200") && body.len() == 100, "{head}");
    }
}

/// Orders callgrind to do something with what it has counted.
fn control(order: &str, pid: u32) {
    // What is still to be done for the last message is done.
    std::thread::sleep(REST * 50);
    let ordered = Command::new("callgrind_control").args([order, &pid.to_string()]).output().unwrap();
    assert!(ordered.status.success(), "{}", String::from_utf8_lossy(&ordered.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_costs_no_more_than_it_did() {
    let mut found = String::new();
    let mut wrong = Vec::new();
    let known = fs::read_to_string(baseline()).unwrap_or_default();
    for side in ["outbound", "inbound"] {
        let each = count(side).await;
        println!("{side}: {each} instructions for a request");
        found += &format!("{side} {each}\n");
        let line = known.lines().find_map(|line| line.strip_prefix(side));
        let Some(before) = line.and_then(|rest| rest.trim().parse::<u32>().ok()) else {
            wrong.push(format!("{side} has no baseline"));
            continue;
        };
        let share = f64::from(u32::try_from(each).unwrap()) / f64::from(before);
        if !(LESS..=MORE).contains(&share) {
            wrong.push(format!("{side}: {each} instructions for a request, and {before} before ({share:.3})"));
        }
    }
    if std::env::var_os(release::UPDATE).is_some() {
        fs::write(baseline(), found).unwrap();
        return;
    }
    let how = "MESH_UPDATE_BASELINE=1 cargo test -p mesh-proxy --test instructions";
    assert!(wrong.is_empty(), "{wrong:?}; where that is meant to be so, write it down: {how}");
}
