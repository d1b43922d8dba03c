//! The admin server that every process has: `/live`, `/ready`, `/metrics`, `/log-level`, and what the process mounts.
//! Floor 3: imports `log` and `sys`.
//!
//! It answers people and monitoring on a loopback address; it never shares a thread with a request path.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::Semaphore;

use crate::{
    log::LogLevel,
    sys::{Listener, Sys},
};

/// Connections served at once.
const MAX_CONNECTIONS: usize = 64;
/// Largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// A connection lives at most this long without a request, a head may take this long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// A request to the admin server, with its body read.
#[derive(Debug)]
pub struct AdminRequest {
    /// Method.
    pub method: Method,
    /// Path, without query.
    pub path: String,
    /// Query, without `?`; empty where there is none.
    pub query: String,
    /// Body.
    pub body: Bytes,
}

/// An answer of the admin server.
pub type AdminResponse = Response<Full<Bytes>>;

/// The answer of a mounted handler; `None`: not its path.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<AdminResponse>> + Send + 'a>>;

/// What a process adds to the common paths.
pub trait Mount: Send + Sync + 'static {
    /// Answers, or leaves it to the next.
    fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a>;
    /// Paths with a line about each, for the index page.
    fn index(&self) -> Vec<(&'static str, &'static str)>;
    /// Why the process is not ready; `None`: it is.
    fn not_ready(&self) -> Option<String>;
}

/// The admin server of one process.
pub struct Admin {
    /// What the process adds.
    pub mount: Arc<dyn Mount>,
    /// The log level, to be changed.
    pub log: LogLevel,
    /// The metrics, to be shown.
    pub metrics: Option<PrometheusHandle>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// Listens for the admin server.
///
/// # Errors
/// As the system says.
pub async fn bind(sys: &Sys, address: SocketAddr) -> io::Result<Listener> {
    sys.net.bind(address, false).await
}

/// Serves until it is dropped.
pub async fn serve(listener: Listener, admin: Admin) {
    let admin = Arc::new(admin);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    let service = service_fn(move |request| respond(Arc::clone(&admin), request));
                    let mut http = hyper::server::conn::http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(16 * 1024);
                    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
                        tracing::debug!(%error, "admin connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin server cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

async fn respond(admin: Arc<Admin>, request: Request<Incoming>) -> Result<AdminResponse, Infallible> {
    // A page in somebody's browser must not reach the admin server through a name that resolves to loopback.
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_address(host) || request.headers().contains_key(header::ORIGIN) {
        return Ok(text(StatusCode::FORBIDDEN, "the admin server is asked by address only, and not by pages\n"));
    }
    let (parts, body) = request.into_parts();
    let Ok(body) = Limited::new(body, MAX_BODY).collect().await else {
        return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off\n"));
    };
    let request = AdminRequest {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body: body.to_bytes(),
    };
    Ok(match common(&admin, &request) {
        Some(response) => response,
        None => match admin.mount.answer(&request).await {
            Some(response) => response,
            None => text(StatusCode::NOT_FOUND, "no such page; / lists them\n"),
        },
    })
}

fn is_address(host: &str) -> bool {
    let name = host.parse::<SocketAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok();
    name || host == "localhost" || host.strip_prefix("localhost:").is_some_and(|port| port.parse::<u16>().is_ok())
}

fn common(admin: &Admin, request: &AdminRequest) -> Option<AdminResponse> {
    let get = request.method == Method::GET;
    Some(match request.path.as_str() {
        "/" if get => {
            let mut page = String::from(
                "/live       the process runs\n/ready      it can do its work\n/metrics    Prometheus\n/log-level  GET, or PUT a new one such as info,mesh_proxy=debug\n",
            );
            for (path, meaning) in admin.mount.index() {
                page.push_str(&format!("{path:<11} {meaning}\n"));
            }
            text(StatusCode::OK, page)
        }
        "/live" if get => text(StatusCode::OK, "live\n"),
        "/ready" if get => match admin.mount.not_ready() {
            None => text(StatusCode::OK, "ready\n"),
            Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
        },
        "/metrics" if get => {
            let page = admin.metrics.as_ref().map(PrometheusHandle::render).unwrap_or_default();
            let mut response = text(StatusCode::OK, page);
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        "/log-level" if get => text(StatusCode::OK, admin.log.get() + "\n"),
        "/log-level" if request.method == Method::PUT => {
            let wanted = String::from_utf8_lossy(&request.body);
            match admin.log.set(wanted.trim()) {
                Ok(()) => text(StatusCode::OK, admin.log.get() + "\n"),
                Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
            }
        }
        _ => return None,
    })
}

/// A plain answer.
#[must_use]
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> AdminResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON answer.
#[must_use]
pub fn json(status: StatusCode, value: &impl serde::Serialize) -> AdminResponse {
    let body = serde_json::to_vec_pretty(value).unwrap_or_else(|error| error.to_string().into_bytes());
    let mut response = text(status, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
