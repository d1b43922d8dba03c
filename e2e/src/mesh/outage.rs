//! A part of the control plane killed, and kept from coming back until the test says so.
//!
//! `meshctl up` starts by itself what ends; `POST /pause?part=NAME` at its admin server keeps it from that, and
//! `POST /resume?part=NAME` ends the pause.

use std::{fmt, time::Duration};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::{ADMIN, Mesh};
use crate::{
    http::get,
    process::{is_alive, signal, until},
};

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

/// A part of the control plane that is down.
#[derive(Debug)]
pub struct Outage {
    component: Component,
}

impl Mesh {
    /// Kills a part of the control plane, without warning; it stays down.
    ///
    /// # Errors
    /// Where it was not running.
    pub fn kill(&self, component: Component) -> Result<Outage> {
        let state = self.state()?;
        self.command(state.admin()?, &format!("/pause?part={component}"))?;
        let pid = state.pid(component)?;
        signal(pid, Signal::SIGKILL)?;
        until(&format!("the {component} is dead"), BACK, || Ok((!is_alive(pid)).then_some(())))?;
        Ok(Outage { component })
    }

    /// Lets a part of the control plane run again and awaits that it is ready.
    ///
    /// # Errors
    /// Where it does not come back.
    pub fn revive(&self, outage: Outage) -> Result<()> {
        let Outage { component } = outage;
        self.command(self.state()?.admin()?, &format!("/resume?part={component}"))
            .map_err(|error| self.explain(error))?;
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
