//! Network namespaces with a link to this machine's own. Floor 2: imports `ports`, `process`.
//!
//! They go with their guard. One that a killed test left behind is replaced by the next that gets its name.

use std::{ffi::OsStr, net::Ipv4Addr, process::Command, time::Duration};

use anyhow::Result;

use crate::{
    ports::{Lease, Network},
    process::must_run,
};

/// How long one `ip` command may take.
const IP: Duration = Duration::from_secs(10);

/// A namespace: its own loopback, and one link to this machine.
#[derive(Debug)]
pub struct Netns {
    network: Network,
}

impl Netns {
    /// Makes a namespace whose only other interface is a link to this machine. Needs root.
    ///
    /// # Errors
    /// Where the system refuses.
    pub fn create(lease: &Lease) -> Result<Self> {
        let network = lease.network()?;
        remove(&network.name);
        let netns = Self { network };
        let (name, near, far) = (netns.name(), netns.near_interface(), netns.far_interface());
        ip(&["netns", "add", name])?;
        ip(&["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", name])?;
        ip(&["addr", "add", &format!("{}/30", netns.network.near), "dev", &near])?;
        ip(&["link", "set", &near, "up"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "addr", "add", &format!("{}/30", netns.network.far), "dev", &far])?;
        ip(&["-n", name, "link", "set", &far, "up"])?;
        ip(&["-n", name, "route", "add", "default", "via", &netns.network.near.to_string()])?;
        Ok(netns)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.network.name
    }

    /// This machine's address on the link.
    #[must_use]
    pub fn near(&self) -> Ipv4Addr {
        self.network.near
    }

    /// The namespace's address on the link.
    #[must_use]
    pub fn far(&self) -> Ipv4Addr {
        self.network.far
    }

    /// This machine's end of the link.
    #[must_use]
    pub fn near_interface(&self) -> String {
        format!("{}n", self.network.name)
    }

    /// The namespace's end of the link.
    #[must_use]
    pub fn far_interface(&self) -> String {
        format!("{}f", self.network.name)
    }

    /// A program that is to run within.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name()]).arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(self.name());
    }
}

/// Removes a namespace, and with it the link, where it is there.
fn remove(name: &str) {
    let _ = ip(&["netns", "delete", name]);
    // The kernel takes the link down a little after the namespace; the next one of this name needs it gone.
    let _ = ip(&["link", "delete", &format!("{name}n")]);
}

fn ip(args: &[&str]) -> Result<()> {
    must_run(Command::new("ip").args(args), IP).map(drop)
}
