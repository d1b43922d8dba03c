//! HTTP/2 through two sidecars: trailers, resets, many streams, slow readers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use mesh_api::model::Protocol;
use tokio::sync::{mpsc, oneshot};

use self::{
    apps::{bare, collect, fetch, h2_app, h2_client, request, send_all, text, until, within},
    mesh::{Pair, open},
};

#[path = "support/apps.rs"]
mod apps;
#[path = "support/mesh.rs"]
mod mesh;

async fn pair(app: SocketAddr) -> Pair {
    Pair::start(app, Protocol::Http2, open(Protocol::Http2)).await
}

fn trailers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b11_a_target_without_a_path_is_a_slash_to_all_and_a_query_stays_as_it_is() {
    let app = h2_app(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let target = request.uri().path_and_query().unwrap().as_str().to_owned();
        respond.send_response(bare(200), false).unwrap().send_data(target.into(), true).unwrap();
    })
    .await;
    let pair = pair(app).await;
    let client = h2_client(pair.entry).await;
    for (sent, seen) in [("?x=y", "/?x=y"), ("/a?b=\\c", "/a?b=\\c"), ("/a", "/a")] {
        let answer = fetch(&client, request("GET", sent)).await.unwrap();
        assert_eq!((answer.head.status.as_u16(), answer.body), (200, seen.as_bytes().to_vec()), "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g06_g07_c19_trailers_travel_both_ways_without_what_is_the_meshs_own() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let app = h2_app(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let log = Arc::clone(&log);
        async move {
            let (head, body) = request.into_parts();
            let (body, got) = collect(body).await.unwrap();
            log.lock().unwrap().push((head, body, got));
            let mut stream = respond.send_response(bare(200), false).unwrap();
            stream.send_data("answer".into(), false).unwrap();
            let fields = [
                ("grpc-status", "0"),
                ("x-sum", "1"),
                ("mesh-error", "forged"),
                ("mesh-client-id", "spiffe://forged"),
                ("mesh_policy", "forged"),
                ("content-length", "6"),
            ];
            stream.send_trailers(trailers(&fields)).unwrap();
        }
    })
    .await;
    let pair = pair(app).await;
    let mut client = h2_client(pair.entry).await.ready().await.unwrap();
    let mut head = request("POST", "/");
    head.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    let (response, mut stream) = client.send_request(head, false).unwrap();
    stream.send_data("question".into(), false).unwrap();
    let fields = [("x-check", "2"), ("mesh-client-id", "spiffe://test.mesh/ns/shop/sa/admin"), ("mesh-upgrade", "x")];
    stream.send_trailers(trailers(&fields)).unwrap();
    let response = within(response).await.unwrap();
    let (body, got) = collect(response.into_body()).await.unwrap();
    assert_eq!(body, b"answer");
    assert_eq!(got, Some(trailers(&[("grpc-status", "0"), ("x-sum", "1")])));
    let (head, body, got) = seen.lock().unwrap().pop().unwrap();
    assert_eq!((head.version, head.headers.get("te").unwrap().as_bytes()), (http::Version::HTTP_2, &b"trailers"[..]));
    assert_eq!(body, b"question");
    assert_eq!(got, Some(trailers(&[("x-check", "2")])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g20_trailers_only_stays_trailers_only() {
    let app = h2_app(|_, mut respond| async move {
        let mut response = bare(200);
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
        respond.send_response(response, true).unwrap();
    })
    .await;
    let pair = Pair::start(app, Protocol::Grpc, open(Protocol::Grpc)).await;
    let mut client = h2_client(pair.entry).await;
    let mut ask = request("POST", "/a.B/C");
    ask.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let (response, _) = client.send_request(ask, true).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.body().is_end_stream(), "the head is all there is");
    // A failure in the caller's eyes, though HTTP says 200.
    until("counted as an error", async || {
        pair.client.metric(&["mesh_requests_total", "outbound", "protocol=\"grpc\"", "error"]).await == Some(1.0)
    })
    .await;
}

/// Each stream tells how it was ended by its caller.
async fn waiting_app() -> (SocketAddr, mpsc::UnboundedReceiver<oneshot::Receiver<Reason>>) {
    let (sender, streams) = mpsc::unbounded_channel();
    let app = h2_app(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let sender = sender.clone();
        async move {
            let (tell, told) = oneshot::channel();
            sender.send(told).unwrap();
            if request.method() == "HEAD" {
                respond.send_response(bare(200), true).unwrap();
                return;
            }
            let answers = request.uri().path() == "/answers";
            let mut stream = answers.then(|| respond.send_response(bare(200), false).unwrap());
            let reason = match stream.as_mut() {
                Some(stream) => std::future::poll_fn(|cx| stream.poll_reset(cx)).await,
                None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
            };
            let _ = tell.send(reason.unwrap_or(Reason::INTERNAL_ERROR));
            drop(request);
        }
    })
    .await;
    (app, streams)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g32_a_callers_reset_reaches_the_application_at_once() {
    let (app, mut streams) = waiting_app().await;
    let pair = pair(app).await;
    let mut client = h2_client(pair.entry).await;
    for (path, uploading) in [("/", false), ("/", true), ("/answers", false), ("/answers", true)] {
        let (response, mut stream) = client.send_request(request("POST", path), !uploading).unwrap();
        if uploading {
            stream.send_data("part".into(), false).unwrap();
        }
        let told = within(streams.recv()).await.unwrap();
        let response = if path == "/" { Err(response) } else { Ok(within(response).await.unwrap()) };
        let begun = Instant::now();
        stream.send_reset(Reason::CANCEL);
        let reason = within(told).await.unwrap();
        assert!(begun.elapsed() < Duration::from_millis(100), "{path} {uploading}: {:?}", begun.elapsed());
        assert_eq!(reason, Reason::CANCEL, "{path} {uploading}");
        drop(response);
    }
    let canceled = pair.server.metric(&["mesh_requests_total", "inbound", "canceled"]).await;
    assert_eq!(canceled, Some(4.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g32_the_applications_reset_reaches_the_caller_with_its_code() {
    let seen = Arc::new(tokio::sync::Notify::new());
    let half = Arc::clone(&seen);
    let app = h2_app(move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let half = Arc::clone(&half);
        async move {
            if request.uri().path() == "/early" {
                return respond.send_reset(Reason::INTERNAL_ERROR);
            }
            let mut stream = respond.send_response(bare(200), false).unwrap();
            stream.send_data("half".into(), false).unwrap();
            half.notified().await;
            stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
    })
    .await;
    let pair = pair(app).await;
    let mut client = h2_client(pair.entry).await;
    let (response, _) = client.send_request(request("GET", "/late"), true).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    assert_eq!(within(body.data()).await.unwrap().unwrap(), "half");
    seen.notify_one();
    let error = within(body.data()).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
    let early = fetch(&client, request("GET", "/early")).await.unwrap();
    assert_eq!(
        (early.head.status.as_u16(), &early.head.headers["mesh-error"]),
        (502, &"upstream-reset".parse().unwrap())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_streams_at_once_on_one_link() {
    let gate = Arc::new(tokio::sync::Barrier::new(1000));
    let app = h2_app(move |_, mut respond: SendResponse<Bytes>| {
        let gate = Arc::clone(&gate);
        async move {
            // Nobody is answered before everybody is there.
            gate.wait().await;
            let mut stream = respond.send_response(bare(200), false).unwrap();
            stream.send_data("here".into(), true).unwrap();
        }
    })
    .await;
    let pair = pair(app).await;
    let client = h2_client(pair.entry).await;
    let all = (0..1000).map(|_| fetch(&client, request("GET", "/")));
    let answers = within(futures_util::future::try_join_all(all)).await.unwrap();
    assert!(answers.iter().all(|answer| answer.body == b"here"));
    let handshakes = pair.client.metric(&["mesh_tls_handshakes_total", "client", "\"ok\""]).await;
    assert_eq!(handshakes, Some(1.0), "one connection carries them all");
}

const PIECE: usize = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e08_readers_that_do_not_read_stall_nobody_else() {
    let app = h2_app(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let mut stream = respond.send_response(bare(200), false).unwrap();
        match request.uri().path() {
            "/endless" => while send_all(&mut stream, text(0, PIECE), false).await.is_ok() {},
            "/sink" => std::future::pending().await,
            _ => {
                collect(request.into_body()).await.unwrap();
                stream.send_data("quick".into(), true).unwrap();
            }
        }
    })
    .await;
    let pair = pair(app).await;
    let slow = h2_client(pair.entry).await;
    let mut held = Vec::new();
    for path in ["/endless", "/sink"].repeat(20) {
        let mut slow = slow.clone().ready().await.unwrap();
        let (response, mut stream) = slow.send_request(request("POST", path), false).unwrap();
        // Neither is the answer read by the caller, nor what is sent by the application.
        let upload = tokio::spawn(async move { while send_all(&mut stream, text(0, PIECE), false).await.is_ok() {} });
        held.push((within(response).await.unwrap(), upload));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let quick = h2_client(pair.entry).await;
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = fetch(&quick, request("GET", "/quick")).await.unwrap();
        assert_eq!(answer.body, b"quick");
        assert!(begun.elapsed() < Duration::from_millis(250), "{:?}", begun.elapsed());
        let (response, mut stream) = quick.clone().send_request(request("POST", "/quick"), false).unwrap();
        within(send_all(&mut stream, text(0, PIECE), true)).await.unwrap();
        assert_eq!(collect(within(response).await.unwrap().into_body()).await.unwrap().0, b"quick");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_has_a_connection_of_its_own() {
    let app = h2_app(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let mut stream = respond.send_response(bare(200), false).unwrap();
        match request.uri().path() {
            "/bulk" => while send_all(&mut stream, text(0, PIECE), false).await.is_ok() {},
            _ => stream.send_data("quick".into(), true).unwrap(),
        }
    })
    .await;
    let pair = pair(app).await;
    let mut client = h2_client(pair.entry).await;
    let (response, _) = client.send_request(request("GET", "/bulk"), true).unwrap();
    let mut bulk = within(response).await.unwrap().into_body();
    let mut read = 0;
    while read < 4 << 20 {
        let data = within(bulk.data()).await.unwrap().unwrap();
        read += data.len();
        bulk.flow_control().release_capacity(data.len()).unwrap();
    }
    for connections in [2.0, 2.0] {
        assert_eq!(fetch(&client, request("GET", "/quick")).await.unwrap().body, b"quick");
        let handshakes = pair.client.metric(&["mesh_tls_handshakes_total", "client", "\"ok\""]).await;
        assert_eq!(handshakes, Some(connections));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g27_answers_without_a_body_keep_the_length_they_tell_of() {
    let app = h2_app(|request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let code = request.uri().path().trim_start_matches('/').parse().unwrap();
        let mut response: Response<()> = bare(code);
        if code != 204 {
            response.headers_mut().insert("content-length", HeaderValue::from_static("1234"));
        }
        respond.send_response(response, true).unwrap();
    })
    .await;
    let pair = pair(app).await;
    let client = h2_client(pair.entry).await;
    for (method, code, length) in [("HEAD", 200, true), ("GET", 204, false), ("GET", 304, true), ("HEAD", 404, true)] {
        let answer = fetch(&client, request(method, &format!("/{code}"))).await.unwrap();
        assert_eq!((answer.head.status.as_u16(), answer.body.len()), (code, 0));
        assert_eq!(answer.head.headers.get("content-length").is_some(), length, "{method} {code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_head_gets_no_body_and_harms_no_other_stream() {
    let (app, mut streams) = waiting_app().await;
    let pair = Pair::start(app, Protocol::Http2, open(Protocol::Http2)).await;
    let mut client = h2_client(pair.entry).await;
    let (response, _stream) = client.send_request(request("GET", "/answers"), false).unwrap();
    let mut told = within(streams.recv()).await.unwrap();
    let _response = within(response).await.unwrap();
    pair.plane.change(|world| {
        world.inbound.get_mut("cart-1").unwrap().default_port.default_allow = false;
    });
    until("the policy holds", async || {
        fetch(&client, request("HEAD", "/"))
            .await
            .is_ok_and(|answer| answer.head.status == 403 && answer.body.is_empty())
    })
    .await;
    assert!(told.try_recv().is_err(), "the other stream goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_in_crumbs_are_one_line_to_http1() {
    let (app, _) = apps::echo().await;
    let pair = Pair::start(app, Protocol::Http1, open(Protocol::Http1)).await;
    // The client's side is told it may speak HTTP/2 as well.
    let mut ask = request("GET", "/");
    for crumb in ["a=1", "b=2", "c=3"] {
        ask.headers_mut().append("cookie", HeaderValue::from_static(crumb));
    }
    let answer = fetch(&h2_client(pair.entry).await, ask).await.unwrap();
    let head = String::from_utf8(answer.body).unwrap();
    assert_eq!(apps::field(&head, "cookie"), Some("a=1; b=2; c=3"), "{head}");
}
