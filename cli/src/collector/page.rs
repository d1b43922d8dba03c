//! Pages for people: the list of traces, and one trace as a waterfall. No script, nothing from elsewhere.

use std::collections::{HashMap, HashSet};

use http::{HeaderValue, StatusCode, header};
use mesh_api::admin::{self, AdminResponse};

use super::store::{Kind, Span, Summary, Trace};

/// Traces on the page of all.
const SHOWN: usize = 200;
/// Deepest indentation.
const MAX_DEPTH: usize = 30;

const STYLE: &str = "body{font:14px/1.5 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}\
td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ddd}td.n{text-align:right}a{color:#0645ad}\
.row{display:flex;align-items:center;border-bottom:1px solid #eee}.what{width:36%;white-space:nowrap;overflow:hidden;\
text-overflow:ellipsis}.bar{position:relative;flex:1;height:1.3em;background:#fafafa}.bar i{position:absolute;top:.2em;\
height:.9em;min-width:2px;background:#4a7fb5}.bar i.client{background:#9bbcdc}.bar i.bad,td.bad{background:#d9534f;\
color:#fff}.took{width:7em;text-align:right;font-variant-numeric:tabular-nums}small{color:#666}\
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}.bar{background:#222}a{color:#8ab4f8}\
td,th,.row{border-color:#333}}";

/// A page as an answer.
pub(super) fn html(body: String) -> AdminResponse {
    let page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Traces</title><style>{STYLE}</style>{body}</html>"
    );
    let mut response = admin::text(StatusCode::OK, page);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

/// The list.
pub(super) fn list(traces: &[Summary]) -> String {
    let mut page =
        format!("<h1>Traces</h1><p>{} kept, newest first. <a href=\"/traces.json\">JSON</a></p>", traces.len());
    page.push_str("<table><tr><th>Trace<th>What<th>Spans<th>Took<th>Who took part</tr>");
    for trace in traces.iter().take(SHOWN) {
        let bad = if trace.failed { " class=\"bad\"" } else { "" };
        page.push_str(&format!(
            "<tr><td><a href=\"/traces/{id}\">{short}</a><td{bad}>{service}: {name}<td class=\"n\">{spans}\
             <td class=\"n\">{took}<td>{services}</tr>",
            id = trace.id,
            short = trace.id.to_string().get(..8).unwrap_or_default(),
            service = escape(&trace.service),
            name = escape(&trace.name),
            spans = trace.spans,
            took = millis(trace.duration),
            services = escape(&trace.services.join(", ")),
        ));
    }
    page.push_str("</table>");
    page
}

/// One trace.
pub(super) fn waterfall(trace: &Trace) -> String {
    let (start, end) = trace.extent();
    let whole = (end - start).max(1) as f64;
    let mut page = format!(
        "<h1>Trace {}</h1><p>{} spans of {} took {}. <a href=\"/traces\">all</a> <a href=\"/traces/{}.json\">JSON</a></p>",
        trace.id,
        trace.spans.len(),
        escape(&trace.services().join(", ")),
        millis(end - start),
        trace.id,
    );
    for (depth, span) in ordered(trace) {
        let left = (span.start - start) as f64 / whole * 100.0;
        let width = span.end.saturating_sub(span.start) as f64 / whole * 100.0;
        let (side, kind) = match span.kind {
            Kind::Server => ("server", "in"),
            Kind::Client => ("client", "out"),
            Kind::Internal => ("internal", ""),
        };
        let bad = if span.failed { " bad" } else { "" };
        let told: Vec<_> = span.attributes.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        page.push_str(&format!(
            "<div class=\"row\" title=\"{told}\"><span class=\"what\" style=\"padding-left:{indent}em\">{service} \
             <small>{kind}</small> {name}</span><span class=\"bar\"><i class=\"{side}{bad}\" \
             style=\"left:{left:.2}%;width:{width:.2}%\"></i></span><span class=\"took\">{took}</span></div>",
            told = escape(&told.join("\n")),
            indent = depth,
            service = escape(&span.service),
            name = escape(&span.name),
            took = millis(span.end.saturating_sub(span.start)),
        ));
    }
    if trace.left_out > 0 {
        page.push_str(&format!("<p>{} further spans were left out.</p>", trace.left_out));
    }
    page
}

/// Every span once, below the one it belongs to, with its depth. Spans whose parent is not there begin anew; so does
/// what is left where parents form a circle.
fn ordered(trace: &Trace) -> Vec<(usize, &Span)> {
    let known: HashSet<&str> = trace.spans.iter().map(|span| span.id.as_str()).collect();
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (at, span) in trace.spans.iter().enumerate() {
        if known.contains(span.parent.as_str()) && span.parent != span.id {
            children.entry(&span.parent).or_default().push(at);
        } else {
            roots.push(at);
        }
    }
    let mut seen = vec![false; trace.spans.len()];
    let mut out = Vec::new();
    for root in roots.into_iter().chain(0..trace.spans.len()) {
        let mut stack = vec![(0, root)];
        while let Some((depth, at)) = stack.pop() {
            let (Some(span), Some(mark)) = (trace.spans.get(at), seen.get_mut(at)) else { continue };
            if std::mem::replace(mark, true) {
                continue;
            }
            out.push((depth, span));
            let below = children.get(span.id.as_str()).into_iter().flatten().rev();
            stack.extend(below.map(|child| ((depth + 1).min(MAX_DEPTH), *child)));
        }
    }
    out
}

fn millis(nanos: u64) -> String {
    format!("{:.2} ms", nanos as f64 / 1e6)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{
        super::{store::tests::span, *},
        *,
    };

    fn trace(spans: Vec<Span>) -> Trace {
        Trace { id: TraceId([1; 16]), spans, left_out: 0 }
    }

    #[test]
    fn nothing_that_was_received_becomes_markup() {
        let evil = "<script>\"'&";
        let mut one = span(evil, 1, 2);
        one.name = evil.into();
        one.attributes = vec![(evil.into(), evil.into())];
        let traces = Traces::new();
        traces.add(TraceId([1; 16]), one);
        for page in [list(&traces.list()), waterfall(&traces.get(TraceId([1; 16])).unwrap())] {
            assert!(!page.contains("<script") && page.contains("&lt;script&gt;&quot;&#39;&amp;"), "{page}");
        }
    }

    #[test]
    fn spans_stand_below_their_parents_even_in_circles() {
        let with = |id: &str, parent: &str, start| Span { id: id.into(), parent: parent.into(), ..span(id, start, 9) };
        let trace = trace(vec![
            with("a", "", 1),
            with("c", "b", 2),
            with("b", "a", 3),
            with("lost", "gone", 4),
            with("x", "y", 5),
            with("y", "x", 6),
            with("self", "self", 7),
        ]);
        let order: Vec<_> = ordered(&trace).into_iter().map(|(depth, span)| (depth, span.id.as_str())).collect();
        assert_eq!(order, [(0, "a"), (1, "b"), (2, "c"), (0, "lost"), (0, "self"), (0, "x"), (1, "y")]);
    }

    #[test]
    fn a_span_that_ends_before_it_begins_is_shown() {
        assert!(waterfall(&trace(vec![span("a", 9, 3)])).contains("width:0.00%"));
    }
}
