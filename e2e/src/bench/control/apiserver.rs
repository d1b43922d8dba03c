//! An API server on loopback over a [`Store`]: lists in pages, watches, leases and statuses, as far as a controller asks.

use std::{collections::HashMap, convert::Infallible, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use mesh_api::names;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;

use super::{plan::Kind, store::Store};

/// Largest body of a request.
const BODY: usize = 1 << 20;
/// How long a watch lasts that does not say.
const WATCH: u64 = 90;
/// What is served beside the built-in kinds; there is no object of those that are not planned.
const OPTIONAL: [(&str, &[&str]); 2] = [
    (names::API_VERSION, &["authorizationpolicies", "transportpolicies", "externalworkloads"]),
    (names::GATEWAY_API_VERSION, &["httproutes"]),
];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The server, on a thread of its own; dropped, it is gone.
#[derive(Debug)]
pub struct ApiServer {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it holds.
    pub store: Arc<Store>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts one.
    ///
    /// # Errors
    /// Where there is no port.
    pub fn start(store: Store) -> Result<Self> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).context("no port for the API server")?;
        listener.set_nonblocking(true)?;
        let (address, store) = (listener.local_addr()?, Arc::new(store));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { TcpListener::from_std(listener) })?;
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&store);
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, store, stop: Some(stop), thread: Some(thread) })
    }

    /// How to reach it, in the form in which users keep that.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        let server = format!("http://{}", self.address);
        json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": server}}],
            "users": [{"name": "bench", "user": {}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        })
        .to_string()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It panicked: then the controller has said what it missed.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, store: Arc<Store>) {
    // They end with this task.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        // Events are small, and must not wait for one another.
        let _ = stream.set_nodelay(true);
        let store = Arc::clone(&store);
        connections.spawn(async move {
            let service = service_fn(move |request| serve(request, Arc::clone(&store)));
            // A client that goes away in the middle is its own affair.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn serve(request: Request<Incoming>, store: Arc<Store>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().trim_matches('/').to_owned();
    let parts: Vec<&str> = path.split('/').collect();
    let query = query(request.uri().query().unwrap_or_default());
    let method = request.method().clone();
    let answer = match (&method, parts.as_slice()) {
        (&Method::GET, ["apis"]) => Some(groups()),
        (&Method::GET, ["apis", group, version]) => Some(resources(group, version)),
        (_, ["apis", "coordination.k8s.io", "v1", "namespaces", _, "leases", rest @ ..]) => {
            let patch = if method == Method::GET { None } else { Some(body(request).await) };
            lease(&store, rest.first().copied(), patch)
        }
        (&Method::PATCH, ["apis", _, _, "namespaces", namespace, plural, _, "status"]) => {
            store.write_status(plural, namespace, &body(request).await)
        }
        (&Method::GET, ["api", "v1", plural] | ["apis", _, _, plural]) => {
            return Ok(collection(&store, plural, &query));
        }
        _ => None,
    };
    Ok(match answer {
        Some(answer) => text(StatusCode::OK, answer.to_string()),
        None => {
            let status =
                json!({"kind": "Status", "status": "Failure", "message": path, "reason": "NotFound", "code": 404});
            text(StatusCode::NOT_FOUND, status.to_string())
        }
    })
}

fn query(text: &str) -> HashMap<&str, &str> {
    text.split('&').filter_map(|pair| pair.split_once('=')).collect()
}

async fn body(request: Request<Incoming>) -> Value {
    let read = Limited::new(request.into_body(), BODY).collect().await;
    let bytes = read.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_default()
}

fn text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    response
}

fn groups() -> Value {
    let group = |(api_version, _): &(&str, &[&str])| {
        let (group, version) = api_version.split_once('/').unwrap_or_default();
        let version = json!({"groupVersion": api_version, "version": version});
        json!({"name": group, "versions": [version], "preferredVersion": version})
    };
    json!({"kind": "APIGroupList", "groups": OPTIONAL.iter().map(group).collect::<Vec<_>>()})
}

fn resources(group: &str, version: &str) -> Value {
    let wanted = format!("{group}/{version}");
    let plurals = OPTIONAL.iter().filter(|(api_version, _)| *api_version == wanted).flat_map(|(_, plurals)| *plurals);
    let one = |plural| json!({"name": plural, "singularName": "", "namespaced": true, "kind": "x", "verbs": ["list", "watch"]});
    json!({"kind": "APIResourceList", "groupVersion": wanted, "resources": plurals.map(one).collect::<Vec<_>>()})
}

fn lease(store: &Store, name: Option<&str>, patch: Option<Value>) -> Option<Value> {
    let Some(patch) = patch else { return store.lease(name?) };
    let name = name.or_else(|| patch.pointer("/metadata/name")?.as_str())?.to_owned();
    Some(store.write_lease(&name, &patch))
}

fn collection(store: &Arc<Store>, plural: &str, query: &HashMap<&str, &str>) -> Response<Body> {
    let number = |key: &str| query.get(key).and_then(|text| text.parse::<u64>().ok());
    let kind = Kind::of(plural);
    if !query.contains_key("watch") {
        let [start, limit] = [("continue", 0), ("limit", u64::MAX)]
            .map(|(key, usual)| usize::try_from(number(key).unwrap_or(usual)).unwrap_or(usize::MAX));
        return text(StatusCode::OK, store.page(kind, start, limit));
    }
    let until = Instant::now() + Duration::from_secs(number("timeoutSeconds").unwrap_or(WATCH));
    let (lines, body) = mpsc::channel(16);
    tokio::spawn(watch(Arc::clone(store), kind, number("resourceVersion").unwrap_or(0), until, lines));
    Response::new(StreamBody::new(ReceiverStream::new(body)).boxed_unsync())
}

/// Sends what happens until the time is over or nobody listens.
async fn watch(
    store: Arc<Store>,
    kind: Option<Kind>,
    mut version: u64,
    until: Instant,
    lines: mpsc::Sender<Result<Frame<Bytes>, Infallible>>,
) {
    let mut changes = store.follow();
    loop {
        changes.mark_unchanged();
        let (text, now) = store.since(kind, version);
        version = now;
        if !text.is_empty() && lines.send(Ok(Frame::data(Bytes::from(text)))).await.is_err() {
            return;
        }
        tokio::select! {
            () = lines.closed() => return,
            changed = timeout_at(until, changes.changed()) => if !matches!(changed, Ok(Ok(()))) {
                return;
            }
        }
    }
}
