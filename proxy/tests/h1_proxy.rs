//! Ordinary traffic through the server and client half.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

#[path = "support/h1.rs"]
mod support;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use mesh_proxy::l7::h1::{
    BodyError, ClientConfig, Connection, Incoming, Reason, ServeError, ServerConfig, send, serve,
};
use support::{Client, Fixture, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, spawn_local};

#[test]
fn a_request_goes_there_and_back_and_the_connections_are_kept() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        for _ in 0..5 {
            t.good_on(&mut client).await;
        }
        assert_eq!(t.recorder.conns.borrow().len(), 1);
        assert_eq!(t.pool.borrow().len(), 1);
    });
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        let one = "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
        let two = "GET /q HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send([one, two, one, two].concat().as_bytes()).await;
        for id in 1..=4 {
            assert_eq!(client.reply("GET").await.unwrap().body, format!("id-{id}"));
        }
        t.good_on(&mut client).await;
    });
}

#[test]
fn head_and_http10_are_served_in_their_own_way() {
    run(async {
        let t = Fixture::start().await;
        let mut client = t.client().await;
        client.send(b"HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let reply = client.reply("HEAD").await.unwrap();
        assert_eq!((reply.status, reply.header("content-length")), (200, Some("4")));
        t.good_on(&mut client).await;

        let mut client = t.client().await;
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        let reply = client.reply("GET").await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        client.closed().await;

        let mut client = t.client().await;
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let reply = client.reply("GET").await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("keep-alive")));
        t.good_on(&mut client).await;
    });
}

#[test]
fn a_large_body_arrives_as_it_is_both_ways() {
    run(async {
        // The upstream echoes, chunk by chunk, while the upload goes on.
        let t = Fixture::scripted(ClientConfig::default(), |mut stream| async move {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let mut state = 1_u32;
        let body: String = (0..3_000_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from(b'a' + (state >> 27) as u8 % 26)
            })
            .collect();
        let client = t.client().await;
        let (read, mut write) = client.stream.into_split();
        let sent = body.clone();
        let upload = spawn_local(async move {
            let head = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
            write.write_all(head).await.unwrap();
            let (mut rest, mut size) = (sent.as_bytes(), 1);
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(size.min(rest.len()));
                write.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await.unwrap();
                write.write_all(piece).await.unwrap();
                write.write_all(b"\r\n").await.unwrap();
                (rest, size) = (more, size * 7 % 100_003);
            }
            write.write_all(b"0\r\n\r\n").await.unwrap();
            write
        });
        let stream = read.reunite(upload_half(upload).await).unwrap();
        let mut client = Client { stream, buf: Vec::new() };
        let reply = client.reply("POST").await.unwrap();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.body.len(), body.len());
        assert_eq!(reply.body, body);
    });
}

async fn upload_half(task: JoinHandle<tokio::net::tcp::OwnedWriteHalf>) -> tokio::net::tcp::OwnedWriteHalf {
    task.await.unwrap()
}

#[test]
fn responses_that_end_with_the_connection_are_passed_on() {
    run(async {
        let t = Fixture::scripted(ClientConfig::default(), |mut stream| async move {
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await;
            stream.write_all(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nfirst ").await.unwrap();
            tokio::task::yield_now().await;
            stream.write_all(b"second").await.unwrap();
        })
        .await;
        let mut client = t.client().await;
        for _ in 0..2 {
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert_eq!(client.reply("GET").await.unwrap().body, "first second");
        }
        assert_eq!(t.pool.borrow().len(), 0);
        // To a client that knows no chunks the end of the connection is the end, too.
        let mut client = t.client().await;
        client.send(b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n").await;
        let reply = client.reply("GET").await.unwrap();
        assert_eq!((reply.body.as_str(), reply.header("transfer-encoding")), ("first second", None));
    });
}

#[test]
fn trailers_reach_a_client_that_takes_them() {
    run(async {
        let t = Fixture::scripted(ClientConfig::default(), |mut stream| async move {
            let mut head = [0; 1024];
            while stream.read(&mut head).await.unwrap_or(0) > 0 {
                let answer =
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-T: 1\r\nHost: e\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        })
        .await;
        let mut client = t.client().await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").await;
        assert_eq!(client.reply("GET").await.unwrap().body, "ab[x-t: 1]");
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.reply("GET").await.unwrap().body, "ab");
        assert_eq!(t.pool.borrow().len(), 1);
    });
}

#[test]
fn an_idle_connection_closes_at_once_when_drained_and_a_busy_one_after_its_response() {
    run(async {
        let t = Fixture::start().await;
        let mut idle = t.client().await;
        t.good_on(&mut idle).await;
        let mut busy = t.client().await;
        busy.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab").await;
        t.recorder.until(|conns| conns.iter().any(|conn| conn.bytes.ends_with(b"ab"))).await;
        t.drain.notify_waiters();
        idle.closed().await;
        // `Notify` tells those who wait; the busy one asks when it answers.
        t.drain.notify_one();
        busy.send(b"cd").await;
        let reply = busy.reply("POST").await.unwrap();
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        busy.closed().await;
        t.ended(2).await;
        assert!(t.ends.borrow().iter().all(Result::is_ok));
    });
}

#[test]
fn a_client_that_goes_away_ends_its_request_upstream() {
    run(async {
        let upstream_closed = Rc::new(tokio::sync::Notify::new());
        let closed = Rc::clone(&upstream_closed);
        let t = Fixture::scripted(ClientConfig::default(), move |mut stream| {
            let closed = Rc::clone(&closed);
            async move {
                let mut buf = [0; 1024];
                // Never answers.
                while stream.read(&mut buf).await.unwrap_or(0) > 0 {}
                closed.notify_one();
            }
        })
        .await;
        let mut client = t.client().await;
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(client);
        upstream_closed.notified().await;
        t.ended(1).await;
        assert!(matches!(t.ends.borrow()[0], Err(ServeError::ClientGone)));
    });
}

/// A server half over a pipe with this service; the other end of the pipe.
fn served<S, F, B>(service: S, config: ServerConfig) -> (DuplexStream, JoinHandle<Result<(), ServeError>>)
where
    S: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (near, far) = duplex(1 << 20);
    let task = spawn_local(async move { serve(far, Bytes::new(), service, &config, std::future::pending()).await });
    (near, task)
}

#[test]
fn head_and_body_leave_in_one_write() {
    run(async {
        let (mut io, _task) =
            served(|_| async { Response::new(Full::new(Bytes::from(vec![b'x'; 20_000]))) }, ServerConfig::default());
        io.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut buf = vec![0; 64 * 1024];
        let n = io.read(&mut buf).await.unwrap();
        assert_eq!(n, "HTTP/1.1 200 OK\r\ncontent-length: 20000\r\n\r\n".len() + 20_000);
        // The client half does the same.
        let (mut far, near) = duplex(1 << 20);
        let request = Request::post("/u").header("host", "a").body(Full::new(Bytes::from(vec![b'y'; 9000]))).unwrap();
        spawn_local(async move { send(Connection::new(near), request, &ClientConfig::default(), |_| {}).await });
        let n = far.read(&mut buf).await.unwrap();
        assert_eq!(n, "POST /u HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n".len() + 9000);
    });
}

#[test]
fn what_detection_read_already_comes_first() {
    run(async {
        let (mut near, far) = duplex(4096);
        spawn_local(async move {
            let service = |request: Request<Incoming>| async move {
                let text = format!("{} {}", request.uri(), request.headers()["x"].to_str().unwrap());
                Response::new(Full::new(Bytes::from(text)))
            };
            let config = ServerConfig::default();
            serve(far, Bytes::from_static(b"GET /pre"), service, &config, std::future::pending()).await
        });
        near.write_all(b"fix HTTP/1.1\r\nHost: a\r\nX: y\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        near.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("\r\n\r\n/prefix y"), "{text}");
    });
}

#[test]
fn continue_is_sent_when_the_body_is_wanted_and_only_then() {
    run(async {
        let (mut io, _task) = served(
            |request: Request<Incoming>| async move {
                let wants = request.uri().path() == "/take";
                let body = if wants { request.into_body().collect().await.unwrap().to_bytes() } else { Bytes::new() };
                Response::new(Full::new(body))
            },
            ServerConfig::default(),
        );
        let head = |path: &str| {
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        };
        let mut buf = [0; 1024];
        io.write_all(head("/take").as_bytes()).await.unwrap();
        let n = io.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..n], b"HTTP/1.1 100 Continue\r\n\r\n");
        io.write_all(b"abc").await.unwrap();
        let n = io.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..n], b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc");
        // Not wanted: a final answer, and the end, because a body may come or not.
        io.write_all(head("/leave").as_bytes()).await.unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    });
}

#[test]
fn weird_expectations_are_refused() {
    run(async {
        let t = Fixture::start().await;
        for odd in ["y 100-continue", "200-ok", "100-continue, 100-continue"] {
            let raw = format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: {odd}\r\nContent-Length: 1\r\n\r\nZ");
            assert_eq!(t.refuses(raw, 417).await, Reason::Expect);
        }
    });
}

#[test]
fn a_response_body_that_fails_has_no_end() {
    run(async {
        for (exact, fails) in [(false, true), (true, false)] {
            let (mut io, task) = served(
                move |_| async move {
                    let mut frames = vec![Ok(Frame::data(Bytes::from_static(b"part")))];
                    if fails {
                        frames.push(Err(BodyError::Closed));
                    }
                    let body = StreamBody::new(futures_util::stream::iter(frames));
                    let response = Response::builder();
                    let response = if exact { response.header("content-length", "9") } else { response };
                    response.body(body).unwrap()
                },
                ServerConfig::default(),
            );
            io.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut text = String::new();
            io.read_to_string(&mut text).await.unwrap();
            assert!(!text.contains("0\r\n\r\n"), "{text:?}");
            let end = task.await.unwrap();
            assert!(matches!(end, Err(ServeError::ResponseBody(_) | ServeError::ResponseLength)), "{end:?}");
        }
    });
}

#[test]
fn an_echo_reads_and_writes_one_connection_at_a_time() {
    run(async {
        let (io, _task) = served(
            |request: Request<Incoming>| async move { Response::new(request.into_body()) },
            ServerConfig::default(),
        );
        let (mut read, mut write) = tokio::io::split(io);
        spawn_local(async move {
            write.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 300000\r\n\r\n").await.unwrap();
            for _ in 0..300 {
                write.write_all(&[b'e'; 1000]).await.unwrap();
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        });
        let mut all = vec![0; "HTTP/1.1 200 OK\r\ncontent-length: 300000\r\n\r\n".len() + 300_000];
        read.read_exact(&mut all).await.unwrap();
        assert!(all.ends_with(&[b'e'; 300_000]));
    });
}

#[test]
fn interim_responses_come_before_the_final_one() {
    run(async {
        let (mut io, _task) = served(
            |request: Request<Incoming>| async move {
                let interim = request.body().interim().unwrap();
                let mut headers = http::HeaderMap::new();
                headers.insert("link", "</a>".parse().unwrap());
                assert!(interim.send(StatusCode::EARLY_HINTS, &headers));
                assert!(!interim.send(StatusCode::CONTINUE, &headers));
                assert!(!interim.send(StatusCode::OK, &headers));
                tokio::time::sleep(Duration::from_millis(10)).await;
                Response::new(Full::new(Bytes::new()))
            },
            ServerConfig::default(),
        );
        io.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut buf = [0; 1024];
        let n = io.read(&mut buf).await.unwrap();
        assert_eq!(&buf[..n], b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
        let n = io.read(&mut buf).await.unwrap();
        assert!(buf[..n].starts_with(b"HTTP/1.1 200 OK\r\n"));
    });
}

#[test]
fn a_peer_that_reads_nothing_is_given_up() {
    run(async {
        let config = ServerConfig { write_timeout: Duration::from_millis(60), ..ServerConfig::default() };
        let (near, far) = duplex(1024);
        let task = spawn_local(async move {
            let service = |_| async { Response::new(Full::new(Bytes::from(vec![0; 100_000]))) };
            serve(far, Bytes::new(), service, &config, std::future::pending()).await
        });
        let mut near = near;
        near.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let end = task.await.unwrap();
        assert!(matches!(end, Err(ServeError::Io(error)) if error.kind() == std::io::ErrorKind::TimedOut));
    });
}

#[test]
fn a_body_outliving_its_connection_fails_and_holds_no_socket() {
    run(async {
        let kept: Rc<RefCell<Option<Incoming>>> = Rc::default();
        let keep = Rc::clone(&kept);
        let (mut io, task) = served(
            move |request: Request<Incoming>| {
                *keep.borrow_mut() = Some(request.into_body());
                async { Response::new(Full::new(Bytes::from_static(b"early"))) }
            },
            ServerConfig::default(),
        );
        io.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc").await.unwrap();
        let mut text = String::new();
        io.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("early"), "{text}");
        drop(io);
        assert!(task.await.unwrap().is_ok());
        let mut body = kept.borrow_mut().take().unwrap();
        assert_eq!(body.frame().await.unwrap().unwrap_err(), BodyError::Closed);
    });
}

#[test]
fn many_connections_at_once_each_get_their_own() {
    run(async {
        let t = Rc::new(Fixture::start().await);
        let tasks: Vec<_> = (0..40)
            .map(|n| {
                let addr = t.addr;
                spawn_local(async move {
                    let mut client = Client { stream: TcpStream::connect(addr).await.unwrap(), buf: Vec::new() };
                    for round in 0..10 {
                        let body = format!("{n}-{round}");
                        let raw =
                            format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                        client.send(raw.as_bytes()).await;
                        assert!(client.reply("POST").await.unwrap().body.starts_with("id-"));
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*t.recorder.requests.borrow(), 400);
    });
}
