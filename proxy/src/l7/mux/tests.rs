//! Both sides of a connection over a pipe; `played`: one side against a peer that says what it likes.

mod played;

use std::{cell::Cell, convert::Infallible, future::pending, pin::Pin, rc::Rc, time::Duration};

use ::h2::Reason;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use proptest::{collection::vec, prelude::*};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    task::{LocalSet, spawn_local},
};

use super::{
    BodyError, ByteStream, Incoming, Limits, RequestError, Sender, client, fields,
    frame::{Frame, Kind},
    server,
};
use crate::l7::h2::{ResetReason, Slot, Streams};

impl ResetReason for Infallible {
    fn reset_reason(&self) -> Reason {
        match *self {}
    }
}

impl ResetReason for std::io::Error {
    fn reset_reason(&self) -> Reason {
        Reason::INTERNAL_ERROR
    }
}

type Part<E> = Result<http_body::Frame<Bytes>, E>;

/// A body that comes as it is sent.
fn channel<E>() -> (mpsc::Sender<Part<E>>, impl http_body::Body<Data = Bytes, Error = E> + Unpin) {
    let (send, mut parts) = mpsc::channel(1);
    (send, StreamBody::new(futures_util::stream::poll_fn(move |cx| parts.poll_recv(cx))))
}

fn part<E>(text: &'static str) -> Part<E> {
    Ok(http_body::Frame::data(Bytes::from_static(text.as_bytes())))
}

type Answer = BoxBody<Bytes, Infallible>;

async fn slot() -> Slot {
    Rc::new(Streams::default()).take(|| 1).await
}

fn head(request: Request<()>) -> http::request::Parts {
    request.into_parts().0
}

fn get(path: &str) -> http::request::Parts {
    head(Request::get(path).header("host", "web.shop").body(()).unwrap())
}

fn full(bytes: impl Into<Bytes>) -> Answer {
    Full::new(bytes.into()).boxed()
}

/// Serves by a function; bytes are given back as they come.
struct By<S>(S);

impl<S, F, B> server::Service for By<S>
where
    S: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: http_body::Body<Data = Bytes, Error: ResetReason> + Unpin,
{
    type Body = B;

    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<B>> {
        self.0(request)
    }

    async fn carry(&self, stream: ByteStream) {
        let (mut read, mut write) = tokio::io::split(stream);
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            let _ = write.shutdown().await;
        }
    }
}

fn begin<S, F>(limits: &Limits, pipe: usize, service: S, drain: impl Future<Output = ()> + 'static) -> Sender
where
    S: Fn(Request<Incoming>) -> F + 'static,
    F: Future<Output = Response<Answer>> + 'static,
{
    let (near, far) = duplex(pipe);
    let server_limits = limits.clone();
    spawn_local(async move { server::serve(far, Rc::new(By(service)), &server_limits, drain).await });
    let (sender, drive) = client::connect(near, limits);
    spawn_local(drive);
    sender
}

async fn echo(request: Request<Incoming>) -> Response<Answer> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let mut response = Response::new(full(body.to_bytes()).with_trailers(async { trailers.map(Ok) }).boxed());
    for (name, value) in &parts.headers {
        response.headers_mut().append(name, value.clone());
    }
    response.headers_mut().insert("path", HeaderValue::from_str(&parts.uri.to_string()).unwrap());
    response.headers_mut().insert("method", HeaderValue::from_str(parts.method.as_str()).unwrap());
    response
}

async fn local(test: impl Future<Output = ()>) {
    let timed = tokio::time::timeout(Duration::from_secs(600), test);
    LocalSet::new().run_until(timed).await.expect("too slow");
}

#[tokio::test(start_paused = true)]
async fn requests_and_answers_come_whole() {
    local(async {
        let sender = begin(&Limits::default(), 50, echo, pending());
        let answer = sender.send(slot().await, &get("/a?b=c"), Empty::<Bytes>::new()).await.unwrap();
        assert_eq!(
            (&answer.headers()["path"], &answer.headers()["host"]),
            (&"/a?b=c".parse().unwrap(), &"web.shop".parse().unwrap())
        );
        assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
        for size in [1, 100, 20_000, 300_000, 2_000_000] {
            let sent = Bytes::from((0..size).map(|at| at as u8).collect::<Vec<_>>());
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let expected = trailers.clone();
            let body = Full::new(sent.clone()).with_trailers(async move { Some(Ok(trailers)) });
            let post = head(Request::post("/").body(()).unwrap());
            let answer = sender.send(slot().await, &post, Box::pin(body)).await.unwrap();
            assert_eq!(answer.headers()["method"], "POST");
            let body = answer.into_body().collect().await.unwrap();
            assert_eq!(body.trailers(), Some(&expected));
            assert_eq!(body.to_bytes(), sent);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_streams_share_a_connection_and_none_stalls_the_rest() {
    local(async {
        let sender = begin(&Limits::default(), 4096, echo, pending());
        // An answer that nobody reads.
        let big = Full::new(Bytes::from(vec![1; 3_000_000]));
        let post = head(Request::post("/").body(()).unwrap());
        let ignored = spawn_local({
            let (sender, post) = (sender.clone(), post.clone());
            async move { sender.send(slot().await, &post, big).await.unwrap() }
        });
        let tasks: Vec<_> = (0..100)
            .map(|nth| {
                let (sender, post) = (sender.clone(), post.clone());
                spawn_local(async move {
                    let text = format!("hello {nth}").repeat(nth);
                    let answer = sender.send(slot().await, &post, Full::new(Bytes::from(text.clone()))).await.unwrap();
                    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), text);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        // And when somebody does, it goes on.
        let body = ignored.await.unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes().len(), 3_000_000);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_is_heard_of() {
    struct Told(Rc<Cell<usize>>);
    impl Drop for Told {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    local(async {
        let gone = Rc::new(Cell::new(0));
        let told = Rc::clone(&gone);
        let service = move |_| {
            let told = Told(Rc::clone(&told));
            async move {
                let _told = told;
                pending().await
            }
        };
        let sender = begin(&Limits::default(), 4096, service, pending());
        for _ in 0..3 {
            let get = get("/");
            let asked =
                tokio::time::timeout(Duration::from_millis(10), sender.send(slot().await, &get, Empty::<Bytes>::new()));
            assert!(asked.await.is_err());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(gone.get(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_is_never_taken_for_complete() {
    local(async {
        let service = |_| async {
            let (send, body) = channel::<std::io::Error>();
            spawn_local(async move {
                send.send(part("half")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
                send.send(Err(std::io::Error::other("broken"))).await.unwrap();
            });
            Response::new(body)
        };
        let (near, far) = duplex(4096);
        spawn_local(async move { server::serve(far, Rc::new(By(service)), &Limits::default(), pending()).await });
        let (sender, drive) = client::connect(near, &Limits::default());
        spawn_local(drive);
        let mut body = sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        let error = body.frame().await.unwrap().unwrap_err();
        assert!(matches!(error, BodyError::Reset(Reason::INTERNAL_ERROR)), "{error}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_may_come_before_the_request_is_over() {
    local(async {
        let service = |_| async { Response::new(full("enough")) };
        let sender = begin(&Limits::default(), 4096, service, pending());
        let (send, body) = channel::<Infallible>();
        let post = head(Request::post("/").body(()).unwrap());
        let answer = sender.send(slot().await, &post, body).await.unwrap();
        let mut body = answer.into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "enough");
        // The rest of the request is not wanted: whoever sends it is told.
        body.sent().await;
        assert!(send.send(part("more")).await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_for_its_word_goes_when_it_is_wanted() {
    local(async {
        let service = |request: Request<Incoming>| async {
            let bytes = match request.uri().path() {
                "/wanted" => request.into_body().collect().await.unwrap().to_bytes(),
                _ => {
                    drop(request);
                    Bytes::from_static(b"no")
                }
            };
            Response::new(full(bytes))
        };
        let sender = begin(&Limits::default(), 4096, service, pending());
        for (path, expected) in [("/wanted", "body"), ("/unwanted", "no")] {
            let begun = tokio::time::Instant::now();
            let post = head(Request::post(path).header("expect", "100-continue").body(()).unwrap());
            let polled = Rc::new(Cell::new(false));
            let seen = Rc::clone(&polled);
            let body = StreamBody::new(futures_util::stream::once(Box::pin(async move {
                seen.set(true);
                Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(b"body")))
            })));
            let answer = sender.send(slot().await, &post, body).await.unwrap();
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), expected);
            assert_eq!(polled.get(), path == "/wanted");
            assert!(begun.elapsed() < Duration::from_millis(500));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_leaves_finishes_what_it_began() {
    local(async {
        let leave = Rc::new(tokio::sync::Notify::new());
        let left = Rc::clone(&leave);
        let service = |_| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Response::new(full("done"))
        };
        let (near, far) = duplex(4096);
        let serving = spawn_local(async move {
            let drain = async move { left.notified().await };
            server::serve(far, Rc::new(By(service)), &Limits::default(), drain).await
        });
        let (sender, drive) = client::connect(near, &Limits::default());
        let driving = spawn_local(drive);
        let first = spawn_local({
            let sender = sender.clone();
            async move { sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        leave.notify_one();
        // This one crosses the word on its way.
        let crossing = sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await.unwrap();
        assert_eq!(crossing.into_body().collect().await.unwrap().to_bytes(), "done");
        assert!(!sender.is_open());
        let late = sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await.unwrap_err();
        assert!(matches!(late, RequestError::NotSent) && late.is_unprocessed());
        let body = first.await.unwrap().unwrap().into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "done");
        let ended = tokio::time::timeout(Duration::from_secs(1), async { (serving.await, driving.await) });
        let (served, driven) = ended.await.expect("both sides close at once");
        served.unwrap().unwrap();
        driven.unwrap().unwrap();
    })
    .await;
}
