//! The newest traces, within bounds.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    str::FromStr,
    sync::{Mutex, PoisonError},
};

use serde::{Serialize, Serializer};

/// Traces that are kept; the one that began first is forgotten first.
pub const MAX_TRACES: usize = 1_000;
/// Spans that are kept of one trace.
const MAX_SPANS: usize = 512;
/// Spans that are kept altogether.
const MAX_ALL_SPANS: usize = 50_000;

/// A trace's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(pub [u8; 16]);

/// Which side of a call a span tells about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Who was called.
    Server,
    /// Who called.
    Client,
    /// Anything else.
    Internal,
}

/// One span.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Span {
    /// Id, in hex.
    pub id: String,
    /// Id of the span that it belongs to, in hex; empty for the first.
    pub parent: String,
    /// Who tells.
    pub service: String,
    /// Its namespace.
    pub namespace: String,
    /// What was done.
    pub name: String,
    /// Which side of it.
    pub kind: Kind,
    /// Begin, in nanoseconds since 1970.
    pub start: u64,
    /// End, in nanoseconds since 1970.
    pub end: u64,
    /// True where it failed.
    pub failed: bool,
    /// Everything else.
    pub attributes: Vec<(String, String)>,
}

/// A trace with its spans, ordered by their begin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// Id.
    pub id: TraceId,
    /// Spans.
    pub spans: Vec<Span>,
    /// How many did not fit.
    pub left_out: usize,
}

/// One line about a trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Id.
    pub id: TraceId,
    /// What the first span did.
    pub name: String,
    /// Who told of it.
    pub service: String,
    /// Begin, in nanoseconds since 1970.
    pub start: u64,
    /// From the first begin to the last end, in nanoseconds.
    pub duration: u64,
    /// Number of spans.
    pub spans: usize,
    /// Who took part, ordered by name.
    pub services: Vec<String>,
    /// True where a span failed.
    pub failed: bool,
}

/// The newest traces.
#[derive(Debug, Default)]
pub struct Traces {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    traces: HashMap<TraceId, Trace>,
    order: VecDeque<TraceId>,
    spans: usize,
}

impl Traces {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a span, and forgets the oldest trace where there is no room.
    pub fn add(&self, id: TraceId, span: Span) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.traces.contains_key(&id) {
            if inner.order.len() >= MAX_TRACES {
                inner.forget();
            }
            inner.order.push_back(id);
            inner.traces.insert(id, Trace { id, spans: Vec::new(), left_out: 0 });
        }
        let Some(trace) = inner.traces.get_mut(&id) else { return };
        if trace.spans.len() >= MAX_SPANS {
            trace.left_out += 1;
            return;
        }
        trace.spans.push(span);
        inner.spans += 1;
        while inner.spans > MAX_ALL_SPANS {
            inner.forget();
        }
    }

    /// All traces, newest first.
    #[must_use]
    pub fn list(&self) -> Vec<Summary> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.order.iter().rev().filter_map(|id| inner.traces.get(id)).map(Trace::summary).collect()
    }

    /// One trace.
    #[must_use]
    pub fn get(&self, id: TraceId) -> Option<Trace> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut trace = inner.traces.get(&id)?.clone();
        trace.spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
        Some(trace)
    }
}

impl Inner {
    fn forget(&mut self) {
        if let Some(trace) = self.order.pop_front().and_then(|oldest| self.traces.remove(&oldest)) {
            self.spans -= trace.spans.len();
        }
    }
}

impl Trace {
    /// From the first begin to the last end, in nanoseconds since 1970.
    #[must_use]
    pub fn extent(&self) -> (u64, u64) {
        let start = self.spans.iter().map(|span| span.start).min().unwrap_or(0);
        let end = self.spans.iter().map(|span| span.end).max().unwrap_or(start);
        (start, end.max(start))
    }

    /// Who took part, ordered by name.
    #[must_use]
    pub fn services(&self) -> Vec<String> {
        let mut services: Vec<String> = self.spans.iter().map(|span| span.service.clone()).collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    fn summary(&self) -> Summary {
        let (start, end) = self.extent();
        let first = self.spans.iter().min_by_key(|span| (span.start, !span.parent.is_empty()));
        Summary {
            id: self.id,
            name: first.map(|span| span.name.clone()).unwrap_or_default(),
            service: first.map(|span| span.service.clone()).unwrap_or_default(),
            start,
            duration: end - start,
            spans: self.spans.len(),
            services: self.services(),
            failed: self.spans.iter().any(|span| span.failed),
        }
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for TraceId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = plain.then(|| u128::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or(())
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::collector) fn span(service: &str, start: u64, end: u64) -> Span {
        Span {
            id: format!("{start:016x}"),
            parent: String::new(),
            service: service.into(),
            namespace: "shop".into(),
            name: "GET".into(),
            kind: Kind::Server,
            start,
            end,
            failed: false,
            attributes: Vec::new(),
        }
    }

    fn id(number: u128) -> TraceId {
        TraceId(number.to_be_bytes())
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let traces = Traces::new();
        for n in 0..MAX_TRACES as u128 + 10 {
            traces.add(id(n), span("web", 1, 2));
        }
        let list = traces.list();
        assert_eq!((list.len(), list[0].id), (MAX_TRACES, id(MAX_TRACES as u128 + 9)));
        assert!(traces.get(id(9)).is_none() && traces.get(id(10)).is_some());
    }

    #[test]
    fn spans_have_a_bound_in_one_trace_and_altogether() {
        let traces = Traces::new();
        for _ in 0..MAX_SPANS + 3 {
            traces.add(id(1), span("web", 1, 2));
        }
        assert_eq!(traces.get(id(1)).map(|trace| (trace.spans.len(), trace.left_out)), Some((MAX_SPANS, 3)));
        for n in 0..MAX_ALL_SPANS as u128 {
            traces.add(id(2 + n / 400), span("web", 1, 2));
        }
        assert!(traces.get(id(1)).is_none());
        assert!(traces.list().iter().map(|trace| trace.spans).sum::<usize>() <= MAX_ALL_SPANS);
    }

    #[test]
    fn a_trace_is_summed_up() {
        let traces = Traces::new();
        traces.add(id(1), Span { failed: true, parent: "1".into(), ..span("cart", 20, 90) });
        traces.add(id(1), span("web", 10, 100));
        let summary = traces.list().remove(0);
        assert_eq!((summary.service.as_str(), summary.start, summary.duration), ("web", 10, 90));
        assert_eq!((summary.services, summary.failed), (vec!["cart".to_owned(), "web".to_owned()], true));
        assert_eq!(traces.get(id(1)).unwrap().spans[0].service, "web");
    }

    #[test]
    fn ids_are_read_strictly() {
        let text = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(text.parse::<TraceId>().unwrap().to_string(), text);
        for wrong in ["", "0af7", "+af7651916cd43dd8448eb211c80319c", "zaf7651916cd43dd8448eb211c80319c"] {
            assert!(wrong.parse::<TraceId>().is_err(), "{wrong}");
        }
    }
}
