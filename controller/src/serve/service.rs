//! The gRPC face of the service.

use std::{fmt, sync::Arc};

use mesh_api::{
    grpc::Peer,
    proto::{
        self,
        discovery_server::{Discovery, DiscoveryServer},
    },
    spiffe::SpiffeId,
};
use tonic::{Request, Response, Status};

use super::{
    hub::Hub,
    stream::{Responses, start},
};

/// Largest message of a proxy, in bytes.
const MAX_REQUEST: usize = 64 * 1024;

/// Tells who calls, from what the transport left with the request.
pub type Identify = Arc<dyn Fn(&http::Extensions) -> Option<SpiffeId> + Send + Sync>;

/// By the certificate of the mutual TLS handshake.
#[must_use]
pub fn identify_by_tls() -> Identify {
    Arc::new(|extensions| extensions.get::<Peer>()?.id.clone())
}

/// The discovery service.
#[derive(Clone)]
pub struct DiscoveryService {
    hub: Arc<Hub>,
    identify: Identify,
}

impl fmt::Debug for DiscoveryService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryService").finish_non_exhaustive()
    }
}

impl DiscoveryService {
    /// Answers from `hub` those whom `identify` can name.
    #[must_use]
    pub fn new(hub: Arc<Hub>, identify: Identify) -> Self {
        Self { hub, identify }
    }

    /// For tonic's router, with the bounds set.
    #[must_use]
    pub fn into_server(self) -> DiscoveryServer<Self> {
        DiscoveryServer::new(self).max_decoding_message_size(MAX_REQUEST)
    }
}

#[tonic::async_trait]
impl Discovery for DiscoveryService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<tonic::Streaming<proto::WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let trust_domain = self.hub.with_index(|index| index.settings().trust_domain.clone());
        let identity = (self.identify)(request.extensions())
            .ok_or_else(|| Status::unauthenticated("a client certificate of the mesh is needed"))?;
        if identity.trust_domain() != trust_domain.as_str() {
            let message = format!("{identity} is not of trust domain {trust_domain}");
            return Err(Status::permission_denied(message));
        }
        Ok(Response::new(start(self.hub.clone(), identity, request.into_inner())))
    }
}
