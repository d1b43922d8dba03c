//! What goes on while a mesh runs: the folder of manifests is followed, `mesh.json` kept true, problems told, tokens
//! made anew, logs kept small, and what `meshctl run` left behind is cleared away.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use mesh_api::{model::WorkloadId, supervise::Supervisor};
use serde::Deserialize;
use tokio::{
    sync::oneshot,
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    join,
    manifests::{Found, Manifests},
    mesh::Mesh,
    process::bound_log,
    tokens,
    workload::Workload,
};
use crate::{io::Tone, query};

/// How often the folder of manifests is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// A file that could not be written is tried again after this time.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// Changes of what runs that come this close together are written at once.
const SETTLE: Duration = Duration::from_millis(20);
/// How often the controller is asked for problems, and members that joined are looked after.
const SLOW: Duration = Duration::from_secs(1);
/// How often logs are looked at.
const LOGS: Duration = Duration::from_secs(30);
/// Problems that are printed at once.
const MAX_TOLD: usize = 50;

/// Starts everything that goes on. `first` hears when every workload of the manifests is known.
pub fn follow(mesh: &Arc<Mesh>, tasks: &mut Supervisor, first: oneshot::Sender<()>) {
    tasks.spawn_fallible("manifests", manifests(Arc::clone(mesh), first));
    tasks.spawn_fallible("mesh.json", file(Arc::clone(mesh)));
    tasks.spawn("problems", problems(Arc::clone(mesh)));
    tasks.spawn("late workloads", late(Arc::clone(mesh)));
    tasks.spawn("members", members(Arc::clone(mesh)));
    tasks.spawn("tokens", refresh(Arc::clone(mesh)));
    tasks.spawn("logs", logs(Arc::clone(mesh)));
}

async fn manifests(mesh: Arc<Mesh>, first: oneshot::Sender<()>) -> anyhow::Result<()> {
    let mut manifests = Manifests::new(mesh.source().to_owned(), mesh.settings.trust_domain.clone());
    let mut work = JoinSet::new();
    let mut first = Some(first);
    let mut told = BTreeSet::new();
    loop {
        let found;
        (manifests, found) = tokio::task::spawn_blocking(move || {
            let found = manifests.look();
            (manifests, found)
        })
        .await?;
        if let Some(found) = found {
            take(&mesh, found, &mut work, &mut told);
        }
        if let Some(first) = first.take() {
            // Whoever waited for it may have given up.
            let _ = first.send(());
        }
        tokio::select! {
            () = sleep(LOOK) => {}
            Some(done) = work.join_next() => done?,
        }
    }
}

/// Brings what runs in line with what was found.
fn take(mesh: &Arc<Mesh>, found: Found, work: &mut JoinSet<()>, told: &mut BTreeSet<String>) {
    let reporter = &mesh.settings.reporter;
    mesh.set_places(found.places);
    let texts: BTreeSet<String> = found.unfit.iter().map(|(_, text)| text.clone()).filter(|t| !t.is_empty()).collect();
    texts.difference(told).for_each(|text| reporter.say(Tone::Bad, text.clone()));
    *told = texts;
    let wanted: HashSet<&WorkloadId> =
        found.plans.iter().map(|plan| &plan.id).chain(found.unfit.iter().map(|(id, _)| id)).collect();
    for (id, workload) in mesh.workloads() {
        if !wanted.contains(&id) {
            reporter.say(Tone::Plain, format!("{id}: its manifest is gone; stopping it"));
            mesh.remove(&id);
            work.spawn(async move { workload.stop().await });
        }
    }
    for plan in found.plans {
        match mesh.workload(&plan.id) {
            Some(workload) => {
                work.spawn(async move { workload.change(plan).await });
            }
            None => {
                let id = plan.id.clone();
                let workload = Arc::new(Workload::new(Arc::clone(&mesh.settings), plan));
                mesh.add(id, Arc::clone(&workload));
                work.spawn(async move { workload.start().await });
            }
        }
    }
    mesh.settings.changed.send_replace(());
}

async fn file(mesh: Arc<Mesh>) -> anyhow::Result<()> {
    let mut changes = mesh.settings.changed.subscribe();
    let path = mesh.settings.state.mesh_file();
    let mut written = None;
    loop {
        changes.borrow_and_update();
        let file = mesh.file();
        if written.as_ref() != Some(&file) {
            match mesh.settings.state.write_json(&path, &file) {
                Ok(()) => written = Some(file),
                Err(error) => {
                    // A disk that is full for a moment must not end a mesh that runs.
                    mesh.settings.reporter.say(Tone::Warn, format!("{} is not written: {error:#}", path.display()));
                    sleep(WRITE_AGAIN).await;
                    continue;
                }
            }
        }
        changes.changed().await?;
        sleep(SETTLE).await;
    }
}

/// A problem as the controller tells it.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord, Clone)]
struct Problem {
    severity: String,
    reason: String,
    path: Option<String>,
    line: Option<u64>,
    object: Option<String>,
    #[serde(default)]
    field: String,
    message: String,
}

impl Problem {
    /// `path:line: Kind/namespace/name: field: message (Reason)`, each part where it is known. What is wrong between
    /// objects has no line of its own: `place` is that of the object.
    fn line(&self, place: Option<String>) -> String {
        let own = self.path.as_ref().map(|path| match self.line {
            Some(line) => format!("{path}:{line}"),
            None => path.clone(),
        });
        let place = own.or(place).unwrap_or_default();
        let object = self.object.as_deref().unwrap_or_default();
        let message = self.message.strip_prefix(&format!("{object}: ")).unwrap_or(&self.message);
        let known = [place.as_str(), object, &self.field].into_iter().filter(|part| !part.is_empty());
        let parts: Vec<&str> = known.chain([message]).collect();
        format!("{} ({})", parts.join(": "), self.reason)
    }
}

async fn problems(mesh: Arc<Mesh>) {
    let mut known: BTreeSet<Problem> = BTreeSet::new();
    let mut tick = slowly(SLOW);
    loop {
        tick.tick().await;
        let answer = query::get(mesh.controller_admin(), "/problems").await;
        let Some(places) = mesh.places() else { continue };
        // While the controller is away, what it said last stays said.
        let Ok(Ok(now)) = answer.map(|answer| answer.json::<BTreeSet<Problem>>()) else { continue };
        for problem in now.difference(&known).take(MAX_TOLD) {
            let tone = if problem.severity == "warning" { Tone::Warn } else { Tone::Bad };
            let place = problem.object.as_deref().and_then(|object| places.get(object).cloned());
            mesh.settings.reporter.say(tone, problem.line(place));
        }
        if !known.is_empty() && now.is_empty() {
            mesh.settings.reporter.say(Tone::Good, "no problems are left in the manifests");
        }
        known = now;
    }
}

async fn late(mesh: Arc<Mesh>) {
    let mut tick = slowly(SLOW);
    loop {
        tick.tick().await;
        for (_, workload) in mesh.workloads() {
            workload.look_again().await;
        }
    }
}

async fn members(mesh: Arc<Mesh>) {
    let mut tick = slowly(SLOW);
    loop {
        tick.tick().await;
        let (joined, left) = join::members(&mesh.settings.state);
        for name in left {
            mesh.settings
                .reporter
                .say(Tone::Warn, format!("{name}: its `meshctl run` is gone; its registration is removed"));
        }
        mesh.set_joined(joined);
    }
}

async fn refresh(mesh: Arc<Mesh>) {
    loop {
        sleep(tokens::REFRESH).await;
        let tokens = mesh.settings.tokens.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = tokens.refresh() {
            mesh.settings.reporter.say(Tone::Bad, format!("join tokens cannot be made anew: {error:#}"));
        }
    }
}

async fn logs(mesh: Arc<Mesh>) {
    let mut tick = slowly(LOGS);
    loop {
        tick.tick().await;
        let folder = mesh.settings.state.logs();
        // Blocks on the file system, which it does not do to the others.
        let _ = tokio::task::spawn_blocking(move || bound_logs(&folder)).await;
    }
}

fn bound_logs(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "log") {
            bound_log(&path);
        }
    }
}

fn slowly(period: Duration) -> tokio::time::Interval {
    let mut tick = interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_with_its_place() {
        let text = r#"[{"severity": "error", "reason": "Invalid", "condition": "Accepted", "path": "/m/a.yaml", "line": 7,
            "object": "HTTPRoute/shop/web", "field": "spec.rules[0]", "message": "no such thing"},
            {"severity": "warning", "reason": "Syntax", "path": null, "line": null, "object": null, "field": "", "message": "odd"}]"#;
        let problems: Vec<Problem> = serde_json::from_str(text).unwrap();
        assert_eq!(
            problems[0].line(Some("other".into())),
            "/m/a.yaml:7: HTTPRoute/shop/web: spec.rules[0]: no such thing (Invalid)"
        );
        assert_eq!(problems[1].line(None), "odd (Syntax)");
        assert_eq!(problems[1].line(Some("/m/b.yaml:1".into())), "/m/b.yaml:1: odd (Syntax)");
    }
}
