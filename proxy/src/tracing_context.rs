//! A request's place in its trace, and what is noted of it for its span and access line. Floor 5: imports `trace`.

use http::request::Parts;

use crate::{
    exchange::{MAX_PATH, Trail},
    trace::Incoming,
    worker::Worker,
};

/// Makes the span of this hop the caller of the next one. `None` where neither a span nor a line will be written.
pub fn begin<'a>(
    worker: &Worker,
    parts: &'a mut Parts,
    host: impl FnOnce(&'a Parts) -> Option<&'a str>,
    peer: impl FnOnce() -> String,
) -> Option<Box<Trail>> {
    let telemetry = &worker.telemetry;
    let ids = if telemetry.traces() {
        let span = Incoming::read(&parts.headers).span(worker.sampler, || worker.random());
        span.write(&mut parts.headers);
        let parent = span.parent_id.unwrap_or(0);
        span.sampled.then(|| (span.trace_id.to_be_bytes(), span.span_id.to_be_bytes(), parent.to_be_bytes()))
    } else {
        None
    };
    if ids.is_none() && !telemetry.logs_access() {
        return None;
    }
    Some(Box::new(Trail {
        ids,
        start: worker.sys.clock.now(),
        method: parts.method.clone(),
        path: parts.uri.path().chars().take(MAX_PATH).collect(),
        host: host(parts).unwrap_or_default().to_owned(),
        peer: peer(),
    }))
}
