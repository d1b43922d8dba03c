//! What one worker thread has: the things that everything on it shares. Floor 5: imports `upstream`, `discovery`.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use ::metrics::{Counter, Gauge, Label};
use mesh_api::{sys::Sys, tls::Keeper};
use rand::{Rng as _, rngs::StdRng};

use crate::{
    carry::Transferred,
    config::Config,
    discovery::Discovery,
    l7::h1,
    phase::{Phase, Phases, Reached},
    telemetry::{
        Telemetry,
        metrics::{Direction, RefusalMetrics},
    },
    trace::Sampler,
    upstream::Dialer,
};

/// One worker's things. Everything is for one thread, nothing is locked.
pub struct Worker {
    /// Sockets, clock, randomness.
    pub sys: Sys,
    /// Configuration.
    pub config: Arc<Config>,
    /// Own certificate and roots.
    pub keeper: Arc<Keeper>,
    /// Where to ask about the mesh.
    pub discovery: Discovery,
    /// Metrics, spans, access lines.
    pub telemetry: Arc<Telemetry>,
    /// Connecting to endpoints.
    pub outbound_dialer: Rc<Dialer>,
    /// Connecting to the application.
    pub inbound_dialer: Rc<Dialer>,
    /// Refusals of the inbound side.
    pub inbound_refusals: RefusalMetrics,
    /// Refusals of the outbound side.
    pub outbound_refusals: RefusalMetrics,
    /// Limits of HTTP/1 towards callers from other machines.
    pub inbound_http1: Rc<h1::ServerConfig>,
    /// Limits of HTTP/1 towards the application.
    pub outbound_http1: Rc<h1::ServerConfig>,
    /// Open connections, inbound and outbound.
    pub open: [Gauge; 2],
    /// Decides which traces that begin here are recorded.
    pub sampler: Sampler,
    /// Tries that were repeated: the first cannot have been worked on.
    pub retries: Counter,
    /// Tries that were repeated: the first got no answer, and doing it twice does no harm.
    pub retries_lost: Counter,
    carried: [Transferred; 2],
    phases: Rc<Phases>,
    random: RefCell<StdRng>,
}

impl Worker {
    /// A worker's things.
    #[must_use]
    pub fn new(
        sys: &Sys,
        config: &Arc<Config>,
        keeper: &Arc<Keeper>,
        discovery: &Discovery,
        telemetry: &Arc<Telemetry>,
        phases: Rc<Phases>,
    ) -> Rc<Self> {
        let dialer = |timeout| Dialer::new(sys, keeper, telemetry, timeout, config.outbound.max_pending);
        let gauge = |direction: Direction| {
            let label = Label::from_static_parts("direction", direction.as_str());
            telemetry.gauge("mesh_connections_open", vec![label])
        };
        let retries =
            |reason| telemetry.counter("mesh_retries_total", vec![Label::from_static_parts("reason", reason)]);
        Rc::new(Self {
            sys: sys.clone(),
            config: Arc::clone(config),
            keeper: Arc::clone(keeper),
            discovery: discovery.clone(),
            telemetry: Arc::clone(telemetry),
            outbound_dialer: dialer(config.outbound.connect_timeout),
            inbound_dialer: dialer(config.inbound.connect_timeout),
            inbound_refusals: RefusalMetrics::new(telemetry, Direction::Inbound),
            outbound_refusals: RefusalMetrics::new(telemetry, Direction::Outbound),
            inbound_http1: Rc::new(http1_limits(telemetry, Direction::Inbound)),
            outbound_http1: Rc::new(http1_limits(telemetry, Direction::Outbound)),
            open: [gauge(Direction::Inbound), gauge(Direction::Outbound)],
            sampler: Sampler::ratio(telemetry.trace_ratio),
            retries: retries("unprocessed"),
            retries_lost: retries("connection-lost"),
            carried: [Direction::Inbound, Direction::Outbound].map(|direction| Transferred::new(telemetry, direction)),
            phases,
            random: RefCell::new(sys.entropy.rng()),
        })
    }

    /// Uniform over all of `u64`.
    pub fn random(&self) -> u64 {
        self.random.borrow_mut().next_u64()
    }

    /// Bytes carried in one direction.
    pub fn transferred(&self, direction: Direction) -> &Transferred {
        let [inbound, outbound] = &self.carried;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }

    /// Random bytes for identifiers.
    pub fn random_bytes(&self, bytes: &mut [u8]) {
        self.random.borrow_mut().fill_bytes(bytes);
    }

    /// Completes when the proxy is at least in `phase`.
    #[must_use]
    pub fn reached(&self, phase: Phase) -> Reached {
        self.phases.reached(phase)
    }
}

/// For the own application's connections. Whoever closes an idle connection may cross the next request on it: that is for
/// the application to do, which knows what it is about to send.
const OWN_IDLE: Duration = Duration::from_secs(3600);
/// How long the own application may rest in the middle of a request or of reading a response.
const OWN_REST: Duration = Duration::from_secs(3600);

fn http1_limits(telemetry: &Arc<Telemetry>, direction: Direction) -> h1::ServerConfig {
    let telemetry = Arc::clone(telemetry);
    let hook = move |bad: &h1::BadRequest| {
        let labels = vec![
            Label::from_static_parts("direction", direction.as_str()),
            Label::from_static_parts("reason", bad.reason.as_str()),
        ];
        telemetry.counter("mesh_bad_requests_total", labels).increment(1);
    };
    let limits = h1::ServerConfig { on_bad_request: Some(Arc::new(hook)), ..h1::ServerConfig::default() };
    match direction {
        // Strangers: the defaults keep those away who only hold connections.
        Direction::Inbound => limits,
        Direction::Outbound => h1::ServerConfig {
            idle_timeout: OWN_IDLE,
            body: h1::BodyLimits { idle: OWN_REST, ..limits.body },
            write_timeout: OWN_REST,
            ..limits
        },
    }
}
