//! The multiplexed transport between two sidecars: frames of its own over one connection. What HTTP/2 does for requests, but
//! without what only strangers need: no compression with a memory, no settings to negotiate, no priorities.
//!
//! Floors, bottom up: [`frame`] [`fields`] (pure: bytes and values) · [`outgoing`] (pure: whose turn, whose credit) · `state`
//! (all streams of a connection; nothing waits in it) · `halves` [`body`] `bytes` (one stream) · `drive` (the connection's socket) ·
//! [`client`] [`server`].

pub mod body;
mod bytes;
pub mod client;
mod drive;
pub mod fields;
pub mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod halves;
mod ids;
pub mod outgoing;
pub mod server;
mod state;
#[cfg(test)]
mod tests;

pub use body::{BodyError, Incoming};
pub use bytes::ByteStream;
pub use client::{RequestError, Sender};
pub use state::Broken;

use std::time::Duration;

/// Limits of a connection. What it takes is said in its first frame, and never less than what every connection begins with.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of a body that a stream may send before we have taken them.
    pub stream_window: u32,
    /// The same for all streams together. As much as all requests at once may: readers that do not read must not use up what all
    /// others need.
    pub connection_window: u32,
    /// Streams at once.
    pub max_streams: u32,
    /// How often a peer is asked for a sign of life. One that gave none since the last time is gone.
    pub ping_interval: Duration,
    /// After so many intervals without a stream the serving side asks the other to leave.
    pub idle_intervals: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stream_window: 256 * 1024,
            connection_window: 256 * 1024 * 1024,
            max_streams: 1024,
            ping_interval: Duration::from_secs(10),
            idle_intervals: 30,
        }
    }
}

/// What every connection begins with, before the peer has said what it takes.
const FIRST: First = First { stream: 64 * 1024, connection: 1024 * 1024 };

struct First {
    stream: u32,
    connection: u32,
}
