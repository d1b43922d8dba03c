//! A fake API server on loopback, for tests: it answers what it is told to, late where it is told to, and forwards ports
//! of pods to sockets of this machine.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::cluster::{Cluster, Version};

/// What it answers.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Status and JSON.
    Json(u16, Value),
    /// Nothing, for this long; then 200 and an empty object.
    Late(Duration),
}

/// A question, for a test to look at afterwards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

#[derive(Default)]
struct State {
    replies: HashMap<(Method, String), Reply>,
    /// Before `replies`, each once.
    turns: HashMap<(Method, String), VecDeque<Reply>>,
    lists: Option<Reply>,
    /// What the user may not do, by verb and resource; where it is said at all.
    forbidden: Option<Vec<(String, String)>>,
    forwards: HashMap<String, SocketAddr>,
    asked: Vec<Asked>,
}

/// The server; it ends with this.
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    /// Knows nothing: every list is empty, everything else is not there.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&state), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
                });
            }
        });
        let fake = Self { state, address, task };
        fake.reply(
            Method::GET,
            "/version",
            200,
            json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "", "gitTreeState": "", "buildDate": "",
            "goVersion": "", "compiler": "", "platform": ""}),
        );
        fake.reply(Method::GET, "/apis", 200, json!({"kind": "APIGroupList", "groups": []}));
        fake
    }

    /// Answers this to that.
    pub(crate) fn reply(&self, method: Method, path: &str, status: u16, value: Value) {
        self.state.lock().unwrap().replies.insert((method, path.to_owned()), Reply::Json(status, value));
    }

    /// Answers these to that, one after another, and then as before.
    pub(crate) fn in_turn(&self, method: Method, path: &str, values: Vec<(u16, Value)>) {
        let turns = values.into_iter().map(|(status, value)| Reply::Json(status, value)).collect();
        self.state.lock().unwrap().turns.insert((method, path.to_owned()), turns);
    }

    /// An object that is there until it is deleted.
    pub(crate) fn object(&self, path: &str, value: &Value) {
        self.reply(Method::GET, path, 200, value.clone());
        self.reply(Method::DELETE, path, 200, value.clone());
    }

    /// Serves these kinds, and no others: `(apiVersion, kind, resource, namespaced)`. There is none of their objects.
    pub(crate) fn serve(&self, kinds: &[(&str, &str, &str, bool)]) {
        let verbs = ["get", "list", "create", "patch", "delete"];
        let mut groups: HashMap<&str, Vec<(Value, Value)>> = HashMap::new();
        for (api_version, kind, resource, namespaced) in kinds {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let scope = if *namespaced { "Namespaced" } else { "Cluster" };
            let plain =
                json!({"name": resource, "kind": kind, "namespaced": namespaced, "singularName": "", "verbs": verbs});
            let names = json!({"group": group, "version": version, "kind": kind});
            let short = json!({"resource": resource, "responseKind": names, "scope": scope, "singularResource": "", "verbs": verbs});
            groups.entry(api_version).or_default().push((plain, short));
        }
        let (mut core, mut others) = (Vec::new(), Vec::new());
        for (api_version, resources) in groups {
            let (plain, short): (Vec<Value>, Vec<Value>) = resources.into_iter().unzip();
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let item = json!({"metadata": {"name": group}, "versions": [{"version": version, "resources": short}]});
            if group.is_empty() {
                core.push(item)
            } else {
                others.push(item)
            }
            let path = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{api_version}") };
            let list = json!({"kind": "APIResourceList", "groupVersion": api_version, "resources": plain});
            self.reply(Method::GET, &path, 200, list);
        }
        for (path, items) in [("/api", core), ("/apis", others)] {
            let kind = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items});
            self.reply(Method::GET, path, 200, kind);
        }
    }

    /// Lets the user do everything but these, by verb and resource.
    pub(crate) fn forbid(&self, forbidden: &[(&str, &str)]) {
        let owned = forbidden.iter().map(|(verb, resource)| ((*verb).to_owned(), (*resource).to_owned())).collect();
        self.state.lock().unwrap().forbidden = Some(owned);
    }

    /// Paths of what was deleted, in that order.
    pub(crate) fn deleted(&self) -> Vec<String> {
        let deletions = self.asked().into_iter().filter(|asked| asked.method == Method::DELETE);
        deletions.map(|asked| asked.path).collect()
    }

    /// Answers a list of these objects.
    pub(crate) fn list(&self, path: &str, items: &[Value]) {
        self.reply(Method::GET, path, 200, json!({"metadata": {}, "items": items}));
    }

    /// Answers that to this path later.
    pub(crate) fn late(&self, path: &str, late: Duration) {
        self.state.lock().unwrap().replies.insert((Method::GET, path.to_owned()), Reply::Late(late));
    }

    /// Answers this to whatever has no answer of its own.
    pub(crate) fn otherwise(&self, reply: Reply) {
        self.state.lock().unwrap().lists = Some(reply);
    }

    /// `NAMESPACE/POD:PORT` leads there.
    pub(crate) fn forward(&self, target: &str, to: SocketAddr) {
        self.state.lock().unwrap().forwards.insert(target.to_owned(), to);
    }

    /// What was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// A client that does not ask again by itself.
    pub(crate) fn client(&self) -> Client {
        let mut config = Config::new(format!("http://{}", self.address).parse().unwrap());
        config.default_retry = false;
        Client::try_from(config).unwrap()
    }

    /// The cluster behind it.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(self.client(), "fake", Version { major: 1, minor: 36 })
    }
}

/// A status as the API server writes it.
pub(crate) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message})
}

/// A server that answers pages: `(path, status, body)`. It ends with the runtime.
pub(crate) async fn pages(pages: &'static [(&'static str, u16, &'static str)]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(move |request: Request<Incoming>| async move {
                    let found = pages.iter().find(|(path, ..)| *path == request.uri().path());
                    let (status, body) = found.map_or((404, "no such page"), |(_, status, body)| (*status, *body));
                    let response =
                        Response::builder().status(status).body(Full::new(Bytes::from_static(body.as_bytes())));
                    Ok::<_, Infallible>(response.unwrap())
                });
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let query = request.uri().query().unwrap_or_default().to_owned();
    if path.ends_with("/portforward") {
        return Ok(forward(&state, request, &path, &query));
    }
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let reply = {
        let mut state = state.lock().unwrap();
        state.asked.push(Asked { method: method.clone(), path: path.clone(), query, body: body.clone() });
        let to = (method.clone(), path);
        let turn = state.turns.get_mut(&to).and_then(VecDeque::pop_front);
        let reply = turn.or_else(|| state.replies.get(&to).cloned());
        if method == Method::DELETE && matches!(reply, Some(Reply::Json(200, _))) {
            let gone = Reply::Json(404, self::status(404, "NotFound", "no such thing"));
            state.replies.insert((Method::GET, to.1.clone()), gone);
        }
        reply.or_else(|| review(&state, &to.1, &body)).or_else(|| state.lists.clone())
    };
    let (status, value) = match reply {
        Some(Reply::Json(status, value)) => (status, value),
        Some(Reply::Late(late)) => {
            tokio::time::sleep(late).await;
            (200, json!({"metadata": {}, "items": []}))
        }
        None if method == Method::GET => (200, json!({"metadata": {}, "items": []})),
        None => (404, self::status(404, "NotFound", "no such thing")),
    };
    let builder = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    Ok(builder.body(Full::new(Bytes::from(value.to_string()))).unwrap())
}

/// May the user do that?
fn review(state: &State, path: &str, body: &Value) -> Option<Reply> {
    let forbidden = state.forbidden.as_ref().filter(|_| path.ends_with("/selfsubjectaccessreviews"))?;
    let wanted = &body["spec"]["resourceAttributes"];
    let allowed =
        !forbidden.iter().any(|(verb, resource)| wanted["verb"] == **verb && wanted["resource"] == **resource);
    Some(Reply::Json(201, json!({"spec": body["spec"], "status": {"allowed": allowed}})))
}

/// `/api/v1/namespaces/NS/pods/POD/portforward?ports=PORT`.
fn forward(state: &Mutex<State>, mut request: Request<Incoming>, path: &str, query: &str) -> Response<Full<Bytes>> {
    let parts: Vec<&str> = path.split('/').collect();
    let port: u16 = query.rsplit("ports=").next().unwrap().parse().unwrap();
    let target = format!("{}/{}:{port}", parts[4], parts[6]);
    let empty = |status| Response::builder().status(status).body(Full::default()).unwrap();
    let to = {
        let state = state.lock().unwrap();
        match state.replies.get(&(Method::GET, path.to_owned())) {
            Some(Reply::Json(status, _)) => return empty(*status),
            _ => state.forwards.get(&target).copied(),
        }
    };
    let key = request.headers().get("sec-websocket-key").unwrap().as_bytes().to_vec();
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            carry(upgraded, port, to).await;
        }
    });
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("sec-websocket-accept", derive_accept_key(&key))
        .header("sec-websocket-protocol", "v4.channel.k8s.io")
        .body(Full::default())
        .unwrap()
}

/// The kubelet's part: two channels for a port, data and errors, each opened by the port's number.
async fn carry(upgraded: Upgraded, port: u16, to: Option<SocketAddr>) {
    let mut socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    let [low, high] = port.to_le_bytes();
    for channel in [0, 1] {
        socket.send(Message::binary(vec![channel, low, high])).await.unwrap();
    }
    let connected = match to {
        Some(to) => TcpStream::connect(to).await.ok(),
        None => None,
    };
    let Some(mut stream) = connected else {
        let _ = socket.send(Message::binary([&[1], "connection refused".as_bytes()].concat())).await;
        let _ = socket.close(None).await;
        return;
    };
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            got = stream.read(&mut buffer) => match got {
                Ok(got) if got > 0 => {
                    if socket.send(Message::binary([&[0], &buffer[..got]].concat())).await.is_err() {
                        return;
                    }
                }
                _ => {
                    let _ = socket.close(None).await;
                    return;
                }
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) if bytes.first() == Some(&0) => {
                    if stream.write_all(&bytes[1..]).await.is_err() {
                        return;
                    }
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => {}
            },
        }
    }
}
