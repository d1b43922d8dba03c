//! The codec's bodies travel through HTTP/2 unchanged, and no bytes whatever bring a connection to panic or hang.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mesh_proxy::l7::h1::{BodyError, ClientConfig, Connection, Incoming, ServerConfig, send, serve};
use proptest::prelude::*;
use support::run;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::task::spawn_local;
use tokio::time::timeout;

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// HTTP/1 in, HTTP/2 through the middle, HTTP/1 out, as between two sidecars.
#[test]
fn bodies_and_trailers_travel_through_http2() {
    run(async {
        let (app_near, app_far) = duplex(1 << 16);
        let (link_near, link_far) = duplex(1 << 16);
        let (client, edge) = duplex(1 << 16);
        // The application echoes and adds a trailer.
        spawn_local(async move {
            let app = |request: Request<Incoming>| async move {
                assert_eq!(request.headers()["host"], "app.ns.svc");
                let mut trailers = HeaderMap::new();
                trailers.insert("x-sum", "1".parse().unwrap());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let frames = [Frame::data(body), Frame::trailers(trailers)];
                Response::new(StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, BodyError>))))
            };
            serve(app_far, Bytes::new(), app, &ServerConfig::default(), std::future::pending()).await
        });
        // The inbound sidecar.
        spawn_local(async move {
            let pool = std::rc::Rc::new(std::cell::RefCell::new(Some(Connection::new(app_near))));
            let inbound = service_fn(move |mut request: Request<hyper::body::Incoming>| {
                let pool = std::rc::Rc::clone(&pool);
                async move {
                    request.headers_mut().insert("te", "trailers".parse().unwrap());
                    let authority = request.uri().authority().unwrap().to_string();
                    request.headers_mut().insert("host", authority.parse().unwrap());
                    let conn = pool.borrow_mut().take().expect("back in the pool");
                    let on_idle = move |conn| *pool.borrow_mut() = Some(conn);
                    send(conn, request, &ClientConfig::default(), on_idle).await
                }
            });
            hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(link_far), inbound).await
        });
        // The outbound sidecar.
        let handshake = hyper::client::conn::http2::handshake(Local, TokioIo::new(link_near)).await.unwrap();
        let (sender, link) = handshake;
        spawn_local(async move { drop(link.await) });
        spawn_local(async move {
            let outbound = move |mut request: Request<Incoming>| {
                let mut sender = sender.clone();
                async move {
                    let host = request.headers_mut().remove("host").unwrap();
                    let uri = format!("http://{}{}", host.to_str().unwrap(), request.uri());
                    *request.uri_mut() = uri.parse().unwrap();
                    *request.version_mut() = http::Version::HTTP_2;
                    sender.send_request(request).await.unwrap()
                }
            };
            serve(edge, Bytes::new(), outbound, &ServerConfig::default(), std::future::pending()).await
        });
        let (mut read, mut write) = tokio::io::split(client);
        for size in [0, 5, 10_000, 300_000] {
            let body = vec![b'z'; size];
            let upload = spawn_local(async move {
                let head = "POST /x HTTP/1.1\r\nHost: app.ns.svc\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n";
                write.write_all(head.as_bytes()).await.unwrap();
                for chunk in body.chunks(7000) {
                    write.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.unwrap();
                    write.write_all(chunk).await.unwrap();
                    write.write_all(b"\r\n").await.unwrap();
                }
                write.write_all(b"0\r\n\r\n").await.unwrap();
                write
            });
            let mut answer = Vec::new();
            while !answer.ends_with(b"0\r\nx-sum: 1\r\n\r\n") {
                let n = read.read_buf(&mut answer).await.unwrap();
                assert!(n > 0, "{}", String::from_utf8_lossy(&answer));
            }
            assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
            assert_eq!(answer.iter().filter(|b| **b == b'z').count(), size);
            write = upload.await.unwrap();
        }
    });
}

/// Bytes that get past the first checks more often than noise would.
fn hostile(starts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
        "\r\n",
        "\r\n\r\n",
        "\n",
        ": ",
        "Host: a\r\n",
        "Content-Length: 3\r\n",
        "Transfer-Encoding: chunked\r\n",
        "0\r\n",
        "3\r\nabc\r\n",
        "5;x\r\n",
        "Connection: close\r\n",
        "Connection: upgrade\r\nUpgrade: x\r\n",
        "Expect: 100-continue\r\n",
        "abc",
        "X: y\r\n",
        "GET / HTTP/1.1\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 100 x\r\n",
        "HTTP/1.1 101 x\r\n",
        "POST / HTTP/1.0\r\n",
        "\0",
    ];
    let piece = prop_oneof![
        6 => proptest::sample::select(pieces.to_vec()).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 1..5),
    ];
    (proptest::sample::select(starts.to_vec()), proptest::collection::vec(piece, 0..14))
        .prop_map(|(start, pieces)| [start.as_bytes().to_vec(), pieces.concat()].concat())
}

/// All waits are short: whatever hangs is a fault.
fn hasty() -> (ServerConfig, ClientConfig) {
    let short = Duration::from_millis(30);
    let mut server =
        ServerConfig { head_timeout: short, idle_timeout: short, drain_time: short, ..ServerConfig::default() };
    server.body.idle = short;
    let mut client = ClientConfig { head_timeout: short, continue_timeout: short, ..ClientConfig::default() };
    client.body.idle = short;
    (server, client)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_server_survives_anything(
        wire in hostile(&["", "GET / HTTP/1.1\r\nHost: a\r\n", "POST /e HTTP/1.1\r\nHost: a\r\n", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n"]),
        step in 1_usize..50, end in any::<bool>(),
    ) {
        run(async move {
            let (near, far) = duplex(64);
            let (mut read, mut write) = tokio::io::split(near);
            let server = spawn_local(async move {
                let service = |request: Request<Incoming>| async move {
                    let echo = request.uri().path() == "/e";
                    let body = if echo { request.into_body().collect().await.map(|b| b.to_bytes()).unwrap_or_default() } else { Bytes::new() };
                    Response::new(Full::new(body))
                };
                serve(far, Bytes::new(), service, &hasty().0, std::future::pending()).await
            });
            let writer = spawn_local(async move {
                for piece in wire.chunks(step) {
                    if write.write_all(piece).await.is_err() {
                        break;
                    }
                }
                if end {
                    let _ = write.shutdown().await;
                }
                write
            });
            let mut answers = Vec::new();
            let _ = timeout(Duration::from_secs(5), read.read_to_end(&mut answers)).await.expect("the server ends");
            let _ = server.await.expect("no panic");
            drop(writer.await);
            let answers = String::from_utf8(answers).expect("the codec writes text here");
            assert!(answers.is_empty() || answers.starts_with("HTTP/1.1 "));
        });
    }

    #[test]
    fn a_client_survives_anything(
        wire in hostile(&["", "HTTP/1.1 200 OK\r\n", "HTTP/1.0 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 101 x\r\n"]),
        step in 1_usize..50, end in any::<bool>(), expects in any::<bool>(),
    ) {
        run(async move {
            let (near, far) = duplex(64);
            let (mut read, mut write) = tokio::io::split(far);
            let drain = spawn_local(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
            let writer = spawn_local(async move {
                for piece in wire.chunks(step) {
                    if write.write_all(piece).await.is_err() {
                        break;
                    }
                }
                if end {
                    let _ = write.shutdown().await;
                }
                write
            });
            let mut request = Request::post("/").header("host", "a").body(Full::new(Bytes::from(vec![b'b'; 500]))).unwrap();
            if expects {
                request.headers_mut().insert("expect", "100-continue".parse().unwrap());
            }
            let (_, config) = hasty();
            let exchange = async {
                if let Ok(response) = send(Connection::new(near), request, &config, |_| {}).await {
                    let _ = response.into_body().collect().await;
                }
            };
            timeout(Duration::from_secs(5), exchange).await.expect("the exchange ends");
            drop(writer.await);
            drain.abort();
        });
    }
}
