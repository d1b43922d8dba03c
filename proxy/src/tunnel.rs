//! Requests that turn their connection into a tunnel: WebSocket and other upgrades (RFC 9110 section 7.8). Floor 5.
//!
//! Between sidecars there is no connection to be turned: the request goes as an ordinary one that says what it asks for
//! in a header of the mesh, and both bodies carry the tunnel's bytes once the answer has said yes.

use std::{cell::RefCell, rc::Rc};

use bytes::Buf;
use futures_util::{FutureExt, future::LocalBoxFuture};
use http::{
    HeaderValue, Response, StatusCode, Version,
    header::{CONTENT_LENGTH, UPGRADE},
    request::Parts,
};
use http_body::Body as HttpBody;
use tokio::{
    io::{AsyncWriteExt, ReadHalf, WriteHalf, split},
    sync::oneshot,
};

use crate::{
    fault::{Code, Fault},
    l7::{
        body::{Body, Tunnel},
        h1::{OnUpgrade, Upgraded},
    },
    normal::headers::MESH_UPGRADE,
};

/// The caller's connection, once it is turned, and whoever waits for its bytes.
type Caller = (OnUpgrade, Option<oneshot::Sender<ReadHalf<Upgraded>>>);

/// True where a list of protocols names HTTP/2: its requests would pass every rule inside a tunnel. It is agreed on by
/// other means (RFC 9113 section 3.1).
#[must_use]
pub fn is_http2(protocols: &HeaderValue) -> bool {
    protocols.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default().trim_ascii();
        let version = protocol.get(name.len()..).unwrap_or_default();
        name.eq_ignore_ascii_case(b"h2c")
            || name.eq_ignore_ascii_case(b"h2")
            || (name.eq_ignore_ascii_case(b"http") && version.contains(&b'2'))
    })
}

/// What a connection of HTTP/1 carries once its requests are over: nothing, or a tunnel. It stays the connection's own
/// task that carries it, so that tunnels are counted, bounded and drained as connections are.
#[derive(Default)]
pub struct Afterwards(RefCell<Option<LocalBoxFuture<'static, ()>>>);

impl Afterwards {
    /// Carries the tunnel, where there is one, to its end.
    pub async fn carry(&self) {
        let tunnel = self.0.take();
        if let Some(tunnel) = tunnel {
            tunnel.await;
        }
    }

    fn is(&self, tunnel: impl Future<Output = ()> + 'static) {
        self.0.replace(Some(tunnel.boxed_local()));
    }
}

/// An upgrade that the caller of HTTP/1 asks for.
pub struct Asked {
    protocol: HeaderValue,
    afterwards: Rc<Afterwards>,
    caller: RefCell<Option<Caller>>,
}

/// What the caller asks for, where it does: its connection would carry that `afterwards`. To be called before hop-by-hop
/// fields are removed.
pub fn asked(parts: &Parts, body: &mut Body, afterwards: &Rc<Afterwards>) -> Option<Asked> {
    let (Body::H1(incoming), Some(protocol)) = (body, parts.headers.get(UPGRADE)) else { return None };
    let caller = incoming.take_on_upgrade()?;
    let caller = RefCell::new(Some((caller, None)));
    Some(Asked { protocol: protocol.clone(), afterwards: Rc::clone(afterwards), caller })
}

impl Asked {
    /// Completes the request; answers the body it goes with. To a sidecar that is the tunnel to come.
    pub fn prepare(&self, parts: &mut Parts, meshed: bool) -> Body {
        if !meshed {
            parts.version = Version::HTTP_11;
            parts.headers.insert(UPGRADE, self.protocol.clone());
            return Body::Empty;
        }
        parts.headers.insert(&MESH_UPGRADE, self.protocol.clone());
        // What is carried is not the request's body any more.
        parts.headers.remove(CONTENT_LENGTH);
        let (sender, waiting) = oneshot::channel();
        if let Some((_, slot)) = self.caller.borrow_mut().as_mut() {
            *slot = Some(sender);
        }
        Body::Tunnel(Tunnel::Waiting(waiting))
    }

    /// Connects the two sides where the answer agrees; any other answer is passed on as it is.
    ///
    /// # Errors
    /// Where the answer agrees without a connection behind it.
    pub fn complete(self, mut response: Response<Body>, meshed: bool) -> Result<Response<Body>, Fault> {
        let agreed = response.headers_mut().remove(&MESH_UPGRADE);
        let Some((caller, sender)) = self.caller.into_inner() else { return Ok(response) };
        match (meshed, agreed, sender) {
            (true, Some(protocol), Some(sender)) => {
                let mut body = std::mem::replace(response.body_mut(), Body::Empty);
                self.afterwards.is(async move {
                    let Ok(upgraded) = caller.await else { return };
                    let (reader, writer) = split(upgraded);
                    // The other sidecar gave up: the response body says so as well.
                    let _ = sender.send(reader);
                    if pour(&mut body, writer).await {
                        // The server has nothing more to say; the caller may have.
                        body.sent().await;
                    }
                });
                *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
                response.headers_mut().insert(UPGRADE, protocol);
            }
            (false, _, _) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                let mut server = taken(&mut response)?;
                self.afterwards.is(async move {
                    let Ok(mut client) = caller.await else { return };
                    crate::l4::copy(&mut client, &mut server, std::time::Duration::from_secs(3600)).await;
                });
            }
            _ => {}
        }
        Ok(response)
    }
}

/// On the inbound side: the application agreed. Answers the response for the other sidecar, whose body is the tunnel.
///
/// # Errors
/// Where there is no connection behind the answer.
pub fn agree(mut response: Response<Body>, mut request_body: Body) -> Result<Response<Body>, Fault> {
    let upgraded = taken(&mut response)?;
    let (reader, writer) = split(upgraded);
    tokio::task::spawn_local(async move { pour(&mut request_body, writer).await });
    let protocol = response.headers_mut().remove(UPGRADE).unwrap_or(HeaderValue::from_static(""));
    response.headers_mut().insert(&MESH_UPGRADE, protocol);
    *response.status_mut() = StatusCode::OK;
    *response.body_mut() = Body::Tunnel(Tunnel::Open(reader));
    Ok(response)
}

fn taken(response: &mut Response<Body>) -> Result<Upgraded, Fault> {
    let upgraded = match response.body_mut() {
        Body::H1(incoming) => incoming.take_upgraded(),
        _ => None,
    };
    *response.body_mut() = Body::Empty;
    upgraded.ok_or(Fault::new(Code::BadResponse, "the server switched protocols without being asked"))
}

/// Writes a body into a connection; its end, or its failure, ends that direction. True where it was its end.
async fn pour(body: &mut Body, mut writer: WriteHalf<Upgraded>) -> bool {
    let ended = loop {
        match std::future::poll_fn(|cx| std::pin::Pin::new(&mut *body).poll_frame(cx)).await {
            None => break true,
            Some(Err(_)) => break false,
            Some(Ok(frame)) => {
                let Ok(mut data) = frame.into_data() else { break true };
                while data.has_remaining() {
                    if writer.write_buf(&mut data).await.is_err() {
                        return false;
                    }
                }
            }
        }
    };
    // The other side may be gone already.
    let _ = writer.shutdown().await;
    ended
}
