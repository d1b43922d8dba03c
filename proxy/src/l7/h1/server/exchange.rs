//! One request and its response.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version, response};
use http_body::Body;

use super::{After, ServeError, Server};
use crate::l7::h1::body::Incoming;
use crate::l7::h1::buffer::give_back_map;
use crate::l7::h1::decode::BodyDecoder;
use crate::l7::h1::encode::{Persistence, WireFraming, response_head};
use crate::l7::h1::error::BodyError;
use crate::l7::h1::framing::{RequestFraming, is_bodyless, may_state_length};
use crate::l7::h1::parse::RequestHead;
use crate::l7::h1::pump::{BodyEncoder, BoxError, PumpError};
use crate::l7::h1::reason::Reason;
use crate::l7::h1::scan::decimal;
use crate::l7::h1::upgrade::{Fulfil, Upgraded, pair};

/// What the rest of an exchange must remember of its request.
struct Asked {
    method: Method,
    http10: bool,
    framing: RequestFraming,
    fulfil: Option<Fulfil>,
}

/// How the wait for the service ended.
enum Outcome<B> {
    Response(Response<B>),
    BodyFailed(Reason),
    Gone,
}

impl<D: Future<Output = ()>> Server<'_, D> {
    /// Lets the service answer one request.
    pub(super) async fn exchange<S, F, B>(&mut self, head: RequestHead, service: &S) -> Result<After, ServeError>
    where
        S: Fn(Request<Incoming>) -> F,
        F: Future<Output = Response<B>>,
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let (request, asked) = match self.begin(head) {
            Ok(begun) => begun,
            Err(reason) => return Ok(After::Refuse(reason)),
        };
        // On the heap, and only for as long as a request is under way: a connection that waits for the next one is small.
        let mut serving = Box::pin(service(request));
        let answered = self.await_service(serving.as_mut(), asked.http10).await;
        drop(serving);
        let response = match answered {
            Outcome::Response(response) => response,
            Outcome::BodyFailed(reason) => return Ok(After::Refuse(reason)),
            Outcome::Gone => return Err(ServeError::ClientGone),
        };
        let (parts, body) = response.into_parts();
        let connect = asked.method == Method::CONNECT;
        let connected = connect && parts.status.is_success();
        if connected || parts.status.is_informational() {
            let switches = connected || (!connect && parts.status == StatusCode::SWITCHING_PROTOCOLS);
            return match asked.fulfil.filter(|fulfil| switches && fulfil.is_awaited()) {
                Some(fulfil) => self.upgrade(&parts, fulfil).await,
                None => self.respond_bad_gateway(&asked.method).await,
            };
        }
        self.respond(parts, body, &asked).await
    }

    /// Turns a head into the service's request; refuses what of the body is already known to be malformed.
    fn begin(&mut self, head: RequestHead) -> Result<(Request<Incoming>, Asked), Reason> {
        let RequestHead { method, uri, version, mut headers, framing } = head;
        let http10 = version == Version::HTTP_10;
        let mut core = self.conn.state();
        let core = &mut *core;
        let mut decoder = BodyDecoder::new(framing.body);
        let untouched = core.rbuf.is_empty();
        decoder.advance(&mut core.rbuf, core.eof);
        if let Some(reason) = decoder.malformed() {
            return Err(reason);
        }
        let mut fulfil = None;
        let whole = decoder.take_whole();
        core.begin_body(decoder, self.config.body);
        core.answered = false;
        core.continue_pending = framing.expects_continue && untouched && whole.is_none();
        if framing.expects_continue && !core.continue_pending {
            // The client did not wait: nobody further on needs to.
            headers.remove(EXPECT);
        }
        let generation = core.generation;
        let mut body = if framing.upgrade {
            let (server, handle) = pair();
            fulfil = Some(server);
            Incoming::upgradable(handle)
        } else if let Some(whole) = whole {
            Incoming::whole(whole)
        } else {
            Incoming::stream(Rc::clone(&self.conn), generation, None)
        };
        if !http10 {
            body = body.with_origin(Rc::clone(&self.conn), generation);
        }
        let mut request = Request::new(body);
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri;
        *request.version_mut() = version;
        *request.headers_mut() = headers;
        Ok((request, Asked { method, http10, framing, fulfil }))
    }

    /// Waits for the response, and meanwhile for the client's end, a failure of the body, and interim responses.
    async fn await_service<B>(
        &self,
        mut service: Pin<&mut impl Future<Output = Response<B>>>,
        http10: bool,
    ) -> Outcome<B> {
        poll_fn(|cx| {
            let polled = service.as_mut().poll(cx);
            // A malformed request outranks whatever the service made of it.
            match self.conn.state().failure {
                None => {}
                Some(error) => {
                    return Poll::Ready(error.reason().map_or(Outcome::Gone, Outcome::BodyFailed));
                }
            }
            if let Poll::Ready(response) = polled {
                return Poll::Ready(Outcome::Response(response));
            }
            if self.poll_gone(http10, cx) { Poll::Ready(Outcome::Gone) } else { Poll::Pending }
        })
        .await
    }

    /// Writes interim responses that wait; says whether the client has gone.
    fn poll_gone(&self, http10: bool, cx: &mut Context<'_>) -> bool {
        let mut core = self.conn.state();
        core.set_owner(cx);
        if matches!(core.poll_flush(cx), Poll::Ready(Err(_))) {
            return true;
        }
        if !core.body.is_received() || !core.rbuf.is_empty() {
            // The body's reader sees the end itself; what is pipelined is served first.
            return false;
        }
        match core.poll_fill(cx) {
            Poll::Ready(Ok(0)) => core.poll_left(self.config.half_closed_check, http10, cx),
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(_)) | Poll::Pending => false,
        }
    }

    /// Writes the head that ends HTTP on the connection, and hands it over.
    async fn upgrade(&self, parts: &response::Parts, fulfil: Fulfil) -> Result<After, ServeError> {
        let switching = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        let persistence = if switching { Persistence::Upgrade } else { Persistence::Default };
        self.queue_head(parts.status, &parts.headers, WireFraming::None, persistence);
        self.flush().await?;
        let mut core = self.conn.state();
        let early = core.rbuf.split().freeze();
        if let Some(io) = core.take_io() {
            fulfil.fulfil(Upgraded::new(io, early));
        }
        Ok(After::Upgraded)
    }

    /// The service answered with an upgrade that nobody asked for or nobody takes.
    async fn respond_bad_gateway(&self, method: &Method) -> Result<After, ServeError> {
        let framing = if *method == Method::HEAD { WireFraming::None } else { WireFraming::Length(0) };
        self.queue_head(StatusCode::BAD_GATEWAY, &HeaderMap::new(), framing, Persistence::Close);
        self.flush().await?;
        Ok(After::Linger)
    }

    /// Writes the response.
    async fn respond<B>(&mut self, parts: response::Parts, body: B, asked: &Asked) -> Result<After, ServeError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let framing = wire_framing(&parts, &body, asked);
        let close = self.must_close(framing, asked);
        let persistence = match close {
            true => Persistence::Close,
            false if asked.http10 => Persistence::KeepAlive,
            false => Persistence::Default,
        };
        self.queue_head(parts.status, &parts.headers, framing, persistence);
        give_back_map(parts.headers);
        self.send_body(body, BodyEncoder::new(framing, asked.framing.trailers), asked.http10).await?;
        self.after_response(close).await
    }

    fn queue_head(&self, status: StatusCode, headers: &HeaderMap, framing: WireFraming, persistence: Persistence) {
        let mut core = self.conn.state();
        core.answered = true;
        response_head(status, headers, framing, persistence, core.wbuf.tail());
    }

    /// Must the connection end with this response?
    fn must_close(&mut self, framing: WireFraming, asked: &Asked) -> bool {
        let draining = {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            self.drain.done || self.drain.poll_fired(&mut cx).is_ready()
        };
        let core = self.conn.state();
        // A body that is still being read may well end; one that nobody reads is worth only so many bytes.
        let hopeless =
            core.continue_pending || (core.abandoned && core.body.size_hint().lower() > self.config.drain_max);
        draining
            || !asked.framing.keep_alive
            || asked.method == Method::CONNECT
            || framing == WireFraming::UntilClose
            || core.eof
            || core.failure.is_some()
            || (hopeless && !core.body.is_received())
    }

    async fn send_body<B>(&self, body: B, mut encoder: BodyEncoder, http10: bool) -> Result<(), ServeError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<BoxError>,
    {
        let mut body = pin!(body);
        let sent = poll_fn(|cx| {
            if let Poll::Ready(sent) = encoder.poll_pump(&self.conn, body.as_mut(), cx) {
                return Poll::Ready(Some(sent));
            }
            if self.poll_gone(http10, cx) { Poll::Ready(None) } else { Poll::Pending }
        })
        .await;
        match sent {
            Some(Ok(())) => Ok(()),
            None => Err(ServeError::ClientGone),
            Some(Err(PumpError::Io(error))) => Err(ServeError::Io(error)),
            Some(Err(PumpError::Length)) => Err(ServeError::ResponseLength),
            Some(Err(PumpError::Body(error))) => {
                // What is queued is part of the response; its end is not.
                self.flush().await?;
                Err(match self.conn.state().failure.and_then(BodyError::reason) {
                    Some(reason) => self.report(reason),
                    None => ServeError::ResponseBody(error),
                })
            }
        }
    }
}

/// How a response's body is delimited for this client.
fn wire_framing<B: Body>(parts: &response::Parts, body: &B, asked: &Asked) -> WireFraming {
    if is_bodyless(&asked.method, parts.status) {
        let stated = may_state_length(&asked.method, parts.status);
        return if stated { WireFraming::StatedLength } else { WireFraming::None };
    }
    let stated = || parts.headers.get(CONTENT_LENGTH).and_then(|value| decimal(value.as_bytes()));
    match body.size_hint().exact().or_else(stated) {
        Some(length) => WireFraming::Length(length),
        None if asked.http10 => WireFraming::UntilClose,
        None => WireFraming::Chunked,
    }
}
