//! Field lines (RFC 9112 §5): `name ":" OWS value OWS CRLF`, shared by heads and trailers.

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};

use super::buffer::take_map;
use super::reason::Reason;
use super::scan::{find_lf, trim_ows};

/// How often the fields occurred that framing depends on, so that absent ones cost no look-up.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) content_length: u8,
    pub(super) transfer_encoding: u8,
    pub(super) host: u8,
    pub(super) connection: bool,
    pub(super) upgrade: bool,
    pub(super) expect: u8,
    pub(super) te: bool,
}

impl Seen {
    fn note(&mut self, name: &HeaderName) {
        let count = match name {
            n if *n == HOST => &mut self.host,
            n if *n == CONTENT_LENGTH => &mut self.content_length,
            n if *n == TRANSFER_ENCODING => &mut self.transfer_encoding,
            n if *n == EXPECT => &mut self.expect,
            n if *n == CONNECTION => return self.connection = true,
            n if *n == UPGRADE => return self.upgrade = true,
            n if *n == TE => return self.te = true,
            _ => return,
        };
        *count = count.saturating_add(1);
    }
}

/// Names that some servers read as a framing field, because they fold `_` and `-` together.
fn is_framing_twin(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.as_bytes().contains(&b'_')
        && matches!(
            name.as_bytes(),
            b"content_length" | b"transfer_encoding" | b"proxy_connection" | b"keep_alive" | b"http2_settings"
        )
}

/// Parses field lines up to the empty line that ends them. `from` is where the first line starts in `section`,
/// which ends with that empty line and in which every LF follows a CR.
pub(super) fn parse_fields(section: &Bytes, from: usize, max_fields: usize) -> Result<(HeaderMap, Seen), Reason> {
    let mut map = take_map(16);
    let mut seen = Seen::default();
    let mut at = from;
    let mut count = 0;
    while let Some(lf) = find_lf(section.get(at..).unwrap_or_default()) {
        // The CR before the LF was checked when the section was delimited.
        let line = at..at + lf.saturating_sub(1);
        if line.is_empty() {
            break;
        }
        count += 1;
        if count > max_fields {
            return Err(Reason::TooManyHeaders);
        }
        let (name, value) = parse_line(section, line)?;
        seen.note(&name);
        if !is_framing_twin(&name) {
            map.try_append(name, value).map_err(|_| Reason::TooManyHeaders)?;
        }
        at += lf + 1;
    }
    Ok((map, seen))
}

fn parse_line(section: &Bytes, line: std::ops::Range<usize>) -> Result<(HeaderName, HeaderValue), Reason> {
    let start = line.start;
    let bytes = section.get(line).unwrap_or_default();
    if matches!(bytes.first(), Some(b' ' | b'\t')) {
        return Err(Reason::ObsFold);
    }
    let colon = bytes.iter().position(|&b| b == b':').ok_or(Reason::HeaderName)?;
    let (name, rest) = bytes.split_at(colon);
    // Refuses an empty name, white space before the colon, and whatever is not a token.
    let name = HeaderName::from_bytes(name).map_err(|_| Reason::HeaderName)?;
    let value = trim_ows(&rest[1..]);
    let value = if value.is_empty() {
        HeaderValue::from_static("")
    } else {
        let leading = rest[1..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
        let from = start + colon + 1 + leading;
        // Shares the read buffer; refuses control characters, CR among them.
        HeaderValue::from_maybe_shared(section.slice(from..from + value.len())).map_err(|_| Reason::HeaderValue)?
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<(HeaderMap, Seen), Reason> {
        parse_fields(&Bytes::copy_from_slice(text.as_bytes()), 0, 100)
    }

    #[test]
    fn values_are_trimmed_and_names_lowered() {
        let (map, seen) = parse("Host:a\r\nX-A: \t b c \t\r\nx-a:\r\nX-Obs: \u{e9}\r\n\r\n").unwrap();
        assert_eq!(map["host"], "a");
        let all: Vec<_> = map.get_all("x-a").iter().collect();
        assert_eq!(all, ["b c", ""]);
        assert_eq!(map["x-obs"].as_bytes(), "\u{e9}".as_bytes());
        assert_eq!(seen, Seen { host: 1, ..Seen::default() });
    }

    #[test]
    fn exactly_the_token_characters_make_a_name() {
        for b in 0..=255_u8 {
            let mut line = vec![b'x', b, b':', b'v', b'\r', b'\n', b'\r', b'\n'];
            if b == b':' || b == b'\n' || b == b'\r' {
                continue;
            }
            let token = b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            assert_eq!(parse_fields(&Bytes::from(line.clone()), 0, 9).is_ok(), token, "{b:#x}");
            line.insert(3, b);
            line[1] = b'x';
            let text = matches!(b, b'\t' | 0x20..=0x7e | 0x80..);
            assert_eq!(parse_fields(&Bytes::from(line), 0, 9).is_ok(), text, "{b:#x}");
        }
    }

    #[test]
    fn twins_of_framing_fields_are_dropped_and_others_kept() {
        let (map, seen) = parse("content_length: 5\r\nTransfer_Encoding: x\r\nmy_id: 1\r\n\r\n").unwrap();
        assert_eq!(map.len(), 1);
        assert_eq!(map["my_id"], "1");
        assert_eq!(seen, Seen::default());
    }
}
