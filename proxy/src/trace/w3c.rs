//! `traceparent` and `tracestate` (W3C Trace Context, level 2).

use http::{HeaderMap, HeaderName};

use super::{
    Incoming, Parent, PassedOn, Span,
    hex::{self, Text},
    only, put,
};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

const SAMPLED: u128 = 1;
const RANDOM: u128 = 2;
/// Longest `tracestate` that is passed on; the standard asks for 512.
const MAX_STATE: usize = 1024;
/// Most entries of a `tracestate` (§3.3.1.1).
const MAX_STATE_MEMBERS: usize = 32;

pub(super) fn read(headers: &HeaderMap) -> Option<Incoming> {
    let (parent, flags) = parse(only(headers, &TRACEPARENT)?)?;
    let passed_on = PassedOn { random: flags & RANDOM != 0, state: good_state(headers), ..PassedOn::default() };
    Some(Incoming { parent: Some(parent), sampled: Some(flags & SAMPLED != 0), passed_on })
}

/// `VERSION-TRACE-SPAN-FLAGS`; later versions may go on after another `-`.
fn parse(value: &[u8]) -> Option<(Parent, u128)> {
    let (head, rest) = value.split_at_checked(55)?;
    let mut parts = head.split(|b| *b == b'-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let widths = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2] && parts.next().is_none();
    let version = hex::parse(version)?;
    let ends = match version {
        0 => rest.is_empty(),
        0xff => false,
        _ => rest.is_empty() || rest.starts_with(b"-"),
    };
    if !widths || !ends {
        return None;
    }
    Some((Parent { trace_id: hex::trace_id(trace)?, span_id: hex::span_id(span)? }, hex::parse(flags)?))
}

fn good_state(headers: &HeaderMap) -> bool {
    let (mut len, mut members) = (0, 0);
    for value in headers.get_all(&TRACESTATE) {
        len += value.len() + 1;
        members += value.as_bytes().split(|b| *b == b',').count();
        let plain = value.as_bytes().iter().all(|b| matches!(b, b'\t' | 0x20..=0x7e));
        if !plain || len > MAX_STATE || members > MAX_STATE_MEMBERS {
            return false;
        }
    }
    true
}

pub(super) fn write(span: &Span, headers: &mut HeaderMap) {
    let random = if span.passed_on.random { RANDOM } else { 0 };
    let flags = random | if span.sampled { SAMPLED } else { 0 };
    let mut text = Text::new();
    text.push_hex(0, 2).push(b'-').push_hex(span.trace_id, 32).push(b'-');
    text.push_hex(span.span_id.into(), 16).push(b'-').push_hex(flags, 2);
    put(headers, &TRACEPARENT, text.as_bytes());
    if !span.passed_on.state {
        headers.remove(&TRACESTATE);
    }
}
