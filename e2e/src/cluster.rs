//! A real Kubernetes on this machine, as plain processes in namespaces of their own. Floor 3: imports `api`, `cache`, `oci`,
//! `process`, `programs`.
//!
//! Floors within:
//!
//! ```text
//! 3  this file: up, down
//! 2  machine
//! 1  config  state
//! 0  plan  pki  cgroup  parts  init  limits
//! ```
//!
//! Everything of a cluster is in one folder, in one tree of control groups, and behind one link. What it is made of is
//! written down before it is made, so that [`down`] removes it whatever has happened to [`up`].

pub mod cgroup;
pub mod config;
pub mod init;
pub mod limits;
pub mod machine;
pub mod parts;
pub mod pki;
pub mod plan;
pub mod state;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::{
    api::{self, Server},
    process::{must_run, run_with, tail, until},
};
use cgroup::Layout;
use machine::Place;
use parts::Parts;
use plan::{Node, Plan};
use state::State;

/// How long the API server may take to answer, and each node to be ready.
const READY: Duration = Duration::from_secs(120);
/// How long the import of one image may take.
const IMPORT: Duration = Duration::from_secs(180);
/// How many lines of a log an error shows.
const LINES: usize = 12;
/// How much of each line, in characters.
const WIDTH: usize = 300;
/// Folders that nodes have their own of: nothing that they need may be in them.
const HIDDEN: [&str; 8] = ["/etc", "/run", "/tmp", "/opt", "/proc", "/sys", "/var/lib", "/var/log"];

/// A cluster that is up.
#[derive(Clone, Debug)]
pub struct Cluster {
    state: State,
}

/// The folder of all clusters of this machine: `$E2E_CLUSTERS`, or `/var/tmp/mesh-cluster`.
#[must_use]
pub fn base() -> PathBuf {
    std::env::var_os("E2E_CLUSTERS").filter(|dir| !dir.is_empty()).map_or("/var/tmp/mesh-cluster".into(), PathBuf::from)
}

/// Makes a cluster. One of this name that answers stays as it is; what is left of one that does not is removed first.
///
/// # Errors
/// Where something of it does not work: the error has the log of what is at fault. What was made of it stays for a look,
/// until [`down`].
pub async fn up(name: &str, nodes: u8) -> Result<Cluster> {
    plan::check_name(name)?;
    let base = base();
    ensure!(nix::unistd::Uid::effective().is_root(), "a cluster needs root, for namespaces and mounts");
    let hidden = HIDDEN.iter().find(|dir| base.starts_with(dir));
    ensure!(hidden.is_none(), "clusters cannot be kept in {}: nodes have folders of their own there", base.display());
    let _lock = state::lock(&base, name)?;
    if let Some(cluster) = find_in(&base, name)? {
        if cluster.answers().await && cluster.nodes().len() == usize::from(nodes) {
            return Ok(cluster);
        }
        eprintln!("removing what is left of the cluster '{name}'");
    }
    remove(&base, name)?;
    let parts = Parts::get()?;
    limits::check(nodes)?;
    let begun = Instant::now();
    let cluster = prepare(&base, name, nodes, &parts)?;
    let say = |what: &str| eprintln!("{:5.1} s  {what}", begun.elapsed().as_secs_f64());
    let result = start(&cluster, &parts, &say).await;
    match result {
        Ok(()) => Ok(cluster),
        Err(error) => Err(error
            .context(format!("the cluster '{name}' is not up; its logs are in {}", cluster.state.plan.dir.display()))),
    }
}

/// The cluster of this name, where it was begun and not removed; it need not answer.
///
/// # Errors
/// Where what is written down of it is damaged.
pub fn find(name: &str) -> Result<Option<Cluster>> {
    plan::check_name(name)?;
    find_in(&base(), name)
}

/// Removes a cluster, or what is left of it, and looks whether anything stays behind.
///
/// # Errors
/// Where something does: the error lists all of it.
pub fn down(name: &str) -> Result<()> {
    plan::check_name(name)?;
    let base = base();
    let lock = state::lock(&base, name)?;
    remove(&base, name)?;
    lock.remove();
    // Only where this was the last one.
    let _ = fs::remove_dir(&base);
    Ok(())
}

fn find_in(base: &Path, name: &str) -> Result<Option<Cluster>> {
    Ok(State::load(base, name)?.map(|state| Cluster { state }))
}

fn prepare(base: &Path, name: &str, nodes: u8, parts: &Parts) -> Result<Cluster> {
    let layout = Layout::detect()?;
    let state = {
        let slots = state::lock(base, "slots")?;
        let plan = Plan::new(name, state::free_slot(base)?, nodes, base)?;
        fs::create_dir_all(&plan.dir).with_context(|| format!("cannot make {}", plan.dir.display()))?;
        let groups = layout.groups(&plan.cgroup());
        let state = State { plan, groups, version: layout.version(), settings: state::settings() };
        state.save()?;
        slots.remove();
        state
    };
    let plan = &state.plan;
    pki::make(plan)?;
    config::write(plan)?;
    parts.install(&plan.programs())?;
    state.groups.create()?;
    state.groups.child("fabric").create()?;
    for node in &plan.nodes {
        parts.install_cni(&node.dir.join("opt/cni/bin"))?;
        state.groups.child(&node.name).create()?;
    }
    machine::start_fabric(&state)?;
    for node in &plan.nodes {
        machine::start_node(&state, node, &layout)?;
    }
    Ok(Cluster { state })
}

async fn start(cluster: &Cluster, parts: &Parts, say: &impl Fn(&str)) -> Result<()> {
    say("nodes are there");
    let importing = {
        let (cluster, images) = (cluster.clone(), parts.images().to_vec());
        thread::spawn(move || images.iter().try_for_each(|image| cluster.load(image)))
    };
    let server = cluster.server().await?;
    cluster.await_ready(&server).await?;
    fs::write(cluster.plan().served(), "")?;
    say("the API server is ready");
    for node in cluster.nodes() {
        cluster.join(&server, node).await?;
    }
    importing.join().map_err(|_| anyhow!("importing the images has panicked"))??;
    say("images are imported");
    server.apply(&config::coredns()?, "kube-system").await?;
    for node in cluster.nodes() {
        let fits = |node: &Value| api::has_condition(node, "Ready");
        let ready = server.wait_for(("v1", "Node"), "", &node.name, "is ready", READY, fits).await;
        ready.map_err(|error| cluster.explain(error, node, &["kubelet", "containerd"]))?;
    }
    say("nodes are ready");
    // Pods are refused before it is there.
    server.wait_for(("v1", "ServiceAccount"), "default", "default", "is there", READY, |_| true).await?;
    let rolled_out = server.rolled_out("kube-system", "coredns", READY).await;
    rolled_out.map_err(|error| cluster.explain_first(error, &["kubelet", "containerd", "kube-proxy"]))?;
    say("names are resolved: the cluster is up");
    Ok(())
}

impl Cluster {
    /// Its plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.state.plan
    }

    /// Its nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.state.plan.nodes
    }

    /// A kubeconfig of an administrator, for programs on this machine.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.plan.kubeconfig()
    }

    /// Its API server.
    ///
    /// # Errors
    /// Where the kubeconfig cannot be used.
    pub async fn server(&self) -> Result<Server> {
        Server::open(&self.kubeconfig()).await
    }

    /// A command within: `place` is the name of a node, or `fabric`.
    ///
    /// # Errors
    /// Where there is no such place, or it does not run.
    pub fn enter(&self, place: &str, program: &str) -> Result<Command> {
        let found = self.nodes().iter().find(|node| node.name == place).map(Place::Node);
        let found = found.or((place == "fabric").then_some(Place::Fabric));
        machine::enter(&self.state, found.with_context(|| format!("no node '{place}'"))?, program)
    }

    /// Imports an archive of images (OCI, Docker) into every node.
    ///
    /// # Errors
    /// Where a node does not take it.
    pub fn load(&self, archive: &Path) -> Result<()> {
        let what = || format!("cannot import {}", archive.display());
        for node in self.nodes() {
            let pid = machine::pid_of(self.plan(), Place::Node(node))?;
            let socket = Path::new("/proc").join(pid.to_string()).join("root/run/containerd/containerd.sock");
            until(&format!("containerd of {} listens", node.name), READY, || Ok(socket.exists().then_some(())))?;
            let mut ctr = self.enter(&node.name, "ctr").with_context(what)?;
            ctr.args(["--namespace", "k8s.io", "--connect-timeout", "30s", "images", "import", "-"]);
            let output = run_with(&ctr, None, Some(archive), IMPORT).with_context(what)?;
            ensure!(output.status.success(), "{} into {}:\n{}", what(), node.name, tail(&output.error_text()));
        }
        Ok(())
    }

    /// True where the API server is ready and every node and the fabric run.
    pub async fn answers(&self) -> bool {
        let place = |node| machine::pid_of(self.plan(), node).is_ok();
        if !place(Place::Fabric) || !self.nodes().iter().all(|node| place(Place::Node(node))) {
            return false;
        }
        match self.server().await {
            Ok(server) => server.get("/readyz").await.is_ok(),
            Err(_) => false,
        }
    }

    async fn await_ready(&self, server: &Server) -> Result<()> {
        let begun = Instant::now();
        loop {
            let error = match server.get("/readyz").await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if begun.elapsed() >= READY {
                let error = error.context(format!("waited {READY:?} in vain until the API server is ready"));
                return Err(self.explain_first(error, &["kube-apiserver", "etcd"]));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits for a node to make itself known, and gives it what is the administrator's to give.
    async fn join(&self, server: &Server, node: &Node) -> Result<()> {
        let known = server.wait_for(("v1", "Node"), "", &node.name, "is registered", READY, |_| true).await;
        known.map_err(|error| self.explain(error, node, &["kubelet", "containerd"]))?;
        let mut patch = json!({ "spec": { "podCIDR": node.pods_v4, "podCIDRs": [node.pods_v4, node.pods_v6] } });
        if node.is_control() {
            patch["metadata"] = json!({ "labels": { "node-role.kubernetes.io/control-plane": "" } });
        }
        let api = server.kind("v1", "Node", "").await?;
        api.patch(&node.name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        Ok(())
    }

    fn explain_first(&self, error: anyhow::Error, programs: &[&str]) -> anyhow::Error {
        match self.nodes().first() {
            Some(node) => self.explain(error, node, programs),
            None => error,
        }
    }

    /// Adds the ends of logs to an error.
    fn explain(&self, error: anyhow::Error, node: &Node, programs: &[&str]) -> anyhow::Error {
        let mut files = vec![node.log()];
        files.extend(programs.iter().map(|name| node.logs().join(format!("{name}.log"))));
        let mut text = format!("{error:#}");
        for file in files {
            let log = fs::read(&file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
            let lines: Vec<String> =
                log.lines().rev().take(LINES).map(|line| line.chars().take(WIDTH).collect()).collect();
            let lines = lines.iter().rev().map(|line| format!("\n    {line}")).collect::<String>();
            text.push_str(&format!("\n  end of {}:{lines}", file.display()));
        }
        anyhow!(text)
    }
}

fn remove(base: &Path, name: &str) -> Result<()> {
    let dir = base.join(name);
    let state = State::load(base, name)?;
    let mut results = Vec::new();
    if let Some(state) = &state {
        results.push(state.groups.kill());
        results.push(machine::remove_link(&state.plan));
        results.push(state.groups.remove());
    }
    for mount in machine::mounts_below(&dir)?.iter().rev() {
        results.push(must_run(Command::new("umount").arg(mount), Duration::from_secs(20)).map(drop));
    }
    // Kept where something stays: it says what.
    if dir.exists() && results.iter().all(Result::is_ok) {
        results.push(fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display())));
    }
    let mut faults: Vec<String> =
        results.into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    if let Some(state) = &state {
        let left = state.groups.left();
        faults.extend(left.iter().map(|group| format!("the control group {} is still there", group.display())));
        faults.extend(state.changed_settings());
    }
    ensure!(faults.is_empty(), "something of the cluster '{name}' is left behind:\n  {}", faults.join("\n  "));
    Ok(())
}

/// Runs a command with this process's own input and output; gives its status.
///
/// # Errors
/// Where it cannot be started.
pub fn run_attached(command: &mut Command) -> Result<i32> {
    command.stdin(Stdio::inherit());
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(status.code().unwrap_or(128))
}
