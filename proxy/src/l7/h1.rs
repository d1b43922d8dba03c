//! A strict HTTP/1.x codec, server and client half, for single-threaded runtimes.
//!
//! Place: the hot path of the sidecar. One task serves one downstream connection; it reads the upstream's
//! answer itself and writes it on, so a request wakes no other task. All futures are `!Send` and expect to run
//! inside a [`tokio::task::LocalSet`].
//!
//! Principles:
//! - **One normaliser.** What the service is given is what goes on the wire upstream. Anything that two
//!   recipients could read differently (RFC 9112 §11) is refused with a [`Reason`], never repaired.
//! - **The codec owns framing.** `content-length`, `transfer-encoding` and `connection` on the wire are always
//!   written from what the codec knows about the body, never copied from a message.
//! - **Few writes.** A head and the body that is ready with it leave in one write.
//! - **Bounded.** Heads, trailers, chunk extensions, interim responses, drained bodies and every wait have limits.
//!
//! Floors, bottom up: `reason` `error` · `scan` `buffer` `timer` · `target` `fields` · `framing` `encode` `chunked` ·
//! `parse` `decode` · `conn` · `body` `upgrade` · `pump` · [`server`] [`client`].

mod body;
mod buffer;
mod chunked;
pub mod client;
mod conn;
mod decode;
mod encode;
mod error;
mod fields;
mod framing;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod parse;
mod pump;
mod reason;
mod scan;
pub mod server;
mod target;
mod timer;
mod upgrade;

pub use body::{Incoming, InterimSender};
pub(crate) use buffer::give_back_map;
pub(in crate::l7) use buffer::take_map;
pub use client::{ClientConfig, ClientError, ClientErrorKind, Connection, Retry, send, send_parts, send_with_interim};
pub use conn::{BodyLimits, Duplex};
pub use error::BodyError;
pub use parse::Limits;
pub use reason::Reason;
pub use server::{BadRequest, ServeError, ServerConfig, serve};
pub use upgrade::{OnUpgrade, UpgradeError, Upgraded};

/// The pure parts, for tests and fuzzing: no IO, no clock.
pub mod pure {
    pub use super::chunked::{ChunkedDecoder, Step, encode_chunk, encode_last_chunk};
    pub use super::encode::{WireFraming, encode_request_head, encode_response_head};
    pub use super::framing::BodyLength;
    pub use super::parse::{HeadScan, Limits, RequestHead, ResponseHead, parse_request, parse_response};
}
