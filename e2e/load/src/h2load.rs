//! HTTP/2 with prior knowledge: GET, unary calls of gRPC, streams of messages. Floor 0.

use std::{
    cell::RefCell,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, client::SendRequest};
use http::Request;
use tokio::{net::TcpStream, task::JoinSet};

use crate::{
    Kind,
    h1::in_time,
    report::{Counts, Report},
};

/// Window of one stream, and of a connection.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes of a message.
const MESSAGE: usize = 100;

/// A message of gRPC: not compressed, its length, its bytes.
pub fn message() -> Bytes {
    let mut framed = BytesMut::with_capacity(MESSAGE + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(MESSAGE).unwrap_or(u32::MAX));
    framed.put_bytes(b'x', MESSAGE);
    framed.freeze()
}

/// Closed loops, so many on each connection.
pub async fn run(
    to: SocketAddr,
    kind: Kind,
    path: &str,
    connections: usize,
    streams: usize,
    time: Duration,
) -> anyhow::Result<Report> {
    let mut senders = Vec::new();
    for _ in 0..connections {
        senders.push(connect(to).await?);
    }
    let counts = Rc::new(RefCell::new(Counts::new()?));
    let end = Instant::now() + time;
    let mut loops = JoinSet::new();
    let path: Rc<str> = path.into();
    for sender in senders {
        for _ in 0..streams {
            let (mut sender, counts, path) = (sender.clone(), Rc::clone(&counts), Rc::clone(&path));
            loops.spawn_local(async move {
                while Instant::now() < end {
                    let began = Instant::now();
                    let asked = match kind {
                        Kind::Get => in_time(get(&mut sender, to, &path)).await,
                        Kind::Unary => in_time(unary(&mut sender, to)).await,
                        Kind::Stream => messages(&mut sender, to, end, &counts).await,
                    };
                    match asked {
                        Ok(_) if kind == Kind::Stream => {}
                        Ok(bytes) => counts.borrow_mut().good(began.elapsed(), bytes),
                        Err(error) => {
                            counts.borrow_mut().bad(&format_args!("{error:#}"));
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            });
        }
    }
    while loops.join_next().await.is_some() {}
    let counts = Rc::into_inner(counts).context("a loop still counts")?;
    Ok(counts.into_inner().report())
}

async fn connect(to: SocketAddr) -> anyhow::Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW).enable_push(false);
    let (sender, connection) = builder.handshake(stream).await?;
    // Its errors are those of its streams too.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender.ready().await?)
}

async fn get(sender: &mut SendRequest<Bytes>, to: SocketAddr, path: &str) -> anyhow::Result<u64> {
    let request = Request::get(format!("http://{to}{path}")).header("user-agent", "mesh-load").body(())?;
    let (response, _) = ready(sender).await?.send_request(request, true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    drain(response.into_body(), false).await
}

async fn unary(sender: &mut SendRequest<Bytes>, to: SocketAddr) -> anyhow::Result<u64> {
    let (response, mut body) = ready(sender).await?.send_request(call(to, "/bench.Bench/Unary")?, false)?;
    body.send_data(message(), true)?;
    let response = response.await?;
    ensure!(response.status() == 200, "status {}", response.status());
    drain(response.into_body(), true).await
}

/// Messages until the end, each counted.
async fn messages(
    sender: &mut SendRequest<Bytes>,
    to: SocketAddr,
    end: Instant,
    counts: &RefCell<Counts>,
) -> anyhow::Result<u64> {
    let (response, mut requests) = ready(sender).await?.send_request(call(to, "/bench.Bench/Stream")?, false)?;
    let message = message();
    let mut answers: Option<RecvStream> = None;
    let mut response = Some(response);
    while Instant::now() < end {
        let began = Instant::now();
        requests.send_data(message.clone(), false)?;
        if let Some(response) = response.take() {
            let response = in_time(async { Ok(response.await?) }).await?;
            ensure!(response.status() == 200, "status {}", response.status());
            answers = Some(response.into_body());
        }
        let answers = answers.as_mut().context("no answer")?;
        let mut got = 0;
        while got < message.len() {
            let data = in_time(async { answers.data().await.context("the stream ended").and_then(|data| Ok(data?)) });
            let data = data.await?;
            got += data.len();
            answers.flow_control().release_capacity(data.len())?;
        }
        counts.borrow_mut().good(began.elapsed(), got as u64);
    }
    requests.send_data(Bytes::new(), true)?;
    drain(answers.context("no answer")?, true).await
}

async fn ready(sender: &mut SendRequest<Bytes>) -> anyhow::Result<&mut SendRequest<Bytes>> {
    std::future::poll_fn(|context| sender.poll_ready(context)).await?;
    Ok(sender)
}

fn call(to: SocketAddr, path: &str) -> anyhow::Result<Request<()>> {
    let request = Request::post(format!("http://{to}{path}"));
    Ok(request.header("content-type", "application/grpc").header("te", "trailers").body(())?)
}

/// The whole body, and trailers that say that the call went well.
async fn drain(mut body: RecvStream, call: bool) -> anyhow::Result<u64> {
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        bytes += data.len() as u64;
        body.flow_control().release_capacity(data.len())?;
    }
    if call {
        let trailers = body.trailers().await?.context("a call without trailers")?;
        ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
    }
    Ok(bytes)
}
