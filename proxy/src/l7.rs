//! HTTP at the edges of the proxy: the codecs that turn bytes into `http` messages and back.
//!
//! Everything above this module speaks `http` types and `http_body::Body`; which codec is behind them
//! is decided here and can be replaced.

pub mod body;
pub mod h1;
pub mod h2;
pub mod mux;

pub(crate) use h1::give_back_map;
