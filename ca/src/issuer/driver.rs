//! Drives a [`Source`] through time and hands what changed to whoever watches. Thin.

use std::{sync::Arc, time::Duration};

use mesh_api::sys::Clock;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    task::{JoinError, spawn_blocking},
};

use super::{
    Issuing, Report, SecretError, SecretStore, Store, StoreError, Supplied, SuppliedError,
    keyring::KeyringError,
    rotation::{Order, Refusal},
};
use crate::{telemetry, time::Time};

/// Orders that wait; more are refused.
const MAX_ORDERS: usize = 8;
/// Steps in one go: after a long sleep several are due at once, never more than these.
const MAX_STEPS: usize = 4;

/// Where roots and issuers come from.
#[derive(Debug)]
pub enum Source {
    /// A folder of our own.
    Own(Box<Store>),
    /// Somebody else's files.
    Supplied(Supplied),
    /// A Kubernetes Secret of our own.
    Secret(Box<SecretStore>),
}

/// Why there is nothing new to sign with. What signed before still does.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// Of a folder of our own.
    #[error(transparent)]
    Own(#[from] StoreError),
    /// Of somebody else's files.
    #[error(transparent)]
    Supplied(#[from] SuppliedError),
    /// Of a Secret of our own.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// There is nothing to sign with yet: the leader makes it.
    #[error("there is no Secret with roots and issuers yet; the replica that leads makes it")]
    Waiting,
    /// A step panicked.
    #[error("a step of the issuer: {0}")]
    Panicked(#[from] JoinError),
    /// The files are somebody else's: that one replaces them.
    #[error("the issuer is supplied in files: whoever makes them replaces them, and they are read again by themselves")]
    NotOurs,
}

/// A source, and what came of a turn of it; the source is gone where that panicked.
type Turned = (Source, Result<Option<Issuing>, IssuerError>);

impl Source {
    /// What is due or ordered; nothing where nothing changed.
    ///
    /// # Errors
    /// Where it panicked.
    pub async fn tick(self, now: Time, order: Option<Order>) -> Result<Turned, JoinError> {
        self.turn(now, order, false).await
    }

    /// What holds at the start, and what is due then.
    ///
    /// # Errors
    /// Where it panicked.
    pub async fn start(self, now: Time) -> Result<Turned, JoinError> {
        self.turn(now, None, true).await
    }

    async fn turn(self, now: Time, order: Option<Order>, first: bool) -> Result<Turned, JoinError> {
        // Files are written and flushed: not on a thread that serves.
        match self {
            Self::Own(mut store) => {
                spawn_blocking(move || {
                    let outcome = advance(&mut store, now, order, first);
                    (Self::Own(store), outcome)
                })
                .await
            }
            Self::Supplied(mut supplied) => {
                spawn_blocking(move || {
                    let outcome = match (order, first) {
                        (Some(_), _) => Err(IssuerError::NotOurs),
                        (None, true) => supplied.load(now).map(Some).map_err(Into::into),
                        (None, false) => supplied.reload(now).map_err(Into::into),
                    };
                    (Self::Supplied(supplied), outcome)
                })
                .await
            }
            Self::Secret(mut store) => {
                let outcome = match store.tick(now, order).await {
                    Ok(None) if first => Err(IssuerError::Waiting),
                    outcome => outcome.map_err(Into::into),
                };
                Ok((Self::Secret(store), outcome))
            }
        }
    }
}

fn advance(store: &mut Store, now: Time, order: Option<Order>, first: bool) -> Result<Option<Issuing>, IssuerError> {
    let mut changed = first;
    let mut order = order;
    for _ in 0..MAX_STEPS {
        let Some(step) = store.advance(now, order.take())? else { break };
        metrics::counter!(telemetry::ROTATIONS, "step" => step.name()).increment(1);
        tracing::info!(?step, phase = store.state().phase.name(), "rotation step done");
        changed = true;
    }
    if changed { Ok(Some(store.issuing(now)?)) } else { Ok(None) }
}

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The state machine says no; trying again before something changes is no use.
    #[error(transparent)]
    Refused(#[from] IssuerError),
    /// Too many orders at once. Worth a retry.
    #[error("too many orders at once; try again")]
    Busy,
    /// The process is ending.
    #[error("the process is ending")]
    Stopped,
}

impl OrderError {
    /// True where the order contradicts what is going on, false where carrying it out failed.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        let refused = |error: &KeyringError| {
            matches!(error, KeyringError::Refused(Refusal::Busy { .. } | Refusal::NotExpired(_)))
        };
        match self {
            Self::Refused(IssuerError::Own(StoreError::Keyring { error, .. })) => refused(error),
            Self::Refused(IssuerError::Secret(SecretError::Keyring { error, .. })) => refused(error),
            Self::Refused(IssuerError::NotOurs | IssuerError::Secret(SecretError::NotLeading { .. })) => true,
            _ => false,
        }
    }
}

struct Ask {
    order: Order,
    answer: oneshot::Sender<Result<Report, OrderError>>,
}

/// Gives orders to a running [`Driver`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Control {
    asks: mpsc::Sender<Ask>,
}

impl Control {
    /// Carries an order out and says how things stand then.
    ///
    /// # Errors
    /// [`OrderError`].
    pub async fn order(&self, order: Order) -> Result<Report, OrderError> {
        let (answer, answered) = oneshot::channel();
        self.asks.try_send(Ask { order, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => OrderError::Busy,
            mpsc::error::TrySendError::Closed(_) => OrderError::Stopped,
        })?;
        answered.await.map_err(|_| OrderError::Stopped)?
    }
}

/// Drives a source. Its task must be watched: when it ends, nothing renews any more.
#[derive(Debug)]
pub struct Driver {
    source: Source,
    issuing: watch::Sender<Arc<Issuing>>,
    asks: mpsc::Receiver<Ask>,
    wake: Arc<Notify>,
    clock: Clock,
    interval: Duration,
    concern: Option<Concern>,
}

/// How much of the issuer's life is left, where that is little: its renewal failed, or somebody forgot it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Concern {
    /// Less than a quarter.
    Quarter,
    /// Less than a tenth.
    Tenth,
    /// Nothing.
    Expired,
}

/// An issuer of our own is replaced after two thirds of its life, so only trouble gets as far as this.
fn concern(not_before: Time, not_after: Time, now: Time) -> Option<Concern> {
    if now > not_after {
        return Some(Concern::Expired);
    }
    let passed = |tenths| now >= not_before.fraction_until(not_after, tenths, 100);
    if passed(90) { Some(Concern::Tenth) } else { passed(75).then_some(Concern::Quarter) }
}

impl Driver {
    /// Reads what holds at the start. `interval`: how often to look whether something is due or was replaced.
    ///
    /// # Errors
    /// [`IssuerError`]: nothing can be signed, and the process should not start.
    pub async fn start(
        source: Source,
        clock: Clock,
        interval: Duration,
    ) -> Result<(Self, Control, watch::Receiver<Arc<Issuing>>), IssuerError> {
        let now = clock.now().into();
        let (source, outcome) = source.start(now).await?;
        match outcome? {
            Some(first) => Ok(Self::with(source, first, clock, interval)),
            None => Err(IssuerError::Waiting),
        }
    }

    /// Begins with what a source said at its start.
    #[must_use]
    pub fn with(
        source: Source,
        first: Issuing,
        clock: Clock,
        interval: Duration,
    ) -> (Self, Control, watch::Receiver<Arc<Issuing>>) {
        record(&first);
        let (issuing, watching) = watch::channel(Arc::new(first));
        let (asks, asked) = mpsc::channel(MAX_ORDERS);
        let wake = Arc::new(Notify::new());
        (Self { source, issuing, asks: asked, wake, clock, interval, concern: None }, Control { asks }, watching)
    }

    /// Looks at once whenever this is notified, beside the regular times.
    #[must_use]
    pub fn woken_by(mut self, wake: Arc<Notify>) -> Self {
        self.wake = wake;
        self
    }

    /// Runs until every [`Control`] is gone.
    ///
    /// # Errors
    /// Where a step panicked.
    pub async fn run(mut self) -> Result<(), JoinError> {
        let mut ticks = tokio::time::interval(self.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let ask = tokio::select! {
                _ = ticks.tick() => None,
                () = self.wake.notified() => None,
                ask = self.asks.recv() => match ask {
                    Some(ask) => Some(ask),
                    None => return Ok(()),
                },
            };
            let now = Time::from(self.clock.now());
            let order = ask.as_ref().map(|ask| ask.order);
            let (source, outcome) = self.source.tick(now, order).await?;
            self.source = source;
            self.conclude(outcome, ask);
            self.worry(now);
        }
    }

    /// One line each time that less is left.
    fn worry(&mut self, now: Time) {
        let issuing = self.issuing.borrow();
        let cert = issuing.signer().cert();
        let concern = concern(cert.not_before(), cert.not_after(), now);
        if concern > self.concern {
            let (issuer, not_after) = (cert.name(), cert.not_after());
            tracing::error!(issuer, %not_after, left = ?concern, "the issuer nears its end and has no successor");
        }
        self.concern = concern;
    }

    fn conclude(&self, outcome: Result<Option<Issuing>, IssuerError>, ask: Option<Ask>) {
        let answer = match outcome {
            Ok(changed) => {
                if let Some(changed) = changed {
                    record(&changed);
                    tracing::info!(
                        issuer = changed.signer().cert().name(),
                        not_after = %changed.signer().cert().not_after(),
                        roots = changed.roots().len(),
                        phase = changed.report().phase,
                        "issuer or roots changed"
                    );
                    self.issuing.send_replace(Arc::new(changed));
                }
                Ok(self.issuing.borrow().report().clone())
            }
            Err(error) => {
                if ask.is_none() {
                    metrics::counter!(telemetry::ROTATION_FAILURES).increment(1);
                    tracing::error!(%error, "the issuer is not renewed; the present one goes on signing while it is valid");
                }
                Err(OrderError::Refused(error))
            }
        };
        if let Some(ask) = ask {
            // Whoever asked may have gone away.
            let _ = ask.answer.send(answer);
        }
    }
}

/// Shows when things end, so that somebody is told long before.
fn record(issuing: &Issuing) {
    let seconds = |time: Time| time.unix() as f64;
    metrics::gauge!(telemetry::ISSUER_EXPIRY).set(seconds(issuing.signer().cert().not_after()));
    let roots = issuing.roots();
    let earliest = roots.iter().map(|root| root.not_after()).min().unwrap_or_default();
    let newest = roots.iter().map(|root| root.not_after()).max().unwrap_or_default();
    metrics::gauge!(telemetry::ROOT_EXPIRY, "which" => "earliest").set(seconds(earliest));
    metrics::gauge!(telemetry::ROOT_EXPIRY, "which" => "latest").set(seconds(newest));
    metrics::gauge!(telemetry::ROOTS).set(roots.len() as f64);
    for phase in telemetry::PHASES {
        let in_it = phase == issuing.report().phase;
        metrics::gauge!(telemetry::ROTATION_PHASE, "phase" => phase).set(f64::from(u8::from(in_it)));
    }
}

#[cfg(test)]
mod tests;
