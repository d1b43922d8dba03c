//! Two sides that keep to all rules, and whose frames arrive when they do: neither ever accuses the other, what one sends the
//! other gets, and when all is over nothing is left of it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use h2::Reason;

use super::model::{Played, Steps, body, limits};
use crate::l7::mux::{
    frame::{self, Frame},
    state::Side,
};

/// Streams that steps are about.
const STREAMS: u8 = 6;

/// What one side's application has done with a stream.
#[derive(Default)]
struct Used {
    /// Bytes of its body that were sent, and received.
    sent: usize,
    received: usize,
    /// It has no head.
    bytes: bool,
    answered: bool,
    /// All was said.
    ended: bool,
}

struct End {
    played: Played,
    used: BTreeMap<u32, Used>,
    /// Said by the other side, and still on its way.
    coming: VecDeque<Frame>,
}

pub(super) fn play(first: u8, steps: &[u8]) {
    let limits = limits(first);
    let end = |side| End { played: Played::new(side, &limits), used: BTreeMap::new(), coming: VecDeque::new() };
    let mut ends = [end(Side::Client), end(Side::Server)];
    let mut steps = Steps(steps);
    while step(&mut ends, &mut steps).is_some() {
        ends.iter().for_each(|end| end.played.state.check());
    }
    // Everybody reads what is there for as long as anything comes.
    settle(&mut ends);
    let [client, server] = &mut ends;
    for (id, used) in &server.used {
        all_came(&mut client.played, used, client.used.get(id), *id);
    }
    for (id, used) in &client.used {
        all_came(&mut server.played, used, server.used.get(id), *id);
    }
    // And when all have gone, nothing is left.
    for end in &mut ends {
        for id in end.used.keys() {
            end.played.drop_receive(*id);
            end.played.drop_send(*id);
        }
    }
    settle(&mut ends);
    ends.iter().for_each(|end| end.played.state.check_unused());
}

/// Where a side has said all, and nobody broke it off, the other has it.
fn all_came(other: &mut Played, sender: &Used, receiver: Option<&Used>, id: u32) {
    let Some(stream) = other.state.stream(id) else { return };
    if sender.ended && stream.over().is_none() && other.receives(id) {
        let stream = other.state.stream(id).expect("as before");
        assert!(stream.ended(), "the end of stream {id} never came");
        assert_eq!(receiver.map(|used| used.received), Some(sender.sent));
    }
}

fn settle(ends: &mut [End; 2]) {
    loop {
        let mut moved = false;
        for at in 0..2 {
            moved |= say(ends, at, usize::MAX);
            moved |= hear(ends, at, usize::MAX);
            let ids: Vec<u32> = ends[at].used.keys().copied().collect();
            for id in ids {
                while read(&mut ends[at], id) {
                    moved = true;
                }
            }
        }
        ends.iter().for_each(|end| end.played.state.check());
        if !moved {
            return;
        }
    }
}

/// What a side has to say sets out.
fn say(ends: &mut [End; 2], at: usize, enough: usize) -> bool {
    let frames = ends[at].played.say(enough).expect("nobody asks for more than this");
    let other = &mut ends[1 - at];
    let before = other.coming.len();
    other.coming.extend(frames);
    other.coming.len() > before
}

/// Some of what is on its way arrives.
fn hear(ends: &mut [End; 2], at: usize, most: usize) -> bool {
    let end = &mut ends[at];
    let count = end.coming.len().min(most);
    for frame in end.coming.drain(..count) {
        let arrived = end.played.receive(frame).expect("a peer that keeps to the rules is not accused");
        if let Some((id, head)) = arrived {
            end.used.insert(id, Used { bytes: !head, ..Used::default() });
        }
    }
    count > 0
}

fn read(end: &mut End, id: u32) -> bool {
    if !end.played.receives(id) {
        return false;
    }
    let Some(piece) = end.played.read(id) else { return false };
    let used = end.used.entry(id).or_default();
    for part in piece.chunks(64 * 1024) {
        assert_eq!(part, body(used.received, part.len()), "not what was sent");
        used.received += part.len();
    }
    true
}

/// One step; `None` at the end.
fn step(ends: &mut [End; 2], steps: &mut Steps<'_>) -> Option<()> {
    let what = steps.byte()?;
    let at = usize::from(what >> 6 & 1);
    let last = what & 0x80 != 0;
    let id = 1 + u32::from(steps.byte()? % STREAMS);
    match what & 0x0f {
        0 | 1 => {
            say(ends, at, usize::from(steps.byte()?) * 512);
        }
        2 | 3 => {
            hear(ends, at, 1 + usize::from(steps.byte()? % 16));
        }
        4 => {
            let enough = usize::from(steps.byte()?) * 512;
            say(ends, at, enough);
            hear(ends, 1 - at, usize::MAX);
        }
        5 | 6 => {
            read(&mut ends[at], id);
        }
        7 => ends[at].played.drop_receive(id),
        8 => ends[at].played.drop_send(id),
        9 if ends[at].played.receives(id) => ends[at].played.state.reset(id, Reason::CANCEL),
        10 => send(&mut ends[at], id, usize::from(steps.byte()?) * 256, last),
        11 => send(&mut ends[at], id, usize::from(steps.byte()?), last),
        12 => trailers(&mut ends[at], id),
        13 => head(ends, at, id, last, what & 0x20 != 0),
        14 if at == 0 && last => ends[0].played.state.leave(),
        14 if at == 1 && last => ends[1].played.state.go_away(),
        // Whether that is too soon after the last time only time can tell.
        15 => drop(ends[at].played.state.look()),
        _ => {}
    }
    Some(())
}

/// A client asks, a server answers.
fn head(ends: &mut [End; 2], at: usize, id: u32, last: bool, other: bool) {
    let put = |out: &mut bytes::BytesMut| out.extend_from_slice(&[0, 200]);
    let end = &mut ends[at];
    if at == 0 {
        // A stream of bytes has no head that could be its end.
        let Some(id) = end.played.open(other) else { return };
        end.used.insert(id, Used { bytes: other, ended: !other && last, answered: true, ..Used::default() });
        if !other {
            end.played.state.send_fields(id, frame::REQUEST, last, put).expect("it is short");
        }
        return;
    }
    let Some(used) = end.used.get_mut(&id).filter(|used| !used.bytes && !used.answered) else { return };
    if !end.played.sends(id) {
        return;
    }
    if other {
        let go_on = |out: &mut bytes::BytesMut| out.extend_from_slice(&[0, 100]);
        end.played.state.send_fields(id, frame::RESPONSE, false, go_on).expect("it is short");
        return;
    }
    (used.answered, used.ended) = (true, last);
    end.played.state.send_fields(id, frame::RESPONSE, last, put).expect("it is short");
}

fn send(end: &mut End, id: u32, length: usize, last: bool) {
    let Some(used) = end.used.get_mut(&id).filter(|used| (used.bytes || used.answered) && !used.ended) else { return };
    // Whoever sends waits for room.
    if !end.played.sends(id) || !end.played.state.outgoing.has_room(id) {
        return;
    }
    if used.bytes {
        let taken = end.played.state.send_bytes(id, &body(used.sent, length));
        assert!(taken <= length && (taken > 0 || length == 0));
        used.sent += taken;
        if last {
            end.played.state.send_data(id, Bytes::new(), true);
        }
    } else {
        end.played.state.send_data(id, body(used.sent, length), last);
        used.sent += length;
    }
    used.ended = last;
}

fn trailers(end: &mut End, id: u32) {
    let Some(used) = end.used.get_mut(&id).filter(|used| !used.bytes && used.answered && !used.ended) else { return };
    if end.played.sends(id) {
        used.ended = true;
        end.played.state.send_fields(id, frame::TRAILERS, true, |_| {}).expect("it is short");
    }
}
