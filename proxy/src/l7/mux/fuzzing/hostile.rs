//! One side against a peer that keeps to no rule: it refuses, or its books add up.

use bytes::{Bytes, BytesMut};
use h2::Reason;

use super::model::{Played, Steps, body, limits};
use crate::l7::mux::{
    frame::{self, Frame, Kind},
    state::{Broken, Side},
};

/// Streams that steps are about.
const STREAMS: u8 = 8;

pub(super) fn play(first: u8, steps: &[u8]) {
    let side = if first & 2 == 0 { Side::Client } else { Side::Server };
    let mut played = Played::new(side, &limits(first));
    let mut steps = Steps(steps);
    let ended = loop {
        match step(&mut played, side, &mut steps) {
            Some(Ok(())) => played.state.check(),
            Some(Err(broken)) => break Some(broken),
            None => break None,
        }
    };
    // The books of a connection that was broken off are of no more use, but whoever holds a stream of it still comes and goes.
    let broken = ended.is_some();
    if let Some(broken) = ended {
        played.state.fail(&broken);
        assert!(!played.state.is_open());
    }
    let ids: Vec<u32> = played.halves.keys().copied().collect();
    for id in ids {
        while played.read(id).is_some() {}
        played.drop_receive(id);
        played.drop_send(id);
        if !broken {
            played.state.check();
        }
    }
    played.state.fail(&Broken::Closed);
}

/// One step; `None` at the end.
fn step(played: &mut Played, side: Side, steps: &mut Steps<'_>) -> Option<Result<(), Broken>> {
    let what = steps.byte()?;
    let id = 1 + u32::from(steps.byte()? % STREAMS);
    let end = what & 0x80 != 0;
    let kind = match what & 0x1f {
        0..=3 => Kind::Data(body(0, usize::from(steps.byte()?) * 64)),
        4..=6 => Kind::Request(Bytes::copy_from_slice(steps.some(3))),
        7 | 8 => Kind::Response(Bytes::copy_from_slice(steps.some(2))),
        9 => Kind::Trailers(Bytes::copy_from_slice(steps.some(3))),
        10 => Kind::Open,
        11 => Kind::Reset(steps.byte()?.into()),
        12 => Kind::Credit(steps.number()?),
        13 => Kind::Ping([what; 8]),
        14 => Kind::Pong([what; 8]),
        15 => Kind::GoAway(steps.byte()?.into()),
        16 => Kind::Hello { stream: steps.number()?, connection: steps.number()?, streams: steps.byte()?.into() },
        _ => return local(played, side, what & 0x1f, id, end, steps),
    };
    let stream = match kind {
        Kind::Ping(_) | Kind::Pong(_) | Kind::GoAway(_) | Kind::Hello { .. } => 0,
        Kind::Credit(_) if end => 0,
        _ => id,
    };
    let ends = end && matches!(kind, Kind::Data(_) | Kind::Request(_) | Kind::Response(_) | Kind::Trailers(_));
    let mut wire = BytesMut::new();
    Frame { stream, end: ends, kind }.put(&mut wire);
    let frame = Frame::take(&mut wire).expect("a frame that may be").expect("and is whole");
    Some(played.receive(frame).map(|_| ()))
}

/// What the application of this side does.
fn local(
    played: &mut Played,
    side: Side,
    what: u8,
    id: u32,
    end: bool,
    steps: &mut Steps<'_>,
) -> Option<Result<(), Broken>> {
    match what {
        17 | 18 => {
            if played.receives(id) {
                played.read(id);
            }
        }
        19 => played.drop_receive(id),
        20 => played.drop_send(id),
        // Whoever sends waits for room.
        21 | 22 => {
            let length = usize::from(steps.byte()?) * 256;
            if played.sends(id) && played.state.outgoing.has_room(id) {
                played.state.send_data(id, body(0, length), end);
            }
        }
        23 => {
            let length = usize::from(steps.byte()?) * 256;
            if played.sends(id) && played.state.outgoing.has_room(id) {
                assert!(played.state.send_bytes(id, &body(0, length)) <= length);
            }
        }
        24 => {
            let code = if side == Side::Client { frame::REQUEST } else { frame::RESPONSE };
            if played.sends(id) {
                let _ = played.state.send_fields(id, code, end, |out| out.extend_from_slice(&[0, 200]));
            }
        }
        25 if side == Side::Client => {
            played.open(end);
        }
        26 if end => played.state.leave(),
        26 => played.state.go_away(),
        27 if played.receives(id) => played.state.reset(id, Reason::CANCEL),
        28 => return Some(played.state.look()),
        _ => {
            let enough = usize::from(steps.byte()?) * 1024;
            return Some(played.say(enough).map(|_| ()));
        }
    }
    Some(Ok(()))
}
