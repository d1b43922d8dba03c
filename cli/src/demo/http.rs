//! A small HTTP server and client for the demo's programs: bounded, with deadlines, passing trace headers on.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ::http::{HeaderMap, Method, Request, Response, StatusCode, header};
use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, combinators::BoxBody};
use hyper::{
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use mesh_api::supervise::terminated;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

/// Connections served at once.
const MAX_CONNECTIONS: usize = 256;
/// Largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Idle connections kept for one upstream.
const MAX_IDLE: usize = 16;
/// One call takes at most this long.
const CALL: Duration = Duration::from_secs(5);
/// A head takes at most this long to arrive.
const HEAD: Duration = Duration::from_secs(10);
/// Calls in flight may take this long to end when the program is told to end.
const DRAIN: Duration = Duration::from_secs(5);

/// Headers that belong to a trace: a program passes them on with every call that it makes for a request.
const TRACE: [&str; 9] = [
    "traceparent",
    "tracestate",
    "baggage",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];

/// The trace headers of a request.
#[must_use]
pub fn trace_headers(from: &HeaderMap) -> HeaderMap {
    let known = TRACE.iter().filter_map(|name| Some((::http::HeaderName::from_static(name), from.get(*name)?.clone())));
    known.collect()
}

/// A body that a handler answers with.
pub type Body = BoxBody<Bytes, Infallible>;

/// What connections speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1.
    One,
    /// HTTP/2 with prior knowledge.
    Two,
}

/// A whole text as a body.
pub fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

/// Serves until the process is told to end, then lets calls in flight end.
///
/// # Errors
/// Where it cannot listen.
pub async fn serve<H, F>(listen: SocketAddr, version: Version, handler: H) -> anyhow::Result<()>
where
    H: Fn(HeaderMap, Bytes) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let (stop, stopping) = watch::channel(false);
    let each = move |stream| connection(stream, version, handler.clone(), stopping.clone());
    accept(listen, each, stop).await
}

/// Accepts connections until the process is told to end, then gives them [`DRAIN`].
///
/// # Errors
/// Where it cannot listen.
pub async fn accept<F>(
    listen: SocketAddr,
    each: impl Fn(TcpStream) -> F,
    stop: watch::Sender<bool>,
) -> anyhow::Result<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    println!("listening on {listen}");
    let mut connections = JoinSet::new();
    let end = terminated();
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(each(stream));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
    drop(listener);
    stop.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What takes longer is broken off.
    let _ = timeout(DRAIN, drained).await;
    Ok(())
}

async fn connection<H, F>(stream: TcpStream, version: Version, handler: H, mut stopping: watch::Receiver<bool>)
where
    H: Fn(HeaderMap, Bytes) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let handler = handler.clone();
        async move {
            let (parts, body) = request.into_parts();
            Ok::<_, Infallible>(match Limited::new(body, MAX_BODY).collect().await {
                Ok(body) => handler(parts.headers, body.to_bytes()).await,
                Err(_) => status(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off\n"),
            })
        }
    });
    let stop = async move {
        // The sender lives as long as the server.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    // A connection that breaks off concerns its client only.
    match version {
        Version::One => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => return,
                () = stop => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
        }
        Version::Two => {
            let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::pin!(serving);
            tokio::select! {
                _ = serving.as_mut() => return,
                () = stop => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
        }
    }
}

/// A short answer.
pub fn status(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(text(body));
    *response.status_mut() = status;
    response
}

/// Calls one upstream, over connections that it keeps.
#[derive(Clone, Debug)]
pub struct Client {
    upstream: SocketAddr,
    host: Arc<str>,
    idle: Arc<Mutex<Vec<SendRequest<Full<Bytes>>>>>,
}

impl Client {
    /// For an upstream, which is called by the name `host`.
    #[must_use]
    pub fn new(upstream: SocketAddr, host: &str) -> Self {
        Self { upstream, host: host.into(), idle: Arc::default() }
    }

    /// Calls it, with further headers, and reads the whole answer.
    ///
    /// # Errors
    /// Where there is no whole answer in time.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response<Bytes>> {
        let calling = async {
            let mut sender = self.connection().await.with_context(|| format!("cannot reach {}", self.host))?;
            let mut request =
                Request::builder().method(method).uri(path).header(header::HOST, &*self.host).body(Full::new(body))?;
            request.headers_mut().extend(headers);
            let response = sender.send_request(request).await.with_context(|| format!("no answer of {}", self.host))?;
            let (parts, body) = response.into_parts();
            let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
                bail!("the answer of {} is too large or broke off", self.host)
            };
            self.give_back(sender);
            Ok(Response::from_parts(parts, body.to_bytes()))
        };
        match timeout(CALL, calling).await {
            Ok(response) => response,
            Err(_) => bail!("{} did not answer within {}s", self.host, CALL.as_secs()),
        }
    }

    async fn connection(&self) -> io::Result<SendRequest<Full<Bytes>>> {
        loop {
            let kept = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match kept {
                Some(mut sender) => {
                    if sender.ready().await.is_ok() {
                        return Ok(sender);
                    }
                }
                None => break,
            }
        }
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It ends when its sender is dropped or its peer closes.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn give_back(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
    }
}
