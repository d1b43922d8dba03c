//! A whole mesh on this machine, run by `meshctl up` from a folder of manifests. Floor 2: imports `bin`, `http`,
//! `process`, `stage`.
//!
//! [`Plan`] says what is in it, [`Mesh`] is the running thing: addresses, manifests that can be changed, processes
//! that can be killed and restarted.

mod objects;
mod outage;
mod plan;
mod state;

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use mesh_api::resources::Resource;

pub use self::{
    objects::{allow, backend, deny, path_is, route, rule_from_account, service, strict},
    outage::{Component, Outage},
    plan::{Plan, Workload},
    state::{State, WorkloadState},
};
use crate::{
    http::{get, post},
    process::{Process, until},
};

/// How long a mesh may take until it says `ready`.
const READY: Duration = Duration::from_secs(60);
/// How long a request to an admin server may take.
const ADMIN: Duration = Duration::from_secs(5);
/// How long a restart of one workload may take, draining included.
const RESTART: Duration = Duration::from_secs(60);

/// A running mesh. It ends, with all its processes, when this is dropped.
#[derive(Debug)]
pub struct Mesh {
    process: Process,
    manifests: PathBuf,
    drafts: PathBuf,
    state: PathBuf,
    upstreams: BTreeMap<(String, String), SocketAddr>,
    inbound: BTreeMap<(String, u16), SocketAddr>,
}

impl Mesh {
    /// Where the program of workload `NAMESPACE/NAME` reaches `service`, written as in its `upstreams`.
    ///
    /// # Errors
    /// Where it has no such upstream.
    pub fn upstream(&self, workload: &str, service: &str) -> Result<SocketAddr> {
        let key = (workload.to_owned(), service.to_owned());
        self.upstreams.get(&key).copied().with_context(|| format!("{workload} does not call {service}"))
    }

    /// Where peers reach `port` of workload `NAMESPACE/NAME`: its sidecar.
    ///
    /// # Errors
    /// Where it has no such port.
    pub fn inbound(&self, workload: &str, port: u16) -> Result<SocketAddr> {
        let key = (workload.to_owned(), port);
        self.inbound.get(&key).copied().with_context(|| format!("{workload} has no port {port}"))
    }

    /// Writes an object's manifest, in place of an earlier one, at once.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn put(&self, object: &Resource) -> Result<()> {
        self.put_file(&objects::file_name(object), &objects::document(object)?)
    }

    /// Writes any text as a file among the manifests, at once.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn put_file(&self, name: &str, text: &str) -> Result<()> {
        put(&self.drafts, &self.manifests, name, text)
    }

    /// Removes a file from the manifests.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn remove_file(&self, name: &str) -> Result<()> {
        let path = self.manifests.join(name);
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
    }

    /// Removes an object's manifest.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn remove(&self, object: &Resource) -> Result<()> {
        self.remove_file(&objects::file_name(object))
    }

    /// The folder of manifests.
    #[must_use]
    pub fn manifests(&self) -> &Path {
        &self.manifests
    }

    /// Its processes, as they are now.
    ///
    /// # Errors
    /// Where `mesh.json` is not there or cannot be read.
    pub fn state(&self) -> Result<State> {
        State::read(&self.state.join("mesh.json"))
    }

    /// Restarts a workload `NAMESPACE/NAME`, sidecar and program, and awaits that it is ready again.
    ///
    /// # Errors
    /// Where the mesh refuses, or it does not come back.
    pub fn restart(&self, workload: &str) -> Result<()> {
        let state = self.state()?;
        let before = state.workload(workload)?;
        let answer = post(state.admin()?, &format!("/restart?workload={workload}"), "", RESTART)?;
        ensure!(answer.status.is_success(), "restart of {workload}: {} {}", answer.status, answer.text());
        until(&format!("{workload} is back"), RESTART, || {
            // Not readable while it is written anew, perhaps.
            let Ok(now) = self.state().and_then(|state| state.workload(workload)) else { return Ok(None) };
            let other =
                now.sidecar_pid != before.sidecar_pid && (before.app_pid.is_none() || now.app_pid != before.app_pid);
            let ready = || get(now.sidecar_admin, "/ready", ADMIN).is_ok_and(|answer| answer.status.is_success());
            Ok((other && ready()).then_some(()))
        })
        .map_err(|error| self.process.explain(error))
    }

    /// What the admin server of somebody answers to a POST.
    ///
    /// # Errors
    /// Where it does not answer, or not with success.
    pub fn command(&self, admin: SocketAddr, path: &str) -> Result<String> {
        let answer = post(admin, path, "", ADMIN)?;
        if !answer.status.is_success() {
            bail!("POST {path} to {admin}: {} {}", answer.status, answer.text());
        }
        Ok(answer.text())
    }

    /// The metrics of the sidecar of workload `NAMESPACE/NAME`, in Prometheus' text format.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn metrics(&self, workload: &str) -> Result<String> {
        let admin = self.state()?.workload(workload)?.sidecar_admin;
        Ok(get(admin, "/metrics", ADMIN)?.text())
    }

    /// What `meshctl up` has printed.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until `meshctl up` has printed a line that `fits`.
    ///
    /// # Errors
    /// Where the deadline passes.
    pub fn wait_for_line(&mut self, what: &str, fits: impl Fn(&str) -> bool, deadline: Duration) -> Result<String> {
        self.process.wait_for_line_that(what, fits, deadline)
    }

    /// Ends it gently and checks that nothing of it is left.
    ///
    /// # Errors
    /// Where it does not end by itself, ends with an error, or leaves a process behind.
    pub fn stop(mut self) -> Result<()> {
        let pids = self.state()?.pids();
        let status = self.process.stop()?;
        ensure!(status.success(), self.process.explain(anyhow::anyhow!("meshctl up ended with {status}")));
        let left: Vec<u32> = pids.into_iter().filter(|pid| crate::process::is_alive(*pid)).collect();
        ensure!(left.is_empty(), "meshctl up left processes behind: {left:?}");
        Ok(())
    }

    /// Adds what `meshctl up` printed to an error.
    #[must_use]
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        self.process.explain(error)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        let pids = self.state().map(|state| state.pids()).unwrap_or_default();
        if self.process.stop().is_err() {
            // It was killed: its children are orphans now, and known by their ids.
            for pid in pids.into_iter().filter(|pid| crate::process::is_alive(*pid)) {
                let _ = crate::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// Writes beside and renames, so that nobody reads half a file.
fn put(drafts: &Path, manifests: &Path, name: &str, text: &str) -> Result<()> {
    let draft = drafts.join(name);
    fs::write(&draft, text).with_context(|| format!("cannot write {}", draft.display()))?;
    fs::rename(&draft, manifests.join(name)).with_context(|| format!("cannot put {name} among the manifests"))
}

/// The sum of all series of a metric that have all of the labels.
#[must_use]
pub fn metric_sum(metrics: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    let has = |line: &str| labels.iter().all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")));
    metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && has(line))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_summed_by_label() {
        let text = "# HELP a x\na_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4\na_total_other 9\na_total 1\n";
        assert!((metric_sum(text, "a_total", &[("x", "1")]) - 7.0).abs() < f64::EPSILON);
        assert!((metric_sum(text, "a_total", &[]) - 8.0).abs() < f64::EPSILON);
    }
}
