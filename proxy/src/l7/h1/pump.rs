//! Writes the body of an outgoing message: as many ready frames as fit in one write, behind whatever head is queued.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::buffer::WriteBuf;
use super::chunked::{encode_chunk_size, encode_last_chunk};
use super::conn::ConnCell;
use super::encode::WireFraming;

/// Type-erased error of a foreign body.
pub(super) type BoxError = Box<dyn Error + Send + Sync>;

/// Why an outgoing message could not be completed.
#[derive(Debug)]
pub(super) enum PumpError {
    /// The body failed; what was written must not look complete.
    Body(BoxError),
    /// The body had more or fewer bytes than its length.
    Length,
    /// The connection failed.
    Io(io::Error),
}

/// Frames one outgoing body.
#[derive(Debug)]
pub(super) struct BodyEncoder {
    framing: WireFraming,
    remaining: u64,
    trailers: bool,
    done: bool,
}

impl BodyEncoder {
    /// `trailers`: the recipient takes them.
    pub(super) const fn new(framing: WireFraming, trailers: bool) -> Self {
        let remaining = if let WireFraming::Length(length) = framing { length } else { 0 };
        let done = matches!(framing, WireFraming::None | WireFraming::StatedLength | WireFraming::Length(0));
        Self { framing, remaining, trailers, done }
    }

    /// Everything that ends the message is queued.
    pub(super) const fn is_done(&self) -> bool {
        self.done
    }

    /// Queues a frame; `last` if no other follows.
    fn push(&mut self, frame: Frame<Bytes>, last: bool, out: &mut WriteBuf) -> Result<(), PumpError> {
        match frame.into_data() {
            Ok(data) => self.data(data, out)?,
            Err(frame) => {
                if let (WireFraming::Chunked, Ok(trailers)) = (self.framing, frame.into_trailers()) {
                    encode_last_chunk(self.trailers.then_some(trailers), out.tail());
                    self.done = true;
                }
            }
        }
        if last && !self.done { self.finish(out) } else { Ok(()) }
    }

    fn data(&mut self, data: Bytes, out: &mut WriteBuf) -> Result<(), PumpError> {
        match self.framing {
            WireFraming::Length(_) => {
                self.remaining = self.remaining.checked_sub(data.len() as u64).ok_or(PumpError::Length)?;
                self.done = self.remaining == 0;
                out.push(data);
            }
            WireFraming::Chunked if data.is_empty() => {}
            WireFraming::Chunked => {
                encode_chunk_size(data.len(), out.tail());
                out.push(data);
                out.tail().extend_from_slice(b"\r\n");
            }
            WireFraming::UntilClose => out.push(data),
            WireFraming::None | WireFraming::StatedLength => {}
        }
        Ok(())
    }

    /// The body has ended.
    fn finish(&mut self, out: &mut WriteBuf) -> Result<(), PumpError> {
        match self.framing {
            WireFraming::Length(_) if self.remaining > 0 => return Err(PumpError::Length),
            WireFraming::Chunked => encode_last_chunk(None, out.tail()),
            _ => {}
        }
        self.done = true;
        Ok(())
    }

    /// Queues what is ready of `body`; says whether the body must be waited for.
    fn poll_gather<B>(
        &mut self,
        conn: &ConnCell,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Result<bool, PumpError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        while !self.done && !conn.state().wbuf.must_flush() {
            // The body may read from this very connection: its state is not borrowed here.
            match body.as_mut().poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => {
                    let last = body.is_end_stream();
                    self.push(frame, last, &mut conn.state().wbuf)?;
                }
                Poll::Ready(Some(Err(error))) => return Err(PumpError::Body(error.into())),
                Poll::Ready(None) => self.finish(&mut conn.state().wbuf)?,
            }
        }
        Ok(false)
    }

    /// Sends `body` on `conn` until it is complete and flushed.
    pub(super) fn poll_pump<B>(
        &mut self,
        conn: &ConnCell,
        mut body: Pin<&mut B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), PumpError>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        loop {
            let waits = self.poll_gather(conn, body.as_mut(), cx)?;
            ready!(conn.state().poll_flush(cx)).map_err(PumpError::Io)?;
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if waits {
                return Poll::Pending;
            }
        }
    }
}
