//! One request and the head of its response.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::{AbortOnDrop, ClientConfig, ClientError, ClientErrorKind, Connection, ResponseEnd, Retry, release};
use crate::l7::h1::body::Incoming;
use crate::l7::h1::conn::{ConnCell, Upload};
use crate::l7::h1::decode::BodyDecoder;
use crate::l7::h1::encode::{WireFraming, encode_request_head};
use crate::l7::h1::error::BodyError;
use crate::l7::h1::framing::{accepts_trailers, response_framing};
use crate::l7::h1::parse::{HeadScan, ResponseHead, parse_response};
use crate::l7::h1::pump::{BodyEncoder, BoxError, PumpError};
use crate::l7::h1::reason::Reason;
use crate::l7::h1::scan::{decimal, list};
use crate::l7::h1::upgrade::Upgraded;

/// A request under way until the head of its response is there.
pub(super) struct Exchange<'a, B, I> {
    conn: Rc<ConnCell>,
    config: &'a ClientConfig,
    on_interim: I,
    method: Method,
    /// The protocols that were asked for, if any.
    upgrade: Option<HeaderValue>,
    body: B,
    encoder: BodyEncoder,
    /// The body waits for `100 Continue`.
    held: bool,
    /// Why the request could not be written; the response may be there nevertheless.
    write_error: Option<io::Error>,
    scan: HeadScan,
    interims: u8,
    answered: bool,
    since: Option<Instant>,
}

impl<'a, B, I> Exchange<'a, B, I>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<BoxError>,
    I: FnMut(StatusCode, HeaderMap),
{
    /// Queues the head.
    pub(super) fn begin(
        connection: Connection,
        head: &Parts,
        body: B,
        config: &'a ClientConfig,
        on_interim: I,
    ) -> Result<Self, ClientError> {
        let reused = connection.is_reused();
        let early = |kind| ClientError::new(kind, Retry::Always, reused);
        if !connection.is_alive() {
            return Err(early(ClientErrorKind::Stale));
        }
        let connect = head.method == Method::CONNECT;
        let framing = if connect { WireFraming::None } else { wire_framing(&head.method, &head.headers, &body) };
        let upgrade = head.headers.get(UPGRADE).filter(|_| !connect && body.is_end_stream()).cloned();
        let conn = connection.conn;
        let (expects, trailers) = {
            let mut core = conn.state();
            let out = core.wbuf.tail();
            encode_request_head(&head.method, &head.uri, &head.headers, framing, upgrade.is_some(), out)
                .map_err(|_| early(ClientErrorKind::Unwritable))?;
            core.write_timeout = config.write_timeout;
            core.upload = Upload::Pending;
            core.wrote = false;
            core.exchanges = core.exchanges.saturating_add(1);
            core.begin_body(BodyDecoder::default(), config.body);
            (head.headers.contains_key(EXPECT), accepts_trailers(&head.headers))
        };
        let encoder = BodyEncoder::new(framing, trailers);
        let held = expects && !encoder.is_done();
        Ok(Self {
            conn,
            config,
            on_interim,
            method: head.method.clone(),
            upgrade,
            body,
            encoder,
            held,
            write_error: None,
            scan: HeadScan::default(),
            interims: 0,
            answered: false,
            since: None,
        })
    }

    /// Sends and receives until the head of the final response is there.
    pub(super) async fn run(
        mut self,
        on_idle: impl FnOnce(Connection) + 'static,
    ) -> Result<Response<Incoming>, ClientError> {
        let head = match poll_fn(|cx| self.poll_head(cx)).await {
            Ok(head) => head,
            Err(kind) => return Err(self.fail(kind)),
        };
        let conn = Rc::clone(&self.conn);
        self.accept(head, on_idle).map_err(|reason| {
            let mut core = conn.state();
            core.close();
            ClientError::new(ClientErrorKind::BadResponse(reason), Retry::Never, core.exchanges > 1)
        })
    }

    /// Closes the connection and judges what went wrong.
    fn fail(self, kind: ClientErrorKind) -> ClientError {
        let mut core = self.conn.state();
        core.close();
        let retry = match kind {
            ClientErrorKind::RequestBody(_) | ClientErrorKind::RequestLength => Retry::Never,
            _ if self.answered => Retry::Never,
            _ if core.wrote => Retry::IfIdempotent,
            _ => Retry::Always,
        };
        ClientError::new(kind, retry, core.exchanges > 1)
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, ClientErrorKind>> {
        loop {
            self.poll_upload(cx)?;
            match self.poll_read(cx) {
                Poll::Pending => {}
                Poll::Ready(Err(kind)) => return Poll::Ready(Err(kind)),
                Poll::Ready(Ok(head)) if head.status == StatusCode::CONTINUE => {
                    self.held = false;
                    self.since = None;
                    continue;
                }
                Poll::Ready(Ok(head)) => return Poll::Ready(Ok(head)),
            }
            match self.poll_deadline(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(kind)) => return Poll::Ready(Err(kind)),
            }
        }
    }

    /// Sends what can be sent. A connection that takes no more may still have an answer.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), ClientErrorKind> {
        if self.write_error.is_some() || self.conn.state().upload == Upload::Done {
            return Ok(());
        }
        let polled = if self.held {
            self.conn.state().poll_flush(cx).map_err(PumpError::Io).map_ok(|()| false)
        } else {
            self.encoder.poll_pump(&self.conn, Pin::new(&mut self.body), cx).map_ok(|()| true)
        };
        match polled {
            Poll::Pending | Poll::Ready(Ok(false)) => {}
            Poll::Ready(Ok(true)) => self.conn.state().upload = Upload::Done,
            Poll::Ready(Err(PumpError::Body(error))) => return Err(ClientErrorKind::RequestBody(error)),
            Poll::Ready(Err(PumpError::Length)) => return Err(ClientErrorKind::RequestLength),
            Poll::Ready(Err(PumpError::Io(error))) => {
                self.conn.state().upload = Upload::Failed;
                if error.kind() == io::ErrorKind::TimedOut {
                    return Err(ClientErrorKind::WriteTimeout);
                }
                self.write_error = Some(error);
            }
        }
        Ok(())
    }

    /// Reads until a head that matters to the exchange is there; shows other interim responses around.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<ResponseHead, ClientErrorKind>> {
        loop {
            let mut core = self.conn.state();
            if !core.rbuf.is_empty() {
                self.answered = true;
                match parse_response(&mut core.rbuf, &mut self.scan, &self.config.limits) {
                    Err(reason) => return Poll::Ready(Err(ClientErrorKind::BadResponse(reason))),
                    Ok(None) => {}
                    Ok(Some(head)) => {
                        drop(core);
                        match self.judge(head) {
                            None => continue,
                            Some(judged) => return Poll::Ready(judged.map_err(ClientErrorKind::BadResponse)),
                        }
                    }
                }
            }
            match core.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self
                        .write_error
                        .take()
                        .map_or(ClientErrorKind::Closed, ClientErrorKind::Io)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(ClientErrorKind::Io(error))),
            }
        }
    }

    /// Final heads, 100 and proper 101 are the caller's; other interim ones are shown and forgotten.
    fn judge(&mut self, head: ResponseHead) -> Option<Result<ResponseHead, Reason>> {
        if !head.status.is_informational() {
            return Some(Ok(head));
        }
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Some(if self.was_asked(&head) { Ok(head) } else { Err(Reason::UpgradeNotAsked) });
        }
        self.interims = self.interims.saturating_add(1);
        if self.interims > self.config.max_interim {
            return Some(Err(Reason::InterimFlood));
        }
        if head.status == StatusCode::CONTINUE {
            return Some(Ok(head));
        }
        (self.on_interim)(head.status, head.headers);
        None
    }

    /// Does a 101 choose one of the protocols that the request named?
    fn was_asked(&self, head: &ResponseHead) -> bool {
        let (Some(asked), Some(chosen)) = (&self.upgrade, head.headers.get(UPGRADE)) else { return false };
        let mut chosen = list(chosen.as_bytes());
        chosen.next().is_some_and(|chosen| list(asked.as_bytes()).any(|asked| asked.eq_ignore_ascii_case(chosen)))
    }

    /// Nothing to do but wait: `Ready(Ok)` starts a held body, an error ends the wait.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientErrorKind>> {
        let mut core = self.conn.state();
        let limit = match core.upload {
            Upload::Pending if self.held => self.config.continue_timeout,
            // The request's own source and the write time-out limit the upload.
            Upload::Pending => return Poll::Pending,
            Upload::Done | Upload::Failed => self.config.head_timeout,
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        if core.read_timer.poll_until(cx, since + limit).is_pending() {
            return Poll::Pending;
        }
        if self.held && core.upload == Upload::Pending {
            self.held = false;
            self.since = None;
            return Poll::Ready(Ok(()));
        }
        Poll::Ready(Err(ClientErrorKind::HeadTimeout))
    }

    /// Makes the response of its head, and hands the connection to whoever it belongs to from here on.
    fn accept(
        self,
        mut head: ResponseHead,
        on_idle: impl FnOnce(Connection) + 'static,
    ) -> Result<Response<Incoming>, Reason> {
        let tunnel = head.status == StatusCode::SWITCHING_PROTOCOLS
            || (self.method == Method::CONNECT && head.status.is_success());
        if tunnel {
            head.headers.remove(CONTENT_LENGTH);
            head.headers.remove(TRANSFER_ENCODING);
            return Ok(response(head, tunnel_body(&self.conn)));
        }
        let framing = response_framing(&self.method, head.status, head.version, &mut head.headers, head.seen)?;
        let mut decoder = BodyDecoder::new(framing.body);
        let (whole, generation) = {
            let mut core = self.conn.state();
            let core = &mut *core;
            decoder.advance(&mut core.rbuf, core.eof);
            if let Some(reason) = decoder.malformed() {
                return Err(reason);
            }
            let whole = decoder.take_whole();
            core.begin_body(decoder, self.config.body);
            (whole, core.generation)
        };
        if let Some(data) = whole {
            if release(&self.conn, framing.keep_alive) {
                on_idle(Connection { conn: self.conn });
            }
            return Ok(response(head, Incoming::whole(data)));
        }
        let conn = Rc::clone(&self.conn);
        let upload = self.continue_upload();
        let end = ResponseEnd { keep_alive: framing.keep_alive, on_idle: Box::new(on_idle), _upload: upload };
        Ok(response(head, Incoming::stream(conn, generation, Some(end))))
    }

    /// Sends what is left of the request beside the response. A body that is still held is not wanted any more.
    fn continue_upload(self) -> Option<AbortOnDrop> {
        if self.held {
            self.conn.state().upload = Upload::Failed;
        }
        let pending = self.conn.state().upload == Upload::Pending;
        pending.then(|| AbortOnDrop(spawn_local(upload(self.conn, self.body, self.encoder))))
    }
}

fn response(head: ResponseHead, body: Incoming) -> Response<Incoming> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.version_mut() = head.version;
    *response.headers_mut() = head.headers;
    response
}

fn tunnel_body(conn: &ConnCell) -> Incoming {
    let mut core = conn.state();
    let early = core.rbuf.split().freeze();
    core.take_io().map_or_else(Incoming::empty, |io| Incoming::upgraded(Upgraded::new(io, early)))
}

/// How a request's body is delimited.
fn wire_framing<B: Body>(method: &Method, headers: &HeaderMap, body: &B) -> WireFraming {
    let stated = || headers.get(CONTENT_LENGTH).and_then(|value| decimal(value.as_bytes()));
    let exact = if body.is_end_stream() { Some(0) } else { body.size_hint().exact().or_else(stated) };
    match exact {
        // Methods whose body means something say that it is empty (RFC 9110 §8.6).
        Some(0) if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => WireFraming::None,
        Some(length) => WireFraming::Length(length),
        None => WireFraming::Chunked,
    }
}

/// The rest of a request, sent beside its response.
async fn upload<B>(conn: Rc<ConnCell>, mut body: B, mut encoder: BodyEncoder)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    let guard = UploadGuard(&conn);
    let sent = poll_fn(|cx| encoder.poll_pump(&conn, Pin::new(&mut body), cx)).await;
    let mut core = guard.0.state();
    match sent {
        Ok(()) => core.upload = Upload::Done,
        // The upstream reads no more; what it answers may be complete all the same.
        Err(PumpError::Io(_)) => core.upload = Upload::Failed,
        Err(PumpError::Body(_) | PumpError::Length) => {
            core.upload = Upload::Failed;
            core.fail(BodyError::Request);
            // At once, so that nobody takes the request for complete.
            core.close();
        }
    }
}

/// Notices an upload that ended without a result: aborted, or panicked.
struct UploadGuard<'a>(&'a ConnCell);

impl Drop for UploadGuard<'_> {
    fn drop(&mut self) {
        if let Some(mut core) = self.0.try_state()
            && core.upload == Upload::Pending
        {
            core.upload = Upload::Failed;
            core.fail(BodyError::Request);
            core.close();
        }
    }
}
