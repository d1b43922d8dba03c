//! All streams of one connection: what was received and not yet taken, who waits for what, whose end was said. Nothing waits in
//! here and nothing is read or written: `drive` brings frames and takes bytes, the halves of streams take and bring the rest.

use std::{cell::RefCell, io, rc::Rc, sync::Arc, task::Waker, time::Duration};

use bytes::Bytes;
use h2::Reason;
use tokio::time::Instant;

use super::{
    FIRST, Limits,
    frame::{self, Frame, Kind},
    ids::IdMap,
    outgoing::{Outgoing, TooLarge},
};

#[cfg(any(test, fuzzing))]
mod check;
mod receive;
mod stream;

pub(super) use stream::{Over, Stream};

/// Bytes that may wait to be written because the peer asks for them and does not read them.
const MAX_ANSWERS: usize = 1024 * 1024;
/// Streams of bytes at once; they are connections of applications, and bounded as those are.
const MAX_BYTE_STREAMS: usize = 20_000;
/// Streams beyond the limit that are taken: the two sides do not see one end at the same moment.
const SLACK: usize = 256;

/// Why a connection is no more.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Broken {
    /// Its peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// It failed.
    #[error("the connection failed: {0}")]
    Io(Arc<io::Error>),
    /// The peer broke the rules.
    #[error("the peer broke the rules: {0}")]
    Rules(&'static str),
    /// The peer gave no sign of life.
    #[error("the peer does not answer")]
    Silent,
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// Which side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Opens streams.
    Client,
    /// Serves them.
    Server,
}

/// Shared by the connection's task and all its streams; never borrowed across anything foreign.
pub(super) type Shared = Rc<RefCell<State>>;

/// A stream that the peer began.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: u32,
    /// The head of a request, and whether nothing follows it; `None`: bytes without a head.
    pub(super) request: Option<(Bytes, bool)>,
}

/// The state.
#[derive(Debug)]
pub(super) struct State {
    side: Side,
    limits: Limits,
    streams: IdMap<Stream>,
    /// Of them, those of bytes.
    byte_streams: usize,
    /// Of them, those that carry bulk.
    bulk: usize,
    /// By how much windows of streams have grown, in all.
    grown: u32,
    pub(super) outgoing: Outgoing,
    driver: Option<Waker>,
    /// The driver was woken and has not been here since.
    woken: bool,
    /// The last stream that was opened.
    last: u32,
    /// What the peer may still send, and what was taken of it since it was told.
    window: u32,
    taken: u32,
    /// Streams at once that the peer takes, once it has said so in its greeting.
    peer_streams: Option<u32>,
    /// No stream will be opened any more: one of the two sides said so, or nobody is left who could.
    leaving: bool,
    /// The peer was asked to open no more streams; those that it opened before it heard of that are taken.
    parting: bool,
    /// It is time to look.
    due: bool,
    /// Something was heard of the peer since it was looked.
    heard: bool,
    asked: bool,
    /// When it was asked, and how long the last answer took.
    asked_at: Option<Instant>,
    round_trip: Option<Duration>,
    broken: Option<Broken>,
}

/// Tells a connection's driver in intervals that it is time to look: a clock that the driver asked itself would cost it more than
/// all that it does.
pub(super) fn keep_time(shared: &Shared, every: Duration) {
    let weak = Rc::downgrade(shared);
    tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(every).await;
            let Some(shared) = weak.upgrade() else { return };
            let mut state = shared.borrow_mut();
            if state.broken.is_some() {
                return;
            }
            state.due = true;
            state.wake_driver();
        }
    });
}

impl State {
    pub(super) fn new(side: Side, limits: &Limits) -> Self {
        let mut outgoing = Outgoing::new(FIRST.stream, FIRST.connection);
        let hello = Kind::Hello {
            stream: limits.stream_window,
            connection: limits.connection_window,
            streams: limits.max_streams,
        };
        outgoing.control(&Frame { stream: 0, end: false, kind: hello });
        Self {
            side,
            limits: limits.clone(),
            streams: IdMap::default(),
            byte_streams: 0,
            bulk: 0,
            grown: 0,
            outgoing,
            driver: None,
            woken: false,
            last: 0,
            window: limits.connection_window,
            taken: 0,
            peer_streams: None,
            leaving: false,
            parting: false,
            due: false,
            heard: false,
            asked: false,
            asked_at: None,
            round_trip: None,
            broken: None,
        }
    }

    /// Where the driver waits.
    pub(super) fn driver_is(&mut self, waker: &Waker) {
        self.woken = false;
        stream::remember(&mut self.driver, waker);
    }

    /// There is something to be written, or to end.
    fn wake_driver(&mut self) {
        if !self.woken
            && let Some(driver) = &self.driver
        {
            self.woken = true;
            driver.wake_by_ref();
        }
    }

    /// Streams at once that the peer takes; as many as one likes, before it has said so: what is too much it refuses.
    pub(super) fn peer_streams(&self) -> usize {
        self.peer_streams.map_or(usize::MAX, |streams| streams as usize)
    }

    /// True where a stream may be opened.
    pub(super) fn is_open(&self) -> bool {
        !self.leaving && self.broken.is_none() && self.last < u32::MAX
    }

    /// True where all has been said.
    pub(super) fn is_over(&self) -> bool {
        self.leaving && self.streams.is_empty()
    }

    /// True where no stream misses anything of what the peer has to say.
    pub(super) fn is_complete(&self) -> bool {
        self.streams.values().all(|stream| stream.ended() || stream.over().is_some())
    }

    /// True where a stream carries bulk, or readers that do not read have used up what all streams together may have on their
    /// way: whoever is in a hurry does better on another connection.
    pub(super) fn is_busy(&self) -> bool {
        self.bulk > 0 || self.outgoing.is_starved() || self.window < FIRST.stream
    }

    fn moved(&mut self, id: u32, bytes: usize) {
        let becomes_bulk = self.streams.get_mut(&id).is_some_and(|stream| stream.moves(bytes));
        self.bulk += usize::from(becomes_bulk);
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Opens a stream; `None` where none may be.
    pub(super) fn open(&mut self) -> Option<u32> {
        if !self.is_open() {
            return None;
        }
        self.last += 1;
        self.outgoing.open(self.last, false);
        self.streams.insert(self.last, Stream::new(self.limits.stream_window));
        Some(self.last)
    }

    /// Opens a stream of bytes; `None` where none may be.
    pub(super) fn open_bytes(&mut self) -> Option<u32> {
        if self.byte_streams >= MAX_BYTE_STREAMS {
            return None;
        }
        let id = self.open()?;
        self.counts_as_bytes(id);
        // A frame without fields is never too large.
        let _ = self.send_fields(id, frame::OPEN, false, |_| {});
        Some(id)
    }

    fn counts_as_bytes(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.bytes = true;
            self.byte_streams += 1;
        }
    }

    pub(super) fn stream(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    /// The client opens no more streams; what is open goes on.
    pub(super) fn leave(&mut self) {
        self.leaving = true;
        self.wake_driver();
    }

    /// The server wants no more streams, and says so. What crosses that on its way is still taken: only when the peer has heard
    /// of it, the server takes no more (RFC 9113 section 6.8 does the same).
    pub(super) fn go_away(&mut self) {
        if !self.leaving && !self.parting {
            self.parting = true;
            self.control(0, Kind::GoAway(u32::MAX));
            self.ask();
        }
    }

    /// The peer has heard of it, or had the time to.
    fn part(&mut self) {
        if self.parting && !self.leaving {
            let last = self.last;
            self.control(0, Kind::GoAway(last));
            self.leave();
        }
    }

    fn control(&mut self, stream: u32, kind: Kind) {
        self.outgoing.control(&Frame { stream, end: false, kind });
        self.wake_driver();
    }

    /// True once after each interval.
    pub(super) fn is_due(&mut self) -> bool {
        std::mem::take(&mut self.due)
    }

    /// To be called in intervals: asks for a sign of life.
    ///
    /// # Errors
    /// Where there was none since the last time.
    pub(super) fn look(&mut self) -> Result<(), Broken> {
        if self.asked && !self.heard {
            return Err(Broken::Silent);
        }
        (self.asked, self.heard) = (true, false);
        self.part();
        self.ask();
        Ok(())
    }

    fn ask(&mut self) {
        self.asked_at = Some(Instant::now());
        self.control(0, Kind::Ping(*b"is alive"));
    }

    /// Gathers what is to be written.
    ///
    /// # Errors
    /// Where the peer asks and does not read.
    pub(super) fn fill(&mut self, enough: usize) -> Result<(), Broken> {
        if self.outgoing.out().len() > MAX_ANSWERS {
            return Err(Broken::Rules("it does not read what it asks for"));
        }
        let (mut ended, streams) = (Vec::new(), &mut self.streams);
        let (outgoing, room) = (&mut self.outgoing, &mut Vec::new());
        outgoing.fill(enough, |progress| {
            if progress.ended {
                ended.push(progress.stream);
            } else {
                room.push(progress.stream);
            }
        });
        for id in room.drain(..) {
            if outgoing.has_room(id)
                && let Some(writer) = streams.get_mut(&id).and_then(|stream| stream.writer.take())
            {
                writer.wake();
            }
        }
        for id in ended {
            self.sent_end(id);
        }
        Ok(())
    }

    fn sent_end(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.sent_end = true;
        }
        self.settle(id);
    }

    /// Sends a head or trailers on a stream.
    pub(super) fn send_fields(
        &mut self,
        id: u32,
        code: u8,
        end: bool,
        put: impl FnOnce(&mut bytes::BytesMut),
    ) -> Result<(), TooLarge> {
        let written = self.outgoing.fields(id, code, end, put)?;
        self.sent(id, end, written);
        Ok(())
    }

    /// Sends a part of a body.
    pub(super) fn send_data(&mut self, id: u32, bytes: Bytes, end: bool) {
        self.moved(id, bytes.len());
        let written = self.outgoing.data(id, bytes, end);
        self.sent(id, end, written);
    }

    /// Sends a part of a stream of bytes; answers how much of it was taken.
    pub(super) fn send_bytes(&mut self, id: u32, bytes: &[u8]) -> usize {
        let taken = self.outgoing.bytes(id, bytes);
        self.moved(id, taken);
        self.wake_driver();
        taken
    }

    fn sent(&mut self, id: u32, end: bool, written: bool) {
        if end && let Some(stream) = self.streams.get_mut(&id) {
            stream.said_end = true;
        }
        if written {
            self.sent_end(id);
        }
        self.wake_driver();
    }

    /// Ends a stream before its end, for both sides.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.over.is_some() || (stream.ended && stream.sent_end) {
            return;
        }
        stream.end(Over::Here);
        if self.outgoing.close(id) {
            self.control(id, Kind::Reset(reason.into()));
        }
        self.settle(id);
    }

    /// The receiving half is gone.
    pub(super) fn drop_receive(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.receive_gone = true;
        let (unread, ended) = (stream.discard(), stream.ended);
        self.give_connection(unread);
        if self.side == Side::Client && !ended {
            self.reset(id, Reason::CANCEL);
        }
        self.settle(id);
    }

    /// The sending half is gone.
    pub(super) fn drop_send(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.send_gone = true;
        if !stream.said_end {
            self.reset(id, Reason::INTERNAL_ERROR);
        }
        self.settle(id);
    }

    /// Forgets a stream of which nothing is left; where only the peer goes on and nobody listens, tells it.
    fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let unheard = stream.sent_end && stream.receive_gone && !stream.ended && stream.over.is_none();
        if unheard {
            stream.end(Over::Here);
        }
        let gone = stream.receive_gone && stream.send_gone;
        let done = stream.over.is_some() || (stream.ended && stream.sent_end);
        if unheard {
            self.control(id, Kind::Reset(Reason::NO_ERROR.into()));
        }
        if gone && done {
            if let Some(stream) = self.streams.remove(&id) {
                self.byte_streams -= usize::from(stream.bytes);
                self.bulk -= usize::from(stream.is_bulk());
                self.grown = self.grown.saturating_sub(stream.grown(self.limits.stream_window));
            }
            self.outgoing.close(id);
            if self.leaving {
                self.wake_driver();
            }
        }
    }

    /// So much of what the peer sent was taken from a stream.
    pub(super) fn give(&mut self, id: u32, taken: usize) {
        let round_trip = self.round_trip;
        // What grows must leave to others what they were promised.
        let may_grow = self.grown < self.limits.connection_window / 4;
        let initial = self.limits.stream_window;
        let mut due = None;
        if let Some(stream) = self.streams.get_mut(&id) {
            let before = stream.grown(initial);
            due = stream.give(taken, round_trip.filter(|_| may_grow));
            self.grown += stream.grown(initial) - before;
        }
        if let Some(due) = due {
            self.control(id, Kind::Credit(due));
            if self.asked_at.is_none() && round_trip.is_none() {
                self.ask();
            }
        }
        self.give_connection(taken);
    }

    fn give_connection(&mut self, taken: usize) {
        self.taken = self.taken.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        if self.taken >= self.limits.connection_window / 2 {
            let due = std::mem::take(&mut self.taken);
            self.window = self.window.saturating_add(due);
            self.control(0, Kind::Credit(due));
        }
    }

    /// The connection is no more: everybody hears of it.
    pub(super) fn fail(&mut self, broken: &Broken) {
        self.broken.get_or_insert_with(|| broken.clone());
        for stream in self.streams.values_mut() {
            stream.end(Over::Broken(broken.clone()));
        }
    }
}
