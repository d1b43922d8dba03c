//! gRPC to the control plane over mutual TLS, both ends, through the seam. Floor 3: imports `tls`, `sys`, `spiffe`.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, server::Connected};

use crate::{
    address::HostPort,
    names,
    spiffe::SpiffeId,
    sys::{Listener, Stream, Sys},
    tls::{self, Keeper},
};

/// A handshake takes at most this long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes at once; for each one more, the oldest is given up. As many as members may come at the same moment, when a ca or a
/// controller starts anew: those that wait only for a processor must not make each other begin again.
const MAX_HANDSHAKES: usize = 1024;
/// Resolving, connecting and shaking hands take a client at most this long, however many addresses there are.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is asked for a sign of life this often.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Who calls, as the handshake proved it; in the extensions of every request.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The verified identity; `None` where the server asks for no certificate.
    pub id: Option<SpiffeId>,
    /// From where.
    pub address: SocketAddr,
}

/// A connection that finished its handshake.
#[derive(Debug)]
pub struct ServerIo {
    stream: TlsStream<Stream>,
    peer: Peer,
}

impl Connected for ServerIo {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// Connections of `listener` that finished their handshake, for tonic's `serve_with_incoming`. Handshakes run side by
/// side, bounded in number and time; one that fails concerns nobody else.
pub fn incoming(listener: Listener, config: Arc<rustls::ServerConfig>) -> ReceiverStream<io::Result<ServerIo>> {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(accept(listener, TlsAcceptor::from(config), ready));
    ReceiverStream::new(connections)
}

async fn accept(listener: Listener, acceptor: TlsAcceptor, ready: mpsc::Sender<io::Result<ServerIo>>) {
    let mut handshakes = Handshakes::default();
    loop {
        tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, address)) => {
                    handshakes.start(handshake(stream, address, acceptor.clone(), ready.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
}

/// Handshakes that go on. Where there are too many, the oldest gives way: whoever is in earnest is done long before its
/// turn comes, so that peers which say nothing keep nobody out.
#[derive(Default)]
struct Handshakes {
    tasks: JoinSet<()>,
    by_age: VecDeque<AbortHandle>,
}

impl Handshakes {
    fn start(&mut self, handshake: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.by_age.retain(|task| !task.is_finished());
        if self.by_age.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.by_age.pop_front()
        {
            tracing::debug!("too many TLS handshakes: the oldest is given up");
            oldest.abort();
        }
        self.by_age.push_back(self.tasks.spawn(handshake));
    }
}

async fn handshake(
    stream: Stream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<io::Result<ServerIo>>,
) {
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(peer = %address, %error, "refused in the TLS handshake");
            return;
        }
        Err(_) => {
            tracing::info!(peer = %address, "the TLS handshake took too long");
            return;
        }
    };
    let connection = stream.get_ref().1;
    if let Err(error) = tls::require_alpn(connection) {
        tracing::info!(peer = %address, %error, "refused");
        return;
    }
    let id = connection.peer_certificates().is_some().then(|| tls::peer_identity(connection)).transpose();
    match id {
        Ok(id) => {
            let peer = Peer { id, address };
            // The server stopped: the connection ends with it.
            let _ = ready.send(Ok(ServerIo { stream, peer })).await;
        }
        Err(error) => tracing::info!(peer = %address, %error, "refused"),
    }
}

/// A channel to the member `expected` at `target`, over mutual TLS with the keeper's certificate of the moment. It
/// connects when it is used, and again when it is lost; each time a name is resolved anew, and all its addresses are
/// tried in turn.
#[must_use]
pub fn channel(sys: &Sys, keeper: &Arc<Keeper>, target: impl Into<HostPort>, expected: SpiffeId) -> Channel {
    let (sys, keeper, target) = (sys.clone(), Arc::clone(keeper), Arc::new(target.into()));
    let connector = tower::service_fn(move |_: http::Uri| {
        let (sys, keeper, target) = (sys.clone(), Arc::clone(&keeper), Arc::clone(&target));
        let expected = expected.clone();
        async move { connect(&sys, &keeper, &target, expected).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://mesh.invalid")
        // A little more, so that the connector itself says what it waited for.
        .connect_timeout(CONNECT_TIMEOUT + Duration::from_secs(1))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

async fn connect(
    sys: &Sys,
    keeper: &Arc<Keeper>,
    target: &HostPort,
    expected: SpiffeId,
) -> io::Result<tokio_rustls::client::TlsStream<Stream>> {
    let connector = TlsConnector::from(
        tls::client_config(keeper, sys.clock, expected, &[names::ALPN_GRPC]).map_err(io::Error::other)?,
    );
    let until = Instant::now() + CONNECT_TIMEOUT;
    let addresses = match timeout_at(until, sys.net.resolve(target)).await {
        Ok(found) => {
            found.map_err(|error| io::Error::new(error.kind(), format!("cannot resolve {target}: {error}")))?
        }
        Err(_) => return Err(late(format!("cannot resolve {target}: no answer in time"))),
    };
    let mut refused = None;
    for (place, address) in addresses.iter().enumerate() {
        // Who does not answer leaves time for those who may.
        let share =
            until.saturating_duration_since(Instant::now()) / u32::try_from(addresses.len() - place).unwrap_or(1);
        match tokio::time::timeout(share, shake_hands(sys, &connector, *address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => refused = Some(error),
            Err(_) => {
                let error = late(format!("no answer from {address}"));
                refused.get_or_insert(error);
            }
        }
    }
    Err(refused.unwrap_or_else(|| late(format!("no answer from {target}"))))
}

async fn shake_hands(
    sys: &Sys,
    connector: &TlsConnector,
    address: SocketAddr,
) -> io::Result<tokio_rustls::client::TlsStream<Stream>> {
    let stream = sys.net.connect(address).await;
    let stream = stream.map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
    let stream = connector.connect(tls::no_name(), stream).await?;
    tls::require_alpn(stream.get_ref().1).map_err(io::Error::other)?;
    Ok(stream)
}

fn late(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl AsyncRead for ServerIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
