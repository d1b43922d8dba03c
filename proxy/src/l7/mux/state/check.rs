//! What holds of a connection's books after each step; for `fuzzing`.

use super::State;

impl State {
    /// Panics where its counters are not what they count.
    pub(in crate::l7::mux) fn check(&self) {
        let count = |of: fn(&super::Stream) -> bool| self.streams.values().filter(|stream| of(stream)).count();
        assert_eq!(self.byte_streams, count(|stream| stream.bytes));
        assert_eq!(self.bulk, count(super::Stream::is_bulk));
        let grown: u32 = self.streams.values().map(|stream| stream.grown(self.limits.stream_window)).sum();
        assert_eq!(self.grown, grown);
        let unread: u64 = self.streams.values().map(|stream| stream.unread() as u64).sum();
        let window = u64::from(self.window) + u64::from(self.taken) + unread;
        assert_eq!(window, u64::from(self.limits.connection_window), "credit of the connection was lost, or made");
        for (id, stream) in &self.streams {
            assert!(*id <= self.last);
            assert!(!stream.sent_end || stream.said_end, "an end was sent that was never said");
            assert!(!(stream.receive_gone && stream.send_gone && stream.is_done()), "a stream that nobody has");
            stream.check();
        }
        self.outgoing.check(|id| self.streams.contains_key(&id));
    }

    /// Panics where something is left of streams that all are over.
    pub(in crate::l7::mux) fn check_unused(&self) {
        assert!(self.streams.is_empty(), "streams that nobody has: {:?}", self.streams.keys());
        assert_eq!((self.byte_streams, self.bulk, self.grown), (0, 0, 0));
        self.check();
    }
}
