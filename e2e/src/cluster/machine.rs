//! Nodes as namespaces on this machine: started, joined by links, entered. Part of `cluster`.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use super::{
    cgroup::Layout,
    plan::{Node, Plan},
    state::State,
};
use crate::process::{is_alive, must_run, tail, until};

/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(20);
/// How long a namespace may take to be there.
const START: Duration = Duration::from_secs(20);
/// Addresses outside of the cluster that the fabric has: servers of tests can listen there. `outside.example` has one of
/// each family, `other.example` the second one of IPv4.
const OUTSIDE: [&str; 3] = ["203.0.113.10/32", "203.0.113.11/32", "2001:db8::10/128"];

/// Where in a cluster a command is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// In all namespaces of a node.
    Node(&'a Node),
    /// In the network between and outside of the nodes.
    Fabric,
}

/// Starts the fabric, with its link to this machine.
///
/// # Errors
/// Where the system refuses.
pub fn start_fabric(state: &State) -> Result<()> {
    let plan = &state.plan;
    let dir = plan.dir.join("fabric");
    fs::create_dir_all(&dir)?;
    let mut command = launcher(plan, "fabric", &dir);
    command.env("CGROUP_DIRS", lines(state.groups.child("fabric").dirs()));
    must_run(&command, COMMAND)?;
    let pid = wait_for_pid(&dir.join("fabric.pid"), &dir.join("node.log"))?;

    let (link, fabric) = (plan.link(), pid.to_string());
    ip(&["link", "add", &link, "type", "veth", "peer", "name", "host", "netns", &fabric])?;
    let (v4, v6) = plan.host();
    address(ip, &link, v4, v6)?;
    ip(&["link", "set", &link, "up"])?;

    let within = |args: &[&str]| within_net(pid, "ip", args);
    within(&["link", "set", "lo", "up"])?;
    within(&["link", "add", "bridge0", "type", "bridge"])?;
    let (v4, v6) = router(plan);
    address(within, "bridge0", v4, v6)?;
    for outside in OUTSIDE {
        within(&["addr", "add", outside, "dev", "lo"])?;
    }
    within(&["link", "set", "bridge0", "up"])?;
    within(&["link", "set", "host", "master", "bridge0"])?;
    within(&["link", "set", "host", "up"])?;
    within_net(pid, "sysctl", &["-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])?;
    for node in &plan.nodes {
        within(&["route", "add", &node.pods_v4, "via", &node.v4.to_string()])?;
        within(&["-6", "route", "add", &node.pods_v6, "via", &node.v6.to_string()])?;
    }
    // What is nowhere is refused at once.
    within(&["route", "add", "unreachable", "default"])?;
    within(&["-6", "route", "add", "unreachable", "default"])
}

/// Starts a node and links it with the fabric. Its programs start by themselves.
///
/// # Errors
/// Where the system refuses; the error has the node's log.
pub fn start_node(state: &State, node: &Node, layout: &Layout) -> Result<()> {
    let plan = &state.plan;
    let (router_v4, router_v6) = router(plan);
    let mut routes = String::new();
    for other in plan.nodes.iter().filter(|other| other.number != node.number) {
        routes.push_str(&format!("-4 {} {}\n-6 {} {}\n", other.pods_v4, other.v4, other.pods_v6, other.v6));
    }
    let mut command = launcher(plan, "launch", &node.dir);
    command
        .env("NODE_NAME", &node.name)
        .env("NODE_V4", format!("{}/24", node.v4))
        .env("NODE_V6", format!("{}/64", node.v6))
        .env("ROUTER_V4", router_v4.to_string())
        .env("ROUTER_V6", router_v6.to_string())
        .env("NODE_ROUTES", routes.trim_end())
        .env("CGROUP_VERSION", layout.version().to_string())
        .env("CGROUP_DIRS", lines(state.groups.child(&node.name).dirs()))
        .env("CGROUP_HIERARCHIES", layout.mounts())
        .env("NODE_INIT", plan.programs().join("mesh-cluster"))
        .env("NODE_PLAN", node.dir.join("plan.json"));
    must_run(&command, COMMAND)?;
    let pid = wait_for_pid(&node.pid_file(), &node.log())?.to_string();
    let fabric = pid_of(plan, Place::Fabric)?;
    let port = node.port();
    let link = ["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid];
    within_net(fabric, "ip", &link)?;
    within_net(fabric, "ip", &["link", "set", &port, "master", "bridge0"])?;
    within_net(fabric, "ip", &["link", "set", &port, "up"])
}

/// The host pid of the first process of a place.
///
/// # Errors
/// Where it does not run.
pub fn pid_of(plan: &Plan, place: Place<'_>) -> Result<u32> {
    let (file, name) = match place {
        Place::Node(node) => (node.pid_file(), node.name.as_str()),
        Place::Fabric => (plan.dir.join("fabric/fabric.pid"), "the fabric"),
    };
    match read_pid(&file) {
        Some(pid) if is_alive(pid) => Ok(pid),
        _ => bail!("{name} of the cluster '{}' does not run", plan.name),
    }
}

/// A program that is to run in a place of a running cluster, as root.
///
/// # Errors
/// Where the place is not there.
pub fn enter(state: &State, place: Place<'_>, program: &str) -> Result<Command> {
    let pid = pid_of(&state.plan, place)?.to_string();
    let (group, namespaces): (String, &[&str]) = match place {
        // Version 2: processes may be in the leaves only.
        Place::Node(node) if state.version == 2 => {
            (format!("{}/init", node.name), &["-m", "-n", "-p", "-i", "-u", "-C"])
        }
        Place::Node(node) => (node.name.clone(), &["-m", "-n", "-p", "-i", "-u", "-C"]),
        Place::Fabric => ("fabric".to_owned(), &["-n"]),
    };
    // Joined first: the groups are the node's root once within.
    let script = "for dir in $GROUPS_TO_JOIN; do echo $$ > \"$dir/cgroup.procs\" || exit 126; done\n\
                  unset GROUPS_TO_JOIN\nexec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", "nsenter", "-t", &pid]).args(namespaces).arg("--").arg(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command
        .env("GROUPS_TO_JOIN", lines(state.groups.child(&group).dirs()))
        .env("PATH", format!("{}:{path}:/usr/sbin:/sbin", state.plan.programs().display()))
        .env("KUBECONFIG", state.plan.kubeconfig());
    Ok(command)
}

/// Mounts of this machine that lie in a folder.
///
/// # Errors
/// Where the table cannot be read.
pub fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// Removes this machine's end of the link, where it is there.
///
/// # Errors
/// Where it stays.
pub fn remove_link(plan: &Plan) -> Result<()> {
    let link = plan.link();
    let there = Path::new("/sys/class/net").join(&link);
    // It goes with the fabric's namespace, but a little later.
    until(&format!("the link {link} is gone"), START, || {
        if there.exists() {
            let _ = ip(&["link", "delete", &link]);
        }
        Ok((!there.exists()).then_some(()))
    })
}

fn launcher(plan: &Plan, what: &str, dir: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.args(["--fork", "bash"]).arg(plan.dir.join("node.sh")).arg(what).env("NODE_DIR", dir).current_dir("/");
    command
}

fn wait_for_pid(file: &Path, log: &Path) -> Result<u32> {
    let what = format!("{} is written", file.display());
    let found = until(&what, START, || Ok(read_pid(file).filter(|pid| is_alive(*pid))));
    found.with_context(|| format!("end of {}:\n{}", log.display(), tail(&fs::read_to_string(log).unwrap_or_default())))
}

fn read_pid(file: &Path) -> Option<u32> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The fabric's own addresses: every node's way out.
fn router(plan: &Plan) -> (Ipv4Addr, Ipv6Addr) {
    let [a, b, c, _] = plan.host().0.octets();
    let [s0, s1, s2, s3, s4, s5, s6, _] = plan.host().1.segments();
    (Ipv4Addr::new(a, b, c, 253), Ipv6Addr::new(s0, s1, s2, s3, s4, s5, s6, 0xfd))
}

fn address(ip: impl Fn(&[&str]) -> Result<()>, link: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Result<()> {
    ip(&["addr", "add", &format!("{v4}/24"), "dev", link])?;
    ip(&["-6", "addr", "add", &format!("{v6}/64"), "dev", link, "nodad"])
}

fn ip(args: &[&str]) -> Result<()> {
    must_run(Command::new("ip").args(args), COMMAND).map(drop)
}

fn within_net(pid: u32, program: &str, args: &[&str]) -> Result<()> {
    ensure!(pid > 1, "no namespace to enter");
    must_run(Command::new("nsenter").args(["-t", &pid.to_string(), "-n", "--", program]).args(args), COMMAND).map(drop)
}

fn lines(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>().join("\n")
}
