//! The server half and hyper's HTTP/1 server must read every valid request alike.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_proxy::l7::h1::{ServerConfig, serve};
use proptest::prelude::*;
use support::run;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::spawn_local;

/// A request as a service sees it.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Seen {
    method: String,
    target: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

type Log = Rc<RefCell<Vec<Seen>>>;

async fn note<B>(request: Request<B>, log: Log) -> Response<Full<Bytes>>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let mut headers: Vec<_> = parts
        .headers
        .iter()
        // Framing is the codec's own; hyper shows it.
        .filter(|(name, _)| **name != TRANSFER_ENCODING && **name != CONTENT_LENGTH)
        .map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()))
        .collect();
    headers.sort();
    let trailers = body.trailers().cloned();
    let seen = Seen {
        method: parts.method.to_string(),
        target: parts.uri.to_string(),
        headers,
        body: body.to_bytes(),
        trailers,
    };
    log.borrow_mut().push(seen);
    Response::new(Full::new(Bytes::from_static(b"ok")))
}

/// Feeds `wire` in pieces, ends it, and waits until the server has closed.
async fn feed(io: tokio::io::DuplexStream, wire: &[u8], step: usize) -> String {
    let (mut read, mut write) = tokio::io::split(io);
    let wire = wire.to_vec();
    let writer = spawn_local(async move {
        for piece in wire.chunks(step) {
            if write.write_all(piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        write
    });
    let mut answers = String::new();
    read.read_to_string(&mut answers).await.unwrap();
    drop(writer.await);
    answers
}

async fn ours(wire: &[u8], step: usize) -> (Vec<Seen>, String) {
    let log = Log::default();
    let (near, far) = duplex(1 << 16);
    let seen = Rc::clone(&log);
    let server = spawn_local(async move {
        let service = |request| note(request, Rc::clone(&seen));
        serve(far, Bytes::new(), service, &ServerConfig::default(), std::future::pending()).await
    });
    let answers = feed(near, wire, step).await;
    server.await.unwrap().unwrap();
    (log.take(), answers)
}

async fn hypers(wire: &[u8], step: usize) -> (Vec<Seen>, String) {
    let log = Log::default();
    let (near, far) = duplex(1 << 16);
    let seen = Rc::clone(&log);
    let server = spawn_local(async move {
        let service = service_fn(move |request| {
            let seen = Rc::clone(&seen);
            async move { Ok::<_, Infallible>(note(request, seen).await) }
        });
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service).await
    });
    let answers = feed(near, wire, step).await;
    server.await.unwrap().unwrap();
    (log.take(), answers)
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Length(Vec<u8>),
    Chunks(Vec<Vec<u8>>, Option<String>),
}

fn body() -> impl Strategy<Value = Body> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
    prop_oneof![
        Just(Body::None),
        bytes().prop_map(Body::Length),
        (proptest::collection::vec(bytes(), 0..5), proptest::option::of("[a-z0-9]{1,9}"))
            .prop_map(|(chunks, trailer)| Body::Chunks(chunks, trailer)),
    ]
}

/// The wire form of a valid request, with the freedoms that the grammar leaves.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("PUT"), Just("DELETE"), Just("PURGE"), Just("get")];
    let target = "/[a-zA-Z0-9/._~!$&'()*+,;=:@%-]{0,30}([?][a-zA-Z0-9=&/?]{0,20})?";
    let own = ["connection", "content-length", "transfer-encoding", "upgrade", "expect", "host", "trailer", "te"];
    let name = "[a-zA-Z][a-zA-Z0-9!#$%&'*+.^`|~-]{0,10}"
        .prop_filter("framing", move |name| !own.contains(&name.to_ascii_lowercase().as_str()));
    let field = (name, "[ \t]{0,2}", "([!-~]([ -~\t]{0,20}[!-~])?)?", "[ \t]{0,2}");
    (method, target, proptest::collection::vec(field, 0..8), body()).prop_map(|(method, target, fields, body)| {
        let mut wire = format!("{method} {target} HTTP/1.1\r\nhOST: app.ns.svc:80\r\n").into_bytes();
        for (name, before, value, after) in fields {
            wire.extend_from_slice(format!("{name}:{before}{value}{after}\r\n").as_bytes());
        }
        match body {
            Body::None => wire.extend_from_slice(b"\r\n"),
            Body::Length(bytes) => {
                wire.extend_from_slice(format!("Content-Length: {}\r\n\r\n", bytes.len()).as_bytes());
                wire.extend_from_slice(&bytes);
            }
            Body::Chunks(chunks, trailer) => {
                wire.extend_from_slice(b"Transfer-Encoding: Chunked\r\n\r\n");
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    wire.extend_from_slice(format!("{:X};x=\"y\"\r\n", chunk.len()).as_bytes());
                    wire.extend_from_slice(chunk);
                    wire.extend_from_slice(b"\r\n");
                }
                wire.extend_from_slice(b"0\r\n");
                if let Some(trailer) = trailer {
                    wire.extend_from_slice(format!("X-Sum: {trailer}\r\n").as_bytes());
                }
                wire.extend_from_slice(b"\r\n");
            }
        }
        wire
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn both_see_the_same_requests(requests in proptest::collection::vec(request(), 1..4), step in 1_usize..400) {
        let mut wire = requests.concat();
        wire.extend_from_slice(b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let result = Rc::new(RefCell::new(None));
        let slot = Rc::clone(&result);
        run(async move {
            let ours = ours(&wire, step).await;
            let hypers = hypers(&wire, step).await;
            *slot.borrow_mut() = Some((ours, hypers));
        });
        let ((ours, our_answers), (hypers, _)) = result.take().unwrap();
        prop_assert_eq!(&ours, &hypers);
        prop_assert_eq!(ours.len(), requests.len() + 1);
        prop_assert_eq!(our_answers.matches("HTTP/1.1 200 OK\r\n").count(), requests.len() + 1);
    }
}
