//! What one side has to send: per stream in order, among streams in turn, never more than the receiver gave credit for. Pure.
//!
//! Heads and trailers cost no credit: they are bounded by themselves, and a stream that could not begin or end would hold what
//! its peer waits for. Bodies do. A stream that has nothing to send, or no credit, is not in the queue of those whose turn
//! comes; so a turn costs the same however many streams there are. While nobody waits for a turn, frames are written where
//! they are to be sent from, without a stop in between.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

use super::{
    frame::{self, Frame, HEAD, Kind, MAX_DATA, MAX_FIELDS},
    ids::IdMap,
};

#[cfg(any(test, fuzzing))]
mod check;

/// The most credit that there may be: what a peer gives beyond it is its mistake.
pub const MAX_CREDIT: u32 = i32::MAX as u32;
/// Bytes that are gathered for one write.
pub const ENOUGH: usize = 64 * 1024;
/// Bytes of bodies that one stream may have waiting.
const QUEUED: usize = 64 * 1024;

/// A stream's credit, or the connection's, would be more than [`MAX_CREDIT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more credit than there may be")]
pub struct TooMuchCredit;

/// A head, or trailers, of more bytes than a frame may have. Nothing of it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a head of more than 64 KiB")]
pub struct TooLarge;

/// Something that a stream is to send.
#[derive(Debug)]
enum Item {
    /// A head, or trailers: the whole frame.
    Fields { frame: Bytes, end: bool },
    /// A part of a body.
    Data { bytes: Bytes, end: bool },
}

#[derive(Debug, Default)]
struct Stream {
    items: VecDeque<Item>,
    /// Bytes of bodies among them.
    queued: usize,
    credit: u32,
    /// Its turn will come.
    in_turn: bool,
    /// Its last item is queued or sent.
    ended: bool,
    /// The peer knows of it.
    begun: bool,
}

/// Everything that is to be sent.
#[derive(Debug)]
pub struct Outgoing {
    streams: IdMap<Stream>,
    turns: VecDeque<u32>,
    /// Of the connection.
    credit: u32,
    /// What each new stream begins with.
    initial: u32,
    /// What is to be written next.
    out: BytesMut,
}

/// A stream that came further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Which.
    pub stream: u32,
    /// Its last frame is written.
    pub ended: bool,
}

impl Outgoing {
    /// With the credit that every connection begins with.
    #[must_use]
    pub fn new(initial: u32, connection: u32) -> Self {
        Self { streams: IdMap::default(), turns: VecDeque::new(), credit: connection, initial, out: BytesMut::new() }
    }

    /// What the peer said it takes: it holds for the streams that there are as well.
    ///
    /// # Errors
    /// [`TooMuchCredit`].
    pub fn grant(&mut self, initial: u32, more_connection: u32) -> Result<(), TooMuchCredit> {
        let more = initial.saturating_sub(self.initial);
        self.initial = initial.min(MAX_CREDIT);
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.add_credit(id, more)?;
        }
        self.add_credit(0, more_connection)
    }

    /// A stream begins; `begun` where the peer began it.
    pub fn open(&mut self, stream: u32, begun: bool) {
        self.streams.insert(stream, Stream { credit: self.initial, begun, ..Stream::default() });
    }

    /// A stream is over: nothing more of it is sent. True where the peer knows of it.
    pub fn close(&mut self, stream: u32) -> bool {
        // Its turn, where it has one, passes when it comes.
        self.streams.remove(&stream).is_some_and(|stream| stream.begun)
    }

    /// True where the connection has too little credit for anybody's body.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        (self.credit as usize) < ENOUGH
    }

    /// False where a stream has as much waiting as it may.
    #[must_use]
    pub fn has_room(&self, stream: u32) -> bool {
        self.streams.get(&stream).is_none_or(|stream| stream.queued < QUEUED)
    }

    /// What is to be written next; whoever writes takes it off.
    pub fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// A frame of the connection, or the end of a stream: it waits for nobody.
    pub fn control(&mut self, frame: &Frame) {
        frame.put(&mut self.out);
    }

    /// Writes a head or trailers, whose fields `put` appends; `end` says that nothing follows. On a stream that is over, or
    /// has ended, nothing happens. True where the stream's last frame is written with it.
    ///
    /// # Errors
    /// [`TooLarge`].
    pub fn fields(&mut self, id: u32, code: u8, end: bool, put: impl FnOnce(&mut BytesMut)) -> Result<bool, TooLarge> {
        let at_once = self.turns.is_empty() && self.out.len() < ENOUGH;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.ended) else { return Ok(false) };
        if at_once && stream.items.is_empty() {
            put_fields(&mut self.out, code, end, id, put)?;
            stream.begun = true;
            stream.ended = end;
            return Ok(end);
        }
        let mut frame = BytesMut::new();
        put_fields(&mut frame, code, end, id, put)?;
        stream.ended = end;
        stream.items.push_back(Item::Fields { frame: frame.freeze(), end });
        self.take_turn(id);
        Ok(false)
    }

    /// A part of a body. As [`Outgoing::fields`].
    pub fn data(&mut self, id: u32, bytes: Bytes, end: bool) -> bool {
        let at_once = self.turns.is_empty() && self.out.len() < ENOUGH && bytes.len() <= MAX_DATA;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.ended) else { return false };
        if bytes.is_empty() && !end {
            return false;
        }
        stream.ended = end;
        let fits = bytes.len() <= stream.credit.min(self.credit) as usize;
        if at_once && fits && stream.items.is_empty() {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            stream.credit -= length;
            self.credit -= length;
            Frame { stream: id, end, kind: Kind::Data(bytes) }.put(&mut self.out);
            return end;
        }
        stream.queued += bytes.len();
        stream.items.push_back(Item::Data { bytes, end });
        self.take_turn(id);
        false
    }

    /// A part of a stream of bytes, as much of it as goes in one frame; answers how much that was.
    pub fn bytes(&mut self, id: u32, bytes: &[u8]) -> usize {
        let at_once = self.turns.is_empty() && self.out.len() < ENOUGH;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.ended) else { return bytes.len() };
        let granted = stream.credit.min(self.credit) as usize;
        if at_once && granted > 0 && stream.items.is_empty() {
            let some = bytes.get(..MAX_DATA.min(granted)).unwrap_or(bytes);
            let length = u32::try_from(some.len()).unwrap_or(u32::MAX);
            stream.credit -= length;
            self.credit -= length;
            frame::put_head(&mut self.out, frame::DATA, false, id, some.len());
            self.out.extend_from_slice(some);
            return some.len();
        }
        let some = bytes.get(..MAX_DATA).unwrap_or(bytes);
        self.data(id, Bytes::copy_from_slice(some), false);
        some.len()
    }

    /// The peer takes more: on a stream, or on the connection (0). For a stream that is over it means nothing.
    ///
    /// # Errors
    /// [`TooMuchCredit`].
    pub fn add_credit(&mut self, stream: u32, more: u32) -> Result<(), TooMuchCredit> {
        let add = |credit: &mut u32| {
            let sum = credit.checked_add(more).filter(|sum| *sum <= MAX_CREDIT).ok_or(TooMuchCredit)?;
            *credit = sum;
            Ok(())
        };
        if stream != 0 {
            if let Some(known) = self.streams.get_mut(&stream) {
                add(&mut known.credit)?;
                self.take_turn(stream);
            }
            return Ok(());
        }
        add(&mut self.credit)
    }

    /// Puts a stream in the queue where it has something that its own credit lets go.
    fn take_turn(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.in_turn
            && stream.may_send()
        {
            stream.in_turn = true;
            self.turns.push_back(id);
        }
    }

    /// Writes frames, each stream in turn, until about `enough` bytes are there or nothing more may be sent; tells which
    /// streams came further.
    pub fn fill(&mut self, enough: usize, mut told: impl FnMut(Progress)) {
        // Streams that only the connection's credit holds back keep their place.
        let mut held = 0;
        while self.out.len() < enough && held < self.turns.len() {
            let Some(id) = self.turns.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let wrote = stream.write_one(id, &mut self.credit, &mut self.out);
            if stream.may_send() {
                self.turns.push_back(id);
            } else {
                stream.in_turn = false;
            }
            if let Some(ended) = wrote {
                held = 0;
                told(Progress { stream: id, ended });
            } else {
                held += 1;
            }
        }
    }
}

/// Appends a frame whose length is known only when its fields are there.
fn put_fields(
    out: &mut BytesMut,
    code: u8,
    end: bool,
    id: u32,
    put: impl FnOnce(&mut BytesMut),
) -> Result<(), TooLarge> {
    let begin = out.len();
    frame::put_head(out, code, end, id, 0);
    put(out);
    let length = out.len() - begin - HEAD;
    if length > MAX_FIELDS {
        out.truncate(begin);
        return Err(TooLarge);
    }
    let bytes = u32::try_from(length).unwrap_or(0).to_be_bytes();
    if let Some(place) = out.get_mut(begin..begin + 3) {
        place.copy_from_slice(&bytes[1..]);
    }
    Ok(())
}

impl Stream {
    /// True where its own credit lets the next item go, or a part of it.
    fn may_send(&self) -> bool {
        match self.items.front() {
            None => false,
            Some(Item::Fields { .. }) => true,
            Some(Item::Data { bytes, .. }) => bytes.is_empty() || self.credit > 0,
        }
    }

    /// Writes one frame and says whether it is the last; `None` where the connection has no credit for it.
    fn write_one(&mut self, id: u32, connection: &mut u32, out: &mut BytesMut) -> Option<bool> {
        match self.items.pop_front()? {
            Item::Fields { frame, end } => {
                self.begun = true;
                out.extend_from_slice(&frame);
                Some(end)
            }
            Item::Data { mut bytes, end } => {
                let most = MAX_DATA.min(self.credit as usize).min(*connection as usize);
                if most == 0 && !bytes.is_empty() {
                    self.items.push_front(Item::Data { bytes, end });
                    return None;
                }
                let part = bytes.split_to(most.min(bytes.len()));
                let whole = bytes.is_empty();
                let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
                self.credit = self.credit.saturating_sub(length);
                *connection = connection.saturating_sub(length);
                self.queued -= part.len();
                if !whole {
                    self.items.push_front(Item::Data { bytes, end });
                }
                Frame { stream: id, end: end && whole, kind: Kind::Data(part) }.put(out);
                Some(end && whole)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    impl Outgoing {
        fn is_empty(&self) -> bool {
            self.streams.values().all(|stream| stream.items.is_empty())
        }

        /// All that may be sent.
        fn written(&mut self) -> Vec<Frame> {
            self.fill(usize::MAX, |_| {});
            frames(&mut self.out)
        }
    }

    fn frames(out: &mut BytesMut) -> Vec<Frame> {
        std::iter::from_fn(|| Frame::take(out).unwrap()).collect()
    }

    fn body(length: usize) -> Bytes {
        Bytes::from(vec![7; length])
    }

    #[test]
    fn a_large_body_lets_small_ones_pass() {
        let mut outgoing = Outgoing::new(1 << 20, 1 << 20);
        for stream in [1, 3, 5] {
            outgoing.open(stream, false);
        }
        assert!(!outgoing.data(1, body(100_000), true));
        assert!(!outgoing.data(3, body(10), true));
        assert!(!outgoing.data(5, body(10), true));
        let order: Vec<u32> = outgoing.written().iter().map(|frame| frame.stream).collect();
        assert_eq!(order, [1, 3, 5, 1, 1, 1, 1, 1, 1]);
        assert!(outgoing.is_empty());
    }

    #[test]
    fn without_credit_heads_go_and_bodies_wait() {
        let mut outgoing = Outgoing::new(5, 100);
        outgoing.open(1, false);
        let put = |length: usize| move |out: &mut BytesMut| out.extend_from_slice(&body(length));
        assert_eq!(outgoing.fields(1, frame::RESPONSE, false, put(3)), Ok(false));
        outgoing.data(1, body(8), false);
        assert_eq!(outgoing.fields(1, frame::TRAILERS, true, put(2)), Ok(false));
        let sent = outgoing.written();
        assert_eq!(sent.iter().map(|frame| frame.end).collect::<Vec<_>>(), [false, false]);
        assert_eq!(sent[0].kind, Kind::Response(body(3)));
        assert!(outgoing.written().is_empty());
        outgoing.add_credit(1, 3).unwrap();
        let rest = outgoing.written();
        assert_eq!(rest.len(), 2);
        assert!(rest[1].end && matches!(rest[1].kind, Kind::Trailers(_)));
        assert_eq!(outgoing.add_credit(0, MAX_CREDIT), Err(TooMuchCredit));
        assert_eq!(outgoing.add_credit(9, MAX_CREDIT), Ok(()));
        outgoing.open(2, false);
        outgoing.data(2, body(9), true);
        assert!(!outgoing.written()[0].end);
        outgoing.grant(9, 0).unwrap();
        assert!(outgoing.written()[0].end);
        outgoing.open(3, false);
        assert_eq!(outgoing.fields(3, frame::RESPONSE, false, put(MAX_FIELDS + 1)), Err(TooLarge));
        assert!(outgoing.written().is_empty() && !outgoing.close(3));
    }

    #[test]
    fn what_ended_takes_nothing_more() {
        let mut outgoing = Outgoing::new(5, 100);
        outgoing.open(1, false);
        assert!(outgoing.data(1, Bytes::new(), true));
        assert!(!outgoing.data(1, body(1), false));
        assert!(!outgoing.data(2, body(1), false));
        assert_eq!(outgoing.written(), [Frame { stream: 1, end: true, kind: Kind::Data(Bytes::new()) }]);
        outgoing.open(3, false);
        outgoing.data(3, body(9), false);
        assert_eq!(outgoing.written().len(), 1);
        assert!(!outgoing.close(3));
        outgoing.add_credit(3, 100).unwrap();
        assert!(outgoing.written().is_empty());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32, usize),
        Credit(u32, u32),
        Write(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1_u32..5, 0_usize..60_000).prop_map(|(stream, length)| Step::Push(stream, length)),
            (0_u32..5, 0_u32..50_000).prop_map(|(stream, more)| Step::Credit(stream, more)),
            (1_usize..100_000).prop_map(Step::Write),
        ]
    }

    proptest! {
        #[test]
        fn all_of_it_in_order_and_never_beyond_credit(steps in vec(step(), 1..60)) {
            let mut outgoing = Outgoing::new(10_000, 30_000);
            let (mut given, mut sent) = ([30_000_u64, 10_000, 10_000, 10_000, 10_000], [0_u64; 5]);
            let (mut pushed, mut read) = (vec![Vec::new(); 5], vec![Vec::new(); 5]);
            for stream in 1..5 {
                outgoing.open(stream, false);
            }
            let mut look = |outgoing: &mut Outgoing, enough: usize, given: &[u64; 5]| {
                outgoing.fill(enough, |_| {});
                // Not much beyond what was asked for, or what is written at once.
                assert!(outgoing.out.len() <= enough.max(ENOUGH).saturating_add(MAX_DATA + HEAD));
                for frame in frames(&mut outgoing.out) {
                    let Kind::Data(bytes) = frame.kind else { panic!("only bodies were pushed") };
                    sent[0] += bytes.len() as u64;
                    sent[frame.stream as usize] += bytes.len() as u64;
                    read[frame.stream as usize].extend_from_slice(&bytes);
                    assert!(sent[0] <= given[0] && sent[frame.stream as usize] <= given[frame.stream as usize]);
                }
            };
            for (nth, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Push(stream, length) => {
                        let bytes: Vec<u8> = (0..length).map(|at| (at + nth) as u8).collect();
                        pushed[stream as usize].extend_from_slice(&bytes);
                        outgoing.data(stream, bytes.into(), false);
                    }
                    Step::Credit(stream, more) => {
                        outgoing.add_credit(stream, more).unwrap();
                        given[stream as usize] += u64::from(more);
                    }
                    Step::Write(enough) => look(&mut outgoing, enough, &given),
                }
            }
            // With credit for all, all of it comes.
            for stream in 0..5 {
                outgoing.add_credit(stream, 100_000_000).unwrap();
                given[stream as usize] += 100_000_000;
            }
            look(&mut outgoing, usize::MAX, &given);
            prop_assert!(outgoing.is_empty());
            prop_assert_eq!(read, pushed);
        }
    }
}
