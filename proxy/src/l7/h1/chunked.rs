//! The chunked transfer coding (RFC 9112 §7.1): a strict, incremental decoder and the encoder.
//!
//! Stricter than the grammar: no white space around the size, no more than 16 digits, extensions only of visible
//! characters and at most [`EXTENSION_MAX`] bytes a body. Extensions are dropped, as a recipient may.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{self, HeaderName};

use super::fields::parse_fields;
use super::reason::Reason;
use super::scan::find_lf;

/// Bytes of chunk extensions that one body may carry.
pub const EXTENSION_MAX: usize = 16 * 1024;
/// Bytes of a trailer section.
pub const TRAILER_MAX: usize = 16 * 1024;
/// Fields of a trailer section.
pub const TRAILER_FIELDS_MAX: usize = 100;

/// What one call of a decoder found.
#[derive(Debug)]
pub enum Step {
    /// Body bytes, never empty; they share the read buffer.
    Data(Bytes),
    /// The trailer section, already without the fields that may not come in it. The body ends after it.
    Trailers(HeaderMap),
    /// The body has ended.
    End,
    /// More bytes are needed.
    More,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the size; so many digits have been read.
    Size(u8),
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// In the trailer section; so many of its bytes have been looked at, and its last line begins there.
    Trailers {
        scanned: usize,
        line: usize,
    },
    Done,
}

/// Decodes one chunked body.
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    remaining: u64,
    extension: usize,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self { state: State::Size(0), remaining: 0, extension: 0 }
    }
}

impl ChunkedDecoder {
    /// Takes from the front of `buf` what belongs to the body.
    ///
    /// # Errors
    /// The bytes are not a chunked body, or a limit is exceeded. The decoder must not be used afterwards.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Step, Reason> {
        loop {
            match self.state {
                State::Done => return Ok(Step::End),
                State::Data => {
                    let take = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(buf.len());
                    if take == 0 {
                        return Ok(Step::More);
                    }
                    self.remaining -= take as u64;
                    if self.remaining == 0 {
                        self.state = State::DataCr;
                    }
                    return Ok(Step::Data(buf.split_to(take).freeze()));
                }
                State::Trailers { scanned, line } => return self.trailers(buf, scanned, line),
                _ => {
                    if buf.is_empty() {
                        return Ok(Step::More);
                    }
                    self.line(buf)?;
                }
            }
        }
    }

    /// Consumes framing bytes until data or the trailer section begins or `buf` is used up.
    fn line(&mut self, buf: &mut BytesMut) -> Result<(), Reason> {
        let mut used = 0;
        for &byte in buf.iter() {
            used += 1;
            self.state = self.framing_byte(byte)?;
            if matches!(self.state, State::Data | State::Trailers { .. }) {
                break;
            }
        }
        buf.advance(used);
        Ok(())
    }

    fn framing_byte(&mut self, byte: u8) -> Result<State, Reason> {
        match (self.state, byte) {
            (State::Size(digits), _) if byte.is_ascii_hexdigit() => {
                if digits >= 16 {
                    return Err(Reason::ChunkSize);
                }
                let value = char::from(byte).to_digit(16).ok_or(Reason::ChunkSize)?;
                self.remaining = self.remaining << 4 | u64::from(value);
                Ok(State::Size(digits + 1))
            }
            (State::Size(1..), b'\r') => Ok(State::SizeLf),
            (State::Size(1..), b';') => Ok(State::Extension),
            (State::Size(_), _) => Err(Reason::ChunkSize),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, b'\t' | 0x20..=0x7e | 0x80..) => {
                self.extension += 1;
                if self.extension > EXTENSION_MAX { Err(Reason::ChunkExtension) } else { Ok(State::Extension) }
            }
            (State::Extension, _) => Err(Reason::ChunkExtension),
            (State::SizeLf, b'\n') if self.remaining == 0 => Ok(State::Trailers { scanned: 0, line: 0 }),
            // A size that no buffer or counter holds is an attack on someone's arithmetic.
            (State::SizeLf, b'\n') if self.remaining > i64::MAX as u64 => Err(Reason::ChunkSize),
            (State::SizeLf, b'\n') => Ok(State::Data),
            (State::SizeLf, _) => Err(Reason::ChunkExtension),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            _ => Err(Reason::ChunkEnd),
        }
    }

    fn trailers(&mut self, buf: &mut BytesMut, mut scanned: usize, mut line: usize) -> Result<Step, Reason> {
        while let Some(offset) = find_lf(buf.get(scanned..).unwrap_or_default()) {
            let lf = scanned + offset;
            if lf == line || buf.get(lf - 1) != Some(&b'\r') {
                return Err(Reason::Trailer);
            }
            if lf >= TRAILER_MAX {
                return Err(Reason::TrailerTooLarge);
            }
            scanned = lf + 1;
            if lf == line + 1 {
                self.state = State::Done;
                return finish_trailers(buf, scanned);
            }
            line = scanned;
        }
        if buf.len() >= TRAILER_MAX {
            return Err(Reason::TrailerTooLarge);
        }
        self.state = State::Trailers { scanned: buf.len(), line };
        Ok(Step::More)
    }
}

/// Takes the trailer section, `end` bytes with its empty line, out of `buf`.
fn finish_trailers(buf: &mut BytesMut, end: usize) -> Result<Step, Reason> {
    if end == 2 {
        buf.advance(2);
        return Ok(Step::End);
    }
    let section = buf.split_to(end).freeze();
    let (mut map, _) = parse_fields(&section, 0, TRAILER_FIELDS_MAX).map_err(|reason| match reason {
        Reason::TooManyHeaders => Reason::TrailerTooLarge,
        _ => Reason::Trailer,
    })?;
    drop_forbidden(&mut map);
    Ok(if map.is_empty() { Step::End } else { Step::Trailers(map) })
}

/// Fields that frame, route, authenticate, modify a request or describe content may not come late
/// (RFC 9110 §6.5.1).
const FORBIDDEN: [HeaderName; 29] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::EXPECT,
    header::HOST,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::LOCATION,
    header::MAX_FORWARDS,
    header::PRAGMA,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::RANGE,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::VARY,
    header::WWW_AUTHENTICATE,
];

/// Removes what may not stand in a trailer section.
pub(super) fn drop_forbidden(map: &mut HeaderMap) {
    for name in &FORBIDDEN {
        map.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        map.remove(name);
    }
}

/// Appends `len` as a chunk-size line.
pub(super) fn encode_chunk_size(len: usize, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut line = [0_u8; 18];
    line[16] = b'\r';
    line[17] = b'\n';
    let (mut at, mut rest) = (16, len);
    loop {
        at -= 1;
        line[at] = DIGITS[rest & 0xf];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&line[at..]);
}

/// Appends one chunk. Empty data appends nothing: an empty chunk would end the body.
pub fn encode_chunk(data: &[u8], out: &mut Vec<u8>) {
    if !data.is_empty() {
        encode_chunk_size(data.len(), out);
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the last chunk and the trailer section, without the fields that may not come in it.
pub fn encode_last_chunk(trailers: Option<HeaderMap>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(mut trailers) = trailers {
        drop_forbidden(&mut trailers);
        for (name, value) in &trailers {
            super::encode::field(name.as_str().as_bytes(), value.as_bytes(), out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
