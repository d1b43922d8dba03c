//! B3 propagation: `b3: TRACE-SPAN[-SAMPLED[-PARENT]]` or `b3: SAMPLED`, and the same in several `x-b3-` fields.

use http::{HeaderMap, HeaderName};

use super::{
    Incoming, Parent, PassedOn, Span,
    hex::{self, Text},
    only, put,
};

static B3: HeaderName = HeaderName::from_static("b3");
static TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
static SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
static PARENT_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
static SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
static FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// True for the names of B3.
pub(super) fn is_field(name: &str) -> bool {
    name == "b3" || name.starts_with("x-b3-")
}

/// Both shapes are noted; where both are good, the single field counts.
pub(super) fn read(headers: &HeaderMap) -> Incoming {
    let single = only(headers, &B3).and_then(read_single);
    let multi = read_multi(headers);
    match (single, multi) {
        (Some(mut single), multi) => {
            single.passed_on.b3_multi = multi.is_some();
            single
        }
        (None, multi) => multi.unwrap_or_default(),
    }
}

fn read_single(value: &[u8]) -> Option<Incoming> {
    let passed_on = PassedOn { b3_single: true, ..PassedOn::default() };
    if let Some(decision) = Decision::read_single(value) {
        return Some(decision.incoming(None, passed_on));
    }
    let mut parts = value.split(|b| *b == b'-');
    let (trace, span) = (parts.next()?, parts.next()?);
    let decision = parts.next().map(Decision::read_single);
    let above = parts.next().map(hex::span_id);
    if decision == Some(None) || above == Some(None) || parts.next().is_some() {
        return None;
    }
    let (parent, b3_short) = ids(trace, span)?;
    Some(decision.flatten().unwrap_or(Decision::Ours).incoming(Some(parent), PassedOn { b3_short, ..passed_on }))
}

fn read_multi(headers: &HeaderMap) -> Option<Incoming> {
    let debug = only(headers, &FLAGS) == Some(b"1");
    let decision = match only(headers, &SAMPLED) {
        _ if debug => Decision::Debug,
        Some(b"1" | b"true") => Decision::Yes,
        Some(b"0" | b"false") => Decision::No,
        _ => Decision::Ours,
    };
    let parent = only(headers, &TRACE_ID).zip(only(headers, &SPAN_ID)).and_then(|(trace, span)| ids(trace, span));
    if parent.is_none() && decision == Decision::Ours {
        return None;
    }
    let b3_short = parent.is_some_and(|(_, short)| short);
    let passed_on = PassedOn { b3_multi: true, b3_short, ..PassedOn::default() };
    Some(decision.incoming(parent.map(|(parent, _)| parent), passed_on))
}

/// Trace ids have 128 bits or 64; true for 64.
fn ids(trace: &[u8], span: &[u8]) -> Option<(Parent, bool)> {
    let short = match trace.len() {
        16 => true,
        32 => false,
        _ => return None,
    };
    Some((Parent { trace_id: hex::trace_id(trace)?, span_id: hex::span_id(span)? }, short))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Decision {
    Ours,
    No,
    Yes,
    Debug,
}

impl Decision {
    fn read_single(value: &[u8]) -> Option<Self> {
        match value {
            b"0" => Some(Self::No),
            b"1" => Some(Self::Yes),
            b"d" => Some(Self::Debug),
            _ => None,
        }
    }

    fn incoming(self, parent: Option<Parent>, passed_on: PassedOn) -> Incoming {
        let sampled = match self {
            Self::Ours => None,
            Self::No => Some(false),
            Self::Yes | Self::Debug => Some(true),
        };
        Incoming { parent, sampled, passed_on: PassedOn { b3_debug: self == Self::Debug, ..passed_on } }
    }
}

pub(super) fn write(span: &Span, headers: &mut HeaderMap) {
    let PassedOn { b3_single, b3_multi, b3_short, b3_debug, .. } = span.passed_on;
    if !b3_single && !b3_multi {
        return;
    }
    let trace_digits = if b3_short && span.trace_id <= u64::MAX.into() { 16 } else { 32 };
    let debug = b3_debug && span.sampled;
    let decision = match (debug, span.sampled) {
        (true, _) => b'd',
        (false, true) => b'1',
        (false, false) => b'0',
    };
    if b3_single {
        let mut text = Text::new();
        text.push_hex(span.trace_id, trace_digits).push(b'-').push_hex(span.span_id.into(), 16);
        text.push(b'-').push(decision);
        if let Some(parent) = span.parent_id {
            text.push(b'-').push_hex(parent.into(), 16);
        }
        put(headers, &B3, text.as_bytes());
    }
    if b3_multi {
        put(headers, &TRACE_ID, Text::new().push_hex(span.trace_id, trace_digits).as_bytes());
        put(headers, &SPAN_ID, Text::new().push_hex(span.span_id.into(), 16).as_bytes());
        match span.parent_id {
            Some(parent) => put(headers, &PARENT_ID, Text::new().push_hex(parent.into(), 16).as_bytes()),
            None => drop(headers.remove(&PARENT_ID)),
        }
        if debug {
            // Says that it is to be recorded as well; both together are against the standard.
            headers.remove(&SAMPLED);
        } else {
            headers.remove(&FLAGS);
            put(headers, &SAMPLED, &[decision]);
        }
    }
}
