//! What holds of what is to be sent after each step; for `fuzzing`.

use super::{Item, Outgoing, QUEUED};

/// More than what a writer may add to a stream that has room: one piece of a body.
const PIECE: usize = 64 * 1024;

impl Outgoing {
    /// Panics where a stream waits for a turn that will not come, or its books do not add up. `known`: streams that are there.
    pub(in crate::l7::mux) fn check(&self, known: impl Fn(u32) -> bool) {
        for (id, stream) in &self.streams {
            assert!(known(*id), "stream {id} is over, and has something to say");
            let queued: usize = stream.items.iter().map(Item::body).sum();
            assert_eq!(stream.queued, queued);
            assert!(queued < QUEUED + PIECE || stream.items.len() <= 2, "a queue without a bound");
            assert_eq!(stream.in_turn, self.turns.contains(id), "stream {id}");
            assert!(stream.in_turn || !stream.may_send(), "stream {id} waits for a turn that does not come");
            let ends = stream.items.iter().filter(|item| item.ends()).count();
            assert!(ends == 0 || ends == 1 && stream.ended && stream.items.back().is_some_and(Item::ends));
        }
    }
}

impl Item {
    fn body(&self) -> usize {
        match self {
            Self::Fields { .. } => 0,
            Self::Data { bytes, .. } => bytes.len(),
        }
    }

    fn ends(&self) -> bool {
        match self {
            Self::Fields { end, .. } | Self::Data { end, .. } => *end,
        }
    }
}
