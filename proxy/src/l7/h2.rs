//! HTTP/2 at the edges and between sidecars, on the `h2` crate, with limits of our own. Floor 2.
//!
//! Bodies are pulled: flow-control credit goes back to the sender when the other side has taken the bytes, so that
//! what a slow reader does not read is not buffered here.

pub mod body;
pub mod client;
pub mod server;

pub use body::{BodyError, Incoming, ResetReason, Slot, send_body};
