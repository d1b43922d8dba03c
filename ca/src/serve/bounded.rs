//! Connections, so many and no more, and so many of one address. Whoever asks for nothing gives its place to who comes:
//! members have no certificate when they first connect, so that everybody in the cluster may connect.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use mesh_api::{
    grpc::Peer,
    places::{Activity, Bounds, Busy, Patience, Places},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

/// Streams of the trust bundle of one connection: a member has one, and a second while it gives up the first.
const MAX_WATCHES: usize = 2;

/// What a call knows of the connection that it came by.
#[derive(Clone, Debug)]
pub struct Link {
    /// Who is at the other end.
    pub peer: Peer,
    activity: Arc<Activity>,
    watches: Arc<AtomicUsize>,
}

impl Link {
    /// A call, for as long as what is returned lives.
    #[must_use]
    pub fn call(&self) -> Busy {
        self.activity.request()
    }

    /// A stream of the trust bundle, for as long as what is returned lives; `None`: it has enough.
    #[must_use]
    pub fn watch(&self) -> Option<Watch> {
        let one_more = |count: usize| (count < MAX_WATCHES).then_some(count + 1);
        self.watches.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Watch { watches: Arc::clone(&self.watches), _busy: self.call() })
    }
}

/// A stream of the trust bundle.
#[derive(Debug)]
pub struct Watch {
    watches: Arc<AtomicUsize>,
    _busy: Busy,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watches.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that has a place. It breaks off when it loses it.
pub struct Placed<C> {
    connection: C,
    link: Link,
    over: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl<C> std::fmt::Debug for Placed<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placed").field("link", &self.link).finish_non_exhaustive()
    }
}

/// Gives each connection a place, or closes it where there is none.
pub fn bounded<C: Connected<ConnectInfo = Peer>>(
    connections: impl Stream<Item = io::Result<C>>,
    bounds: Bounds,
    patience: Patience,
) -> impl Stream<Item = io::Result<Placed<C>>> {
    let mut places = Places::new(bounds);
    connections.filter_map(move |connection| match connection {
        Ok(connection) => place(&mut places, connection, patience).map(Ok),
        Err(error) => Some(Err(error)),
    })
}

fn place<C: Connected<ConnectInfo = Peer>>(
    places: &mut Places,
    connection: C,
    patience: Patience,
) -> Option<Placed<C>> {
    let peer = connection.connect_info();
    let from: IpAddr = peer.address.ip();
    let Some(mut place) = places.take(from) else {
        tracing::debug!(%from, "a connection too many is closed");
        return None;
    };
    let activity = Arc::clone(place.activity());
    let link = Link { peer, activity: Arc::clone(&activity), watches: Arc::default() };
    let over = Box::pin(async move {
        tokio::select! {
            () = place.revoked() => {}
            () = activity.over(patience) => {}
        }
    });
    Some(Placed { connection, link, over: Some(over) })
}

impl<C> Placed<C> {
    /// Fails once the place is lost. Asked at every turn, so that whoever neither reads nor writes is woken for it.
    fn held(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if let Some(over) = &mut self.over
            && over.as_mut().poll(cx).is_pending()
        {
            return Ok(());
        }
        self.over = None;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the connection gave way to others"))
    }
}

impl<C: Connected> Connected for Placed<C> {
    type ConnectInfo = Link;

    fn connect_info(&self) -> Link {
        self.link.clone()
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Placed<C> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.held(cx)?;
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Placed<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.held(cx)?;
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.held(cx)?;
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.held(cx)?;
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Without its place it is dropped and not ended: an end may wait for the other side.
        if self.over.is_none() {
            return Poll::Ready(Ok(()));
        }
        ready!(Pin::new(&mut self.connection).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}
