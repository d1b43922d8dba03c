//! The policy of the own workload as one worker uses it: compiled for each port that was reached.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

use mesh_api::model::{Protocol, policy::InboundPolicy};
use tokio::time::timeout;

use super::{Arrival, object};
use crate::{
    authz::{Authorizer, Caller, Denial, Verdict},
    discovery::{Follow, State},
    fault::{Code, Fault},
    normal::RequestView,
    worker::Worker,
};

/// Ports whose compiled policy is kept.
const MAX_PORTS: usize = 1024;

/// Compiled policies, made anew when the controller sends another.
pub(super) struct Policies {
    worker: Rc<Worker>,
    follow: RefCell<Follow<InboundPolicy>>,
    ports: RefCell<HashMap<u16, Rc<PortState>>>,
}

/// What holds for one port. Connections keep it; what it says changes with the policy.
pub(crate) struct PortState {
    port: u16,
    follow: RefCell<Follow<InboundPolicy>>,
    compiled: RefCell<Rc<Compiled>>,
}

struct Compiled {
    protocol: Protocol,
    strict: bool,
    authorizer: Authorizer,
}

impl Policies {
    pub(super) fn new(worker: &Rc<Worker>) -> Self {
        let follow = RefCell::new(worker.discovery.inbound());
        Self { worker: Rc::clone(worker), follow, ports: RefCell::default() }
    }

    /// What holds for `port`, waiting for the first policy. `None`: there is none yet, nobody is let in.
    pub(super) async fn port(&self, port: u16) -> Option<Rc<PortState>> {
        if let Some(state) = self.ports.borrow().get(&port) {
            return Some(Rc::clone(state));
        }
        let mut follow = self.follow.borrow().clone();
        let known =
            timeout(self.worker.config.discovery.wait, follow.wait_for(|state| matches!(state, State::Known(_))));
        known.await.ok()?.ok()?;
        let state = Rc::new(PortState::new(port, follow)?);
        let mut ports = self.ports.borrow_mut();
        if ports.len() >= MAX_PORTS {
            ports.clear();
        }
        ports.insert(port, Rc::clone(&state));
        Some(state)
    }
}

impl PortState {
    fn new(port: u16, mut follow: Follow<InboundPolicy>) -> Option<Self> {
        let compiled = match &*follow.borrow_and_update() {
            State::Known(policy) => Rc::new(Compiled::new(policy, port)),
            State::Waiting | State::Missing(_) => return None,
        };
        let (follow, compiled) = (RefCell::new(follow), RefCell::new(compiled));
        Some(Self { port, follow, compiled })
    }

    fn current(&self) -> Rc<Compiled> {
        let mut follow = self.follow.borrow_mut();
        if follow.has_changed().unwrap_or(false) {
            // What is not known any more stays in force as it was.
            if let State::Known(policy) = &*follow.borrow_and_update() {
                *self.compiled.borrow_mut() = Rc::new(Compiled::new(policy, self.port));
            }
        }
        Rc::clone(&self.compiled.borrow())
    }

    /// The changes from now on. Taken before a connection is judged, none is missed while it is made.
    pub(super) fn changes(&self) -> Changes {
        self.current();
        Changes(self.follow.borrow().clone())
    }

    pub(super) fn protocol(&self) -> Protocol {
        self.current().protocol
    }

    pub(super) fn is_strict(&self) -> bool {
        self.current().strict
    }

    /// False where bytes that look like HTTP are not to be taken for it.
    pub(super) fn speaks_http(&self) -> bool {
        !matches!(self.protocol(), Protocol::Opaque | Protocol::Tls)
    }

    /// True where requests have to be looked at before a caller is refused for having no identity.
    pub(super) fn expects_probes(&self) -> bool {
        self.speaks_http() && self.current().authorizer.expects_probes()
    }

    /// Whether a connection may be made at all.
    pub(super) fn admit(&self, arrival: &Arrival) -> Result<(), Fault> {
        self.current().authorizer.admit(&caller(arrival)).map_err(|denial| fault(&denial))
    }

    /// Judges a request, or without one a connection that is not HTTP.
    pub(super) fn authorize(&self, arrival: &Arrival, request: Option<&RequestView<'_>>) -> Result<(), Fault> {
        let compiled = self.current();
        let caller = caller(arrival);
        for policy in compiled.authorizer.audits(&caller, request) {
            tracing::info!(policy = &*policy.text, peer = %arrival.peer, identity = ?arrival.identity, "audit");
        }
        match compiled.authorizer.authorize(&caller, request) {
            Verdict::Allow { .. } => Ok(()),
            Verdict::Deny(denial) => Err(fault(&denial)),
        }
    }
}

/// Changes of a port's policy.
pub(super) struct Changes(Follow<InboundPolicy>);

impl Changes {
    /// Completes when there is another policy, which may judge a connection anew.
    pub(super) async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The proxy stops; nothing will change any more.
            std::future::pending().await
        }
    }
}

impl Compiled {
    fn new(policy: &InboundPolicy, port: u16) -> Self {
        let policy = policy.port(port);
        let (authorizer, unusable) = Authorizer::compile(policy, port);
        for problem in unusable {
            tracing::warn!(port, ?problem, "a part of the policies cannot be used");
        }
        let strict = policy.transport == mesh_api::model::policy::Transport::Strict;
        Self { protocol: policy.protocol, strict, authorizer }
    }
}

fn caller(arrival: &Arrival) -> Caller<'_> {
    Caller { identity: arrival.identity.as_ref(), address: arrival.address() }
}

fn fault(denial: &Denial<'_>) -> Fault {
    Fault::by(Code::Denied, denial.reason.as_str(), denial.by.map(object))
}
