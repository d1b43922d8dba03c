//! Paths: what may stand on the wire, and the text that rules are held against.

use super::Refusal;

/// What a byte of a target asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Nothing.
    Plain,
    /// A closer look at the path: `%`, `;`.
    Special,
    /// `/`: a closer look where `/` or `.` follows.
    Slash,
    /// `.`: a closer look after `/`.
    Dot,
    /// Refusal.
    Bad,
}

/// Visible ASCII, without what no URI may hold and what splits a path for some servers.
const CLASSES: [Class; 256] = {
    let mut table = [Class::Bad; 256];
    let mut b = 0x21;
    while b < 0x7f {
        table[b] = match b as u8 {
            b'#' | b'\\' | b'"' | b'<' | b'>' | b'^' | b'`' => Class::Bad,
            b'%' | b';' => Class::Special,
            b'/' => Class::Slash,
            b'.' => Class::Dot,
            _ => Class::Plain,
        };
        b += 1;
    }
    table
};

/// The outcome of [`check`].
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Checked {
    /// Path and query to send, where they are not the ones that came.
    pub(super) wire: Option<String>,
    /// Path to match, where it is not the one on the wire.
    pub(super) matching: Option<Box<str>>,
}

/// Refuses bytes that no target may have.
pub(super) fn check_bytes(target: &[u8]) -> Result<(), Refusal> {
    let path_len = target.iter().position(|b| *b == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(path_len);
    match path.iter().find(|b| CLASSES[usize::from(**b)] == Class::Bad) {
        None => check_query(query),
        Some(b'#') => Err(Refusal::Fragment),
        Some(b'\\') => Err(Refusal::Separator),
        Some(_) => Err(Refusal::Target),
    }
}

/// A `\` splits no query.
fn check_query(query: &[u8]) -> Result<(), Refusal> {
    match query.iter().find(|b| CLASSES[usize::from(**b)] == Class::Bad && **b != b'\\') {
        None => Ok(()),
        Some(b'#') => Err(Refusal::Fragment),
        Some(_) => Err(Refusal::Target),
    }
}

/// Checks an origin-form path and its query. One scan finds nothing to do for nearly every request.
pub(super) fn check(path: &str, query: Option<&str>) -> Result<Checked, Refusal> {
    if !path.starts_with('/') {
        return Err(Refusal::Target);
    }
    let mut plain = true;
    let mut after_slash = false;
    for b in path.bytes() {
        let class = CLASSES[usize::from(b)];
        match class {
            Class::Plain => {}
            Class::Special => plain = false,
            Class::Slash | Class::Dot => plain &= !after_slash,
            Class::Bad => check_bytes(path.as_bytes())?,
        }
        after_slash = class == Class::Slash;
    }
    if let Some(query) = query {
        check_query(query.as_bytes())?;
    }
    if plain { Ok(Checked::default()) } else { look_closer(path, query) }
}

fn look_closer(path: &str, query: Option<&str>) -> Result<Checked, Refusal> {
    let mut wire = Vec::with_capacity(path.len() + query.map_or(0, |query| query.len() + 1));
    let mut matching = Matching::new(path.len());
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = decode(segment.as_bytes(), &mut wire)?;
        matching.push(&name, segment, segments.peek().is_none())?;
    }
    let matching = matching.finish()?;
    let changed = wire != path.as_bytes();
    let wire = if changed {
        if let Some(query) = query {
            wire.push(b'?');
            wire.extend_from_slice(query.as_bytes());
        }
        Some(String::from_utf8(wire).map_err(|_| Refusal::Target)?)
    } else {
        None
    };
    // What is sent and what is matched are often equal again: `/.well-known`.
    let sent = if changed { wire.as_deref().and_then(|text| text.split('?').next()) } else { Some(path) };
    let matching = (sent != Some(matching.as_str())).then(|| matching.into_boxed_str());
    Ok(Checked { wire, matching })
}

/// Appends `/` and the normal form of `segment` to `wire`; gives what the segment spells, without its parameters.
fn decode(segment: &[u8], wire: &mut Vec<u8>) -> Result<Vec<u8>, Refusal> {
    wire.push(b'/');
    let mut name = Vec::with_capacity(segment.len());
    let mut in_parameters = false;
    let mut rest = segment;
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            wire.push(*first);
            in_parameters |= *first == b';';
            if !in_parameters {
                name.push(*first);
            }
            continue;
        }
        let [high, low, after @ ..] = rest else { return Err(Refusal::Escape) };
        let byte = hex(*high)? << 4 | hex(*low)?;
        rest = after;
        match byte {
            0 => return Err(Refusal::Nul),
            b'/' | b'\\' => return Err(Refusal::Separator),
            _ if is_unreserved(byte) => wire.push(byte),
            _ => wire.extend_from_slice(&[b'%', *high, *low]),
        }
        // Some servers decode first and cut parameters then.
        in_parameters |= byte == b';';
        if !in_parameters {
            push_decoded(&mut name, byte);
        }
    }
    Ok(name)
}

/// Control characters and `%` stay escaped: `.` in a pattern does not match a line feed, and nothing is decoded twice.
fn push_decoded(name: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    if byte < 0x20 || byte == 0x7f || byte == b'%' {
        name.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    } else {
        name.push(byte);
    }
}

fn hex(digit: u8) -> Result<u8, Refusal> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok()).ok_or(Refusal::Escape)
}

/// RFC 3986 §2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Builds the path that rules are held against.
struct Matching {
    text: Vec<u8>,
}

impl Matching {
    fn new(capacity: usize) -> Self {
        Self { text: Vec::with_capacity(capacity) }
    }

    /// `name` is what the segment spells, `raw` how it was written.
    fn push(&mut self, name: &[u8], raw: &str, last: bool) -> Result<(), Refusal> {
        if name == b"." || name == b".." {
            return Err(Refusal::DotSegment);
        }
        if name.is_empty() && !last {
            // `//` is one separator to most servers. `/;x/` is so only to some, and nobody means it.
            return if raw.is_empty() { Ok(()) } else { Err(Refusal::EmptySegment) };
        }
        self.text.push(b'/');
        self.text.extend_from_slice(name);
        Ok(())
    }

    fn finish(self) -> Result<String, Refusal> {
        String::from_utf8(self.text).map_err(|_| Refusal::NotUtf8)
    }
}

/// The path of a rule in the form of [`super::RequestView::path`]. `None` where no request can have it: it does not
/// begin with `/`, or holds dot segments, parameters, or escapes that are refused.
///
/// A rule is written by people: other than in requests, any character may stand for itself, and a `%` that begins no
/// escape is a percent sign.
#[must_use]
pub fn rule_path(rule: &str) -> Option<String> {
    if !rule.starts_with('/') || rule.contains([';', '\\']) {
        return None;
    }
    let mut matching = Matching::new(rule.len());
    let mut segments = rule.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let name = decode_rule(segment.as_bytes())?;
        matching.push(&name, segment, segments.peek().is_none()).ok()?;
    }
    matching.finish().ok()
}

fn decode_rule(segment: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(segment.len());
    let mut rest = segment;
    while let [first, after @ ..] = rest {
        rest = after;
        let escape = match rest {
            [high, low, after @ ..] if *first == b'%' => {
                hex(*high).ok().zip(hex(*low).ok()).map(|(high, low)| (high << 4 | low, after))
            }
            _ => None,
        };
        let byte = match escape {
            Some((0 | b'/' | b'\\' | b';', _)) => return None,
            Some((byte, after)) => {
                rest = after;
                byte
            }
            None => *first,
        };
        push_decoded(&mut name, byte);
    }
    Some(name)
}
