//! A part of the control plane killed, and kept from coming back until the test says so.
//!
//! `meshctl up` may start it again by itself, at once or never: what it starts meanwhile is killed too, by the id in
//! `mesh.json`. At the end `POST /start?component=NAME` at its admin server asks for it (nothing to do where it runs).

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::{ADMIN, Mesh, State};
use crate::{
    http::{get, post},
    process::{is_alive, signal, until},
};

/// How often it is looked at whether somebody has started it again.
const WATCH: Duration = Duration::from_millis(50);
/// How long it may take to come back.
const BACK: Duration = Duration::from_secs(30);

/// A part of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The certificate authority.
    Ca,
    /// The controller.
    Controller,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ca => "ca",
            Self::Controller => "controller",
        })
    }
}

/// A part of the control plane that is down. Whoever starts it again meanwhile sees it killed again.
#[derive(Debug)]
pub struct Outage {
    component: Component,
    over: Arc<AtomicBool>,
    watch: Option<JoinHandle<()>>,
}

impl Mesh {
    /// Kills a part of the control plane, without warning, and keeps it down.
    ///
    /// # Errors
    /// Where it was not running.
    pub fn kill(&self, component: Component) -> Result<Outage> {
        let first = self.state()?.pid(component)?;
        signal(first, Signal::SIGKILL)?;
        let over = Arc::new(AtomicBool::new(false));
        let (file, seen) = (self.state.join("mesh.json"), Arc::clone(&over));
        let watch = thread::Builder::new().name("outage".into()).spawn(move || keep_down(component, file, &seen))?;
        until(&format!("the {component} is dead"), BACK, || Ok((!is_alive(first)).then_some(())))?;
        Ok(Outage { component, over, watch: Some(watch) })
    }

    /// Lets a part of the control plane run again and awaits that it is ready.
    ///
    /// # Errors
    /// Where it does not come back.
    pub fn revive(&self, mut outage: Outage) -> Result<()> {
        let component = outage.component;
        outage.end();
        let answer = post(self.state()?.admin()?, &format!("/start?component={component}"), "", BACK)?;
        ensure!(answer.status.is_success(), "start of the {component}: {} {}", answer.status, answer.text());
        until(&format!("the {component} is back"), BACK, || {
            let Ok(state) = self.state() else { return Ok(None) };
            let admin = state.component_admin(component)?;
            let ready = || get(admin, "/ready", ADMIN).is_ok_and(|answer| answer.status.is_success());
            Ok((is_alive(state.pid(component)?) && ready()).then_some(()))
        })
        .map_err(|error| self.explain(error))
        .context("after an outage")
    }
}

impl Outage {
    fn end(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(watch) = self.watch.take() {
            // It only loops; a panic in it would have kept nothing down, which the test then sees.
            let _ = watch.join();
        }
    }
}

impl Drop for Outage {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep_down(component: Component, file: PathBuf, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if let Ok(pid) = State::read(&file).and_then(|state| state.pid(component))
            && is_alive(pid)
        {
            // Gone by itself in between is as good.
            let _ = signal(pid, Signal::SIGKILL);
        }
        thread::sleep(WATCH);
    }
}
