//! What a side is held to: its books add up after each step, and what it says keeps to the rules.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::l7::mux::{
    FIRST, Limits,
    frame::{Frame, Kind, MAX_DATA},
    state::{Broken, Side, State},
};

/// Reads steps out of an input.
pub(super) struct Steps<'a>(pub(super) &'a [u8]);

impl<'a> Steps<'a> {
    pub(super) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn number(&mut self) -> Option<u32> {
        let (number, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*number))
    }

    /// So many bytes, or what is left.
    pub(super) fn some(&mut self, length: usize) -> &'a [u8] {
        let (some, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        some
    }
}

/// Limits that are reached soon, as the second part of an input's first byte says.
pub(super) fn limits(choice: u8) -> Limits {
    let (stream_window, connection_window) = match choice >> 2 & 3 {
        0 => (FIRST.stream, FIRST.connection),
        1 => (4 * FIRST.stream, FIRST.connection),
        2 => (FIRST.stream, 2 * FIRST.connection),
        _ => (4 * FIRST.stream, 8 * FIRST.connection),
    };
    Limits { stream_window, connection_window, max_streams: 4, ..Limits::default() }
}

/// Bytes of bodies: each says where it stands.
pub(super) fn body(from: usize, length: usize) -> Bytes {
    const PERIOD: usize = 251;
    thread_local! {
        static PATTERN: Bytes = (0..PERIOD + 64 * 1024).map(|at| (at % PERIOD) as u8).collect();
    }
    let from = from % PERIOD;
    PATTERN.with(|pattern| pattern.slice(from..from + length))
}

/// One side, and what its peer has let it do.
pub(super) struct Played {
    pub(super) state: State,
    side: Side,
    /// Bytes of bodies that it may still send: of the connection, and what each new stream begins with.
    credit: u64,
    initial: u64,
    streams: BTreeMap<u32, Said>,
    /// Whose halves are still held here: the receiving one, the sending one.
    pub(super) halves: BTreeMap<u32, (bool, bool)>,
}

/// What a side has said on a stream.
#[derive(Default)]
struct Said {
    sent: u64,
    credit: u64,
    ended: bool,
    reset: bool,
}

impl Played {
    pub(super) fn new(side: Side, limits: &Limits) -> Self {
        let (credit, initial) = (u64::from(FIRST.connection), u64::from(FIRST.stream));
        let state = State::new(side, limits);
        Self { state, side, credit, initial, streams: BTreeMap::new(), halves: BTreeMap::new() }
    }

    /// Takes a frame of its peer; answers the stream that it begins, and whether that has a head.
    pub(super) fn receive(&mut self, frame: Frame) -> Result<Option<(u32, bool)>, Broken> {
        match frame.kind {
            Kind::Credit(more) if frame.stream == 0 => self.credit += u64::from(more),
            Kind::Credit(more) => self.said(frame.stream).credit += u64::from(more),
            Kind::Hello { stream, connection, .. } => {
                self.credit += u64::from(connection.saturating_sub(FIRST.connection));
                self.initial = self.initial.max(u64::from(stream));
            }
            _ => {}
        }
        let arrived = self.state.receive(frame)?;
        Ok(arrived.map(|arrived| {
            self.halves.insert(arrived.stream, (true, true));
            (arrived.stream, arrived.request.is_some())
        }))
    }

    fn said(&mut self, stream: u32) -> &mut Said {
        self.streams.entry(stream).or_default()
    }

    /// Opens a stream, with a head or without.
    pub(super) fn open(&mut self, bytes: bool) -> Option<u32> {
        let id = if bytes { self.state.open_bytes() } else { self.state.open() }?;
        self.halves.insert(id, (true, true));
        Some(id)
    }

    pub(super) fn drop_receive(&mut self, id: u32) {
        if let Some((receive, _)) = self.halves.get_mut(&id)
            && std::mem::take(receive)
        {
            self.state.drop_receive(id);
        }
    }

    pub(super) fn drop_send(&mut self, id: u32) {
        if let Some((_, send)) = self.halves.get_mut(&id)
            && std::mem::take(send)
        {
            self.state.drop_send(id);
        }
    }

    pub(super) fn sends(&self, id: u32) -> bool {
        self.halves.get(&id).is_some_and(|(_, send)| *send)
    }

    pub(super) fn receives(&self, id: u32) -> bool {
        self.halves.get(&id).is_some_and(|(receive, _)| *receive)
    }

    /// The next piece of a body, as its receiving half takes it.
    pub(super) fn read(&mut self, id: u32) -> Option<Bytes> {
        let piece = self.state.stream(id)?.pop()?;
        assert!(!piece.is_empty());
        self.state.give(id, piece.len());
        Some(piece)
    }

    /// What it says next: about so many bytes, in whole frames.
    pub(super) fn say(&mut self, enough: usize) -> Result<Vec<Frame>, Broken> {
        self.state.fill(enough)?;
        let mut out: BytesMut = std::mem::take(self.state.outgoing.out());
        let frames: Vec<_> = std::iter::from_fn(|| Frame::take(&mut out).expect("what is said are frames")).collect();
        assert!(out.is_empty(), "half a frame is said");
        for frame in &frames {
            self.check_said(frame);
        }
        Ok(frames)
    }

    fn check_said(&mut self, frame: &Frame) {
        let (side, initial) = (self.side, self.initial);
        if frame.stream == 0 {
            return;
        }
        let said = self.streams.entry(frame.stream).or_default();
        assert!(!said.reset, "after a reset: {frame:?}");
        let still = matches!(frame.kind, Kind::Credit(_) | Kind::Reset(_));
        assert!(!said.ended || still, "after the end: {frame:?}");
        (said.ended, said.reset) = (said.ended || frame.end, matches!(frame.kind, Kind::Reset(_)));
        match &frame.kind {
            Kind::Data(bytes) => {
                let length = bytes.len() as u64;
                said.sent += length;
                assert!(bytes.len() <= MAX_DATA && said.sent <= initial + said.credit, "more than the stream may");
                self.credit = self.credit.checked_sub(length).expect("more than the connection may");
            }
            Kind::Request(_) | Kind::Open => assert_eq!(side, Side::Client),
            Kind::Response(_) => assert_eq!(side, Side::Server),
            _ => {}
        }
    }
}
