//! What can go wrong with a request, whose fault it is, and whether it may be sent again.

use std::io;

use crate::l7::h1::pump::BoxError;
use crate::l7::h1::reason::Reason;

/// May the request be sent again, on another connection?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No byte of it left: the upstream cannot have seen it.
    Always,
    /// The upstream may have processed it, but no byte of an answer came: only if repeating does no harm
    /// (RFC 9110 §9.2.2).
    IfIdempotent,
    /// It was answered, or cannot be repeated.
    Never,
}

/// Why no response came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientErrorKind {
    /// The request has no HTTP/1 form; the caller's fault.
    #[error("the request cannot be written in HTTP/1")]
    Unwritable,
    /// The idle connection had ended, or held unexpected bytes, before anything was sent.
    #[error("the idle connection was not usable any more")]
    Stale,
    /// The upstream closed the connection before the head of its response was complete.
    #[error("the upstream closed the connection before it answered")]
    Closed,
    /// The connection failed.
    #[error("the upstream connection failed: {0}")]
    Io(#[source] io::Error),
    /// The head of the response did not come in time.
    #[error("the upstream did not answer in time")]
    HeadTimeout,
    /// The upstream accepted no byte of the request for too long.
    #[error("the upstream did not take the request in time")]
    WriteTimeout,
    /// The upstream's answer is not HTTP that everybody reads alike.
    #[error("bad response: {0}")]
    BadResponse(Reason),
    /// The request's body failed; its source's fault, not the upstream's.
    #[error("the request body failed: {0}")]
    RequestBody(#[source] BoxError),
    /// The request's body did not have its stated length; its source's fault.
    #[error("the request body did not have its stated length")]
    RequestLength,
}

/// A request that got no response. Its connection is closed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}")]
pub struct ClientError {
    #[source]
    kind: ClientErrorKind,
    retry: Retry,
    reused: bool,
}

impl ClientError {
    pub(super) const fn new(kind: ClientErrorKind, retry: Retry, reused: bool) -> Self {
        Self { kind, retry, reused }
    }

    /// What broke.
    #[must_use]
    pub const fn kind(&self) -> &ClientErrorKind {
        &self.kind
    }

    /// Whether the request may be sent again.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        self.retry
    }

    /// The connection had served a request before, so that its end says little about the upstream's health.
    #[must_use]
    pub const fn on_reused_connection(&self) -> bool {
        self.reused
    }

    /// The reason, if the upstream answered with what is not proper HTTP.
    #[must_use]
    pub const fn bad_response(&self) -> Option<Reason> {
        match self.kind {
            ClientErrorKind::BadResponse(reason) => Some(reason),
            _ => None,
        }
    }
}
