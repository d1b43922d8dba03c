//! Applications and their clients: HTTP/1.1 written and read by hand, so that every byte is seen; HTTP/2 by `h2`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// No single wait of a test is longer.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Awaits within [`LIMIT`].
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(LIMIT, future).await.expect("takes too long")
}

/// Until `done` says so.
pub async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..1000 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not within ten seconds");
}

/// An application: each connection, with its number, goes to `serve`.
pub async fn app<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Wire, usize) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            tokio::spawn(serve(Wire::new(stream), number));
            number += 1;
        }
    });
    address
}

/// One connection, read and written as text and bytes.
pub struct Wire {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Clean,
    Reset,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn connect(address: SocketAddr) -> Self {
        // Not tokio's: that one asks for the socket's fault before it says that it is connected, and a server that resets at
        // once may have been quicker. Then it is connected, and reset.
        let connect = move || std::net::TcpStream::connect(address);
        let stream = tokio::task::spawn_blocking(connect).await.unwrap().unwrap();
        stream.set_nonblocking(true).unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        // Of no use on one that was reset.
        let _ = stream.set_nodelay(true);
        Self::new(stream)
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        within(self.stream.write_all(bytes.as_ref())).await.unwrap();
    }

    /// Sends where the other side may be gone.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(self.stream.write_all(bytes.as_ref())).await.is_ok()
    }

    /// Reads once more; false at the end.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        let read = within(self.stream.read(&mut chunk)).await.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..read]);
        read > 0
    }

    /// The text up to and with `mark`; `None` where the connection ends before.
    pub async fn through(&mut self, mark: &str) -> Option<String> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|some| some == mark.as_bytes()) {
                return Some(String::from_utf8_lossy(&self.take(at + mark.len())).into_owned());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// A head.
    pub async fn head(&mut self) -> Option<String> {
        self.through("\r\n\r\n").await
    }

    fn take(&mut self, length: usize) -> Vec<u8> {
        self.buffer.drain(..length).collect()
    }

    /// So many bytes; fewer where the connection ends.
    pub async fn bytes(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length && self.more().await {}
        self.take(length.min(self.buffer.len()))
    }

    /// The body behind `head`: by its length or in chunks, with what the trailers say. `None` where it is not complete.
    pub async fn body(&mut self, head: &str) -> Option<(Vec<u8>, String)> {
        if let Some(length) = field(head, "content-length") {
            let length: usize = length.parse().unwrap();
            let body = self.bytes(length).await;
            return (body.len() == length).then(|| (body, String::new()));
        }
        if field(head, "transfer-encoding").is_none() {
            return Some(Default::default());
        }
        let mut body = Vec::new();
        loop {
            let size = self.through("\r\n").await?;
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            if size == 0 {
                let mut trailers = String::new();
                loop {
                    match &*self.through("\r\n").await? {
                        "\r\n" => return Some((body, trailers)),
                        line => trailers.push_str(line),
                    }
                }
            }
            let chunk = self.bytes(size + 2).await;
            body.extend_from_slice(chunk.get(..size)?);
        }
    }

    /// A whole message.
    pub async fn message(&mut self) -> Option<(String, Vec<u8>)> {
        let head = self.head().await?;
        let (body, _) = self.body(&head).await?;
        Some((head, body))
    }

    /// Everything until the connection ends.
    pub async fn rest(&mut self) -> (Vec<u8>, End) {
        let mut chunk = [0; 16 * 1024];
        loop {
            match within(self.stream.read(&mut chunk)).await {
                Ok(0) => return (std::mem::take(&mut self.buffer), End::Clean),
                Ok(read) => self.buffer.extend_from_slice(&chunk[..read]),
                Err(_) => return (std::mem::take(&mut self.buffer), End::Reset),
            }
        }
    }
}

/// The only value of a field of a head; a second one is a failure.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut found =
        head.lines().filter_map(|line| line.split_once(':')).filter(|(key, _)| key.eq_ignore_ascii_case(name));
    let first = found.next().map(|(_, value)| value.trim());
    assert!(found.next().is_none(), "{name} is there twice: {head}");
    first
}

/// The status of a response's head.
pub fn status(head: &str) -> u16 {
    head.get(9..12).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no status line: {head:?}"))
}

/// A response with a length.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An application that answers each HTTP/1.1 request with its head, and counts them.
pub async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let address = app(move |mut wire, _| {
        let counter = Arc::clone(&counter);
        async move {
            while let Some((head, _)) = wire.message().await {
                counter.fetch_add(1, Ordering::SeqCst);
                if !wire.try_send(ok(&head)).await {
                    return;
                }
            }
        }
    })
    .await;
    (address, requests)
}

/// What a [`recorder`] was sent, and how many of its connections are open.
#[derive(Default)]
pub struct Log {
    pub bytes: std::sync::Mutex<Vec<u8>>,
    pub open: AtomicUsize,
}

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// An application that records every byte that any connection brings, and answers nothing.
pub async fn recorder() -> (SocketAddr, Arc<Log>) {
    let all = Arc::new(Log::default());
    let log = Arc::clone(&all);
    let address = app(move |mut wire, _| {
        let log = Arc::clone(&log);
        async move {
            log.open.fetch_add(1, Ordering::SeqCst);
            let mut chunk = [0; 4096];
            while let Ok(read @ 1..) = wire.stream.read(&mut chunk).await {
                log.bytes.lock().unwrap().extend_from_slice(&chunk[..read]);
            }
            log.open.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    (address, all)
}

/// An application that speaks HTTP/2 with prior knowledge: each stream goes to `serve`.
pub async fn h2_app<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serve = serve.clone();
            tokio::spawn(async move {
                let mut builder = h2::server::Builder::new();
                builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 26);
                let Ok(mut connection) = builder.handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve(request, respond));
                }
            });
        }
    });
    address
}

/// A client that speaks HTTP/2 with prior knowledge.
pub async fn h2_client(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 26).initial_max_send_streams(2000);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// A request for the service `cart`.
pub fn request(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://cart.shop{path}")).body(()).unwrap()
}

/// Sends a request without a body; waits for the whole answer.
pub async fn fetch(client: &SendRequest<Bytes>, request: Request<()>) -> Result<Answer, h2::Error> {
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request, true)?;
    let (head, body) = within(response).await?.into_parts();
    let (body, trailers) = collect(body).await?;
    Ok(Answer { head, body, trailers })
}

/// A whole response.
#[derive(Debug)]
pub struct Answer {
    pub head: http::response::Parts,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

/// The whole of a body.
pub async fn collect(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all, within(body.trailers()).await?))
}

/// Sends data as the window allows.
pub async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        match within(std::future::poll_fn(|cx| stream.poll_capacity(cx))).await {
            Some(granted) => {
                let piece = data.split_to(granted?.min(data.len()));
                let last = end && data.is_empty();
                stream.send_data(piece, last)?;
            }
            None => return Err(h2::Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// A response of HTTP/2 without a body.
pub fn bare(status: u16) -> Response<()> {
    Response::builder().status(status).body(()).unwrap()
}

/// The byte at a place of the endless text that large bodies are made of: a mistake of one byte shows.
pub fn byte_at(at: usize) -> u8 {
    (at.wrapping_mul(2_654_435_761) >> 13) as u8
}

/// A piece of that text.
pub fn text(from: usize, length: usize) -> Bytes {
    (from..from + length).map(byte_at).collect::<Vec<u8>>().into()
}

/// Checks a piece of it.
pub fn check(from: usize, data: &[u8]) {
    for (at, byte) in data.iter().enumerate() {
        assert_eq!(*byte, byte_at(from + at), "byte {}", from + at);
    }
}

/// Memory of this process that is resident, in bytes.
pub fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Open file descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
