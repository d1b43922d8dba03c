//! The admin server of a running mesh: what runs, restarts, pauses, and the traces where they are collected.

use std::{future::Future, sync::Arc};

use http::{Method, StatusCode};
use mesh_api::{
    admin::{self, AdminRequest, AdminResponse, Answer, Mount},
    model::WorkloadId,
};

use super::{mesh::Mesh, overrides::Part};
use crate::collector::{self, Traces};

/// What the admin server answers.
#[derive(Debug)]
pub struct Control {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The traces, where they are collected.
    pub traces: Option<Arc<Traces>>,
}

impl Mount for Control {
    fn answer<'a>(&'a self, request: &'a AdminRequest) -> Answer<'a> {
        Box::pin(self.respond(request))
    }

    fn index(&self) -> Vec<(&'static str, &'static str)> {
        vec![
            ("/status", "what runs, as JSON"),
            ("/restart", "POST ?workload=NAMESPACE/NAME, or ?part=ca or controller"),
            ("/pause", "POST ?part=ca or controller: it is not started again when it ends"),
            ("/resume", "POST ?part=ca or controller: it is kept running again"),
            ("/traces", "the newest traces; .json as JSON"),
        ]
    }

    fn not_ready(&self) -> Option<String> {
        let missing = self.mesh.status().missing;
        missing.into_iter().next().map(|(id, why)| format!("{id}: {why}"))
    }
}

impl Control {
    async fn respond(&self, request: &AdminRequest) -> Option<AdminResponse> {
        if let Some(traces) = &self.traces
            && let Some(answer) = collector::answer(traces, request)
        {
            return Some(answer);
        }
        let post = request.method == Method::POST;
        let known = matches!(request.path.as_str(), "/restart" | "/pause" | "/resume");
        Some(match request.path.as_str() {
            "/status" if request.method == Method::GET => admin::json(StatusCode::OK, &self.mesh.status()),
            "/restart" if post && request.query.starts_with("workload=") => self.restart_workload(&request.query).await,
            "/restart" if post => on_part(&request.query, |part| self.mesh.restart_part(part)).await,
            "/resume" if post => on_part(&request.query, |part| self.mesh.resume_part(part)).await,
            "/pause" if post => on_part(&request.query, |part| std::future::ready(self.mesh.pause_part(part))).await,
            _ if known => admin::text(StatusCode::METHOD_NOT_ALLOWED, "this is asked with POST\n"),
            _ => return None,
        })
    }

    async fn restart_workload(&self, query: &str) -> AdminResponse {
        let name = query.strip_prefix("workload=").unwrap_or_default().replace("%2F", "/").replace("%2f", "/");
        let id =
            name.split_once('/').map(|(namespace, name)| WorkloadId { namespace: namespace.into(), name: name.into() });
        match id.and_then(|id| self.mesh.workload(&id)) {
            Some(workload) => done(workload.restart().await),
            None => {
                admin::text(StatusCode::NOT_FOUND, "no such workload; name it NAMESPACE/NAME, /status lists them\n")
            }
        }
    }
}

async fn on_part<F: Future<Output = Result<(), String>>>(query: &str, order: impl FnOnce(Part) -> F) -> AdminResponse {
    match query.strip_prefix("part=").unwrap_or_default().parse() {
        Ok(part) => done(order(part).await),
        Err(reason) => admin::text(StatusCode::BAD_REQUEST, format!("{reason}; write ?part=ca or ?part=controller\n")),
    }
}

fn done(result: Result<(), String>) -> AdminResponse {
    match result {
        Ok(()) => admin::text(StatusCode::OK, "done\n"),
        Err(why) => admin::text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}
