//! The demo's manifests, and what is expected of the mesh that they describe.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
};

use anyhow::bail;
use rand::Rng as _;

/// As they are embedded.
const MANIFESTS: &str = include_str!("shop.yaml");
/// What stands for the network of one demo.
const NETWORK: &str = "127.77.";
/// What stands for this program's path.
const PROGRAM: &str = "\"@MESHCTL@\"";
/// Namespace of everything.
pub const NAMESPACE: &str = "demo";
/// The policy that refuses the intruder, as refusals name it.
pub const POLICY: &str = "AuthorizationPolicy/demo/payments-only-from-cart";
/// Share of the payments that go to v2.
pub const SHARE_OF_V2: f64 = 0.10;

/// An edge: who calls which service, and who answers.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Calling workload, which is its account too.
    pub source: &'static str,
    /// Called service, as the caller's sidecar counts it.
    pub service: &'static str,
    /// Workload behind it.
    pub workload: &'static str,
    /// Account of that workload.
    pub account: &'static str,
}

/// Every edge that carries requests.
pub const EDGES: [Expected; 5] = [
    Expected { source: "loadgen", service: "web", workload: "web", account: "web" },
    Expected { source: "web", service: "cart", workload: "cart", account: "cart" },
    Expected { source: "cart", service: "payments-v1", workload: "payments-v1", account: "payments" },
    Expected { source: "cart", service: "payments-v2", workload: "payments-v2", account: "payments" },
    Expected { source: "cart", service: "inventory", workload: "inventory", account: "inventory" },
];

/// The edge that carries bytes.
pub const STREAM: Expected = Expected { source: "inventory", service: "store", workload: "store", account: "store" };

/// Manifests for one demo, on a loopback network of its own.
#[derive(Clone, Debug)]
pub struct Manifests {
    network: u8,
}

impl Manifests {
    /// On a network on which nobody listens.
    ///
    /// # Errors
    /// Where none is found.
    pub fn on_a_free_network() -> anyhow::Result<Self> {
        let mut rng = rand::rng();
        for _ in 0..100 {
            // Away from 127.0 and from where `meshctl run` looks.
            let network = 16 + u8::try_from(rng.next_u32() % 48).unwrap_or(0);
            let manifests = Self { network };
            // Every demo has these, and nobody else is likely to.
            if [manifests.payments(), manifests.intruder()].iter().all(|at| TcpListener::bind(at).is_ok()) {
                return Ok(manifests);
            }
        }
        bail!("no free loopback network is left; end other demos first")
    }

    /// The text, with this program's path in it.
    #[must_use]
    pub fn text(&self, program: &Path) -> String {
        // A JSON text is a YAML text.
        let program = serde_json::Value::from(program.display().to_string()).to_string();
        MANIFESTS.replace(NETWORK, &format!("127.{}.", self.network)).replace(PROGRAM, &program)
    }

    /// Where the intruder's program reaches payments.
    #[must_use]
    pub fn intruder(&self) -> SocketAddr {
        self.at(6, 1, 19001)
    }

    /// Where cart's program reaches payments.
    #[must_use]
    pub fn cart_to_payments(&self) -> SocketAddr {
        self.at(2, 1, 19001)
    }

    /// Where peers reach the first payments.
    #[must_use]
    pub fn payments(&self) -> SocketAddr {
        self.at(3, 1, 8080)
    }

    fn at(&self, c: u8, d: u8, port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(127, self.network, c, d), port))
    }
}

#[cfg(test)]
mod tests {
    use mesh_api::resources::Resource;
    use mesh_controller::{
        source::load_dir,
        translate::{Verdict, translate},
    };

    use super::*;
    use crate::local::manifests::Manifests as Folder;

    #[test]
    fn they_are_good_for_the_controller_and_for_the_runner() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = Manifests { network: 42 };
        let text = manifests.text(Path::new("/opt/a \"b\"/meshctl"));
        assert!(!text.contains(NETWORK) && !text.contains("@MESHCTL@"));
        std::fs::write(dir.path().join("shop.yaml"), text).unwrap();
        let (objects, problems) = load_dir(dir.path());
        assert!(problems.is_empty(), "{problems:?}");
        let domain = "cluster.local".parse().unwrap();
        for object in &objects {
            let translated = translate(&object.value, &domain);
            assert!(translated.problems.is_empty(), "{:?}", translated.problems);
            assert!(matches!(translated.verdict, Verdict::Accepted(_)));
        }
        let found = Folder::new(dir.path().into(), domain).look().unwrap();
        assert!(found.unfit.is_empty(), "{:?}", found.unfit);
        assert_eq!(found.plans.len(), 8);
        let program = &found.plans[0].app.as_ref().unwrap().command[0];
        assert_eq!(program, "/opt/a \"b\"/meshctl");
    }

    #[test]
    fn what_is_expected_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let manifests = Manifests { network: 42 };
        std::fs::write(dir.path().join("shop.yaml"), manifests.text(Path::new("meshctl"))).unwrap();
        let (objects, _) = load_dir(dir.path());
        let references: Vec<_> = objects.iter().map(|object| object.value.object_ref().to_string()).collect();
        assert!(references.iter().any(|reference| reference == POLICY));
        for edge in EDGES.into_iter().chain([STREAM]) {
            assert!(references.contains(&format!("Service/{NAMESPACE}/{}", edge.service)), "{edge:?}");
            let workload = objects.iter().find_map(|object| match &object.value {
                Resource::ExternalWorkload(one) if one.metadata.name == edge.workload => Some(one),
                _ => None,
            });
            assert_eq!(workload.unwrap().spec.service_account.as_deref(), Some(edge.account));
        }
        let upstreams: Vec<_> = objects
            .iter()
            .filter_map(|object| match &object.value {
                Resource::ExternalWorkload(one) => serde_json::to_string(&one.spec).ok(),
                _ => None,
            })
            .collect();
        for address in [manifests.intruder(), manifests.cart_to_payments()] {
            assert!(upstreams.iter().any(|spec| spec.contains(&address.to_string())), "{address}");
        }
    }
}
