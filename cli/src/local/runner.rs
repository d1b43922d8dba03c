//! A mesh from its start to its end, as a command runs it.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use mesh_api::{
    admin::{self, Admin},
    log::LogLevel,
    supervise::{Supervisor, TaskEnded},
    sys::Sys,
};
use tokio::sync::oneshot;

use super::{
    control::Control,
    follow::follow,
    mesh::{Mesh, Options},
    overrides::Override,
    process::Launcher,
    report::Reporter,
};
use crate::collector::{self, Traces};

/// What a command asks for.
#[derive(Debug)]
pub struct Wish {
    /// Folder of manifests.
    pub source: PathBuf,
    /// Folder for the state.
    pub state: PathBuf,
    /// Settings of single parts.
    pub overrides: Vec<Override>,
    /// True: traces are collected and shown.
    pub traces: bool,
    /// How long anything may take to become ready.
    pub wait: Duration,
}

/// A mesh that runs, with everything that goes on around it.
#[derive(Debug)]
pub struct Running {
    /// The mesh.
    pub mesh: Arc<Mesh>,
    /// The traces, where they are collected.
    pub traces: Option<Arc<Traces>>,
    tasks: Supervisor,
    first: Option<oneshot::Receiver<()>>,
}

impl Running {
    /// Starts the control plane and whatever the manifests say; comes back when the control plane is ready.
    ///
    /// # Errors
    /// Where the control plane cannot be started; what was started already is ended.
    pub async fn start(wish: Wish, launcher: Launcher, reporter: Reporter) -> anyhow::Result<Self> {
        let source = std::fs::canonicalize(&wish.source)
            .with_context(|| format!("cannot read the manifests in {}", wish.source.display()))?;
        let mut tasks = Supervisor::new();
        let (mut traces, mut otlp) = (None, None);
        if wish.traces {
            let store = Arc::new(Traces::new());
            let (address, serving) = collector::serve(Arc::clone(&store)).await.context("the trace collector")?;
            tasks.spawn_fallible("trace collector", serving);
            (traces, otlp) = (Some(store), Some(address));
        }
        let loopback = ([127, 0, 0, 1], 0).into();
        let listener = admin::bind(&Sys::host(), loopback).await.context("the admin server cannot listen")?;
        let options = Options {
            source,
            state: wish.state,
            overrides: wish.overrides,
            launcher,
            wait: wish.wait,
            otlp,
            admin: listener.local_addr()?,
            reporter,
        };
        let mesh = Arc::new(Mesh::start(options).await?);
        let control = Control { mesh: Arc::clone(&mesh), traces: traces.clone() };
        let server = Admin { mount: Arc::new(control), log: LogLevel::default(), metrics: None };
        tasks.spawn("admin", admin::serve(listener, server));
        let (tell, first) = oneshot::channel();
        follow(&mesh, &mut tasks, tell);
        Ok(Self { mesh, traces, tasks, first: Some(first) })
    }

    /// Waits until every workload that the manifests name is ready.
    ///
    /// # Errors
    /// Which are not, and why; or what ended although it never should.
    pub async fn ready(&mut self) -> anyhow::Result<()> {
        let first = self.first.take();
        let mesh = Arc::clone(&self.mesh);
        let waiting = async move {
            if let Some(first) = first {
                // Its sender's end is an end that the supervisor tells about.
                let _ = first.await;
            }
            mesh.ready().await
        };
        tokio::select! {
            result = waiting => result,
            ended = self.tasks.first_end() => Err(ended.into()),
        }
    }

    /// Lets the mesh run until `until` is over.
    ///
    /// # Errors
    /// What ended although it never should.
    pub async fn until<T>(&mut self, until: impl Future<Output = T>) -> Result<T, TaskEnded> {
        tokio::select! {
            done = until => Ok(done),
            ended = self.tasks.first_end() => Err(ended),
        }
    }

    /// Ends everything in its order. The manifests are not followed any more, so that nothing comes back.
    pub async fn stop(self) {
        drop(self.tasks);
        self.mesh.stop().await;
    }
}
