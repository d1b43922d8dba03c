//! The server: TLS 1.3, HTTP/1.1 and HTTP/2, bounded in every direction. Requests come from API servers, and from
//! whoever else reaches the port.

use std::{
    cmp::Reverse,
    collections::HashMap,
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use hyper::{body::Incoming, server::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_api::sys::{Listener, Stream};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Caller, Webhook};

/// Connections at once. For each one more, the one that did nothing for longest is given up.
const MAX_CONNECTIONS: usize = 512;
/// Connections of one address at once; an API server has a few, and several may be behind one address.
const MAX_OF_SOURCE: usize = 64;
/// A handshake takes at most this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
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
    let mut connections = Connections::default();
    let mut end = pin!(async {
        stopped.await;
        sleep(LINGER).await;
    });
    loop {
        tokio::select! {
            () = &mut end => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let from = peer.ip().to_canonical();
                    let Some(caller) = connections.admit(from) else {
                        tracing::debug!(%peer, "too many connections that all have requests: a new one is given up");
                        continue;
                    };
                    let serving = connection(stream, peer, acceptor.clone(), webhook.clone(), caller.clone());
                    connections.start(from, caller, serving);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    sleep(Duration::from_millis(200)).await;
                }
            },
        }
    }
}

/// Connections that are served.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    known: Vec<Known>,
}

struct Known {
    task: AbortHandle,
    from: IpAddr,
    caller: Arc<Caller>,
}

impl Connections {
    /// Room for one more from an address, and what it is counted in. Where there is none, another has to give way: one of
    /// the same address, where that has its share; else one of an address that has most. `None` where none can.
    fn admit(&mut self, from: IpAddr) -> Option<Arc<Caller>> {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                tracing::error!(%error, "a connection of the webhook failed");
            }
        }
        self.known.retain(|one| !one.task.is_finished());
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for one in &self.known {
            *counts.entry(one.from).or_default() += 1;
        }
        let full = counts.get(&from).is_some_and(|count| *count >= MAX_OF_SOURCE);
        if full || self.known.len() >= MAX_CONNECTIONS {
            let idle = self.known.iter().enumerate().filter(|(_, one)| !one.caller.is_busy());
            let idle = idle.filter(|(_, one)| !full || one.from == from);
            let (at, _) = idle.min_by_key(|(_, one)| (Reverse(counts.get(&one.from)), one.caller.since()))?;
            tracing::debug!("too many connections: the one that is idle for longest is given up");
            self.known.swap_remove(at).task.abort();
        }
        let shared = self.known.iter().find(|one| one.from == from).map(|one| one.caller.source.clone());
        Some(Arc::new(Caller::new(shared.unwrap_or_default())))
    }

    fn start(&mut self, from: IpAddr, caller: Arc<Caller>, serving: impl Future<Output = ()> + Send + 'static) {
        self.known.push(Known { task: self.tasks.spawn(serving), from, caller });
    }
}

async fn connection(
    stream: Stream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    webhook: Arc<Webhook>,
    caller: Arc<Caller>,
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
        http2(stream, webhook, caller).await
    } else {
        http1(stream, webhook, caller).await
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection of the webhook ended");
    }
}

async fn http1(stream: TlsStream<Stream>, webhook: Arc<Webhook>, caller: Arc<Caller>) -> Result<(), hyper::Error> {
    let requests = caller.clone();
    let service = service_fn(move |request| respond(webhook.clone(), requests.clone(), request));
    let mut http = http1::Builder::new();
    // The head has as long as the connection may be idle; who only drips it is the first to give way.
    http.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(MAX_HEAD);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    closing(pin!(serving), &caller, |serving| serving.graceful_shutdown()).await
}

async fn http2(stream: TlsStream<Stream>, webhook: Arc<Webhook>, caller: Arc<Caller>) -> Result<(), hyper::Error> {
    let requests = caller.clone();
    let service = service_fn(move |request| respond(webhook.clone(), requests.clone(), request));
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    let serving = http.serve_connection(TokioIo::new(stream), service);
    closing(pin!(serving), &caller, |serving| serving.graceful_shutdown()).await
}

/// Serves until the connection is over, then lets it end what it has begun.
async fn closing<C>(
    mut serving: Pin<&mut C>,
    caller: &Caller,
    close: impl FnOnce(Pin<&mut C>),
) -> Result<(), hyper::Error>
where
    C: Future<Output = Result<(), hyper::Error>>,
{
    tokio::select! {
        ended = serving.as_mut() => return ended,
        () = caller.over() => {}
    }
    close(serving.as_mut());
    timeout(LAST_ANSWER, serving).await.unwrap_or(Ok(()))
}

async fn respond(
    webhook: Arc<Webhook>,
    caller: Arc<Caller>,
    request: http::Request<Incoming>,
) -> Result<super::HttpAnswer, Infallible> {
    Ok(webhook.answer(&caller, request).await)
}

#[cfg(test)]
mod tests;
