//! Accepts connections: bounded in number, calm when the system has no more to give.

use std::{cell::Cell, future::Future, net::SocketAddr, rc::Rc, time::Duration};

use mesh_api::sys::{Listener, Stream};
use tokio::sync::Notify;

/// How long to wait where accepting fails, for lack of file descriptors above all.
const PAUSE: Duration = Duration::from_millis(100);

/// Counts connections against a limit; for one thread.
#[derive(Debug)]
pub struct Slots {
    used: Cell<usize>,
    max: usize,
    freed: Notify,
}

impl Slots {
    /// At most `max`, at least one.
    #[must_use]
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { used: Cell::new(0), max: max.max(1), freed: Notify::new() })
    }

    /// How many are used.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Waits until none is used.
    pub async fn empty(&self) {
        while self.used.get() > 0 {
            self.freed.notified().await;
        }
    }

    /// Waits until one is free, without taking it.
    async fn room(&self) {
        while self.used.get() >= self.max {
            self.freed.notified().await;
        }
    }

    /// One, where it is free.
    #[must_use]
    pub fn try_take(self: &Rc<Self>) -> Option<Slot> {
        if self.used.get() >= self.max {
            return None;
        }
        self.used.set(self.used.get() + 1);
        Some(Slot(Rc::clone(self)))
    }

    async fn take(self: &Rc<Self>) -> Slot {
        self.room().await;
        self.used.set(self.used.get() + 1);
        Slot(Rc::clone(self))
    }
}

/// One connection's slot; free when it is dropped.
#[derive(Debug)]
pub struct Slot(Rc<Slots>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get().saturating_sub(1));
        // Whoever is told first may not need it.
        self.0.freed.notify_waiters();
    }
}

/// Accepts until `stop` completes; each connection is a task of its own. The listener is closed at the end.
pub async fn accept<F>(
    listener: Listener,
    slots: Rc<Slots>,
    stop: impl Future<Output = ()>,
    serve: impl Fn(Stream, SocketAddr) -> F + 'static,
) where
    F: Future<Output = ()> + 'static,
{
    let serve = Rc::new(serve);
    tokio::pin!(stop);
    loop {
        // A listener that waits for connections holds no slot: others may need them all.
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = async { slots.room().await; listener.accept().await } => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let slot = tokio::select! {
                    () = &mut stop => return,
                    slot = slots.take() => slot,
                };
                let serve = Rc::clone(&serve);
                tokio::task::spawn_local(async move {
                    // Made here and not before: what a future is given it holds twice, and this one is large.
                    serve(stream, peer).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept; waiting");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
