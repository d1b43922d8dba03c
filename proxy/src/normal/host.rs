//! Authorities: `host` or `host:port` and nothing else (RFC 3986 §3.2 without user information, escapes and zones).

use std::{borrow::Cow, net::Ipv6Addr};

use super::Refusal;

/// Longest host name, in bytes (RFC 1035 §3.1, as text).
const MAX_NAME: usize = 253;

/// The outcome of [`check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// Bytes of the host name in normal form.
    pub(super) host_len: usize,
    /// True where a port is given.
    pub(super) has_port: bool,
    /// True where the text is not in normal form: upper case, or a dot at the end of the name.
    pub(super) rewrite: bool,
}

/// Checks an authority.
pub(super) fn check(raw: &[u8]) -> Result<Checked, Refusal> {
    if raw.first() == Some(&b'[') {
        return check_v6(raw);
    }
    let name_len = raw.iter().position(|b| *b == b':').unwrap_or(raw.len());
    let (name, port) = raw.split_at(name_len);
    let has_port = check_port(port)?;
    let dotted = name.ends_with(b".");
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(Refusal::HostInvalid);
    }
    let mut upper = false;
    let mut previous = b'.';
    for b in name.iter().copied() {
        match b {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => {}
            b'A'..=b'Z' => upper = true,
            b'.' if previous != b'.' => {}
            _ => return Err(Refusal::HostInvalid),
        }
        previous = b;
    }
    if previous == b'.' {
        return Err(Refusal::HostInvalid);
    }
    Ok(Checked { host_len: name.len(), has_port, rewrite: upper || dotted })
}

fn check_v6(raw: &[u8]) -> Result<Checked, Refusal> {
    let end = raw.iter().position(|b| *b == b']').ok_or(Refusal::HostInvalid)?;
    let (bracketed, port) = raw.split_at(end + 1);
    let address = bracketed.get(1..end).and_then(|inner| std::str::from_utf8(inner).ok());
    if address.is_none_or(|text| text.parse::<Ipv6Addr>().is_err()) {
        return Err(Refusal::HostInvalid);
    }
    let has_port = check_port(port)?;
    let rewrite = bracketed.iter().any(u8::is_ascii_uppercase);
    Ok(Checked { host_len: bracketed.len(), has_port, rewrite })
}

/// Empty, or `:` and a number from 1 to 65535 without leading zeros.
fn check_port(raw: &[u8]) -> Result<bool, Refusal> {
    let digits = match raw {
        [] => return Ok(false),
        [b':', digits @ ..] => digits,
        _ => return Err(Refusal::HostInvalid),
    };
    let is_number = matches!(digits, [b'1'..=b'9', ..]) && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit);
    let value = digits.iter().take(5).fold(0_u32, |sum, d| sum * 10 + u32::from(d.wrapping_sub(b'0')));
    if is_number && value <= 65_535 { Ok(true) } else { Err(Refusal::HostInvalid) }
}

/// The normal form of `text`, which gave `checked`.
pub(super) fn normal<'a>(text: &'a str, checked: &Checked) -> Cow<'a, str> {
    if !checked.rewrite {
        return Cow::Borrowed(text);
    }
    let (name, rest) = text.split_at_checked(checked.host_len).unwrap_or((text, ""));
    let mut out = name.to_ascii_lowercase();
    out.push_str(rest.strip_prefix('.').unwrap_or(rest));
    Cow::Owned(out)
}

/// True where the normal form of `raw` is `normal_form`.
pub(super) fn same(raw: &[u8], normal_form: &str) -> bool {
    let Ok(checked) = check(raw) else { return false };
    std::str::from_utf8(raw).is_ok_and(|text| normal(text, &checked) == normal_form)
}
