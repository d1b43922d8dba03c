//! The admin server that every process has: `/live`, `/ready`, `/metrics`, `/log-level`, and what the process mounts.
//! Floor 3: imports `log`, `places` and `sys`.
//!
//! It answers people and monitoring; it never shares a thread with a request path. It may listen on every address, for
//! probes and monitoring: it asks nobody who they are, so whatever changes something, and whatever shows more than health and
//! metrics, is for this machine (or pod) only. Port-forwards come from there, too.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{
    task::{JoinError, JoinSet},
    time::timeout,
};

use crate::{
    log::LogLevel,
    places::{Activity, Bounds, Patience, Place, Places},
    sys::{Listener, Stream, Sys},
};

/// Connections served at once. Kubelets ask here whether processes and applications live, and so may everybody else: the
/// server always accepts, and who needs its connection least gives way.
const MAX_CONNECTIONS: usize = 256;
/// Connections of one address: more than a kubelet has, that asks for every container of a pod at once.
const MAX_OF_A_PEER: usize = 32;
/// The first head comes within this time.
const FIRST_HEAD: Duration = Duration::from_secs(2);
/// Largest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// A connection lives at most this long without a request, a later head may take this long.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A body may take this long.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection takes requests for this long.
const LIFETIME: Duration = Duration::from_secs(120);
/// The last answer on a connection may take this long.
const LAST_ANSWER: Duration = Duration::from_secs(60);

/// A request to the admin server, with its body read.
#[derive(Debug)]
pub struct AdminRequest {
    /// Method.
    pub method: Method,
    /// Path, without query.
    pub path: String,
    /// Query, without `?`; empty where there is none.
    pub query: String,
    /// Body; that of GET and HEAD is not read.
    pub body: Bytes,
    /// Who asks. What changes something, and what is not open to everybody, is asked from a loopback address only.
    pub peer: SocketAddr,
    /// The address by which it was reached.
    pub local: SocketAddr,
}

/// An answer of the admin server.
pub type AdminResponse = Response<Full<Bytes>>;

/// The answer of a mounted handler; `None`: not its path.
pub type Answer<'a> = Pin<Box<dyn Future<Output = Option<AdminResponse>> + Send + 'a>>;

/// What a process adds to the common paths.
pub trait Mount: Send + Sync + 'static {
    /// Answers, or leaves it to the next.
    fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a>;
    /// Whether everybody may look at this path, and not only who is on this machine (or pod).
    fn is_open(&self, _path: &str) -> bool {
        false
    }
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

/// Serves until it is dropped, and its connections with it.
pub async fn serve(listener: Listener, admin: Admin) {
    let admin = Arc::new(admin);
    let mut connections = JoinSet::new();
    let bounds = Bounds { total: MAX_CONNECTIONS, per_peer: MAX_OF_A_PEER, busy_give_way: true };
    let mut places = Places::new(bounds);
    loop {
        while let Some(ended) = connections.try_join_next() {
            note(ended);
        }
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(place) = places.take(peer.ip()) {
                    connections.spawn(placed(stream, peer, place, Arc::clone(&admin)));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "admin server cannot accept");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

fn note(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "answering an admin request failed");
    }
}

/// Serves a connection for as long as it has its place and makes use of it.
async fn placed(stream: Stream, peer: SocketAddr, mut place: Place, admin: Arc<Admin>) {
    let activity = Arc::clone(place.activity());
    let patience = Patience { first: FIRST_HEAD, idle: LIFETIME + LAST_ANSWER };
    tokio::select! {
        () = connection(stream, peer, Arc::clone(&activity), admin) => {}
        () = place.revoked() => {}
        () = activity.over(patience) => {}
    }
}

async fn connection(stream: Stream, peer: SocketAddr, activity: Arc<Activity>, admin: Arc<Admin>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(move |request| {
        let (busy, admin) = (activity.request(), Arc::clone(&admin));
        async move {
            let answer = respond(admin, (peer, local), request).await;
            drop(busy);
            answer
        }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(16 * 1024);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ended = match timeout(LIFETIME, serving.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            serving.as_mut().graceful_shutdown();
            // A client that does not read its answer has it no longer than this.
            timeout(LAST_ANSWER, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn respond(
    admin: Arc<Admin>,
    (peer, local): (SocketAddr, SocketAddr),
    request: Request<Incoming>,
) -> Result<AdminResponse, Infallible> {
    // A page in somebody's browser must not reach the admin server through a name that resolves to loopback.
    if !is_asked_by_address(&request) || is_asked_by_page(request.headers()) {
        return Ok(text(StatusCode::FORBIDDEN, "the admin server is asked by address only, and not by pages\n"));
    }
    let path = request.uri().path();
    if !may_ask(request.method(), is_open(path) || admin.mount.is_open(path), peer) {
        let why = "this changes something, or shows what is not everybody's, and is for the machine (or pod) that runs this \
                   process only: ask from there, over its loopback address, or by a port-forward\n";
        return Ok(text(StatusCode::FORBIDDEN, why));
    }
    let (parts, body) = request.into_parts();
    // Who only looks is not waited for: a body that comes slowly would be a connection that never gives way.
    let body = match is_look(&parts.method) {
        true => Bytes::new(),
        false => match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(_)) => return Ok(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off\n")),
            Err(_) => return Ok(text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
        },
    };
    let request = AdminRequest {
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        body,
        peer,
        local,
    };
    Ok(match common(&admin, &request) {
        Some(response) => response,
        None => match admin.mount.answer(&request).await {
            Some(response) => response,
            None => text(StatusCode::NOT_FOUND, "no such page; / lists them\n"),
        },
    })
}

/// Everybody may look at what is open; who is on this machine may do anything.
fn may_ask(method: &Method, open: bool, peer: SocketAddr) -> bool {
    (is_look(method) && open) || peer.ip().to_canonical().is_loopback()
}

/// Health and metrics are what kubelets and monitoring ask for.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/live" | "/ready" | "/metrics")
}

fn is_look(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// One `Host`, and it an address; so is the host of an absolute target.
fn is_asked_by_address(request: &Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let target = request.uri().authority().is_none_or(|authority| is_address(authority.as_str()));
    target && host.to_str().is_ok_and(is_address)
}

fn is_address(host: &str) -> bool {
    let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    host.parse::<SocketAddr>().is_ok()
        || host.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
        || host == "localhost"
        || host.strip_prefix("localhost:").is_some_and(|port| port.parse::<u16>().is_ok())
}

/// Browsers name the page that asks, or at least say that another site caused the request.
fn is_asked_by_page(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(header::ORIGIN) || site.is_some_and(|site| !matches!(site, b"none" | b"same-origin"))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_changes_anything_and_sees_what_is_not_open() {
        let from = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 40_000);
        for ip in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            for method in [Method::GET, Method::PUT, Method::POST, Method::DELETE] {
                assert!(may_ask(&method, true, from(ip)) && may_ask(&method, false, from(ip)), "{method} from {ip}");
            }
        }
        for ip in ["10.1.2.3", "192.168.0.1", "::ffff:10.1.2.3", "fd00::1", "fe80::1", "0.0.0.0", "::"] {
            for look in [Method::GET, Method::HEAD] {
                assert!(may_ask(&look, true, from(ip)) && !may_ask(&look, false, from(ip)), "{look} from {ip}");
            }
            let other = Method::from_bytes(b"WHATEVER").unwrap();
            for method in [Method::PUT, Method::POST, Method::DELETE, Method::PATCH, Method::OPTIONS, other] {
                assert!(!may_ask(&method, true, from(ip)), "{method} from {ip}");
            }
        }
    }
}
