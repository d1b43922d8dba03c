//! The release build of the proxy, as a process: what is measured is what is shipped.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use mesh_proxy::config::Config;

use super::mesh::{free_port, get};

/// Set, a test writes its baseline anew.
pub const UPDATE: &str = "MESH_UPDATE_BASELINE";

/// The release build, beside the debug build that runs with this test: the younger one, where there are several.
pub fn binary() -> PathBuf {
    let debug = Path::new(env!("CARGO_BIN_EXE_mesh-proxy")).parent().unwrap();
    let image = format!("{}-unknown-linux-gnu/image", std::env::consts::ARCH);
    let built = ["release", &image].map(|profile| debug.with_file_name(profile).join("mesh-proxy"));
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let binary = built.into_iter().filter(|path| path.is_file()).max_by_key(age);
    binary.expect("there is no release build: run `scripts/images.sh` or `cargo build --release -p mesh-proxy` first")
}

/// A running proxy; dropped, it is killed.
pub struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxy {
    /// Starts it, by `before` where that is not empty, and waits until it is ready.
    pub async fn start(mut config: Config, folder: &Path, before: &[&str]) -> Self {
        config.admin.listen = free_port();
        let file = folder.join(format!("{}.json", config.workload));
        std::fs::write(&file, serde_json::to_string(&config).unwrap()).unwrap();
        let binary = binary();
        let mut words: Vec<_> = before.iter().map(std::ffi::OsStr::new).collect();
        words.extend([binary.as_os_str(), "--config".as_ref(), file.as_os_str()]);
        let (program, arguments) = words.split_first().unwrap();
        let mut command = Command::new(program);
        // A test's own setting is none of the proxy's.
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).env_remove(UPDATE);
        let mut proxy = Self(command.spawn().expect("the proxy, or what it is started by, is not there"));
        for _ in 0..3000 {
            if matches!(get(config.admin.listen, "/ready").await, Ok((200, _))) {
                return proxy;
            }
            assert!(proxy.0.try_wait().unwrap().is_none(), "the proxy ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the proxy was not ready in time");
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory, in KiB.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}
