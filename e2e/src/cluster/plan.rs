//! The numbers and names of a cluster: everything that follows from its name, its slot and its count of nodes. Pure.
//! Part of `cluster`.
//!
//! ```text
//!  this machine                    fabric: a namespace with a bridge           node-1 (control plane)   node-2 ...
//!  mesh-cS 10.99.S.254 ----------- host  [bridge0]  p1, p2 ------------------- eth0 10.99.S.1           eth0 10.99.S.2
//!                                                                              cni0 10.244.1.1/24       cni0 10.244.2.1/24
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

/// How many clusters can be there at a time.
pub const SLOTS: u8 = 16;
/// How many nodes a cluster can have.
pub const MAX_NODES: u8 = 8;
/// Addresses of Services, IPv4.
pub const SERVICES_V4: &str = "10.96.0.0/16";
/// Addresses of Services, IPv6.
pub const SERVICES_V6: &str = "fd00:10:96::/112";
/// Addresses of all pods, IPv4.
pub const PODS_V4: &str = "10.244.0.0/16";
/// Addresses of all pods, IPv6.
pub const PODS_V6: &str = "fd00:10:244::/48";
/// The Service of the API server.
pub const API_SERVICE_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// The Service of the cluster's DNS, IPv4.
pub const DNS_V4: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The Service of the cluster's DNS, IPv6.
pub const DNS_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, 0xa);
/// Where the API server listens.
pub const API_PORT: u16 = 6443;
/// Domain of the cluster's names.
pub const DOMAIN: &str = "cluster.local";

/// A cluster that is, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name, unique on this machine.
    pub name: String,
    /// Its number, unique among those that are up.
    pub slot: u8,
    /// The folder that everything of it lies in.
    pub dir: PathBuf,
    /// Its nodes; the first has the control plane.
    pub nodes: Vec<Node>,
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, from 1.
    pub number: u8,
    /// Its name: `node-1`.
    pub name: String,
    /// Its address.
    pub v4: Ipv4Addr,
    /// Its address.
    pub v6: Ipv6Addr,
    /// Addresses of its pods.
    pub pods_v4: String,
    /// Addresses of its pods.
    pub pods_v6: String,
    /// Its folder within the cluster's.
    pub dir: PathBuf,
}

impl Plan {
    /// Works out a cluster.
    ///
    /// # Errors
    /// Where the name or one of the numbers cannot be.
    pub fn new(name: &str, slot: u8, nodes: u8, base: &Path) -> Result<Self> {
        check_name(name)?;
        ensure!(slot < SLOTS, "a cluster's slot is below {SLOTS}");
        ensure!((1..=MAX_NODES).contains(&nodes), "a cluster has 1 to {MAX_NODES} nodes");
        let dir = base.join(name);
        let nodes = (1..=nodes)
            .map(|number| Node {
                number,
                name: format!("node-{number}"),
                v4: Ipv4Addr::new(10, 99, slot, number),
                v6: link_v6(slot, number.into()),
                pods_v4: format!("10.244.{number}.0/24"),
                pods_v6: format!("fd00:10:244:{number:x}::/64"),
                dir: dir.join(format!("node-{number}")),
            })
            .collect();
        Ok(Self { name: name.to_owned(), slot, dir, nodes })
    }

    /// This machine's end of the link to the cluster; its name says whose it is.
    #[must_use]
    pub fn link(&self) -> String {
        format!("mesh-c{}", self.slot)
    }

    /// This machine's addresses on the link.
    #[must_use]
    pub fn host(&self) -> (Ipv4Addr, Ipv6Addr) {
        (Ipv4Addr::new(10, 99, self.slot, 254), link_v6(self.slot, 0xfe))
    }

    /// The address of the control plane's node.
    #[must_use]
    pub fn control(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 99, self.slot, 1)
    }

    /// Where clients reach the API server, from this machine and from every node.
    #[must_use]
    pub fn api(&self) -> String {
        format!("https://{}:{API_PORT}", self.control())
    }

    /// Addresses and names that the API server's certificate is for.
    #[must_use]
    pub fn api_names(&self) -> (Vec<String>, Vec<IpAddr>) {
        let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
        let mut names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        names.push(format!("kubernetes.default.svc.{DOMAIN}"));
        let mut addresses: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), API_SERVICE_V4.into()];
        if let Some(node) = self.nodes.first() {
            names.push(node.name.clone());
            addresses.extend([IpAddr::from(node.v4), IpAddr::from(node.v6)]);
        }
        (names, addresses)
    }

    /// The folder of programs.
    #[must_use]
    pub fn programs(&self) -> PathBuf {
        self.dir.join("bin")
    }

    /// The folder of keys and certificates.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.dir.join("pki")
    }

    /// The administrator's kubeconfig.
    #[must_use]
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Whom the control plane runs as: the kernel counts some things for each user, and a cluster should not take root's.
    #[must_use]
    pub fn user(&self) -> u32 {
        60_700 + u32::from(self.slot)
    }

    /// A file that is there once the API server is ready.
    #[must_use]
    pub fn served(&self) -> PathBuf {
        self.dir.join("served")
    }

    /// The name of the cluster's control groups.
    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("mesh-cluster-{}", self.name)
    }
}

impl Node {
    /// True for the node that the control plane is on.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.number == 1
    }

    /// The fabric's end of its link.
    #[must_use]
    pub fn port(&self) -> String {
        format!("p{}", self.number)
    }

    /// Its file of the host pid of its first process.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("init.pid")
    }

    /// The log of its start and of its first process.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// The folder that is `/var/log` within: logs of its programs and of its pods.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("log")
    }
}

/// Refuses names that would not fit into file names and control groups.
///
/// # Errors
/// Where the name is such a one.
pub fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty()
        && name.len() <= 32
        && !name.starts_with('-')
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    ensure!(good, "a cluster's name has up to 32 of a-z, 0-9 and '-', and does not begin with '-': '{name}'");
    Ok(())
}

fn link_v6(slot: u8, last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x99, slot.into(), 0, 0, 0, 0, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_and_nodes_share_no_address() {
        let mut seen = std::collections::HashSet::new();
        for slot in 0..SLOTS {
            let plan = Plan::new("x", slot, MAX_NODES, Path::new("/base")).unwrap();
            assert!(seen.insert(IpAddr::from(plan.host().0)));
            assert!(seen.insert(IpAddr::from(plan.host().1)));
            for node in &plan.nodes {
                assert!(seen.insert(node.v4.into()));
                assert!(seen.insert(node.v6.into()));
            }
        }
    }

    #[test]
    fn bad_names_and_numbers_are_refused() {
        for name in ["", "A", "a/b", "-a", "ä", &"a".repeat(33)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(Plan::new("a", SLOTS, 1, Path::new("/")).is_err());
        assert!(Plan::new("a", 0, 0, Path::new("/")).is_err());
        assert!(Plan::new("a", 0, MAX_NODES + 1, Path::new("/")).is_err());
    }

    #[test]
    fn the_control_plane_is_on_the_first_node() {
        let plan = Plan::new("mesh", 3, 2, Path::new("/base")).unwrap();
        assert_eq!(plan.api(), "https://10.99.3.1:6443");
        assert_eq!(plan.nodes.iter().map(Node::is_control).collect::<Vec<_>>(), [true, false]);
        assert_eq!(plan.nodes[1].pods_v6, "fd00:10:244:2::/64");
        assert!(plan.api_names().1.contains(&"10.99.3.1".parse().unwrap()));
    }
}
