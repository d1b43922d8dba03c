//! The frames between two sidecars, to bytes and back. Pure: no IO, no clock.
//!
//! ```text
//! +----------------+----------+------------------+---------
//! | length (24)    | kind (8) | stream (32)      | payload
//! +----------------+----------+------------------+---------
//! ```
//! All numbers are big-endian. The highest bit of the kind ends the sender's half of the stream. Stream 0 is the connection.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a head.
pub const HEAD: usize = 8;
/// Most bytes of a body in one frame: others are not kept waiting longer than that.
pub const MAX_DATA: usize = 16 * 1024;
/// Most bytes of a head of a message, or of trailers.
pub const MAX_FIELDS: usize = 64 * 1024;
/// Code of [`Kind::Data`].
pub const DATA: u8 = 0;
/// Code of [`Kind::Request`].
pub const REQUEST: u8 = 1;
/// Code of [`Kind::Response`].
pub const RESPONSE: u8 = 2;
/// Code of [`Kind::Trailers`].
pub const TRAILERS: u8 = 3;
/// Code of [`Kind::Open`].
pub const OPEN: u8 = 4;
/// Ends the sender's half.
const END: u8 = 0x80;

/// Why the peer's bytes are no frame. The connection is closed: what follows cannot be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that nobody has agreed on.
    #[error("an unknown kind of frame: {0}")]
    Kind(u8),
    /// Longer than its kind may be, or of another length than its kind has.
    #[error("a frame of kind {0} with {1} bytes")]
    Length(u8, usize),
    /// On the connection what belongs to a stream, or the other way round.
    #[error("a frame of kind {0} on stream {1}")]
    Stream(u8, u32),
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a body.
    Data(Bytes),
    /// The head of a request, as `fields` writes it.
    Request(Bytes),
    /// The head of an answer, interim ones too.
    Response(Bytes),
    /// Trailers; they end the sender's half.
    Trailers(Bytes),
    /// A stream of bytes without a head.
    Open,
    /// The stream is over for both sides, and why: a code of HTTP/2 (RFC 9113 section 7).
    Reset(u32),
    /// So many more bytes of bodies may be sent, on the stream or the connection.
    Credit(u32),
    /// To be answered with the same bytes.
    Ping([u8; 8]),
    /// The answer.
    Pong([u8; 8]),
    /// No stream after this one was looked at, and none will be.
    GoAway(u32),
    /// What the sender takes: credit of a new stream, credit of the connection, streams at once.
    Hello {
        /// Credit that each stream begins with.
        stream: u32,
        /// Credit that the connection begins with.
        connection: u32,
        /// Streams at once.
        streams: u32,
    },
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which stream; 0: the connection.
    pub stream: u32,
    /// The sender says nothing more on it.
    pub end: bool,
    /// What it says.
    pub kind: Kind,
}

impl Kind {
    fn code(&self) -> u8 {
        match self {
            Self::Data(_) => DATA,
            Self::Request(_) => REQUEST,
            Self::Response(_) => RESPONSE,
            Self::Trailers(_) => TRAILERS,
            Self::Open => OPEN,
            Self::Reset(_) => 5,
            Self::Credit(_) => 6,
            Self::Ping(_) => 7,
            Self::Pong(_) => 8,
            Self::GoAway(_) => 9,
            Self::Hello { .. } => 10,
        }
    }
}

/// Writes a head; the payload of `length` bytes follows.
pub fn put_head(out: &mut impl BufMut, code: u8, end: bool, stream: u32, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(length << 8 | u32::from(code | if end { END } else { 0 }));
    out.put_u32(stream);
}

impl Frame {
    /// Appends it.
    pub fn put(&self, out: &mut BytesMut) {
        let code = self.kind.code();
        let mut head = |length: usize| put_head(out, code, self.end, self.stream, length);
        match &self.kind {
            Kind::Data(bytes) | Kind::Request(bytes) | Kind::Response(bytes) | Kind::Trailers(bytes) => {
                head(bytes.len());
                out.extend_from_slice(bytes);
            }
            Kind::Open => head(0),
            Kind::Reset(number) | Kind::Credit(number) | Kind::GoAway(number) => {
                head(4);
                out.put_u32(*number);
            }
            Kind::Ping(bytes) | Kind::Pong(bytes) => {
                head(8);
                out.put_slice(bytes);
            }
            Kind::Hello { stream, connection, streams } => {
                head(12);
                out.put_u32(*stream);
                out.put_u32(*connection);
                out.put_u32(*streams);
            }
        }
    }

    /// Takes the first frame off, where it is whole; without a copy of its payload.
    ///
    /// # Errors
    /// [`FrameError`], as soon as the head says so: nothing is waited for that would be refused.
    pub fn take(from: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some(mut head) = from.get(..HEAD) else { return Ok(None) };
        let first = head.get_u32();
        let (length, kind, stream) = ((first >> 8) as usize, first as u8, head.get_u32());
        let (code, end) = (kind & !END, kind & END != 0);
        check(code, end, stream, length)?;
        if from.len() < HEAD + length {
            return Ok(None);
        }
        from.advance(HEAD);
        let mut payload = from.split_to(length).freeze();
        let mut eight = || {
            let mut bytes = [0; 8];
            payload.copy_to_slice(&mut bytes);
            bytes
        };
        let kind = match code {
            DATA => Kind::Data(payload),
            REQUEST => Kind::Request(payload),
            RESPONSE => Kind::Response(payload),
            TRAILERS => Kind::Trailers(payload),
            OPEN => Kind::Open,
            5 => Kind::Reset(payload.get_u32()),
            6 => Kind::Credit(payload.get_u32()),
            7 => Kind::Ping(eight()),
            8 => Kind::Pong(eight()),
            9 => Kind::GoAway(payload.get_u32()),
            10 => Kind::Hello { stream: payload.get_u32(), connection: payload.get_u32(), streams: payload.get_u32() },
            other => return Err(FrameError::Kind(other)),
        };
        Ok(Some(Self { stream, end, kind }))
    }
}

/// What a head may say.
fn check(code: u8, end: bool, stream: u32, length: usize) -> Result<(), FrameError> {
    let fits = match code {
        0 => length <= MAX_DATA,
        1..=3 => length <= MAX_FIELDS,
        4 => length == 0,
        5 | 6 | 9 => length == 4,
        7 | 8 => length == 8,
        10 => length == 12,
        other => return Err(FrameError::Kind(other)),
    };
    if !fits {
        return Err(FrameError::Length(code, length));
    }
    let placed = match code {
        0..=5 => stream != 0,
        6 => true,
        _ => stream == 0,
    };
    // Only what a message is made of can be its end.
    if !placed || (end && code > 3) {
        return Err(FrameError::Stream(code, stream));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bytes(most: usize) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..most).prop_map(Bytes::from)
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let message = (1..u32::MAX, any::<bool>(), 0_u8..4, bytes(300)).prop_map(|(stream, end, code, bytes)| {
            let kind = match code {
                0 => Kind::Data(bytes),
                1 => Kind::Request(bytes),
                2 => Kind::Response(bytes),
                _ => Kind::Trailers(bytes),
            };
            Frame { stream, end, kind }
        });
        let of_stream = (1..u32::MAX, prop_oneof![Just(Kind::Open), any::<u32>().prop_map(Kind::Reset)]);
        let credit = (any::<u32>(), any::<u32>().prop_map(Kind::Credit));
        let of_connection = prop_oneof![
            any::<[u8; 8]>().prop_map(Kind::Ping),
            any::<[u8; 8]>().prop_map(Kind::Pong),
            any::<u32>().prop_map(Kind::GoAway),
            any::<[u32; 3]>().prop_map(|[stream, connection, streams]| Kind::Hello { stream, connection, streams }),
        ];
        let plain = |(stream, kind)| Frame { stream, end: false, kind };
        prop_oneof![
            message,
            of_stream.prop_map(plain),
            credit.prop_map(plain),
            of_connection.prop_map(move |kind| plain((0, kind)))
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_arrives(frames in vec(frame(), 0..8), cut in 1_usize..40) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                frame.put(&mut wire);
            }
            let (mut arrived, mut read) = (BytesMut::new(), Vec::new());
            for part in wire.chunks(cut) {
                arrived.extend_from_slice(part);
                while let Some(frame) = Frame::take(&mut arrived).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert!(arrived.is_empty());
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in vec(any::<u8>(), 0..200)) {
            let mut from = BytesMut::from(&bytes[..]);
            let mut left = from.len();
            while let Ok(Some(frame)) = Frame::take(&mut from) {
                // It takes something each time, and is itself when it is written.
                prop_assert!(from.len() < left);
                left = from.len();
                let mut again = BytesMut::new();
                frame.put(&mut again);
                prop_assert_eq!(Frame::take(&mut again).unwrap(), Some(frame));
            }
        }
    }

    #[test]
    fn a_head_is_refused_before_its_payload_is_there() {
        let head = |code: u8, end: bool, stream: u32, length: usize| {
            let mut bytes = BytesMut::new();
            put_head(&mut bytes, code, end, stream, length);
            Frame::take(&mut bytes)
        };
        assert_eq!(head(0, false, 1, MAX_DATA + 1), Err(FrameError::Length(0, MAX_DATA + 1)));
        assert_eq!(head(1, false, 1, MAX_FIELDS + 1), Err(FrameError::Length(1, MAX_FIELDS + 1)));
        assert_eq!(head(11, false, 1, 0), Err(FrameError::Kind(11)));
        assert_eq!(head(0, false, 0, 5), Err(FrameError::Stream(0, 0)));
        assert_eq!(head(7, false, 3, 8), Err(FrameError::Stream(7, 3)));
        assert_eq!(head(5, true, 3, 4), Err(FrameError::Stream(5, 3)));
        assert_eq!(head(6, false, 0, 5), Err(FrameError::Length(6, 5)));
        assert_eq!(head(0, true, 1, 10), Ok(None));
    }
}
