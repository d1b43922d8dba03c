//! Turns buffered bytes into body frames, one frame ahead, so that the end of a body is known with its last frame.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::chunked::{ChunkedDecoder, Step};
use super::framing::BodyLength;
use super::reason::Reason;

#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

#[derive(Debug)]
enum Ahead {
    Nothing,
    Data(Bytes),
    Trailers(HeaderMap),
    Malformed(Reason),
}

impl Ahead {
    const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn len(&self) -> u64 {
        match self {
            Self::Data(data) => data.len() as u64,
            _ => 0,
        }
    }
}

/// The body of one incoming message.
#[derive(Debug)]
pub(super) struct BodyDecoder {
    decoder: Decoder,
    /// The next frame.
    first: Ahead,
    /// The frame after it; only filled behind data.
    second: Ahead,
    /// Nothing of the body is left but what is ahead.
    ended: bool,
}

impl Default for BodyDecoder {
    fn default() -> Self {
        Self::new(BodyLength::Empty)
    }
}

impl BodyDecoder {
    pub(super) fn new(length: BodyLength) -> Self {
        let (decoder, ended) = match length {
            BodyLength::Empty => (Decoder::Length(0), true),
            BodyLength::Exact(n) => (Decoder::Length(n), false),
            BodyLength::Chunked => (Decoder::Chunked(ChunkedDecoder::default()), false),
            BodyLength::UntilClose => (Decoder::UntilClose, false),
        };
        Self { decoder, first: Ahead::Nothing, second: Ahead::Nothing, ended }
    }

    /// Looks at what is buffered; must follow every change of the buffer. `eof`: nothing will follow it.
    pub(super) fn advance(&mut self, buf: &mut BytesMut, eof: bool) {
        if self.first.is_nothing() {
            self.first = self.look(buf, eof);
        }
        if self.second.is_nothing() && matches!(self.first, Ahead::Data(_)) {
            self.second = self.look(buf, eof);
        }
    }

    fn look(&mut self, buf: &mut BytesMut, eof: bool) -> Ahead {
        if self.ended {
            return Ahead::Nothing;
        }
        let step = match &mut self.decoder {
            Decoder::Length(remaining) => {
                let take = usize::try_from(*remaining).unwrap_or(usize::MAX).min(buf.len());
                *remaining -= take as u64;
                self.ended = *remaining == 0;
                if take == 0 { Ok(Step::More) } else { Ok(Step::Data(buf.split_to(take).freeze())) }
            }
            Decoder::UntilClose if buf.is_empty() => Ok(if eof { Step::End } else { Step::More }),
            Decoder::UntilClose => Ok(Step::Data(buf.split().freeze())),
            Decoder::Chunked(decoder) => decoder.decode(buf),
        };
        match step {
            Ok(Step::Data(data)) => Ahead::Data(data),
            Ok(Step::Trailers(map)) => {
                self.ended = true;
                Ahead::Trailers(map)
            }
            Ok(Step::End) => {
                self.ended = true;
                Ahead::Nothing
            }
            Ok(Step::More) if eof => Ahead::Malformed(Reason::Truncated),
            Ok(Step::More) => Ahead::Nothing,
            Err(reason) => Ahead::Malformed(reason),
        }
    }

    /// The next frame, if one is there, and looks ahead again.
    pub(super) fn next(&mut self, buf: &mut BytesMut, eof: bool) -> Option<Result<Frame<Bytes>, Reason>> {
        let second = std::mem::replace(&mut self.second, Ahead::Nothing);
        let frame = match std::mem::replace(&mut self.first, second) {
            Ahead::Nothing => return None,
            Ahead::Data(data) => Frame::data(data),
            Ahead::Trailers(map) => Frame::trailers(map),
            Ahead::Malformed(reason) => {
                self.first = Ahead::Malformed(reason);
                return Some(Err(reason));
            }
        };
        self.advance(buf, eof);
        Some(Ok(frame))
    }

    /// Every byte of the body has left the connection's buffer, well-formed; frames may still be ahead.
    pub(super) const fn is_received(&self) -> bool {
        self.ended
    }

    /// No frame will follow.
    pub(super) const fn is_end(&self) -> bool {
        self.ended && self.first.is_nothing()
    }

    /// What is known to be malformed already.
    pub(super) const fn malformed(&self) -> Option<Reason> {
        match (&self.first, &self.second) {
            (Ahead::Malformed(reason), _) | (_, Ahead::Malformed(reason)) => Some(*reason),
            _ => None,
        }
    }

    /// Takes the whole body out if it consists of one data frame that is there, or of none.
    pub(super) fn take_whole(&mut self) -> Option<Bytes> {
        if !self.ended || !self.second.is_nothing() {
            return None;
        }
        match std::mem::replace(&mut self.first, Ahead::Nothing) {
            Ahead::Nothing => Some(Bytes::new()),
            Ahead::Data(data) => Some(data),
            other => {
                self.first = other;
                None
            }
        }
    }

    /// Bytes that are still to come, as far as framing tells.
    pub(super) fn size_hint(&self) -> SizeHint {
        let ahead = self.first.len() + self.second.len();
        // With an exact size nobody would expect trailers behind the data.
        let trailers = matches!(self.first, Ahead::Trailers(_)) || matches!(self.second, Ahead::Trailers(_));
        match self.decoder {
            Decoder::Length(remaining) => SizeHint::with_exact(ahead.saturating_add(remaining)),
            _ if self.ended && !trailers => SizeHint::with_exact(ahead),
            _ => {
                let mut hint = SizeHint::new();
                hint.set_lower(ahead);
                hint
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffered_chunked_body_is_whole() {
        let mut buf = BytesMut::from(&b"3\r\nabc\r\n0\r\n\r\nrest"[..]);
        let mut body = BodyDecoder::new(BodyLength::Chunked);
        body.advance(&mut buf, false);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert_eq!(&body.take_whole().unwrap()[..], b"abc");
        assert!(body.is_end());
        assert_eq!(&buf[..], b"rest");
    }

    #[test]
    fn what_is_malformed_behind_the_first_chunk_is_known_at_once() {
        let mut buf = BytesMut::from(&b"3\r\nabc\r\nZZZ\r\n"[..]);
        let mut body = BodyDecoder::new(BodyLength::Chunked);
        body.advance(&mut buf, false);
        assert_eq!(body.malformed(), Some(Reason::ChunkSize));
        assert!(body.take_whole().is_none());
        assert!(body.next(&mut buf, false).unwrap().is_ok());
        assert_eq!(body.next(&mut buf, false).unwrap().unwrap_err(), Reason::ChunkSize);
    }

    #[test]
    fn the_last_frame_of_a_length_is_known() {
        let mut buf = BytesMut::from(&b"abcde"[..]);
        let mut body = BodyDecoder::new(BodyLength::Exact(3));
        assert_eq!(body.size_hint().exact(), Some(3));
        body.advance(&mut buf, false);
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(body.is_received() && !body.is_end());
        assert_eq!(&body.take_whole().unwrap()[..], b"abc");
        assert!(body.is_end());
    }

    #[test]
    fn an_early_end_is_malformed_for_good() {
        let mut buf = BytesMut::from(&b"ab"[..]);
        let mut body = BodyDecoder::new(BodyLength::Exact(3));
        body.advance(&mut buf, true);
        assert!(body.next(&mut buf, true).unwrap().is_ok());
        for _ in 0..2 {
            assert_eq!(body.next(&mut buf, true).unwrap().unwrap_err(), Reason::Truncated);
        }
        assert!(!body.is_end());
    }
}
