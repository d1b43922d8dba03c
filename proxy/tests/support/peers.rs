//! Peers that speak the mesh's TLS by hand: with whatever certificate, and whatever they say then.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use h2::client::SendRequest;
use mesh_api::{
    names,
    spiffe::SpiffeId,
    sys::Sys,
    tls::{self, Credentials, Keeper},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    apps::within,
    mesh::{Root, id},
};

/// A keeper that trusts `trusted` and shows what `issuer` signed for `account`, unless that is `None`.
pub fn keeper(trusted: &Root, issuer: Option<&Root>, account: &str) -> Arc<Keeper> {
    let identity = issuer.map(|issuer| {
        let own = issuer.keeper(&id(account));
        Arc::clone(own.current().identity.as_ref().unwrap())
    });
    Keeper::new(Credentials { identity, trust: Arc::new(trusted.bundle()) })
}

/// Connects as a sidecar would, to whoever proves to be `expected`. In TLS 1.3 the server's judgement of the own
/// certificate comes only with the first bytes that are read.
pub async fn connect(
    address: SocketAddr,
    keeper: &Arc<Keeper>,
    expected: SpiffeId,
    alpn: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tls::client_config(keeper, Sys::host().clock, expected, &[alpn]).unwrap();
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    within(TlsConnector::from(config).connect(tls::no_name(), stream)).await
}

/// A sidecar's connection for requests to the service `cart`.
pub async fn link(address: SocketAddr, keeper: &Arc<Keeper>) -> SendRequest<Bytes> {
    let stream = connect(address, keeper, id("cart"), names::ALPN_MESH_HTTP).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}
