//! How far the proxy is in stopping, as one worker sees it. Floor 1.
//!
//! Every connection asks between two messages whether it should end. So asking costs a look at a cell: one task of each worker
//! listens to the control thread, and wakes those on its own thread who wait.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use slab::Slab;
use tokio::sync::watch;

/// How far the proxy is in stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It serves.
    Serving,
    /// Nothing new comes in; what is in flight ends. The application's own calls still go out.
    DrainingInbound,
    /// Nothing new goes out either.
    DrainingAll,
}

/// The phase on one thread, and who waits for a later one there.
#[derive(Debug)]
pub struct Phases {
    now: Cell<Phase>,
    waiting: RefCell<Slab<Waker>>,
}

impl Phases {
    /// Of one thread, which must run [`Phases::follow`] with the same receiver.
    #[must_use]
    pub fn new(phase: &watch::Receiver<Phase>) -> Rc<Self> {
        Rc::new(Self { now: Cell::new(*phase.borrow()), waiting: RefCell::default() })
    }

    /// Passes on what the control thread says, until nothing more can come.
    pub async fn follow(self: Rc<Self>, mut phase: watch::Receiver<Phase>) {
        loop {
            let now = *phase.borrow_and_update();
            self.enter(now);
            if now == Phase::DrainingAll {
                return;
            }
            if phase.changed().await.is_err() {
                // The sender is gone: the proxy has stopped.
                return self.enter(Phase::DrainingAll);
            }
        }
    }

    fn enter(&self, phase: Phase) {
        if self.now.replace(phase) == phase {
            return;
        }
        // Taken out first: a waker may run anything.
        let woken: Vec<Waker> = self.waiting.borrow().iter().map(|(_, waker)| waker.clone()).collect();
        for waker in woken {
            waker.wake();
        }
    }

    /// Completes when the proxy is at least in `phase`.
    #[must_use]
    pub fn reached(self: &Rc<Self>, phase: Phase) -> Reached {
        Reached { phases: Rc::clone(self), phase, place: None }
    }
}

/// See [`Phases::reached`].
#[derive(Debug)]
pub struct Reached {
    phases: Rc<Phases>,
    phase: Phase,
    place: Option<usize>,
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.phases.now.get() >= this.phase {
            return Poll::Ready(());
        }
        let mut waiting = this.phases.waiting.borrow_mut();
        match this.place.and_then(|place| waiting.get_mut(place)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => this.place = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Reached {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.phases.waiting.borrow_mut().try_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn those_who_wait_hear_of_it_and_leave_nothing() {
        let (sender, receiver) = watch::channel(Phase::Serving);
        let phases = Phases::new(&receiver);
        let local = tokio::task::LocalSet::new();
        local.spawn_local(Rc::clone(&phases).follow(receiver));
        let (early, late) = (phases.reached(Phase::DrainingInbound), phases.reached(Phase::DrainingAll));
        let given_up = phases.reached(Phase::DrainingAll);
        let waits = local.run_until(async move {
            let (early, late) = (tokio::task::spawn_local(early), tokio::task::spawn_local(late));
            let waits = tokio::task::spawn_local(given_up);
            tokio::task::yield_now().await;
            sender.send_replace(Phase::DrainingInbound);
            early.await.unwrap();
            assert!(!late.is_finished());
            waits.abort();
            let _ = waits.await;
            // Whoever could say more is gone: that is the end.
            drop(sender);
            late.await.unwrap();
        });
        tokio::time::timeout(std::time::Duration::from_secs(5), waits).await.unwrap();
        assert!(phases.waiting.borrow().is_empty());
        // What comes too late need not wait.
        phases.reached(Phase::DrainingAll).await;
    }
}
