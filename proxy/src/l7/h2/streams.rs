//! How many streams a connection carries: counted here, because what is beyond the peer's limit would otherwise wait
//! inside the codec, without bound and without a deadline.

use std::{cell::Cell, rc::Rc};

use tokio::sync::Notify;

/// Counts streams; for one thread.
#[derive(Debug, Default)]
pub struct Streams {
    open: Cell<usize>,
    freed: Notify,
}

impl Streams {
    /// How many there are.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Waits until there are fewer than `limit` says, then counts one more.
    pub async fn take(self: &Rc<Self>, limit: impl Fn() -> usize) -> Slot {
        while self.open.get() >= limit() {
            self.freed.notified().await;
        }
        self.open.set(self.open.get() + 1);
        Slot(Rc::clone(self))
    }
}

/// One stream's place; free when it is dropped.
#[derive(Debug)]
pub struct Slot(Rc<Streams>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
        self.0.freed.notify_one();
    }
}
