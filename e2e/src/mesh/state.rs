//! What `meshctl up` says about its processes, in `mesh.json`.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Component;

/// The processes of a mesh at some moment.
#[derive(Clone, Debug)]
pub struct State(Value);

/// The processes of one workload at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadState {
    /// Process id of its sidecar.
    pub sidecar_pid: u32,
    /// Admin server of its sidecar.
    pub sidecar_admin: SocketAddr,
    /// Process id of its program, where the mesh started it.
    pub app_pid: Option<u32>,
}

impl State {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?))
    }

    /// Admin server of `meshctl up` itself.
    ///
    /// # Errors
    /// Where it is not said.
    pub fn admin(&self) -> Result<SocketAddr> {
        address(&self.0, "/admin")
    }

    /// Process id of a part of the control plane.
    ///
    /// # Errors
    /// Where it is not said.
    pub fn pid(&self, component: Component) -> Result<u32> {
        pid(&self.0, &format!("/{component}/pid"))
    }

    /// Admin server of a part of the control plane.
    ///
    /// # Errors
    /// Where it is not said.
    pub fn component_admin(&self, component: Component) -> Result<SocketAddr> {
        address(&self.0, &format!("/{component}/admin"))
    }

    /// A workload `NAMESPACE/NAME`.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn workload(&self, id: &str) -> Result<WorkloadState> {
        let is = |workload: &&Value| {
            let text = |key| workload.get(key).and_then(Value::as_str).unwrap_or_default();
            id == format!("{}/{}", text("namespace"), text("name"))
        };
        let all = self.0.get("workloads").and_then(Value::as_array).context("mesh.json names no workloads")?;
        let found = all.iter().find(is).with_context(|| format!("mesh.json has no workload {id}"))?;
        Ok(WorkloadState {
            sidecar_pid: pid(found, "/sidecar/pid")?,
            sidecar_admin: address(found, "/sidecar/admin")?,
            app_pid: pid(found, "/app/pid").ok(),
        })
    }

    /// Every process of it.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let workloads = self.0.get("workloads").and_then(Value::as_array).into_iter().flatten();
        let of_workloads = workloads.flat_map(|workload| [pid(workload, "/sidecar/pid"), pid(workload, "/app/pid")]);
        let of_control = [self.pid(Component::Ca), self.pid(Component::Controller)];
        of_control.into_iter().chain(of_workloads).flatten().collect()
    }
}

fn pid(value: &Value, pointer: &str) -> Result<u32> {
    let number =
        value.pointer(pointer).and_then(Value::as_u64).with_context(|| format!("mesh.json has no {pointer}"))?;
    u32::try_from(number).with_context(|| format!("{pointer} of mesh.json is no process id"))
}

fn address(value: &Value, pointer: &str) -> Result<SocketAddr> {
    let text = value.pointer(pointer).and_then(Value::as_str).with_context(|| format!("mesh.json has no {pointer}"))?;
    text.parse().with_context(|| format!("{pointer} of mesh.json is no address: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read() {
        let text = r#"{"admin":"127.0.0.1:1","ca":{"pid":2,"admin":"127.0.0.1:3"},"controller":{"pid":4,
            "admin":"127.0.0.1:5"},"workloads":[{"namespace":"shop","name":"web","sidecar":{"pid":6,
            "admin":"127.0.0.1:7"},"app":null}]}"#;
        let state = State(serde_json::from_str(text).unwrap());
        assert_eq!(state.admin().unwrap().port(), 1);
        assert_eq!(state.component_admin(Component::Controller).unwrap().port(), 5);
        assert_eq!(state.pids(), [2, 4, 6]);
        let web = state.workload("shop/web").unwrap();
        assert_eq!((web.sidecar_pid, web.app_pid), (6, None));
        assert!(state.workload("shop/other").is_err());
    }
}
