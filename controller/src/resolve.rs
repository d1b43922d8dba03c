//! From the index to what one proxy must know: pure, and the same for the server, the tests and the command line.
//! Floor 2: imports `index`, `translate`.

mod destination;
mod endpoints;
mod inbound;
mod precedence;

use mesh_api::model::Name;

pub(crate) use self::destination::usable;
pub use self::{
    destination::{Scope, destination, scope},
    inbound::inbound,
};

/// For whom a destination is resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Its namespace.
    pub namespace: Name,
}

/// There is no answer; for the one who asked. Trying again helps only after the configuration changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// The Service is not there, or not for this client to know: the two look alike from outside.
    #[error("there is no Service {0}, or it is not exported to this namespace")]
    Service(String),
    /// The Service has no such port.
    #[error("Service {service} has no TCP port {port}")]
    Port {
        /// The Service.
        service: String,
        /// The port that was asked for.
        port: u16,
    },
    /// No Service and no workload of the mesh is there, or not for this client to know.
    #[error("nothing in the mesh listens on {0}")]
    Address(std::net::SocketAddr),
    /// There is no such workload.
    #[error("there is no workload {0}")]
    Workload(String),
}

#[cfg(test)]
mod tests;
