//! The fixture of the HTTP/1 tests: raw client bytes -> server half -> client half -> an upstream that records what it
//! is sent, byte by byte, and answers with a unique id per request.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test file uses its own part of the fixture")]

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use mesh_proxy::l7::h1::{
    BadRequest, ClientConfig, Connection, Incoming, Reason, ServeError, ServerConfig, send_with_interim, serve,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

/// No test waits longer for anything.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Runs a test on one thread, within [`LIMIT`].
pub fn run<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = LocalSet::new();
    runtime.block_on(set.run_until(async { tokio::time::timeout(LIMIT, test).await.expect("the test ends in time") }));
}

/// What one upstream connection was sent.
#[derive(Debug, Default, Clone)]
pub struct Recorded {
    pub bytes: Vec<u8>,
    pub closed: bool,
}

/// The upstream's log.
#[derive(Default)]
pub struct Recorder {
    pub conns: RefCell<Vec<Recorded>>,
    pub requests: RefCell<u32>,
    pub changed: Notify,
}

impl Recorder {
    /// Everything that any connection was sent.
    pub fn all(&self) -> String {
        let conns = self.conns.borrow();
        conns.iter().map(|conn| String::from_utf8_lossy(&conn.bytes).into_owned()).collect::<Vec<_>>().join("|")
    }

    /// Waits until `done` holds for the log.
    pub async fn until(&self, done: impl Fn(&[Recorded]) -> bool) {
        loop {
            let changed = self.changed.notified();
            if done(&self.conns.borrow()) {
                return;
            }
            changed.await;
        }
    }

    fn update(&self, index: usize, change: impl FnOnce(&mut Recorded)) {
        change(&mut self.conns.borrow_mut()[index]);
        self.changed.notify_waiters();
    }

    /// Records what arrives and answers each request, told apart by the normal form alone.
    async fn serve(self: Rc<Self>, mut stream: TcpStream) {
        let index = {
            let mut conns = self.conns.borrow_mut();
            conns.push(Recorded::default());
            conns.len() - 1
        };
        let mut pending = Vec::new();
        loop {
            let mut chunk = [0; 16 * 1024];
            let n = stream.read(&mut chunk).await.unwrap_or(0);
            if n == 0 {
                return self.update(index, |conn| conn.closed = true);
            }
            pending.extend_from_slice(&chunk[..n]);
            self.update(index, |conn| conn.bytes.extend_from_slice(&chunk[..n]));
            while let Some((head, len)) = complete_request(&pending) {
                pending.drain(..len);
                let id = {
                    let mut requests = self.requests.borrow_mut();
                    *requests += 1;
                    *requests
                };
                let body = format!("id-{id}");
                let text = if head.starts_with("HEAD ") { "" } else { body.as_str() };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-Id: {id}\r\n\r\n{text}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
            }
        }
    }
}

/// The head and total length of a complete request in normal form.
pub fn complete_request(bytes: &[u8]) -> Option<(String, usize)> {
    let head_len = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..head_len]).into_owned();
    let rest = &bytes[head_len..];
    let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("transfer-encoding:").is_some() {
        let end = rest.windows(5).position(|w| w == b"0\r\n\r\n")? + 5;
        return Some((head, head_len + end));
    }
    let length = value("content-length:").map_or(0, |v| v.parse().unwrap());
    (rest.len() >= length).then_some((head, head_len + length))
}

/// The proxy under test with its upstream.
pub struct Fixture {
    pub addr: SocketAddr,
    pub upstream: SocketAddr,
    pub recorder: Rc<Recorder>,
    pub bad: Arc<Mutex<Vec<BadRequest>>>,
    pub ends: Rc<RefCell<Vec<Result<(), ServeError>>>>,
    pub ended: Rc<Notify>,
    pub pool: Rc<RefCell<Vec<Connection>>>,
    pub drain: Rc<Notify>,
}

/// The naive service: no policy but `/admin`, no hop-by-hop filter, one pool.
struct Naive {
    upstream: SocketAddr,
    pool: Rc<RefCell<Vec<Connection>>>,
    config: ClientConfig,
}

pub type Answer = Response<Either<Incoming, Full<Bytes>>>;

pub fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Either::Right(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response
}

impl Naive {
    async fn connection(&self) -> Connection {
        loop {
            let pooled = self.pool.borrow_mut().pop();
            match pooled {
                Some(conn) if conn.is_alive() => return conn,
                Some(_) => {}
                None => return Connection::new(TcpStream::connect(self.upstream).await.unwrap()),
            }
        }
    }

    async fn call(self: Rc<Self>, mut request: Request<Incoming>) -> Answer {
        if request.uri().path().starts_with("/admin") {
            return plain(StatusCode::FORBIDDEN, "denied");
        }
        let on_upgrade = request.body_mut().take_on_upgrade();
        let interim = request.body().interim();
        let pool = Rc::clone(&self.pool);
        let on_idle = move |conn| pool.borrow_mut().push(conn);
        let show = |status, headers: HeaderMap| {
            if let Some(interim) = &interim {
                interim.send(status, &headers);
            }
        };
        match send_with_interim(self.connection().await, request, &self.config, on_idle, show).await {
            Ok(mut response) => {
                if let (Some(mut up), Some(down)) = (response.body_mut().take_upgraded(), on_upgrade) {
                    spawn_local(async move {
                        if let Ok(mut down) = down.await {
                            let _ = copy_bidirectional(&mut down, &mut up).await;
                        }
                    });
                }
                response.map(Either::Left)
            }
            Err(error) => {
                let mut response = plain(StatusCode::BAD_GATEWAY, "upstream failed");
                let text = format!("{error} {:?}", error.retry());
                response.headers_mut().insert("x-error", text.parse().unwrap());
                response
            }
        }
    }
}

impl Fixture {
    /// The proxy before the recorder.
    pub async fn start() -> Self {
        Self::with_config(ServerConfig::default(), ClientConfig::default()).await
    }

    pub async fn with_config(server: ServerConfig, client: ClientConfig) -> Self {
        let recorder = Rc::new(Recorder::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let log = Rc::clone(&recorder);
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(Rc::clone(&log).serve(stream));
            }
        });
        Self::before(upstream, recorder, server, client).await
    }

    /// The proxy before an upstream that follows a script on each connection.
    pub async fn scripted<S, F>(client: ClientConfig, script: S) -> Self
    where
        S: Fn(TcpStream) -> F + 'static,
        F: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = listener.local_addr().unwrap();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                spawn_local(script(stream));
            }
        });
        Self::before(upstream, Rc::default(), ServerConfig::default(), client).await
    }

    async fn before(
        upstream: SocketAddr,
        recorder: Rc<Recorder>,
        mut server: ServerConfig,
        client: ClientConfig,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fixture = Self {
            addr: listener.local_addr().unwrap(),
            upstream,
            recorder,
            bad: Arc::default(),
            ends: Rc::default(),
            ended: Rc::default(),
            pool: Rc::default(),
            drain: Rc::default(),
        };
        let bad = Arc::clone(&fixture.bad);
        server.on_bad_request = Some(Arc::new(move |request| bad.lock().unwrap().push(*request)));
        let naive = Rc::new(Naive { upstream, pool: Rc::clone(&fixture.pool), config: client });
        let (ends, ended, drain) = (Rc::clone(&fixture.ends), Rc::clone(&fixture.ended), Rc::clone(&fixture.drain));
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (naive, server) = (Rc::clone(&naive), server.clone());
                let (ends, ended, drain) = (Rc::clone(&ends), Rc::clone(&ended), Rc::clone(&drain));
                spawn_local(async move {
                    let service = |request| Rc::clone(&naive).call(request);
                    let end = serve(stream, Bytes::new(), service, &server, drain.notified()).await;
                    ends.borrow_mut().push(end);
                    ended.notify_waiters();
                });
            }
        });
        fixture
    }

    pub async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.addr).await.unwrap(), buf: Vec::new() }
    }

    /// Sends `raw` on a connection of its own and demands a refusal: the status, `connection: close`, the end of the
    /// connection, one count of a bounded reason, and not one byte upstream. Then a good request must succeed.
    pub async fn refuses(&self, raw: impl AsRef<[u8]>, status: u16) -> Reason {
        let raw = raw.as_ref();
        let shown = String::from_utf8_lossy(&raw[..raw.len().min(200)]).into_owned();
        let before = (self.recorder.all(), self.bad.lock().unwrap().len());
        let mut client = self.client().await;
        client.send(raw).await;
        let reply = client.reply("GET").await.unwrap_or_else(|| panic!("an answer to {shown:?}"));
        assert_eq!(reply.status, status, "{shown:?}: {reply:?}");
        assert_eq!(reply.header("connection"), Some("close"), "{shown:?}");
        client.closed().await;
        assert_eq!(self.recorder.all(), before.0, "nothing of {shown:?} goes upstream");
        let reason = {
            let bad = self.bad.lock().unwrap();
            assert_eq!(bad.len(), before.1 + 1, "{shown:?} is counted once");
            bad[before.1].reason
        };
        self.good().await;
        reason
    }

    /// Sends `raw` and demands that it reaches the upstream exactly as `normal`, and is answered with its own id on a
    /// connection that then serves another request.
    pub async fn forwards(&self, raw: impl AsRef<[u8]>, normal: &str) {
        let skip = self.recorder.all().len();
        let mut client = self.client().await;
        client.send(raw.as_ref()).await;
        let reply = client.reply("GET").await.expect("an answer");
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.body, format!("id-{}", self.recorder.requests.borrow()));
        assert_eq!(&self.recorder.all()[skip..], normal);
        self.good_on(&mut client).await;
    }

    /// A good request on a connection of its own gets its own answer.
    pub async fn good(&self) {
        let mut client = self.client().await;
        self.good_on(&mut client).await;
    }

    /// A good request on `client` gets its own answer, and reaches the upstream as it is.
    pub async fn good_on(&self, client: &mut Client) {
        let path = format!("/good/{}", self.recorder.requests.borrow());
        client.send(format!("GET {path} HTTP/1.1\r\nHost: app.ns.svc\r\n\r\n").as_bytes()).await;
        let reply = client.reply("GET").await.expect("a good request is answered");
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body, format!("id-{}", self.recorder.requests.borrow()), "its own answer");
        let normal = format!("GET {path} HTTP/1.1\r\nhost: app.ns.svc\r\n\r\n");
        assert!(self.recorder.all().contains(&normal), "{}", self.recorder.all());
    }

    /// Waits until so many downstream connections have ended.
    pub async fn ended(&self, count: usize) {
        loop {
            let ended = self.ended.notified();
            if self.ends.borrow().len() >= count {
                return;
            }
            ended.await;
        }
    }
}

/// A raw client.
pub struct Client {
    pub stream: TcpStream,
    pub buf: Vec<u8>,
}

/// A response as a client sees it.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (n, v) = line.split_once(':')?;
            (n == name).then(|| v.trim())
        })
    }
}

impl Client {
    /// Sends; a refused client may meet a closed connection meanwhile.
    pub async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    async fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        let n = self.stream.read(&mut chunk).await.unwrap_or(0);
        self.buf.extend_from_slice(&chunk[..n]);
        n > 0
    }

    /// The next response to a request with `method`, interim ones included; `None` if the connection ends before.
    pub async fn reply(&mut self, method: &str) -> Option<Reply> {
        let head_len = loop {
            if let Some(at) = self.buf.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head = String::from_utf8(self.buf.drain(..head_len).collect()).unwrap();
        let status: u16 = head[9..12].parse().unwrap();
        let mut reply = Reply { status, head, body: String::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Some(reply);
        }
        let body = if reply.header("transfer-encoding").is_some() {
            self.chunked().await?
        } else if let Some(length) = reply.header("content-length") {
            let length: usize = length.parse().unwrap();
            while self.buf.len() < length {
                if !self.fill().await {
                    return None;
                }
            }
            self.buf.drain(..length).collect()
        } else {
            while self.fill().await {}
            std::mem::take(&mut self.buf)
        };
        reply.body = String::from_utf8(body).unwrap();
        Some(reply)
    }

    /// A chunked body, trailers appended as text; `None` if it is cut.
    async fn chunked(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line().await?;
            let size = usize::from_str_radix(&line, 16).unwrap();
            if size == 0 {
                loop {
                    let line = self.line().await?;
                    if line.is_empty() {
                        return Some(body);
                    }
                    body.extend_from_slice(format!("[{line}]").as_bytes());
                }
            }
            while self.buf.len() < size + 2 {
                if !self.fill().await {
                    return None;
                }
            }
            body.extend(self.buf.drain(..size));
            assert_eq!(self.buf.drain(..2).collect::<Vec<_>>(), b"\r\n");
        }
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.buf.windows(2).position(|w| w == b"\r\n") {
                let line = String::from_utf8(self.buf.drain(..at + 2).collect()).unwrap();
                return Some(line.trim_end().to_owned());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Waits for the end of the connection, with nothing before it.
    pub async fn closed(&mut self) {
        while self.fill().await {}
        assert_eq!(String::from_utf8_lossy(&self.buf), "", "nothing follows the last response");
    }
}
