//! Large buffers for bytes on their way, of which each thread keeps a few: bulk is read in few calls, and who is idle has none.

use std::cell::RefCell;

/// Bytes of a buffer.
pub(super) const SIZE: usize = 64 * 1024;
/// Buffers kept by a thread.
const MAX: usize = 8;

thread_local! {
    static STOCK: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer of [`SIZE`]; what is in it is nobody's business.
pub(super) fn take() -> Box<[u8]> {
    STOCK.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE].into())
}

/// For the next one.
pub(super) fn give(buffer: Box<[u8]>) {
    STOCK.with_borrow_mut(|stock| {
        if buffer.len() == SIZE && stock.len() < MAX {
            stock.push(buffer);
        }
    });
}
