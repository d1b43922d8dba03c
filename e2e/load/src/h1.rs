//! HTTP/1.1: closed loops, one large answer, connections that are kept. Floor 0.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::report::{Counts, Report};

/// Longest head of an answer.
const HEAD: usize = 16 * 1024;
/// One answer takes at most this long.
const ANSWER: Duration = Duration::from_secs(20);

/// A connection on which one request follows the other.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(16 * 1024) })
    }

    /// One request and its whole answer; gives the bytes of the body.
    pub async fn ask(&mut self, request: &[u8]) -> anyhow::Result<u64> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let (head, length) = loop {
            ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the connection was closed before the answer");
            if let Some(found) = parse(&self.buffer)? {
                break found;
            }
            ensure!(self.buffer.len() < HEAD, "the head of the answer is too long");
        };
        let mut left = length.checked_sub((self.buffer.len() - head) as u64).context("more than was asked for")?;
        while left > 0 {
            self.buffer.clear();
            let read = self.stream.read_buf(&mut self.buffer).await?;
            ensure!(read > 0, "the connection was closed within the answer");
            left = left.checked_sub(read as u64).context("more than was asked for")?;
        }
        Ok(length)
    }
}

/// Length of the head and of the body, where the head is whole and says 200.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(usize, u64)>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = response.parse(bytes)? else { return Ok(None) };
    if response.code != Some(200) {
        bail!("status {}: {}", response.code.unwrap_or(0), String::from_utf8_lossy(bytes));
    }
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = length.context("an answer without Content-Length")?;
    Ok(Some((head, std::str::from_utf8(length.value)?.parse()?)))
}

/// A request's bytes.
pub fn request(path: &str, close: bool) -> Vec<u8> {
    let close = if close { "Connection: close\r\n" } else { "" };
    format!("GET {path} HTTP/1.1\r\nHost: server.bench\r\nUser-Agent: mesh-load\r\nAccept: */*\r\n{close}\r\n").into()
}

/// Within the time that an answer may take.
pub async fn in_time<T>(answer: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::time::timeout(ANSWER, answer).await.context("no answer in time")?
}

/// Closed loops.
pub async fn run(
    to: SocketAddr,
    path: &str,
    connections: usize,
    time: Duration,
    close: bool,
) -> anyhow::Result<Report> {
    let request: Rc<[u8]> = request(path, close).into();
    let mut wires = Vec::new();
    for _ in 0..if close { 0 } else { connections } {
        wires.push(Wire::connect(to).await?);
    }
    let counts = Rc::new(RefCell::new(Counts::new()?));
    let end = Instant::now() + time;
    let mut loops = JoinSet::new();
    for _ in 0..connections {
        let (request, counts, mut wire) = (Rc::clone(&request), Rc::clone(&counts), wires.pop());
        loops.spawn_local(async move {
            while Instant::now() < end {
                let began = Instant::now();
                let asked = in_time(async {
                    let mut used = match wire.take() {
                        Some(used) => used,
                        None => Wire::connect(to).await?,
                    };
                    let bytes = used.ask(&request).await?;
                    Ok((bytes, used))
                });
                match asked.await {
                    Ok((bytes, used)) => {
                        counts.borrow_mut().good(began.elapsed(), bytes);
                        wire = (!close).then_some(used);
                    }
                    Err(error) => {
                        counts.borrow_mut().bad(&format_args!("{error:#}"));
                        // Not as fast as it can: a refusal would be asked for a million times.
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            }
        });
    }
    while loops.join_next().await.is_some() {}
    let counts = Rc::into_inner(counts).context("a loop still counts")?;
    Ok(counts.into_inner().report())
}

/// One large answer over one connection.
pub async fn bulk(to: SocketAddr, path: &str) -> anyhow::Result<Report> {
    let mut counts = Counts::new()?;
    let mut wire = Wire::connect(to).await?;
    // Read as a program does that wants much.
    wire.buffer.reserve(256 * 1024);
    let began = Instant::now();
    let asked = tokio::time::timeout(ANSWER * 6, wire.ask(&request(path, false))).await.context("no answer in time")?;
    counts.good(began.elapsed(), asked?);
    Ok(counts.report())
}

/// Connections that have asked once and stay.
pub async fn idle(to: SocketAddr, connections: usize) -> anyhow::Result<Report> {
    let mut counts = Counts::new()?;
    let request = request("/100", false);
    let mut wires = Vec::with_capacity(connections);
    for _ in 0..connections {
        let began = Instant::now();
        let mut wire = Wire::connect(to).await?;
        let bytes = in_time(wire.ask(&request)).await?;
        // What waits here needs no buffer.
        wire.buffer = Vec::new();
        wires.push(wire);
        counts.good(began.elapsed(), bytes);
    }
    println!("ready");
    std::future::pending::<()>().await;
    Ok(counts.report())
}
