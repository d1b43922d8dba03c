//! Buffers: per-thread stocks of reusable memory, and the write buffer that turns a head, a body and its
//! framing into one write.
//!
//! A connection holds read or write memory only while bytes are in it; waiting connections hold none.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use tokio::io::AsyncWrite;

/// Size of a fresh read buffer: one head and a common body in one read.
pub(super) const READ_SIZE: usize = 16 * 1024;
/// Upper end of the read size, reached when reads keep filling the buffer.
pub(super) const READ_SIZE_MAX: usize = 64 * 1024;
/// Below this much room a read would be split needlessly.
const READ_ROOM_MIN: usize = 4 * 1024;
/// Bytes in the write buffer at which body frames are no longer gathered.
const WRITE_HIGH: usize = 32 * 1024;
/// Body frames up to this size are copied behind the head; larger ones are written from where they are.
const COPY_MAX: usize = 8 * 1024;
/// Memory that grew beyond this is freed, not stocked.
const STOCK_CAPACITY_MAX: usize = 64 * 1024;
/// Buffers, and maps, kept per thread.
const STOCK_MAX: usize = 32;
/// Header maps that grew beyond this are freed, not stocked.
const STOCK_MAP_MAX: usize = 128;

thread_local! {
    static STOCK: RefCell<Stock> = const { RefCell::new(Stock { read: Vec::new(), write: Vec::new(), maps: Vec::new() }) };
}

struct Stock {
    read: Vec<BytesMut>,
    write: Vec<Vec<u8>>,
    maps: Vec<HeaderMap>,
}

/// Makes room for one read of about `size` bytes, with stocked memory if the buffer has none.
pub(super) fn make_room(buf: &mut BytesMut, size: usize) {
    if buf.capacity() == 0
        && let Some(stocked) = STOCK.with_borrow_mut(|stock| stock.read.pop())
    {
        *buf = stocked;
    }
    // A connection that moves bulk is not content with a small remainder.
    let least = if size > READ_SIZE { size / 2 } else { READ_ROOM_MIN };
    if buf.capacity() - buf.len() < least {
        buf.reserve(size.saturating_sub(buf.len()).max(least));
    }
}

/// Gives an empty read buffer back to the stock.
pub(super) fn give_back(buf: &mut BytesMut) {
    if buf.is_empty() && buf.capacity() > 0 {
        let buf = std::mem::take(buf);
        if buf.capacity() <= STOCK_CAPACITY_MAX {
            STOCK.with_borrow_mut(|stock| {
                if stock.read.len() < STOCK_MAX {
                    stock.read.push(buf);
                }
            });
        }
    }
}

/// An empty header map with room for `fields`, from the stock if there is one.
pub(in crate::l7) fn take_map(fields: usize) -> HeaderMap {
    STOCK.with_borrow_mut(|stock| stock.maps.pop()).unwrap_or_else(|| HeaderMap::with_capacity(fields))
}

/// Stocks the memory of a header map that has been written.
pub(crate) fn give_back_map(mut map: HeaderMap) {
    if map.capacity() > 0 && map.capacity() <= STOCK_MAP_MAX {
        map.clear();
        STOCK.with_borrow_mut(|stock| {
            if stock.maps.len() < STOCK_MAX {
                stock.maps.push(map);
            }
        });
    }
}

/// What waits to be written: small things copied together in `front`, then at most one large body frame, then
/// what follows that frame.
#[derive(Default)]
pub(super) struct WriteBuf {
    front: Vec<u8>,
    written: usize,
    large: Bytes,
    back: Vec<u8>,
    unflushed: bool,
}

impl WriteBuf {
    /// Nothing is waiting.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that are waiting.
    pub(super) fn len(&self) -> usize {
        self.front.len() - self.written + self.large.len() + self.back.len()
    }

    /// No more should be gathered before a flush.
    pub(super) fn must_flush(&self) -> bool {
        !self.large.is_empty() || self.len() >= WRITE_HIGH
    }

    /// Where heads, framing and small frames are appended.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        if self.large.is_empty() {
            if self.front.capacity() == 0
                && let Some(stocked) = STOCK.with_borrow_mut(|stock| stock.write.pop())
            {
                self.front = stocked;
            }
            &mut self.front
        } else {
            &mut self.back
        }
    }

    /// Appends body data, without a copy if it is large.
    pub(super) fn push(&mut self, data: Bytes) {
        if data.len() <= COPY_MAX || !self.large.is_empty() {
            self.tail().extend_from_slice(&data);
        } else {
            self.large = data;
        }
    }

    /// Writes until nothing waits, then flushes. `progress` is set whenever bytes were accepted.
    pub(super) fn poll_flush<W: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        io: &mut W,
        cx: &mut Context<'_>,
        progress: &mut bool,
    ) -> Poll<io::Result<()>> {
        if self.is_empty() && !self.unflushed {
            return Poll::Ready(Ok(()));
        }
        while !self.is_empty() {
            let n = ready!(self.poll_write(&mut *io, cx))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *progress = true;
            self.unflushed = true;
            self.advance(n);
        }
        self.give_back();
        // A layer below, TLS, may still hold what it accepted.
        ready!(Pin::new(io).poll_flush(cx))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin + ?Sized>(&self, io: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let front = self.front.get(self.written..).unwrap_or_default();
        if self.large.is_empty() && self.back.is_empty() {
            return Pin::new(io).poll_write(cx, front);
        }
        if io.is_write_vectored() {
            let slices = [io::IoSlice::new(front), io::IoSlice::new(&self.large), io::IoSlice::new(&self.back)];
            let slices = if front.is_empty() { &slices[1..] } else { &slices[..] };
            return Pin::new(io).poll_write_vectored(cx, slices);
        }
        let first = [front, &self.large, &self.back].into_iter().find(|slice| !slice.is_empty());
        Pin::new(io).poll_write(cx, first.unwrap_or_default())
    }

    fn advance(&mut self, mut n: usize) {
        let front = n.min(self.front.len() - self.written);
        self.written += front;
        n -= front;
        let large = n.min(self.large.len());
        self.large.advance(large);
        n -= large;
        if n > 0 {
            self.back.drain(..n);
        }
        if self.written == self.front.len() && self.large.is_empty() {
            self.front.clear();
            self.written = 0;
            self.large = Bytes::new();
            std::mem::swap(&mut self.front, &mut self.back);
        }
    }

    fn give_back(&mut self) {
        for buf in [&mut self.front, &mut self.back] {
            let mut buf = std::mem::take(buf);
            if buf.capacity() > 0 && buf.capacity() <= STOCK_CAPACITY_MAX {
                buf.clear();
                STOCK.with_borrow_mut(|stock| {
                    if stock.write.len() < STOCK_MAX {
                        stock.write.push(buf);
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    struct Trickle {
        out: Vec<u8>,
        step: usize,
        vectored: bool,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let n = self.step.min(buf.len());
            self.out.extend_from_slice(&buf[..n]);
            Poll::Ready(Ok(n))
        }
        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[io::IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).take(self.step).collect();
            self.out.extend_from_slice(&all);
            Poll::Ready(Ok(all.len()))
        }
        fn is_write_vectored(&self) -> bool {
            self.vectored
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn writes_everything_in_order_at_any_step() {
        let large = Bytes::from(vec![b'x'; COPY_MAX + 1]);
        for vectored in [true, false] {
            for step in [1, 3, 7, 1000, 100_000] {
                let mut buf = WriteBuf::default();
                buf.tail().extend_from_slice(b"head");
                buf.push(Bytes::from_static(b"small"));
                buf.push(large.clone());
                buf.tail().extend_from_slice(b"tail");
                assert!(buf.must_flush());
                let mut io = Trickle { out: Vec::new(), step, vectored };
                let mut cx = Context::from_waker(Waker::noop());
                let mut progress = false;
                assert!(buf.poll_flush(&mut io, &mut cx, &mut progress).is_ready());
                assert!(progress && buf.is_empty());
                let expected = [b"headsmall", &large[..], b"tail"].concat();
                assert_eq!(io.out, expected);
            }
        }
    }

    #[test]
    fn read_memory_is_reused_and_not_held() {
        let mut buf = BytesMut::new();
        make_room(&mut buf, READ_SIZE);
        let at = buf.as_ptr();
        give_back(&mut buf);
        assert_eq!(buf.capacity(), 0);
        make_room(&mut buf, READ_SIZE);
        assert_eq!(buf.as_ptr(), at);
        // A held slice keeps its own bytes: the next room is elsewhere.
        buf.extend_from_slice(&[1; READ_SIZE]);
        let held = buf.split().freeze();
        make_room(&mut buf, READ_SIZE);
        buf.extend_from_slice(&[2; 64]);
        assert!(held.iter().all(|&b| b == 1));
    }
}
