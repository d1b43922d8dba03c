//! The server: TLS 1.3, HTTP/1.1 and HTTP/2, bounded in every direction. Requests come from API servers, and from
//! whoever else reaches the port.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_api::{
    places::{Activity, Bounds, Patience, Place, Places},
    sys::{Listener, Stream},
};
use tokio::{
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::Webhook;

/// Connections at once. For each one more, the one that did nothing for longest is given up.
const MAX_CONNECTIONS: usize = 512;
/// A handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first request comes within this time.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// A connection without requests is kept this long: longer than API servers keep it (90 s), so that it is they who close it,
/// and no request meets a connection that is just being closed.
const IDLE: Duration = Duration::from_secs(180);
/// How long a connection may do nothing.
const PATIENCE: Patience = Patience { first: FIRST_REQUEST, idle: IDLE };
/// The last answer on a connection that is to be closed may take this long.
const LAST_ANSWER: Duration = Duration::from_secs(10);
/// After `stopped`, connections are taken for this long: it takes a while until nobody is sent here any more.
const LINGER: Duration = Duration::from_secs(3);
/// Requests of one connection at once.
const MAX_STREAMS: u32 = 64;
/// Head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// A connection of HTTP/2 is asked for a sign of life this often.
const PING: Duration = Duration::from_secs(30);

/// Serves until some time after `stopped`.
///
/// # Errors
/// Where the address of the listener is not known.
pub async fn serve(
    listener: Listener,
    tls: Arc<rustls::ServerConfig>,
    webhook: Arc<Webhook>,
    stopped: impl Future<Output = ()>,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "webhooks are served");
    let acceptor = TlsAcceptor::from(tls);
    let mut connections = JoinSet::new();
    // All API servers may have the address of one proxy, and nobody else shall keep theirs from being answered.
    let mut places = Places::new(Bounds { total: MAX_CONNECTIONS, per_peer: MAX_CONNECTIONS, busy_give_way: false });
    let mut end = pin!(async {
        stopped.await;
        sleep(LINGER).await;
    });
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    while let Some(ended) = connections.try_join_next() {
                        note(ended);
                    }
                    match places.take(peer.ip()) {
                        Some(place) => drop(connections.spawn(placed(stream, peer, place, acceptor.clone(), webhook.clone()))),
                        None => tracing::warn!(%peer, "too many connections that all have requests: a new one is given up"),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection of the webhook failed");
    }
}

/// Serves a connection for as long as it has its place.
async fn placed(stream: Stream, peer: SocketAddr, mut place: Place, acceptor: TlsAcceptor, webhook: Arc<Webhook>) {
    let activity = Arc::clone(place.activity());
    tokio::select! {
        () = connection(stream, peer, acceptor, webhook, activity) => {}
        () = place.revoked() => {}
    }
}

async fn connection(
    stream: Stream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
    activity: Arc<Activity>,
) {
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::info!(%peer, %error, "refused in the TLS handshake");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "the TLS handshake took too long");
            return;
        }
    };
    let ended = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        http2(stream, webhook, activity).await
    } else {
        http1(stream, webhook, activity).await
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection of the webhook ended");
    }
}

async fn http1(stream: TlsStream<Stream>, webhook: Arc<Webhook>, activity: Arc<Activity>) -> Result<(), hyper::Error> {
    let requests = activity.clone();
    let service = service_fn(move |request| respond(webhook.clone(), requests.clone(), request));
    let mut http = http1::Builder::new();
    // The head has as long as the connection may be idle; who only drips it is the first to give way.
    http.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    closing(pin!(serving), &activity, |serving| serving.graceful_shutdown()).await
}

async fn http2(stream: TlsStream<Stream>, webhook: Arc<Webhook>, activity: Arc<Activity>) -> Result<(), hyper::Error> {
    let requests = activity.clone();
    let service = service_fn(move |request| respond(webhook.clone(), requests.clone(), request));
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    closing(pin!(serving), &activity, |serving| serving.graceful_shutdown()).await
}

/// Serves until the connection is over, then lets it end what it has begun.
async fn closing<C>(
    mut serving: Pin<&mut C>,
    activity: &Activity,
    close: impl FnOnce(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::select! {
        ended = serving.as_mut() => return ended,
        () = activity.over(PATIENCE) => {}
    }
    close(serving.as_mut());
    timeout(LAST_ANSWER, serving).await.unwrap_or(Ok(()))
}

async fn respond(
    webhook: Arc<Webhook>,
    activity: Arc<Activity>,
    request: http::Request<Incoming>,
) -> Result<super::HttpAnswer, Infallible> {
    let _busy = activity.request();
    Ok(webhook.answer(request).await)
}

#[cfg(test)]
mod tests;
