//! Connecting: TCP, and mutual TLS on top of it, under one deadline.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use ::metrics::{Counter, Label};
use bytes::Bytes;
use mesh_api::{spiffe::SpiffeId, sys::Stream, tls};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Dialer, SendError};
use crate::{
    fault::Code,
    l4::{Wide, rest},
    l7::mux::ByteStream,
    telemetry::Telemetry,
};

/// Handshakes, by how they ended.
#[derive(Clone, Debug)]
pub struct HandshakeMetrics {
    /// Peer accepted.
    pub ok: Counter,
    /// An identity was refused.
    pub refused: Counter,
    /// Broken off, or too slow.
    pub failed: Counter,
}

impl HandshakeMetrics {
    /// For one side: `client` or `server`.
    #[must_use]
    pub fn new(telemetry: &Arc<Telemetry>, side: &'static str) -> Self {
        let counter = |result| {
            let labels = vec![Label::from_static_parts("side", side), Label::from_static_parts("result", result)];
            telemetry.counter("mesh_tls_handshakes_total", labels)
        };
        Self { ok: counter("ok"), refused: counter("refused"), failed: counter("failed") }
    }

    /// Counts one that failed.
    pub fn count(&self, error: &io::Error) {
        if is_refusal(error) { self.refused.increment(1) } else { self.failed.increment(1) }
    }
}

/// True where one of the two sides refused the other's certificate.
#[must_use]
pub fn is_refusal(error: &io::Error) -> bool {
    use rustls::{AlertDescription as Alert, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_) | Error::NoCertificatesPresented) => true,
        Some(Error::AlertReceived(alert)) => matches!(
            alert,
            Alert::CertificateExpired
                | Alert::CertificateRequired
                | Alert::CertificateUnknown
                | Alert::BadCertificate
                | Alert::UnknownCA
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::AccessDenied
        ),
        _ => false,
    }
}

/// A plain connection.
///
/// # Errors
/// [`SendError`]; nothing was sent.
pub async fn plain(dialer: &Dialer, address: SocketAddr) -> Result<Stream, SendError> {
    let connected = timeout(dialer.connect_timeout, dialer.sys.net.connect(address)).await;
    let stream = connected.map_err(|_| too_slow())?.map_err(not_connected)?;
    rest::allow_if_local(&stream);
    Ok(stream)
}

/// A connection over mutual TLS to nobody but `identity`, for one of the protocols `alpn`.
///
/// # Errors
/// [`SendError`]; nothing was sent. A peer that is somebody else, or does not speak the mesh's TLS, is refused: never
/// is anything sent to it in plain.
pub async fn mutual(
    dialer: &Dialer,
    address: SocketAddr,
    identity: &SpiffeId,
    alpn: &[&[u8]],
) -> Result<TlsStream<Wide<Stream>>, SendError> {
    let config = tls::client_config(&dialer.keeper, dialer.sys.clock, identity.clone(), alpn)
        .map_err(|error| SendError::new(Code::PeerRefused, "TLS is not available", true, error))?;
    let connecting = async {
        let stream = dialer.sys.net.connect(address).await.map_err(not_connected)?;
        TlsConnector::from(config).connect(tls::no_name(), Wide::new(Bytes::new(), stream)).await.map_err(|error| {
            dialer.handshakes.count(&error);
            not_trusted(error)
        })
    };
    let stream = timeout(dialer.connect_timeout, connecting).await.map_err(|_| too_slow())??;
    match tls::require_alpn(stream.get_ref().1) {
        Ok(agreed) if alpn.contains(&agreed) => {}
        _ => {
            return Err(SendError::new(
                Code::PeerRefused,
                "the endpoint is no sidecar",
                true,
                "no protocol of the mesh was agreed on",
            ));
        }
    }
    dialer.handshakes.ok.increment(1);
    Ok(stream)
}

fn too_slow() -> SendError {
    SendError::new(Code::ConnectFailed, "the endpoint did not accept the connection in time", true, "too slow")
}

fn not_connected(error: io::Error) -> SendError {
    SendError::new(Code::ConnectFailed, "the endpoint could not be connected to", true, error)
}

fn not_trusted(error: io::Error) -> SendError {
    if is_refusal(&error) {
        SendError::new(Code::PeerRefused, "the endpoint's or the own identity was refused", true, error)
    } else {
        SendError::new(Code::ConnectFailed, "the endpoint broke the TLS handshake off", true, error)
    }
}

/// A connection for bytes that are not HTTP.
#[derive(Debug)]
pub enum Tunnelled {
    /// Plain.
    Plain(Stream),
    /// Over mutual TLS.
    Mutual(Box<TlsStream<Wide<Stream>>>),
    /// A stream of the connection that there is to a sidecar.
    Stream(ByteStream),
}

impl AsyncRead for Tunnelled {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Mutual(io) => Pin::new(io).poll_read(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Mutual(io) => Pin::new(io).poll_write(cx, buf),
            Self::Stream(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Mutual(io) => Pin::new(io).poll_flush(cx),
            Self::Stream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Mutual(io) => Pin::new(io).poll_shutdown(cx),
            Self::Stream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
