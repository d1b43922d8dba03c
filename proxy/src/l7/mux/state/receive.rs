//! What each frame of the peer means.

use bytes::Bytes;
use h2::Reason;

use super::{Arrived, Broken, FIRST, Kind, MAX_BYTE_STREAMS, Over, SLACK, Side, State, Stream};
use crate::l7::mux::frame::Frame;

impl State {
    /// Takes one frame; answers the request, where it begins one.
    ///
    /// # Errors
    /// Where the peer broke a rule of the connection.
    pub(in crate::l7::mux) fn receive(&mut self, frame: Frame) -> Result<Option<Arrived>, Broken> {
        self.heard = true;
        let Frame { stream: id, end, kind } = frame;
        match kind {
            Kind::Data(bytes) => self.body(id, bytes, end)?,
            Kind::Request(block) => return self.request(id, block, end),
            Kind::Response(block) => self.response(id, block, end)?,
            Kind::Trailers(block) => {
                // What comes after a stream's end here is not its whole.
                if let Some(stream) = self.known(id)?.filter(|stream| stream.over.is_none()) {
                    stream.receives()?;
                    stream.ended = true;
                    if !stream.receive_gone {
                        stream.trailers = Some(block);
                    }
                    stream.wake_reader();
                }
                self.settle(id);
            }
            Kind::Open => {
                self.opened(id)?;
                let fits = self.byte_streams < MAX_BYTE_STREAMS;
                return Ok(self.begin(id, fits).then(|| {
                    self.counts_as_bytes(id);
                    Arrived { stream: id, request: None }
                }));
            }
            Kind::Reset(code) => {
                if let Some(stream) = self.known(id)? {
                    stream.end(Over::Reset(code.into()));
                    self.outgoing.close(id);
                    self.settle(id);
                }
            }
            Kind::Credit(more) => {
                let added = self.outgoing.add_credit(id, more);
                added.map_err(|_| Broken::Rules("it gave more credit than there may be"))?;
            }
            Kind::Ping(bytes) => self.control(0, Kind::Pong(bytes)),
            Kind::Pong(_) => {
                self.round_trip = self.asked_at.take().map(|asked| asked.elapsed()).or(self.round_trip);
                self.part();
            }
            Kind::GoAway(last) => self.peer_leaves(last),
            Kind::Hello { stream, connection, streams } => self.hello(stream, connection, streams)?,
        }
        Ok(None)
    }

    /// A stream that is open, or was.
    fn known(&mut self, id: u32) -> Result<Option<&mut Stream>, Broken> {
        if id > self.last {
            return Err(Broken::Rules("a frame of a stream that was never opened"));
        }
        Ok(self.streams.get_mut(&id))
    }

    fn body(&mut self, id: u32, bytes: Bytes, end: bool) -> Result<(), Broken> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let over = || Broken::Rules("it sent more than it has credit for");
        self.window = self.window.checked_sub(length).ok_or_else(over)?;
        let Some(stream) = self.known(id)? else {
            // Sent before it heard that the stream is over.
            self.give_connection(bytes.len());
            return Ok(());
        };
        if stream.over.is_some() {
            self.give_connection(bytes.len());
            return Ok(());
        }
        stream.receives()?;
        stream.window = stream.window.checked_sub(length).ok_or_else(over)?;
        stream.ended = end;
        if stream.receive_gone {
            self.give_connection(bytes.len());
        } else {
            let becomes_bulk = stream.moves(bytes.len());
            stream.push(bytes);
            stream.wake_reader();
            self.bulk += usize::from(becomes_bulk);
        }
        if end {
            self.settle(id);
        }
        Ok(())
    }

    fn opened(&mut self, id: u32) -> Result<(), Broken> {
        if self.side == Side::Client {
            return Err(Broken::Rules("a server opens no streams"));
        }
        if id <= self.last {
            return Err(Broken::Rules("numbers of streams go up"));
        }
        self.last = id;
        Ok(())
    }

    fn request(&mut self, id: u32, block: Bytes, end: bool) -> Result<Option<Arrived>, Broken> {
        self.opened(id)?;
        // Counted until their tasks are gone: who opens and resets in haste waits for the work it makes.
        let fits = self.streams.len() - self.byte_streams < self.limits.max_streams as usize + SLACK;
        if !self.begin(id, fits) {
            return Ok(None);
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.ended = end;
        }
        Ok(Some(Arrived { stream: id, request: Some((block, end)) }))
    }

    /// Takes a stream that the peer began, or refuses it.
    fn begin(&mut self, id: u32, fits: bool) -> bool {
        if self.leaving || !fits {
            self.control(id, Kind::Reset(Reason::REFUSED_STREAM.into()));
            return false;
        }
        self.outgoing.open(id, true);
        self.streams.insert(id, Stream::new(self.limits.stream_window));
        true
    }

    fn response(&mut self, id: u32, block: Bytes, end: bool) -> Result<(), Broken> {
        if self.side == Side::Server {
            return Err(Broken::Rules("a client answers nothing"));
        }
        let Some(stream) = self.known(id)?.filter(|stream| stream.over.is_none()) else { return Ok(()) };
        stream.receives()?;
        // The status is the first number of the block.
        let status = block.get(..2).map(|status| u16::from_be_bytes([status[0], status[1]])).unwrap_or_default();
        if (100..200).contains(&status) && !end {
            if status == 100 {
                stream.go_on = true;
                stream.wake_writer();
            }
            return Ok(());
        }
        if stream.answered {
            return Err(Broken::Rules("two answers to one request"));
        }
        (stream.answered, stream.ended) = (true, end);
        stream.head = Some(block);
        stream.wake_reader();
        Ok(())
    }

    fn peer_leaves(&mut self, last: u32) {
        self.leaving = true;
        if self.side == Side::Client {
            for (_, stream) in self.streams.iter_mut().filter(|(id, _)| **id > last) {
                stream.end(Over::NotTaken);
            }
        }
    }

    fn hello(&mut self, stream: u32, connection: u32, streams: u32) -> Result<(), Broken> {
        if self.peer_streams.replace(streams).is_some() {
            return Err(Broken::Rules("it greeted twice"));
        }
        let more = connection.saturating_sub(FIRST.connection);
        let granted = self.outgoing.grant(stream.max(FIRST.stream), more);
        granted.map_err(|_| Broken::Rules("it gave more credit than there may be"))?;
        Ok(())
    }
}

impl Stream {
    /// True to the rules where the peer has not said its last word.
    fn receives(&self) -> Result<(), Broken> {
        if self.ended { Err(Broken::Rules("a frame after a stream's end")) } else { Ok(()) }
    }
}
