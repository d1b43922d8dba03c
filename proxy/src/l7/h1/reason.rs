//! Why the codec refused a message: a closed set, fit for metric labels.
//!
//! Lowest floor of the codec; everything else reports with it.

use http::StatusCode;

/// Why a message was refused. The set is closed, so it can label a counter; no value carries peer-chosen bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// A line that does not end in CR LF, or a CR without LF (RFC 9112 §2.2).
    LineEnding,
    /// More than two empty lines before a request line.
    LeadingJunk,
    /// The head is larger than the limit.
    HeadTooLarge,
    /// More header fields than the limit.
    TooManyHeaders,
    /// The request target is longer than the limit.
    TargetTooLong,
    /// The first line is not `method SP target SP version`.
    RequestLine,
    /// The method is not a token.
    Method,
    /// The method is longer than any that is known.
    MethodTooLong,
    /// The target has a byte or a form that is not allowed for the method (RFC 9112 §3.2).
    Target,
    /// A malformed version.
    Version,
    /// A well-formed version that is neither 1.0 nor 1.1.
    UnsupportedVersion,
    /// An HTTP/2 preface on a connection that already speaks HTTP/1.
    Preface,
    /// A field name that is not a token, or white space before its colon.
    HeaderName,
    /// A field value with a control character.
    HeaderValue,
    /// A folded field line (RFC 9112 §5.2).
    ObsFold,
    /// HTTP/1.1 without `Host`.
    HostMissing,
    /// More than one `Host`.
    HostRepeated,
    /// A `Host` or authority that is not `host[:port]`.
    HostInvalid,
    /// A `Content-Length` that is repeated, a list, or not a plain number.
    ContentLength,
    /// A `Transfer-Encoding` that is anything but exactly one `chunked`.
    TransferEncoding,
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    EncodingOnHttp10,
    /// An `Expect` that is not `100-continue`.
    Expect,
    /// A `CONNECT` whose target is not `host:port`, or with a body, or in HTTP/1.0.
    Connect,
    /// A chunk size that is not 1 to 16 hexadecimal digits.
    ChunkSize,
    /// A malformed or excessive chunk extension.
    ChunkExtension,
    /// Chunk data that is not followed by CR LF.
    ChunkEnd,
    /// A malformed trailer field.
    Trailer,
    /// The trailer section is larger than the limit.
    TrailerTooLarge,
    /// The connection ended before the message did.
    Truncated,
    /// The head was not complete in time.
    HeadTimeout,
    /// The body made no progress, or too little.
    BodyTimeout,
    /// A malformed status line, or a status outside 100..=599.
    StatusLine,
    /// Too many interim (1xx) responses.
    InterimFlood,
    /// A `101 Switching Protocols` nobody asked for.
    UpgradeNotAsked,
}

impl Reason {
    /// Every value, in declaration order: what a counter can be labelled with.
    pub const ALL: [Self; 35] = [
        Self::LineEnding,
        Self::LeadingJunk,
        Self::HeadTooLarge,
        Self::TooManyHeaders,
        Self::TargetTooLong,
        Self::RequestLine,
        Self::Method,
        Self::MethodTooLong,
        Self::Target,
        Self::Version,
        Self::UnsupportedVersion,
        Self::Preface,
        Self::HeaderName,
        Self::HeaderValue,
        Self::ObsFold,
        Self::HostMissing,
        Self::HostRepeated,
        Self::HostInvalid,
        Self::ContentLength,
        Self::TransferEncoding,
        Self::LengthAndEncoding,
        Self::EncodingOnHttp10,
        Self::Expect,
        Self::Connect,
        Self::ChunkSize,
        Self::ChunkExtension,
        Self::ChunkEnd,
        Self::Trailer,
        Self::TrailerTooLarge,
        Self::Truncated,
        Self::HeadTimeout,
        Self::BodyTimeout,
        Self::StatusLine,
        Self::InterimFlood,
        Self::UpgradeNotAsked,
    ];

    /// The stable snake_case name, for labels, logs and the body of an error response.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LineEnding => "line_ending",
            Self::LeadingJunk => "leading_junk",
            Self::HeadTooLarge => "head_too_large",
            Self::TooManyHeaders => "too_many_headers",
            Self::TargetTooLong => "target_too_long",
            Self::RequestLine => "request_line",
            Self::Method => "method",
            Self::MethodTooLong => "method_too_long",
            Self::Target => "target",
            Self::Version => "version",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Preface => "http2_preface",
            Self::HeaderName => "header_name",
            Self::HeaderValue => "header_value",
            Self::ObsFold => "obs_fold",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostInvalid => "host_invalid",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::LengthAndEncoding => "length_and_encoding",
            Self::EncodingOnHttp10 => "encoding_on_http10",
            Self::Expect => "expect",
            Self::Connect => "connect",
            Self::ChunkSize => "chunk_size",
            Self::ChunkExtension => "chunk_extension",
            Self::ChunkEnd => "chunk_end",
            Self::Trailer => "trailer",
            Self::TrailerTooLarge => "trailer_too_large",
            Self::Truncated => "truncated",
            Self::HeadTimeout => "head_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::StatusLine => "status_line",
            Self::InterimFlood => "interim_flood",
            Self::UpgradeNotAsked => "upgrade_not_asked",
        }
    }

    /// The status a client is told when its *request* is refused for this reason.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge | Self::TooManyHeaders | Self::TrailerTooLarge => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::MethodTooLong => StatusCode::NOT_IMPLEMENTED,
            Self::UnsupportedVersion => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Expect => StatusCode::EXPECTATION_FAILED,
            Self::HeadTimeout | Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            _ => StatusCode::BAD_REQUEST,
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
