//! Trace context: which trace a request belongs to, and how that is passed on. Floor 0.
//!
//! W3C `traceparent` (Trace Context, level 2) and B3 (one header or several) are read; W3C is preferred. Out goes W3C
//! always, and B3 in the shape in which it came. Values that are not well-formed are as if they were not there. Nothing
//! is allocated but the values of the fields that are written.

mod b3;
mod hex;
#[cfg(test)]
mod tests;
mod w3c;

use http::{HeaderMap, HeaderName, HeaderValue};

/// What a request said about its trace. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Trace and span of the caller.
    pub parent: Option<Parent>,
    /// The caller's decision to record; `None` leaves it to us.
    pub sampled: Option<bool>,
    passed_on: PassedOn,
}

/// The span that called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Trace; not 0.
    pub trace_id: u128,
    /// Span; not 0.
    pub span_id: u64,
}

/// How the context came, so that it goes on alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PassedOn {
    b3_single: bool,
    b3_multi: bool,
    /// B3 with a trace id of 64 bits.
    b3_short: bool,
    /// B3 asked for recording at any price.
    b3_debug: bool,
    /// W3C: the trace id is random.
    random: bool,
    /// W3C: `tracestate` belongs to the parent and is well-formed.
    state: bool,
}

/// A span of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Trace; not 0.
    pub trace_id: u128,
    /// Span; not 0.
    pub span_id: u64,
    /// The span above it, if any.
    pub parent_id: Option<u64>,
    /// True where it is to be recorded.
    pub sampled: bool,
    passed_on: PassedOn,
}

/// Decides which traces that begin here are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Of the lowest 56 bits of trace ids, those below are recorded.
    below: u64,
}

/// As many bits of a trace id are random at least (Trace Context, level 2).
const RANDOM_BITS: u32 = 56;

impl Sampler {
    /// Records this share of traces, from 0 to 1. The same trace is judged alike everywhere.
    #[must_use]
    pub fn ratio(share: f64) -> Self {
        let all = 1_u64 << RANDOM_BITS;
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        Self { below: (share * all as f64) as u64 }
    }

    fn samples(self, trace_id: u128) -> bool {
        let bits = trace_id & ((1 << RANDOM_BITS) - 1);
        bits < u128::from(self.below)
    }
}

impl Incoming {
    /// Reads the context of a request.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Self {
        // Most requests have no B3: looking at each name once is less than looking for each of its six.
        let b3 =
            if headers.keys().any(|name| b3::is_field(name.as_str())) { b3::read(headers) } else { Self::default() };
        let Some(w3c) = w3c::read(headers) else { return b3 };
        let passed_on = PassedOn { random: w3c.passed_on.random, state: w3c.passed_on.state, ..b3.passed_on };
        Self { passed_on, ..w3c }
    }

    /// A span for the work on this request. `random` gives uniform numbers; the first ones become ids.
    #[must_use]
    pub fn span(&self, sampler: Sampler, mut random: impl FnMut() -> u64) -> Span {
        let mut passed_on = self.passed_on;
        let trace_id = match self.parent {
            Some(parent) => parent.trace_id,
            None => {
                passed_on.random = true;
                passed_on.b3_short = false;
                (u128::from(random()) << 64 | u128::from(random())).max(1)
            }
        };
        Span {
            trace_id,
            span_id: random().max(1),
            parent_id: self.parent.map(|parent| parent.span_id),
            sampled: self.sampled.unwrap_or_else(|| sampler.samples(trace_id)),
            passed_on,
        }
    }
}

impl Span {
    /// A span under this one.
    #[must_use]
    pub fn child(&self, mut random: impl FnMut() -> u64) -> Self {
        Self { span_id: random().max(1), parent_id: Some(self.span_id), ..*self }
    }

    /// Makes this span the caller of whoever gets `headers`, which are those that [`Incoming::read`] saw.
    pub fn write(&self, headers: &mut HeaderMap) {
        w3c::write(self, headers);
        b3::write(self, headers);
    }
}

/// The value of a field that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_some() { None } else { Some(first.as_bytes()) }
}

/// Sets a field to bytes that are known to be good.
fn put(headers: &mut HeaderMap, name: &HeaderName, value: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(name, value);
    }
}
