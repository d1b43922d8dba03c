//! A whole side, from its socket to its applications, with a peer that says anything and leaves: all that waits for it comes to an
//! end, and what it says are frames.

use std::{convert::Infallible, future::pending, pin::Pin, rc::Rc, task::Context, task::Poll, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::{Request, Response};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, duplex, split},
    task::{LocalSet, spawn_local},
    time::timeout,
};

use super::model::body;
use crate::{
    fuzzing::arrivals,
    l7::{
        h2::{ResetReason, Streams},
        mux::{ByteStream, Incoming, Limits, client, frame::Frame, server},
    },
};

/// In real time, of a machine that may be busy: nothing waits once the peer has gone.
const PATIENCE: Duration = Duration::from_secs(60);
/// Frames are read alike up to here, however they arrive.
const READ: usize = 512;

/// A body of so many bytes.
struct Counted(usize);

/// Never.
#[derive(Debug)]
struct Never(Infallible);

impl ResetReason for Never {
    fn reset_reason(&self) -> Reason {
        match self.0 {}
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Never;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Never>>> {
        let some = self.0.min(20_000);
        self.0 -= some;
        Poll::Ready((some > 0).then(|| Ok(http_body::Frame::data(body(0, some)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0 == 0
    }
}

/// Answers with what it was sent, as far as that went.
struct Echo;

impl server::Service for Echo {
    type Body = Counted;

    async fn answer(&self, request: Request<Incoming>) -> Response<Counted> {
        let (head, body) = request.into_parts();
        assert!(!head.headers.contains_key("transfer-encoding") && head.uri.to_string().is_ascii());
        let length = body.collect().await.map_or(0, |body| body.to_bytes().len());
        Response::new(Counted(length * 100))
    }

    async fn carry(&self, stream: ByteStream) {
        let (mut read, mut write) = split(stream);
        if copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    }
}

/// Says it in these pieces, ends, and reads all that is said.
async fn peer(io: DuplexStream, pieces: Vec<Bytes>) {
    let (mut read, mut write) = split(io);
    let saying = async move {
        for piece in pieces {
            if write.write_all(&piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let _ = write.shutdown().await;
    };
    let hearing = async move {
        let mut heard = BytesMut::new();
        while read.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {
            while Frame::take(&mut heard).expect("what is said are frames").is_some() {}
        }
    };
    tokio::join!(saying, hearing);
}

async fn served(io: DuplexStream, limits: Limits) {
    let _ = server::serve(io, Rc::new(Echo), &limits, pending()).await;
}

async fn asked(io: DuplexStream, limits: Limits) {
    let (sender, drive) = client::connect(io, &limits);
    let slots = Rc::new(Streams::default());
    let mut asking = Vec::new();
    for size in [0, 10, 200_000] {
        let (sender, slot) = (sender.clone(), slots.take(|| usize::MAX).await);
        asking.push(spawn_local(async move {
            let head = Request::get("/").header("host", "a").body(()).expect("a request").into_parts().0;
            let answer = sender.send(slot, &head, Counted(size)).await;
            let length = answer.as_ref().ok().and_then(|answer| answer.headers().get("content-length").cloned());
            let Ok(body) = answer else { return };
            // A body that comes to its end has the length that was said.
            if let (Ok(body), Some(length)) = (body.into_body().collect().await, length) {
                let whole = length.to_str().is_ok_and(|length| length.parse() == Ok(body.to_bytes().len()));
                assert!(whole, "a body of another length than was said");
            }
        }));
    }
    if let Some(mut stream) = sender.open_bytes() {
        asking.push(spawn_local(async move {
            let _ = stream.write_all(b"hello").await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }));
    }
    drop(sender);
    let _ = drive.await;
    for asked in asking {
        asked.await.expect("nothing panics");
    }
}

/// The bytes are what the peer of a side says, by the first byte's lowest bit a server or a client.
pub fn mux_connection(bytes: &[u8]) {
    let Some((first, wire)) = bytes.split_first() else { return };
    frames_are_read_alike(wire);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    for pieces in [vec![wire], arrivals(wire)[0].clone()] {
        let pieces: Vec<Bytes> = pieces.into_iter().map(Bytes::copy_from_slice).collect();
        let (near, far) = duplex(1 << 16);
        let limits = Limits { stream_window: 65_536, connection_window: 1 << 20, max_streams: 3, ..Limits::default() };
        let side = async {
            let peer = spawn_local(peer(near, pieces));
            if first & 1 == 0 {
                served(far, limits).await
            } else {
                asked(far, limits).await
            }
            peer.await.expect("nothing panics");
        };
        let ended = runtime.block_on(LocalSet::new().run_until(async { timeout(PATIENCE, side).await }));
        assert!(ended.is_ok(), "it waits for a peer that has gone");
    }
}

/// Up to a broken one, which is seen as soon as its head is there.
fn frames_are_read_alike(wire: &[u8]) {
    let wire = &wire[..wire.len().min(READ)];
    let read = |pieces: &[&[u8]]| {
        let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            buf.extend_from_slice(piece);
            loop {
                match Frame::take(&mut buf) {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let whole = read(&[wire]);
    for pieces in arrivals(wire) {
        assert_eq!(read(&pieces), whole);
    }
    for frame in whole.0 {
        let mut again = BytesMut::new();
        frame.put(&mut again);
        assert_eq!(Frame::take(&mut again), Ok(Some(frame)));
    }
}
