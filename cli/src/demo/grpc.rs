//! One gRPC method by hand, `demo.Inventory/Reserve`: a message in a frame, a status in a trailer (gRPC over HTTP/2).
//!
//! Its one field is a text with number 1 in both directions, so that no generated code is needed.

use std::net::SocketAddr;

use ::http::{HeaderMap, HeaderValue, Request, Response, header};
use anyhow::{Context, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, sync::Mutex};

use super::http::Body;

/// Path of the method.
const PATH: &str = "/demo.Inventory/Reserve";
/// Longest text, in bytes: one length byte is enough.
const MAX_TEXT: usize = 127;
/// Largest answer, in bytes.
const MAX_BODY: usize = 64 * 1024;

/// A message with a text, in its frame.
fn frame(text: &str) -> Bytes {
    let text = text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default();
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(text.len() + 2).unwrap_or_default());
    // Field 1, length-delimited.
    out.put_u8(0x0A);
    out.put_u8(u8::try_from(text.len()).unwrap_or_default());
    out.put_slice(text.as_bytes());
    out.freeze()
}

/// The text of a framed message.
#[must_use]
pub fn message(body: &[u8]) -> Option<&str> {
    let (head, message) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(head.get(1..5)?.try_into().ok()?);
    let [0x0A, text @ ..] = message else { return None };
    let (length_of_text, text) = text.split_first()?;
    let whole = head.first() == Some(&0)
        && message.len() == usize::try_from(length).ok()?
        && text.len() == usize::from(*length_of_text);
    whole.then(|| std::str::from_utf8(text).ok()).flatten()
}

/// The answer to a call: a text, or why there is none.
pub fn answer(result: Result<String, String>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    let (code, body) = match &result {
        Ok(text) => ("0", frame(text)),
        Err(_) => ("14", Bytes::new()),
    };
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    if let Err(why) = result
        && let Ok(why) = HeaderValue::from_str(&why.replace(|c: char| !c.is_ascii_graphic(), " "))
    {
        trailers.insert("grpc-message", why);
    }
    let body = Full::new(body).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = Response::new(body.boxed());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Calls the method over one connection that it keeps.
#[derive(Debug)]
pub struct Inventory {
    upstream: SocketAddr,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl Inventory {
    /// For an upstream.
    #[must_use]
    pub fn new(upstream: SocketAddr) -> Self {
        Self { upstream, connection: Mutex::default() }
    }

    /// Reserves an item.
    ///
    /// # Errors
    /// Where the call fails; the caller sets the deadline.
    pub async fn reserve(&self, item: &str, headers: HeaderMap) -> anyhow::Result<String> {
        let mut sender = self.sender().await.context("cannot reach inventory")?;
        let mut request = Request::post(format!("http://inventory{PATH}"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(Full::new(frame(item)))?;
        request.headers_mut().extend(headers);
        let response = sender.send_request(request).await.context("no answer of inventory")?;
        let status = response.status();
        let mut headers = response.headers().clone();
        let Ok(body) = Limited::new(response.into_body(), MAX_BODY).collect().await else {
            bail!("the answer of inventory broke off")
        };
        headers.extend(body.trailers().cloned().unwrap_or_default());
        let code = headers.get("grpc-status").and_then(|code| code.to_str().ok()).unwrap_or("none").to_owned();
        if code != "0" {
            let why = headers.get("grpc-message").and_then(|why| why.to_str().ok()).unwrap_or_default();
            bail!("inventory answered {status}, gRPC status {code} {why}");
        }
        message(&body.to_bytes()).map(str::to_owned).context("the answer of inventory is no message")
    }

    async fn sender(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let mut kept = self.connection.lock().await;
        if let Some(sender) = kept.as_mut()
            && sender.ready().await.is_ok()
        {
            return Ok(sender.clone());
        }
        let stream = TcpStream::connect(self.upstream).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends when its senders are dropped or its peer closes.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(kept.insert(sender).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_as_it_went_in() {
        for text in ["", "book", "é"] {
            assert_eq!(message(&frame(text)), Some(text));
        }
        assert_eq!(message(&frame(&"é".repeat(100))).map(str::len), Some(126));
        for wrong in
            [&b""[..], b"\0\0\0\0\0", b"\0\0\0\0\x09\x0a\x01a", b"\x01\0\0\0\x03\x0a\x01a", b"\0\0\0\0\x03\x0a\x01\xff"]
        {
            assert_eq!(message(wrong), None);
        }
    }
}
