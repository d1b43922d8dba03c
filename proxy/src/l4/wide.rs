//! A connection that is read in few calls, whoever reads from it in small pieces: TLS asks for four KiB at a time.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stock;

/// Yields bytes that were read before, then what the connection yields.
#[derive(Debug)]
pub struct Wide<IO> {
    before: Bytes,
    /// Read and not yet asked for: a part of a buffer.
    ahead: Option<(Box<[u8]>, usize, usize)>,
    io: IO,
}

impl<IO> Wide<IO> {
    /// Puts `before` in front of `io`.
    #[must_use]
    pub fn new(before: Bytes, io: IO) -> Self {
        Self { before, ahead: None, io }
    }

    /// The connection beneath.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        &self.io
    }

    /// Gives what is there; false where nothing is.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if !self.before.is_empty() {
            let some = self.before.len().min(buf.remaining());
            buf.put_slice(self.before.get(..some).unwrap_or_default());
            self.before.advance(some);
            return true;
        }
        let Some((buffer, begin, end)) = self.ahead.take() else { return false };
        let some = (end - begin).min(buf.remaining());
        buf.put_slice(buffer.get(begin..begin + some).unwrap_or_default());
        if begin + some < end {
            self.ahead = Some((buffer, begin + some, end));
        } else {
            stock::give(buffer);
        }
        true
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wide<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.give(buf) {
            return Poll::Ready(Ok(()));
        }
        if buf.remaining() >= stock::SIZE {
            return Pin::new(&mut self.io).poll_read(cx, buf);
        }
        let mut buffer = stock::take();
        let mut reading = ReadBuf::new(&mut buffer);
        let polled = Pin::new(&mut self.io).poll_read(cx, &mut reading);
        let read = reading.filled().len();
        if read == 0 {
            stock::give(buffer);
            return polled;
        }
        self.ahead = Some((buffer, 0, read));
        self.give(buf);
        polled
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wide<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn small_reads_get_all_of_it_in_order() {
        let (mut far, near) = duplex(200_000);
        let mut wide = Wide::new(Bytes::from_static(b"before"), near);
        let sent: Vec<u8> = (0..150_000_u32).map(|at| (at % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        far.shutdown().await.unwrap();
        let mut read = Vec::new();
        let mut piece = [0; 4096];
        loop {
            match wide.read(&mut piece).await.unwrap() {
                0 => break,
                some => read.extend_from_slice(&piece[..some]),
            }
        }
        assert_eq!((&read[..6], read[6..] == sent), (&b"before"[..], true));
        assert!(wide.ahead.is_none());
    }
}
