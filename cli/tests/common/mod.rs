//! What tests with real processes share.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where something is not as it should be")]
#![allow(dead_code, reason = "not every test file needs all of it")]

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::{Output, Stdio},
    time::{Duration, Instant},
};

use mesh_cli::query;
use nix::{sys::signal::Signal, unistd::Pid};
use serde_json::Value;
use tokio::process::{Child, Command};

/// Longest time that anything may take.
pub const SOON: Duration = Duration::from_secs(60);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs meshctl to its end.
pub async fn meshctl(arguments: &[&str]) -> Output {
    tokio::time::timeout(2 * SOON, command(arguments).output()).await.expect("it takes too long").unwrap()
}

/// Starts meshctl.
pub fn spawn(arguments: &[&str]) -> Child {
    command(arguments).stdout(Stdio::null()).spawn().unwrap()
}

/// Sends a signal.
pub fn signal(pid: u64, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

/// A port of 127.0.0.1 that nobody has.
pub fn free_port() -> u16 {
    mesh_cli::local::ports::Ports::new().take().unwrap().port()
}

/// Waits until something is so.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "it takes too long until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Asks an HTTP server.
pub async fn get(address: &str, path: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    query::get(address, path).await.and_then(|answer| answer.text()).map_err(|error| error.to_string())
}

/// Orders something of an admin server.
pub async fn post(address: &str, path: &str) -> Result<String, String> {
    let address: SocketAddr = address.parse().unwrap();
    query::post(address, path).await.and_then(|answer| answer.text()).map_err(|error| error.to_string())
}

/// `meshctl up`, on a loopback network of its own.
pub struct Up {
    dir: tempfile::TempDir,
    child: Child,
    /// `127.N`.
    pub net: String,
}

impl Up {
    /// Starts it, and waits until it is ready.
    pub async fn start(manifests: impl FnOnce(&str) -> String, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Tests run side by side, of several processes too.
        let net = loop {
            let net = format!("127.{}", 128 + rand::random::<u8>() % 100);
            if std::net::TcpListener::bind(format!("{net}.1.1:19001")).is_ok() {
                break net;
            }
        };
        std::fs::create_dir(dir.path().join("m")).unwrap();
        std::fs::write(dir.path().join("m/mesh.yaml"), manifests(&net)).unwrap();
        let out = std::fs::File::create(dir.path().join("out")).unwrap();
        let (source, state) = (dir.path().join("m"), dir.path().join("s"));
        let base = ["up", "-f", source.to_str().unwrap(), "--state", state.to_str().unwrap(), "--wait", "60"];
        let mut command = command(&[&base[..], options].concat());
        let child = command.stdout(out.try_clone().unwrap()).stderr(out).spawn().unwrap();
        let up = Self { dir, child, net };
        until("the mesh is ready", || up.said().lines().any(|line| line == "ready")).await;
        up
    }

    pub fn manifests(&self) -> PathBuf {
        self.dir.path().join("m")
    }

    pub fn state(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub fn pid(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// What it printed.
    pub fn said(&self) -> String {
        let said = std::fs::read_to_string(self.dir.path().join("out")).unwrap();
        assert!(!said.contains("error:"), "{said}");
        said
    }

    /// `mesh.json`.
    pub fn mesh(&self) -> Value {
        let text = std::fs::read_to_string(self.state().join("mesh.json")).unwrap();
        serde_json::from_str(&text).expect("it is never half written")
    }

    /// One workload of `mesh.json`; null where it is not there.
    pub fn workload(&self, name: &str) -> Value {
        let mesh = self.mesh();
        mesh["workloads"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned().unwrap_or_default()
    }

    /// Process of a workload's `sidecar` or `app`. `mesh.json` is written a moment after what it tells of has happened.
    pub async fn pid_of(&self, workload: &str, part: &str) -> u64 {
        self.found(|| self.workload(workload)[part]["pid"].as_u64()).await
    }

    /// Process of the `ca` or the `controller`.
    pub async fn pid_of_part(&self, part: &str) -> u64 {
        self.found(|| self.mesh()[part]["pid"].as_u64()).await
    }

    async fn found(&self, look: impl Fn() -> Option<u64>) -> u64 {
        let deadline = Instant::now() + SOON;
        loop {
            if let Some(pid) = look() {
                return pid;
            }
            assert!(Instant::now() < deadline, "no process appears: {:#}", self.mesh());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until an upstream gives an answer.
    pub async fn answers(&self, upstream: &str, wanted: &str) {
        let deadline = Instant::now() + SOON;
        loop {
            let got = get(upstream, "/").await;
            if got.as_deref() == Ok(wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "still {got:?}; meshctl said\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends it: its exit code.
    pub async fn end(mut self, how: Signal) -> Option<i32> {
        signal(u64::from(self.pid()), how);
        let status = tokio::time::timeout(SOON, self.child.wait()).await.expect("it does not end").unwrap();
        status.code()
    }
}
