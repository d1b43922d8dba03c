//! Redirection without a privilege in the pod: a plugin that the node's container runtime calls for every pod, and the
//! agent that puts it on the node. Floor 2: imports `redirect`.
//!
//! The plugin stands last in the node's chain of CNI plugins. It asks the cluster whether a pod has a sidecar, and if so
//! puts the redirection in force in the pod's network namespace before anything of the pod runs. Where it cannot know, or
//! cannot do it, the pod does not start: nothing of the mesh ever runs past its proxy.
//!
//! Floors within, each importing lower ones only:
//!
//! ```text
//!  3  agent        keeps plugin, credentials and configuration on the node; repairs pods that came before it
//!     plugin       what the runtime calls
//!  2  repair       which pods are to be started anew, how many, by whom they are watched
//!     conflist     the plugin in the node's configuration, put there and taken out
//!     node         the agent's files on the node
//!  1  cluster      the cluster's API, as much of it as is needed
//!  0  pod          a pod, as much of it as is needed
//!     protocol     the runtime's requests, versions and errors
//!     credentials  where the cluster is, and how it is spoken to
//! ```

pub mod agent;
pub mod cluster;
pub mod conflist;
pub mod credentials;
pub mod node;
pub mod plugin;
pub mod pod;
pub mod protocol;
pub mod repair;

/// Name of the plugin: of its binary, and of its `type` in the node's configuration.
pub const PLUGIN: &str = "mesh-cni";
