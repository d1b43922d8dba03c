//! An API server over HTTPS on loopback, as far as the authority can tell: objects with versions, compare-and-swap,
//! apply, watches, token reviews; and moods in which it fails.

mod objects;

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use mesh_ca::cluster::Cluster;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;

use self::objects::{Call, Place, State, fits};

/// No test waits longer for anything.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Namespace of the control plane.
pub const SYSTEM: &str = "mesh-system";

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// How calls are answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Mood {
    /// With this status and text, and nothing else happens.
    Says(u16, String),
    /// After this time.
    Slow(Duration),
    /// What is asked for happens, and then the answer is this status.
    Loses(u16),
}

/// The server. It ends when it is dropped, with its connections.
pub struct Fake {
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    url: String,
    root: CertificateDer<'static>,
    pem: String,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// With the namespace of the control plane and nothing else.
    pub async fn start() -> Self {
        let signed = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(signed.signing_key.serialize_der().into());
        let root = signed.cert.der().clone();
        let config = rustls::ServerConfig::builder_with_provider(mesh_api::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![root.clone()], key)
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let (changed, _) = watch::channel(0);
        let task =
            tokio::spawn(serve(listener, TlsAcceptor::from(Arc::new(config)), Arc::clone(&state), changed.clone()));
        let fake = Self { state, changed, url, root, pem: signed.cert.pem(), task };
        fake.namespace(SYSTEM);
        fake
    }

    /// A connection whose calls take at most `deadline`.
    pub fn cluster_within(&self, deadline: Duration) -> Cluster {
        let mut config = kube::Config::new(self.url.parse().unwrap());
        config.root_cert = Some(vec![self.root.to_vec()]);
        Cluster::new(config, SYSTEM, deadline).unwrap()
    }

    /// Writes a kubeconfig for programs.
    pub fn kubeconfig(&self, folder: &std::path::Path) -> PathBuf {
        let root = folder.join("api.pem");
        std::fs::write(&root, &self.pem).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "fake",
            "contexts": [{ "name": "fake", "context": { "cluster": "fake", "user": "fake" } }],
            "clusters": [{ "name": "fake", "cluster": { "server": self.url, "certificate-authority": root } }],
            "users": [{ "name": "fake", "user": {} }],
        });
        let path = folder.join("kubeconfig");
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap();
        let outcome = change(&mut state);
        self.changed.send_replace(state.version);
        outcome
    }

    /// From now on calls whose `METHOD path` contains `part` are answered like this.
    pub fn mood(&self, part: &str, mood: Mood) {
        self.with(|state| state.moods.push((part.to_owned(), mood)));
    }

    /// Everything is answered as it should be again.
    pub fn good(&self) {
        self.with(|state| state.moods.clear());
    }

    /// What is answered about this token.
    pub fn review(&self, token: &str, status: Value) {
        self.with(|state| state.reviews.insert(token.to_owned(), status));
    }

    /// How many calls of this kind there were.
    pub fn calls(&self, method: &Method, part: &str) -> usize {
        self.with(|state| state.calls.iter().filter(|(of, path)| of == method && path.contains(part)).count())
    }

    pub fn namespace(&self, name: &str) {
        self.put("namespaces", "", name, json!({ "metadata": { "name": name }, "status": { "phase": "Active" } }));
    }

    /// It is told to end, and does not yet.
    pub fn terminate(&self, name: &str) {
        let object = json!({ "metadata": { "name": name, "deletionTimestamp": "2026-01-01T00:00:00Z" } });
        self.put("namespaces", "", name, object);
    }

    /// Makes or replaces an object, whatever was there.
    pub fn put(&self, resource: &str, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        self.with(|state| state.set(&Place::of(resource, namespace, name), object));
    }

    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.with(|state| state.objects.get(&Place::of(resource, namespace, name)).cloned())
    }

    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.with(|state| state.remove(&Place::of(resource, namespace, name)));
    }

    /// Waits until something holds.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let polling = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(LIMIT, polling).await.is_ok(), "waited too long: {what}");
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>, changed: watch::Sender<u64>) {
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, state, changed) = (acceptor.clone(), Arc::clone(&state), changed.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else { return };
            let service = service_fn(move |request| answer(Arc::clone(&state), changed.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    changed: watch::Sender<u64>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let call = Call {
        query: parts.uri.query().unwrap_or_default().to_owned(),
        kind: header("content-type"),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    };
    let path = parts.uri.path().to_owned();
    let named = format!("{} {path}", parts.method);
    let mood = {
        let mut state = state.lock().unwrap();
        state.calls.push((parts.method.clone(), path.clone()));
        state.moods.iter().rev().find(|(part, _)| named.contains(part)).map(|(_, mood)| mood.clone())
    };
    match &mood {
        Some(Mood::Says(status, text)) => return Ok(plain(*status, text.clone())),
        Some(Mood::Slow(wait)) => tokio::time::sleep(*wait).await,
        _ => {}
    }
    let Some(place) = Place::parse(&path) else { return Ok(plain(404, "{}".into())) };
    let whole_kind = place.name.is_empty() && parts.method == Method::GET;
    let only_metadata = header("accept").contains("as=PartialObjectMetadata");
    if whole_kind && call.query.contains("watch=true") {
        return Ok(watching(state, changed.subscribe(), place, &call, only_metadata));
    }
    let mut state = state.lock().unwrap();
    if whole_kind {
        let mut items = state.selected(&place, call.selector().as_deref());
        if only_metadata {
            items = items.iter().map(metadata_of).collect();
        }
        let list = json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": { "resourceVersion": state.version.to_string() }, "items": items,
        });
        return Ok(plain(200, list.to_string()));
    }
    let outcome = state.act(&parts.method, &place, &call);
    changed.send_replace(state.version);
    if let Some(Mood::Loses(status)) = mood {
        return Ok(plain(status, "{}".into()));
    }
    Ok(match outcome {
        Ok((status, object)) => plain(status, object.to_string()),
        Err((code, reason, message)) => {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "code": code, "reason": reason, "message": message,
            });
            plain(code, status.to_string())
        }
    })
}

fn metadata_of(object: &Value) -> Value {
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

fn watching(
    state: Arc<Mutex<State>>,
    mut changed: watch::Receiver<u64>,
    kind: Place,
    call: &Call,
    only_metadata: bool,
) -> Response<Body> {
    let mut seen: u64 = call.parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let selector = call.selector();
    let (frames, body) = mpsc::channel(64);
    tokio::spawn(async move {
        loop {
            let news: Vec<(u64, String)> = {
                let state = state.lock().unwrap();
                let fitting = state
                    .events
                    .iter()
                    .filter(|(version, _, place, _)| *version > seen && fits(place, &kind, selector.as_deref()));
                let lines = fitting.map(|(version, event, _, object)| {
                    let object = if only_metadata { metadata_of(object) } else { object.clone() };
                    (*version, format!("{}\n", json!({ "type": event, "object": object })))
                });
                lines.collect()
            };
            for (version, line) in news {
                seen = version;
                if frames.send(Ok(Frame::data(Bytes::from(line)))).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                changed = changed.changed() => if changed.is_err() { return },
                () = frames.closed() => return,
            }
        }
    });
    Response::new(StreamBody::new(ReceiverStream::new(body)).boxed_unsync())
}

fn plain(status: u16, text: String) -> Response<Body> {
    let mut response = Response::new(http_body_util::Full::new(Bytes::from(text)).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
