//! The sidecar proxy of the mesh.
//!
//! Modules stand on floors; each imports lower floors only:
//!
//! ```text
//!  7  app         builds every part, starts it, waits, drains
//!  6  outbound    what the application sends: destination, route, endpoint, send
//!     inbound     what comes for the application: TLS, policy, authorization, forward
//!     admin       the pages of the admin server
//!  5  worker      what everything on one thread shares
//!     sniff       who speaks first, and what
//!     exchange    one request's account: metrics, balance, span, access line
//!     carry       connections that are not HTTP
//!     tunnel      upgrades
//!  4  upstream    one endpoint: dial, multiplexed link, HTTP/1 pool
//!  3  discovery   what is known of the mesh, and the stream it comes over
//!  2  authz routing balance budget detect     pure: they decide
//!     l7          HTTP/1 codec, HTTP/2, the frames between sidecars, bodies
//!     cni         redirection by the node, for pods that may not redirect themselves
//!  1  normal      the one normal form of a request
//!     trace       trace context
//!     l4          accept, copy
//!     telemetry   handles of metrics, spans
//!     redirect    the rules that make connections pass through the proxy
//!     phase       serving, or how far in stopping
//!     probe       the application's health, asked in a kubelet's place
//!  0  config      settings
//!     fault       why the proxy itself answers
//! ```
//!
//! Everything that carries traffic belongs to one worker thread and is neither `Send` nor locked; the control thread
//! talks to workers over channels only. `fuzzing` is only there in tests and where it is fuzzed.

pub mod admin;
pub mod app;
pub mod authz;
pub mod balance;
pub mod budget;
pub mod carry;
pub mod cni;
pub mod config;
pub mod detect;
pub mod discovery;
pub mod exchange;
pub mod fault;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod inbound;
pub mod l4;
pub mod l7;
pub mod normal;
pub mod outbound;
pub mod phase;
pub mod probe;
pub mod redirect;
pub mod routing;
pub mod sniff;
pub mod telemetry;
pub mod trace;
pub mod tracing_context;
pub mod tunnel;
pub mod upstream;
pub mod worker;
