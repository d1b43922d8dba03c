//! Why the mesh answered in place of the application: a stable code, whose fault it is, what the caller is told.
//! Floor 0: imports `mesh_api` only.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, StatusCode, Version, header};
use mesh_api::names;

/// What went wrong. The text of each is stable: metrics, logs and headers carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Code {
    /// The request can be read in more than one way, or in none. The caller's fault.
    BadRequest,
    /// A policy refuses it.
    Denied,
    /// No route matches it.
    NoRoute,
    /// The rule that matches cannot be obeyed. The route's author's fault.
    RuleFailed,
    /// Something asked for is not done by this proxy.
    Unsupported,
    /// Nobody knows the destination.
    UnknownDestination,
    /// The control plane has not answered yet.
    DiscoveryTimeout,
    /// The destination has no endpoint that takes requests.
    NoEndpoints,
    /// No connection to the endpoint. Nothing was sent: a retry is safe.
    ConnectFailed,
    /// The peer is not who it must be. Nothing was sent.
    PeerRefused,
    /// Too many requests wait already. Nothing was sent: a retry is safe.
    Overloaded,
    /// The upstream broke off. It may have worked on the request.
    UpstreamReset,
    /// The upstream's answer is not valid. It has worked on the request.
    BadResponse,
    /// A deadline passed.
    Timeout,
    /// The proxy stops. Nothing was sent: a retry is safe.
    Draining,
    /// The proxy would talk to itself.
    Loop,
}

impl Code {
    /// Every code, for documentation.
    pub const ALL: [Self; 16] = [
        Self::BadRequest,
        Self::Denied,
        Self::NoRoute,
        Self::RuleFailed,
        Self::Unsupported,
        Self::UnknownDestination,
        Self::DiscoveryTimeout,
        Self::NoEndpoints,
        Self::ConnectFailed,
        Self::PeerRefused,
        Self::Overloaded,
        Self::UpstreamReset,
        Self::BadResponse,
        Self::Timeout,
        Self::Draining,
        Self::Loop,
    ];

    /// The stable text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Denied => "denied",
            Self::NoRoute => "no-route",
            Self::RuleFailed => "rule-failed",
            Self::Unsupported => "unsupported",
            Self::UnknownDestination => "unknown-destination",
            Self::DiscoveryTimeout => "discovery-timeout",
            Self::NoEndpoints => "no-endpoints",
            Self::ConnectFailed => "connect-failed",
            Self::PeerRefused => "peer-refused",
            Self::Overloaded => "overloaded",
            Self::UpstreamReset => "upstream-reset",
            Self::BadResponse => "bad-response",
            Self::Timeout => "timeout",
            Self::Draining => "draining",
            Self::Loop => "loop",
        }
    }

    /// From the header that carries it; `None` for what no sidecar says.
    #[must_use]
    pub fn from_header(value: &HeaderValue) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str().as_bytes() == value.as_bytes())
    }

    /// HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RuleFailed => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unsupported => StatusCode::NOT_IMPLEMENTED,
            Self::UpstreamReset | Self::BadResponse | Self::PeerRefused => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::UnknownDestination
            | Self::DiscoveryTimeout
            | Self::NoEndpoints
            | Self::ConnectFailed
            | Self::Overloaded
            | Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// gRPC status code, as text.
    #[must_use]
    pub fn grpc_status(self) -> &'static str {
        match self {
            Self::BadRequest | Self::RuleFailed | Self::Loop | Self::BadResponse => "13",
            Self::Denied => "7",
            Self::NoRoute | Self::Unsupported => "12",
            Self::Timeout => "4",
            Self::UnknownDestination
            | Self::DiscoveryTimeout
            | Self::NoEndpoints
            | Self::ConnectFailed
            | Self::PeerRefused
            | Self::Overloaded
            | Self::UpstreamReset
            | Self::Draining => "14",
        }
    }

    /// True where nothing of the request can have been worked on.
    #[must_use]
    pub fn is_safe_to_retry(self) -> bool {
        matches!(self, Self::ConnectFailed | Self::Overloaded | Self::Draining | Self::NoEndpoints | Self::PeerRefused)
    }

    /// What it means and what to do, for reference pages.
    #[must_use]
    pub fn explanation(self) -> &'static str {
        match self {
            Self::BadRequest => "The request is malformed or ambiguous. Mend the client.",
            Self::Denied => "An AuthorizationPolicy or TransportPolicy refuses the caller; `mesh-policy` names it.",
            Self::NoRoute => "Routes are attached to the service and none matches the request.",
            Self::RuleFailed => {
                "The rule that matches has a filter or backend that cannot be used; `mesh-policy` names the route."
            }
            Self::Unsupported => "The request asks for something that the proxy does not do.",
            Self::UnknownDestination => {
                "No Service, and no workload, is known under this name or address, or not to this caller."
            }
            Self::DiscoveryTimeout => {
                "The controller has not answered for this destination yet. Try again; see `meshctl status`."
            }
            Self::NoEndpoints => "The destination has no ready endpoint.",
            Self::ConnectFailed => "No endpoint could be connected to. Nothing was sent, a retry is safe.",
            Self::PeerRefused => {
                "The endpoint did not prove the identity that discovery names for it. Nothing was sent."
            }
            Self::Overloaded => "Too many requests wait for this destination. Nothing was sent, a retry is safe.",
            Self::UpstreamReset => "The upstream broke the connection off before its answer was complete.",
            Self::BadResponse => "The upstream's answer is not valid HTTP.",
            Self::Timeout => "A deadline of the route or of the caller passed.",
            Self::Draining => "The proxy is stopping. Nothing was sent, a retry is safe.",
            Self::Loop => "The destination is the proxy itself.",
        }
    }
}

/// One refusal.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What went wrong.
    pub code: Code,
    /// For people; must hold nothing that the caller may not know.
    pub detail: &'static str,
    /// The object behind it, as `Kind/NAMESPACE/NAME`, ready for a header.
    pub object: Option<Arc<str>>,
    /// A status of its own, where a rule asks for one.
    pub status: Option<StatusCode>,
}

impl Fault {
    /// Without an object behind it.
    #[must_use]
    pub const fn new(code: Code, detail: &'static str) -> Self {
        Self { code, detail, object: None, status: None }
    }

    /// With the object behind it.
    #[must_use]
    pub fn by(code: Code, detail: &'static str, object: Option<Arc<str>>) -> Self {
        Self { code, detail, object, status: None }
    }

    /// The answer. A gRPC caller gets a trailers-only one. `reveal` is false for callers outside the mesh: they learn
    /// the code, not the object.
    #[must_use]
    pub fn response<B>(&self, grpc: bool, reveal: bool, body: impl FnOnce(&'static str) -> B) -> Response<B> {
        let shown = if grpc { "" } else { self.detail };
        let mut response = Response::new(body(shown));
        let headers = response.headers_mut();
        headers.insert(names::HEADER_ERROR, HeaderValue::from_static(self.code.as_str()));
        if let Some(object) = self.object.as_ref().filter(|_| reveal)
            && let Ok(value) = HeaderValue::from_str(object)
        {
            headers.insert(names::HEADER_POLICY, value);
        }
        if grpc {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from_static(self.code.grpc_status()));
            headers.insert("grpc-message", HeaderValue::from_static(self.detail));
        } else {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            *response.status_mut() = self.status.unwrap_or(self.code.status());
        }
        response
    }
}

/// True where the caller speaks gRPC and thus expects a status in trailers.
#[must_use]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let Some((head, rest)) = kind.split_at_checked(b"application/grpc".len()) else { return false };
    head.eq_ignore_ascii_case(b"application/grpc") && matches!(rest.first(), None | Some(b'+' | b';'))
}

/// The HTTP version for labels.
#[must_use]
pub fn version_label(version: Version) -> &'static str {
    if version == Version::HTTP_2 { "http2" } else { "http1" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn g26_grpc_content_types() {
        let grpc = |kind: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            is_grpc(&headers)
        };
        assert!(grpc("application/grpc") && grpc("application/grpc+x") && grpc("Application/GRPC;a=b"));
        assert!(!grpc("application/grpc-web") && !grpc("application/json") && !grpc("app"));
    }

    #[test]
    fn g22_refusals_speak_the_callers_protocol() {
        let fault = Fault::by(Code::Denied, "refused", Some("AuthorizationPolicy/shop/p".into()));
        let plain = fault.response(false, true, |text| text);
        assert_eq!((plain.status(), *plain.body()), (StatusCode::FORBIDDEN, "refused"));
        assert_eq!(plain.headers()[names::HEADER_POLICY], "AuthorizationPolicy/shop/p");
        let grpc = fault.response(true, false, |text| text);
        assert_eq!((grpc.status(), &grpc.headers()["grpc-status"]), (StatusCode::OK, &HeaderValue::from_static("7")));
        assert!(!grpc.headers().contains_key(names::HEADER_POLICY));
    }
}
