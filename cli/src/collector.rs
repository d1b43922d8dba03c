//! Receives traces over OTLP/gRPC, keeps the newest, and shows them as pages and JSON. Floor 1: imports nothing of the
//! crate.
//!
//! It is there so that a mesh on a laptop shows its traces with nothing installed. It keeps everything in memory, within
//! bounds, and listens on loopback only.

mod page;
mod receive;
mod store;

pub use receive::{Receiver, serve};
pub use store::{Kind, MAX_TRACES, Span, Summary, Trace, TraceId, Traces};

use http::StatusCode;
use mesh_api::admin::{self, AdminRequest, AdminResponse};

/// Answers `/traces`, `/traces.json`, `/traces/ID` and `/traces/ID.json`; `None`: not its path.
#[must_use]
pub fn answer(traces: &Traces, request: &AdminRequest) -> Option<AdminResponse> {
    if request.method != http::Method::GET {
        return None;
    }
    match request.path.as_str() {
        "/traces" => return Some(page::html(page::list(&traces.list()))),
        "/traces.json" => return Some(admin::json(StatusCode::OK, &traces.list())),
        _ => {}
    }
    let name = request.path.strip_prefix("/traces/")?;
    let (id, json) = name.strip_suffix(".json").map_or((name, false), |id| (id, true));
    let found = id.parse().ok().and_then(|id| traces.get(id));
    Some(match found {
        Some(trace) if json => admin::json(StatusCode::OK, &trace),
        Some(trace) => page::html(page::waterfall(&trace)),
        None => admin::text(StatusCode::NOT_FOUND, "no such trace; it may be forgotten, /traces lists the newest\n"),
    })
}
