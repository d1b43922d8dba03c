//! One stream, as its side of the connection sees it.

use std::{collections::VecDeque, task::Waker, time::Duration};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use tokio::time::Instant;

use super::Broken;

/// Pieces of a body that are shorter than this are copied together while they wait: what is short must not keep alive the long
/// buffer that it came in.
const SMALL: usize = 8 * 1024;

/// A stream that has carried so much is bulk.
const BULK: usize = 1024 * 1024;
/// The largest window of one stream.
const LARGEST: u32 = 8 * 1024 * 1024;

/// Why a stream is over before its end.
#[derive(Clone, Debug)]
pub(in crate::l7::mux) enum Over {
    /// The peer ended it.
    Reset(Reason),
    /// The peer left without having looked at it.
    NotTaken,
    /// The connection is no more.
    Broken(Broken),
    /// This side ended it.
    Here,
}

/// A stream.
#[derive(Debug, Default)]
pub(in crate::l7::mux) struct Stream {
    /// What was received, in this order: pieces of the body, trailers.
    first: Option<Bytes>,
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    pub(super) trailers: Option<Bytes>,
    /// Of an answer.
    pub(super) head: Option<Bytes>,
    pub(super) answered: bool,
    /// The peer asks for the body that was held back.
    pub(super) go_on: bool,
    /// What the peer may still send, and what was taken of it since it was told.
    pub(super) window: u32,
    taken: u32,
    /// All that the peer may send before it is told more; and when it was told last.
    size: u32,
    told: Option<Instant>,
    /// Bytes of bodies that it has carried, both ways.
    moved: usize,
    /// It carries bytes without a head.
    pub(super) bytes: bool,
    /// The peer has said all.
    pub(super) ended: bool,
    /// This side has said all; and all of it is written.
    pub(super) said_end: bool,
    pub(super) sent_end: bool,
    pub(super) over: Option<Over>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) receive_gone: bool,
    pub(super) send_gone: bool,
}

pub(super) fn remember(slot: &mut Option<Waker>, waker: &Waker) {
    if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

impl Stream {
    pub(super) fn new(window: u32) -> Self {
        Self { window, size: window, ..Self::default() }
    }

    /// It carries so much more; true where it becomes bulk by it.
    pub(super) fn moves(&mut self, bytes: usize) -> bool {
        let before = self.is_bulk();
        self.moved = self.moved.saturating_add(bytes);
        self.is_bulk() && !before
    }

    pub(super) fn is_bulk(&self) -> bool {
        self.moved >= BULK
    }

    /// Keeps a piece of a body.
    pub(super) fn push(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        if !self.has_data() {
            self.first = Some(piece);
            return;
        }
        if let Some(short) = self.first.take_if(|first| first.len() < SMALL) {
            // It is the first of what waits: nothing of the rest is in `tail` yet, or it would be too.
            self.tail = BytesMut::from(&short[..]);
        }
        if piece.len() < SMALL {
            self.tail.extend_from_slice(&piece);
        } else {
            if !self.tail.is_empty() {
                self.pieces.push_back(self.tail.split().freeze());
            }
            self.pieces.push_back(piece);
        }
    }

    /// The next piece of the body.
    pub(in crate::l7::mux) fn pop(&mut self) -> Option<Bytes> {
        let kept = self.first.take().or_else(|| self.pieces.pop_front());
        kept.or_else(|| (!self.tail.is_empty()).then(|| std::mem::take(&mut self.tail).freeze()))
    }

    /// Nothing is left to be taken, and nothing will come.
    pub(in crate::l7::mux) fn is_drained(&self) -> bool {
        self.ended && self.trailers.is_none() && !self.has_data()
    }

    fn has_data(&self) -> bool {
        self.first.is_some() || !self.pieces.is_empty() || !self.tail.is_empty()
    }

    pub(in crate::l7::mux) fn ended(&self) -> bool {
        self.ended
    }

    pub(in crate::l7::mux) fn over(&self) -> Option<&Over> {
        self.over.as_ref()
    }

    pub(in crate::l7::mux) fn take_trailers(&mut self) -> Option<Bytes> {
        self.trailers.take()
    }

    pub(in crate::l7::mux) fn take_head(&mut self) -> Option<Bytes> {
        self.head.take()
    }

    pub(in crate::l7::mux) fn may_go_on(&self) -> bool {
        self.go_on
    }

    /// Whoever reads is to be told when there is something.
    pub(in crate::l7::mux) fn read_by(&mut self, waker: &Waker) {
        remember(&mut self.reader, waker);
    }

    /// Whoever writes is to be told when there is room, or no need.
    pub(in crate::l7::mux) fn written_by(&mut self, waker: &Waker) {
        remember(&mut self.writer, waker);
    }

    /// Throws away what nobody will take; answers how many bytes of a body that was.
    pub(super) fn discard(&mut self) -> usize {
        self.trailers = None;
        let mut bytes = 0;
        while let Some(piece) = self.pop() {
            bytes += piece.len();
        }
        bytes
    }

    /// It is over; both halves hear of it.
    pub(super) fn end(&mut self, over: Over) {
        self.over.get_or_insert(over);
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    /// By how much its window has grown.
    pub(super) fn grown(&self, initial: u32) -> u32 {
        self.size.saturating_sub(initial)
    }

    /// So much was taken; answers what the peer is to be told. Where half of the window is taken in less than it takes the peer
    /// to hear of it, the window holds the stream back, and not the reader: it becomes larger.
    pub(super) fn give(&mut self, taken: usize, round_trip: Option<Duration>) -> Option<u32> {
        self.taken = self.taken.saturating_add(u32::try_from(taken).unwrap_or(u32::MAX));
        if self.taken < self.size / 2 || self.ended || self.over.is_some() {
            return None;
        }
        let now = Instant::now();
        let mut due = std::mem::take(&mut self.taken);
        let told = self.told.replace(now);
        if let (Some(told), Some(round_trip)) = (told, round_trip)
            && self.size < LARGEST
            && now.duration_since(told) < round_trip * 2
        {
            due = due.saturating_add(self.size);
            self.size *= 2;
        }
        self.window = self.window.saturating_add(due);
        Some(due)
    }
}

#[cfg(any(test, fuzzing))]
impl Stream {
    /// Bytes of its body that wait to be taken.
    pub(super) fn unread(&self) -> usize {
        self.first.iter().chain(&self.pieces).map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    /// Nothing of it is left but its halves.
    pub(super) fn is_done(&self) -> bool {
        self.over.is_some() || (self.ended && self.sent_end)
    }

    /// Panics where its books do not add up.
    pub(super) fn check(&self) {
        let window = u64::from(self.window) + u64::from(self.taken) + self.unread() as u64;
        // Of what nobody will take, its sender is told nothing: it will run out of credit.
        let kept = self.receive_gone || self.over.is_some();
        assert!(kept || window == u64::from(self.size), "credit of a stream was lost, or made");
        assert!(self.size <= LARGEST.max(self.window) && (!self.receive_gone || self.unread() == 0));
    }
}
