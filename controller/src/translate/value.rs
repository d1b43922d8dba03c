//! Values that several kinds share: paths, header fields, hosts, methods. What could never match a request as the
//! proxy sees it (normalised, without query) is refused instead of being silently without effect.

use mesh_api::{
    model::{
        Name,
        route::{PathMatch, ValueMatch, ValuePattern},
    },
    pattern, resources,
};

use crate::problem::{Findings, Reason};

/// Longest value of a match, in bytes; as in Gateway API for header values.
const MAX_VALUE: usize = 4096;

/// A path of an HTTPRoute or of a policy in its long form.
pub(super) fn path(value: &resources::HttpPathMatch, field: &str, findings: &mut Findings) -> Option<PathMatch> {
    let text = value.value.as_deref().unwrap_or("/");
    match value.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => {
            check_path(text, field, findings)?;
            Some(PathMatch::Exact(text.into()))
        }
        "PathPrefix" => prefix(text, field, findings),
        "RegularExpression" => regex(text, field, findings).map(PathMatch::Regex),
        other => {
            let message = format!("`{other}` is not known: Exact, PathPrefix and RegularExpression are");
            findings.refuse(format!("{field}.type"), Reason::UnsupportedValue, message);
            None
        }
    }
}

/// A path of a policy in its short form: `/exact`, or `/prefix/*`.
pub(super) fn short_path(text: &str, field: &str, findings: &mut Findings) -> Option<PathMatch> {
    if let Some(start) = text.strip_suffix("/*") {
        return prefix(if start.is_empty() { "/" } else { start }, field, findings);
    }
    if text.contains('*') {
        let message = format!("`{text}`: `*` can only stand for the rest after a `/`, as in `/admin/*`");
        findings.refuse(field, Reason::Invalid, message);
        return None;
    }
    check_path(text, field, findings)?;
    Some(PathMatch::Exact(text.into()))
}

fn prefix(text: &str, field: &str, findings: &mut Findings) -> Option<PathMatch> {
    check_path(text, field, findings)?;
    // `/a` and `/a/` mean the same (Gateway API, PathMatchPathPrefix).
    let trimmed = text.trim_end_matches('/');
    Some(PathMatch::Prefix(if trimmed.is_empty() { "/" } else { trimmed }.into()))
}

fn check_path(text: &str, field: &str, findings: &mut Findings) -> Option<()> {
    let fault = if text.len() > MAX_VALUE {
        Some(format!("has {} bytes, at most {MAX_VALUE} are allowed", text.len()))
    } else {
        path_fault(text).map(|fault| format!("`{text}` {fault}"))
    };
    match fault {
        None => Some(()),
        Some(message) => {
            findings.refuse(field, Reason::Invalid, message);
            None
        }
    }
}

/// Why no request's path can ever be `text`.
fn path_fault(text: &str) -> Option<&'static str> {
    if !text.starts_with('/') {
        return Some("does not start with `/`");
    }
    if text.bytes().any(|b| b <= b' ' || b == 0x7f || b >= 0x80 || b == b'\\') {
        return Some("has a character that no path has on the wire; percent-encode it");
    }
    if text.contains(['?', '#']) {
        return Some("has a `?` or `#`: a query is no part of the path; match it with queryParams");
    }
    if text.contains("//") {
        return Some("has an empty segment (`//`), which no normalised path has");
    }
    if text.split('/').any(|segment| segment == "." || segment == "..") {
        return Some("has a `.` or `..` segment, which no normalised path has");
    }
    percent_fault(text)
}

fn percent_fault(text: &str) -> Option<&'static str> {
    let mut pieces = text.split('%');
    pieces.next();
    for piece in pieces {
        let Some(byte) = piece.get(..2).and_then(|hex| u8::from_str_radix(hex, 16).ok()) else {
            return Some("has a `%` without two hexadecimal digits");
        };
        match byte {
            b'/' | b'\\' | 0 => return Some("has an encoded `/`, `\\` or NUL, which is always refused"),
            b'-' | b'.' | b'_' | b'~' => return Some("encodes a character that a normalised path has as it is"),
            letter if letter.is_ascii_alphanumeric() => {
                return Some("encodes a character that a normalised path has as it is");
            }
            _ => {}
        }
    }
    None
}

/// A regular expression that the proxy can run.
pub(super) fn regex(text: &str, field: &str, findings: &mut Findings) -> Option<Name> {
    match pattern::compile(text) {
        Ok(_) => Some(text.into()),
        Err(error) => {
            let shown: String = text.chars().take(80).collect();
            let message = format!("`{shown}` is not a regular expression that can be used: {error}");
            findings.refuse(field, Reason::Invalid, message);
            None
        }
    }
}

/// A header field to match; its name in lower case.
pub(super) fn header(value: &resources::ValueMatch, field: &str, findings: &mut Findings) -> Option<ValueMatch> {
    let name = header_name(&value.name, &format!("{field}.name"), findings)?;
    Some(ValueMatch { name, value: value_pattern(value, field, findings)? })
}

/// A query parameter to match; its name as it is.
pub(super) fn query(value: &resources::ValueMatch, field: &str, findings: &mut Findings) -> Option<ValueMatch> {
    if value.name.is_empty() || value.name.len() > 256 {
        findings.refuse(format!("{field}.name"), Reason::Invalid, "a name has 1 to 256 bytes");
        return None;
    }
    Some(ValueMatch { name: value.name.as_str().into(), value: value_pattern(value, field, findings)? })
}

fn value_pattern(value: &resources::ValueMatch, field: &str, findings: &mut Findings) -> Option<ValuePattern> {
    if value.value.is_empty() {
        findings.refuse(format!("{field}.value"), Reason::Invalid, "missing or empty");
        return None;
    }
    match value.kind.as_deref().unwrap_or("Exact") {
        "Exact" if value.value.len() > MAX_VALUE => {
            let message = format!("has {} bytes, at most {MAX_VALUE} are allowed", value.value.len());
            findings.refuse(format!("{field}.value"), Reason::Invalid, message);
            None
        }
        "Exact" => Some(ValuePattern::Exact(value.value.as_str().into())),
        "RegularExpression" => regex(&value.value, &format!("{field}.value"), findings).map(ValuePattern::Regex),
        other => {
            let message = format!("`{other}` is not known: Exact and RegularExpression are");
            findings.refuse(format!("{field}.type"), Reason::UnsupportedValue, message);
            None
        }
    }
}

/// The name of a header field, in lower case.
pub(super) fn header_name(text: &str, field: &str, findings: &mut Findings) -> Option<Name> {
    match http::HeaderName::from_bytes(text.as_bytes()) {
        Ok(name) if text.len() <= 256 => Some(name.as_str().into()),
        _ => {
            findings.refuse(field, Reason::Invalid, format!("`{text}` is not the name of a header field"));
            None
        }
    }
}

/// A method, case-sensitive.
pub(super) fn method(text: &str, field: &str, findings: &mut Findings) -> Option<Name> {
    if text.len() <= 32 && http::Method::from_bytes(text.as_bytes()).is_ok() {
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            findings.warn(
                field,
                Reason::Invalid,
                format!("`{text}`: methods are case-sensitive and mostly upper case"),
            );
        }
        return Some(text.into());
    }
    findings.refuse(field, Reason::Invalid, format!("`{text}` is not a method"));
    None
}

/// A host name, in lower case; `*.` in front stands for one label or more.
pub(super) fn host(text: &str, field: &str, findings: &mut Findings) -> Option<Name> {
    let lower = text.to_ascii_lowercase();
    let rest = lower.strip_prefix("*.").unwrap_or(&lower);
    let good_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    if lower.len() <= 253 && rest.split('.').all(good_label) {
        return Some(lower.into());
    }
    let message = format!("`{text}` is not a host name (without port; `*.` only in front)");
    findings.refuse(field, Reason::Invalid, message);
    None
}
