//! How a body fails.

use std::io;

use super::reason::Reason;

/// Why a body ended before its end. A message whose body fails must not be passed on as complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The sender broke the framing, or went away before the end ([`Reason::Truncated`]).
    #[error("malformed body: {0}")]
    Malformed(Reason),
    /// The sender stalled, or was slower than the lowest rate allowed.
    #[error("no progress of the body in time")]
    Timeout,
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(io::ErrorKind),
    /// The codec gave the message up: its connection was closed, or its response is complete already.
    #[error("the connection of this body was closed")]
    Closed,
    /// The request whose response this is could not be sent completely.
    #[error("the request of this response failed")]
    Request,
}

impl BodyError {
    /// The bounded reason, for errors that the sender of the body is to blame for.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Malformed(reason) => Some(reason),
            Self::Timeout => Some(Reason::BodyTimeout),
            Self::Io(_) | Self::Closed | Self::Request => None,
        }
    }
}
