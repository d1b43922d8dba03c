//! Copies bytes both ways, with half-close: an end that says it is done is told on, while the other way goes on.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::stock;

/// Bytes that wait for a receiver that takes none are kept in no more memory than this beyond themselves.
const SPARE: usize = 16 * 1024;
/// Turns before other tasks get theirs.
const TURNS: usize = 32;

/// How a copied connection ended, and what it carried.
#[derive(Debug)]
pub struct CopyEnd {
    /// From the client to the server, in bytes.
    pub sent: u64,
    /// From the server to the client, in bytes.
    pub received: u64,
    /// An orderly end of both ways, or what broke.
    pub result: io::Result<()>,
}

/// Copies until both ways have ended, one breaks, or nothing moved for `idle`.
pub async fn copy<C, S>(client: &mut C, server: &mut S, idle: Duration) -> CopyEnd
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut up, mut down) = (Way::new(), Way::new());
    let mut timer = Box::pin(tokio::time::sleep(idle));
    let result = std::future::poll_fn(|cx| {
        let before = (up.moved, down.moved);
        let ended = (up.poll(cx, client, server)?, down.poll(cx, server, client)?);
        if let (Poll::Ready(()), Poll::Ready(())) = ended {
            return Poll::Ready(Ok(()));
        }
        poll_idle(cx, timer.as_mut(), idle, before != (up.moved, down.moved))
    })
    .await;
    CopyEnd { sent: up.moved, received: down.moved, result }
}

fn poll_idle(cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>, idle: Duration, moved: bool) -> Poll<io::Result<()>> {
    if moved {
        timer.as_mut().reset(Instant::now() + idle);
    }
    timer.poll(cx).map(|()| Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long")))
}

/// One direction. Its buffer is there only while bytes wait in it: an idle connection holds none.
struct Way {
    buffer: Option<Box<[u8]>>,
    begin: usize,
    end: usize,
    moved: u64,
    state: WayState,
}

#[derive(Clone, Copy, PartialEq)]
enum WayState {
    Open,
    Unflushed,
    Closing,
    Closed,
}

impl Way {
    fn new() -> Self {
        Self { buffer: None, begin: 0, end: 0, moved: 0, state: WayState::Open }
    }

    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> io::Result<Poll<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURNS {
            if self.begin < self.end {
                if self.poll_write(cx, to)?.is_pending() {
                    self.shrink();
                    return Ok(Poll::Pending);
                }
                continue;
            }
            match self.state {
                WayState::Open | WayState::Unflushed => match self.poll_read(cx, from)? {
                    Poll::Ready(()) => {}
                    Poll::Pending => {
                        if self.state == WayState::Unflushed && Pin::new(&mut *to).poll_flush(cx)?.is_ready() {
                            self.state = WayState::Open;
                        }
                        self.give_back();
                        return Ok(Poll::Pending);
                    }
                },
                WayState::Closing => match Pin::new(&mut *to).poll_shutdown(cx) {
                    Poll::Pending => return Ok(Poll::Pending),
                    // The reader may be gone already; that it cannot be told changes nothing.
                    Poll::Ready(_) => self.state = WayState::Closed,
                },
                WayState::Closed => return Ok(Poll::Ready(())),
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    fn poll_read<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> io::Result<Poll<()>> {
        if self.buffer.as_ref().is_some_and(|buffer| buffer.len() < stock::SIZE) {
            self.buffer = None;
        }
        let space = self.buffer.get_or_insert_with(stock::take);
        let mut buffer = ReadBuf::new(space);
        if Pin::new(from).poll_read(cx, &mut buffer)?.is_pending() {
            return Ok(Poll::Pending);
        }
        (self.begin, self.end) = (0, buffer.filled().len());
        if self.end == 0 {
            self.give_back();
            self.state = WayState::Closing;
        }
        Ok(Poll::Ready(()))
    }

    fn give_back(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            stock::give(buffer);
        }
    }

    /// Little that waits, perhaps for long, needs no large buffer.
    fn shrink(&mut self) {
        if self.end - self.begin + SPARE < stock::SIZE
            && let Some(buffer) = self.buffer.take_if(|buffer| buffer.len() == stock::SIZE)
        {
            self.buffer = buffer.get(self.begin..self.end).map(Box::from);
            (self.begin, self.end) = (0, self.end - self.begin);
            stock::give(buffer);
        }
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> io::Result<Poll<()>> {
        let waiting = self.buffer.as_deref().and_then(|buffer| buffer.get(self.begin..self.end)).unwrap_or_default();
        match Pin::new(to).poll_write(cx, waiting)? {
            Poll::Pending => Ok(Poll::Pending),
            Poll::Ready(0) => Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(written) => {
                self.begin += written;
                self.moved += written as u64;
                self.state = WayState::Unflushed;
                Ok(Poll::Ready(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn half_close_keeps_the_other_way_open() {
        let (mut app, mut client) = duplex(64);
        let (mut server, mut far) = duplex(64);
        let copying = tokio::spawn(async move { copy(&mut client, &mut server, Duration::from_secs(5)).await });
        app.write_all(b"question").await.unwrap();
        app.shutdown().await.unwrap();
        let mut question = String::new();
        far.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        far.write_all(b"late answer").await.unwrap();
        far.shutdown().await.unwrap();
        let mut answer = String::new();
        app.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "late answer");
        let end = copying.await.unwrap();
        assert_eq!((end.sent, end.received), (8, 11));
        assert!(end.result.is_ok());
    }

    #[tokio::test]
    async fn much_in_small_pieces_both_ways() {
        let (mut app, mut client) = duplex(7);
        let (mut server, far) = duplex(5);
        let copying = tokio::spawn(async move { copy(&mut client, &mut server, Duration::from_secs(5)).await });
        let data: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let (mut far_read, mut far_write) = tokio::io::split(far);
        let echo = tokio::spawn(async move {
            tokio::io::copy(&mut far_read, &mut far_write).await.unwrap();
            far_write.shutdown().await.unwrap();
        });
        let (mut read, mut write) = tokio::io::split(&mut app);
        let sent = data.clone();
        let (_, back) = tokio::join!(
            async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            },
            async {
                let mut back = Vec::new();
                read.read_to_end(&mut back).await.unwrap();
                back
            }
        );
        assert_eq!(back, data);
        echo.await.unwrap();
        assert_eq!(copying.await.unwrap().received, 100_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_never_moves_ends() {
        let (_app, mut client) = duplex(64);
        let (mut server, _far) = duplex(64);
        let end = copy(&mut client, &mut server, Duration::from_secs(60)).await;
        assert_eq!(end.result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
