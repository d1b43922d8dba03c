//! One side against a peer that the test plays: what it must not believe, and what it must survive.

use super::*;

/// A peer that is played by the test.
struct Played {
    io: DuplexStream,
    read: BytesMut,
}

impl Played {
    async fn say(&mut self, stream: u32, end: bool, kind: Kind) {
        let mut out = BytesMut::new();
        Frame { stream, end, kind }.put(&mut out);
        self.io.write_all(&out).await.unwrap();
    }

    /// The next frame that is no greeting; `None` at the end of the connection.
    async fn hear(&mut self) -> Option<Frame> {
        loop {
            match Frame::take(&mut self.read).unwrap() {
                Some(Frame { kind: Kind::Hello { .. }, .. }) => {}
                Some(frame) => return Some(frame),
                None => {
                    if self.io.read_buf(&mut self.read).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
            }
        }
    }
}

fn request_block(path: &str, fields: &[(&'static str, &'static str)]) -> Bytes {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    let mut block = BytesMut::new();
    fields::put_request(&mut block, &Method::POST, path.as_bytes(), &headers, None);
    block.freeze()
}

fn played_client(limits: &Limits) -> Played {
    let (near, far) = duplex(1 << 20);
    let limits = limits.clone();
    spawn_local(async move { server::serve(far, Rc::new(By(echo)), &limits, pending()).await });
    Played { io: near, read: BytesMut::new() }
}

fn played_server() -> (Played, Sender) {
    let (near, far) = duplex(1 << 20);
    let (sender, drive) = client::connect(near, &Limits::default());
    spawn_local(drive);
    (Played { io: far, read: BytesMut::new() }, sender)
}

#[tokio::test(start_paused = true)]
async fn a_client_that_breaks_a_rule_of_a_stream_loses_the_stream() {
    local(async {
        let mut client = played_client(&Limits::default());
        let bad = [
            request_block("/", &[("transfer-encoding", "chunked")]),
            request_block("/", &[("connection", "close")]),
            request_block("/", &[("content-length", "5, 5")]),
            request_block("/", &[("content-length", "+5")]),
            request_block("/", &[("content-length", "5"), ("content-length", "6")]),
            // A body that does not come.
            request_block("/", &[("content-length", "5"), ("content-length", "5")]),
            request_block("/a\\b", &[]),
            request_block("", &[]),
            Bytes::from_static(b"\xff"),
        ];
        for (nth, block) in (1..).zip(bad) {
            client.say(nth, true, Kind::Request(block)).await;
            let heard = client.hear().await.unwrap();
            assert_eq!((heard.stream, heard.kind), (nth, Kind::Reset(Reason::PROTOCOL_ERROR.into())));
        }
        // A body of another length than was said.
        for (nth, body) in (10..).zip(["123", "1"]) {
            client.say(nth, false, Kind::Request(request_block("/", &[("content-length", "2")]))).await;
            client.say(nth, true, Kind::Data(body.into())).await;
            let heard = client.hear().await.unwrap();
            assert_eq!((heard.stream, heard.kind), (nth, Kind::Reset(Reason::PROTOCOL_ERROR.into())));
        }
        client.say(20, true, Kind::Request(request_block("/", &[]))).await;
        assert!(matches!(client.hear().await.unwrap().kind, Kind::Response(_)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_breaks_a_rule_of_the_connection_loses_it() {
    local(async {
        let request = || Kind::Request(request_block("/", &[]));
        let data = |length: usize| Kind::Data(Bytes::from(vec![0; length]));
        let hello = || Kind::Hello { stream: 1, connection: 1, streams: 1 };
        let (open, closed) = (false, true);
        let sayings: Vec<Vec<(u32, bool, Kind)>> = vec![
            vec![(1, closed, data(1))],
            vec![(2, closed, request()), (1, closed, request())],
            vec![(1, closed, request()), (1, closed, data(1))],
            vec![(1, closed, Kind::Response(Bytes::from_static(&[0, 200])))],
            vec![(0, open, hello()), (0, open, hello())],
            vec![(0, open, Kind::Credit(u32::MAX))],
            // A stream has less credit than this.
            std::iter::once((1, open, request())).chain((0..20).map(|_| (1, open, data(16_000)))).collect(),
        ];
        for saying in sayings {
            let limits = Limits { stream_window: 65_536, ..Limits::default() };
            let service = |_: Request<Incoming>| pending::<Response<Answer>>();
            let (near, far) = duplex(1 << 20);
            spawn_local(async move { server::serve(far, Rc::new(By(service)), &limits, pending()).await });
            let mut client = Played { io: near, read: BytesMut::new() };
            let text = format!("{:?}", saying.first());
            for (stream, end, kind) in saying {
                let mut out = BytesMut::new();
                Frame { stream, end, kind }.put(&mut out);
                let _ = client.io.write_all(&out).await;
            }
            let ended = tokio::time::timeout(Duration::from_secs(5), async { while client.hear().await.is_some() {} });
            ended.await.unwrap_or_else(|_| panic!("{text} was taken"));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_what_it_must_not_is_not_believed() {
    local(async {
        // An answer with another length than it said, a bad head, and one that never ends.
        let (mut server, sender) = played_server();
        let ask = |path: &'static str| {
            let sender = sender.clone();
            spawn_local(async move { sender.send(slot().await, &get(path), Empty::<Bytes>::new()).await })
        };
        let (short, bad, lost) = (ask("/short"), ask("/bad"), ask("/lost"));
        for _ in 0..3 {
            assert!(matches!(server.hear().await.unwrap().kind, Kind::Request(_)));
        }
        let mut block = BytesMut::new();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("10"));
        fields::put_response(&mut block, StatusCode::OK, &headers);
        server.say(1, false, Kind::Response(block.freeze())).await;
        server.say(1, true, Kind::Data(Bytes::from_static(b"short"))).await;
        server.say(2, true, Kind::Response(Bytes::from_static(&[0, 200, 250]))).await;
        let error = short.await.unwrap().unwrap().into_body().collect().await.unwrap_err();
        assert!(matches!(error, BodyError::Length));
        assert!(matches!(bad.await.unwrap().unwrap_err(), RequestError::Invalid(_)));
        drop(server);
        let error = lost.await.unwrap().unwrap_err();
        assert!(error.is_connection_lost() && !error.is_unprocessed(), "{error}");
        assert!(!sender.is_open());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn refused_streams_and_those_beyond_the_last_may_be_sent_again() {
    local(async {
        let (mut server, sender) = played_server();
        let ask = || {
            let sender = sender.clone();
            spawn_local(async move { sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await.unwrap_err() })
        };
        let (refused, cancelled, beyond) = (ask(), ask(), ask());
        for _ in 0..3 {
            server.hear().await.unwrap();
        }
        server.say(1, false, Kind::Reset(Reason::REFUSED_STREAM.into())).await;
        server.say(2, false, Kind::Reset(Reason::CANCEL.into())).await;
        server.say(0, false, Kind::GoAway(2)).await;
        assert!(refused.await.unwrap().is_unprocessed());
        assert!(!cancelled.await.unwrap().is_unprocessed());
        assert!(beyond.await.unwrap().is_unprocessed());
        // Nothing is left: the client closes.
        assert!(server.hear().await.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_left_and_one_that_answers_is_not() {
    local(async {
        let (mut server, sender) = played_server();
        let asked = spawn_local({
            let sender = sender.clone();
            async move { sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await.unwrap_err() }
        });
        let begun = tokio::time::Instant::now();
        for _ in 0..5 {
            while !matches!(server.hear().await.unwrap().kind, Kind::Ping(_)) {}
            server.say(0, false, Kind::Pong(*b"is alive")).await;
        }
        assert!(begun.elapsed() >= Duration::from_secs(50) && sender.is_open());
        let error = asked.await.unwrap();
        assert!(error.is_connection_lost(), "{error}");
        assert!(begun.elapsed() <= Duration::from_secs(80));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_left() {
    local(async {
        let mut client = played_client(&Limits { idle_intervals: 3, ..Limits::default() });
        let begun = tokio::time::Instant::now();
        loop {
            match client.hear().await.unwrap().kind {
                Kind::Ping(bytes) => client.say(0, false, Kind::Pong(bytes)).await,
                Kind::GoAway(u32::MAX) => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(begun.elapsed() <= Duration::from_secs(35));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_beyond_the_limit_are_refused() {
    local(async {
        let limits = Limits { max_streams: 100, ..Limits::default() };
        let (near, far) = duplex(1 << 20);
        spawn_local(async move {
            let service = |_: Request<Incoming>| pending::<Response<Answer>>();
            server::serve(far, Rc::new(By(service)), &limits, pending()).await
        });
        let mut client = Played { io: near, read: BytesMut::new() };
        for nth in 1..=400 {
            client.say(nth, true, Kind::Request(request_block("/", &[]))).await;
        }
        let heard = client.hear().await.unwrap();
        assert_eq!(heard.kind, Kind::Reset(Reason::REFUSED_STREAM.into()));
        assert!((101..=400).contains(&heard.stream));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_at_its_end_with_its_last_piece() {
    local(async {
        let sender = begin(&Limits::default(), 4096, |_| async { Response::new(full("one")) }, pending());
        let mut body = sender.send(slot().await, &get("/"), Empty::<Bytes>::new()).await.unwrap().into_body();
        assert!(!body.is_end_stream());
        let first = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "one");
        assert!(body.is_end_stream());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_bytes_is_as_good_as_a_connection() {
    local(async {
        let sender = begin(&Limits::default(), 4096, echo, pending());
        let streams: Vec<_> = (1..20_usize)
            .map(|nth| {
                let mut stream = sender.open_bytes().unwrap();
                spawn_local(async move {
                    stream.write_all(b"hello").await.unwrap();
                    let mut hello = [0; 5];
                    stream.read_exact(&mut hello).await.unwrap();
                    let sent: Vec<u8> = (0..nth * 60_000).map(|at| (at * nth) as u8).collect();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let (mut back, all) = (Vec::new(), sent.clone());
                    let writing = async {
                        write.write_all(&all).await.unwrap();
                        write.shutdown().await.unwrap();
                    };
                    let (_, read) = tokio::join!(writing, read.read_to_end(&mut back));
                    assert_eq!((read.unwrap(), back == sent), (sent.len(), true));
                })
            })
            .collect();
        for stream in streams {
            stream.await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_bytes_that_breaks_is_seen_to_break() {
    local(async {
        let (mut server, sender) = played_server();
        let mut streams: Vec<_> = (0..4).map(|_| sender.open_bytes().unwrap()).collect();
        for nth in 1..=4 {
            assert_eq!(server.hear().await, Some(Frame { stream: nth, end: false, kind: Kind::Open }));
        }
        let mut all = Vec::new();
        server.say(4, true, Kind::Data(Bytes::from_static(b"all"))).await;
        streams[3].read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"all");
        server.say(3, false, Kind::Reset(Reason::INTERNAL_ERROR.into())).await;
        assert_eq!(streams[2].read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(streams[2].write_all(b"late").await.is_err());
        streams.remove(1);
        let Frame { stream, kind, .. } = server.hear().await.unwrap();
        assert!(stream == 2 && matches!(kind, Kind::Reset(_)));
        drop(server);
        assert_eq!(streams[0].read(&mut [0]).await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        assert!(sender.open_bytes().is_none());
    })
    .await;
}

fn anything() -> impl Strategy<Value = Frame> {
    let stream = 0_u32..6;
    let bytes = || vec(any::<u8>(), 0..50).prop_map(Bytes::from);
    let head = prop_oneof![
        Just(request_block("/", &[])),
        Just(request_block("/", &[("content-length", "5")])),
        Just(request_block("/", &[("expect", "100-continue")])),
        Just(Bytes::from_static(&[0, 200])),
        Just(Bytes::from_static(&[0, 100])),
        bytes(),
    ];
    let kind = prop_oneof![
        bytes().prop_map(Kind::Data),
        head.clone().prop_map(Kind::Request),
        head.prop_map(Kind::Response),
        bytes().prop_map(Kind::Trailers),
        Just(Kind::Open),
        (0_u32..15).prop_map(Kind::Reset),
        (0_u32..100_000).prop_map(Kind::Credit),
        Just(Kind::Ping([1; 8])),
        (0_u32..6).prop_map(Kind::GoAway),
        Just(Kind::Hello { stream: 100_000, connection: 2_000_000, streams: 10 }),
    ];
    (stream, any::<bool>(), kind).prop_map(|(stream, end, kind)| Frame { stream, end, kind })
}

/// Says it all, and waits for the end of the other side or for its silence.
async fn told(mut peer: Played, frames: Vec<Frame>) {
    let mut out = BytesMut::new();
    frames.iter().for_each(|frame| frame.put(&mut out));
    let _ = peer.io.write_all(&out).await;
    let _ = tokio::time::timeout(Duration::from_secs(3), async { while peer.hear().await.is_some() {} }).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_a_peer_says_requests_end_and_nothing_panics(frames in vec(anything(), 0..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(local(async {
            let (server, sender) = played_server();
            let asking: Vec<_> = (0..4)
                .map(|_| {
                    let sender = sender.clone();
                    spawn_local(async move {
                        let asked = sender.send(slot().await, &get("/"), Full::new(Bytes::from(vec![0; 200_000]))).await;
                        // Complete or broken off, but never waiting for ever.
                        let _ = asked.map(Response::into_body)?.collect().await;
                        Ok::<_, RequestError>(())
                    })
                })
                .collect();
            tokio::task::yield_now().await;
            told(server, frames.clone()).await;
            for asked in asking {
                // A panic would be an error here.
                let _ = asked.await.unwrap();
            }
            let (near, far) = duplex(1 << 20);
            let answers = |request: Request<Incoming>| async move {
                let _ = request.into_body().collect().await;
                Response::new(full(vec![0; 100_000]))
            };
            let limits = Limits::default();
            let serving = spawn_local(async move { server::serve(far, Rc::new(By(answers)), &limits, pending()).await });
            told(Played { io: near, read: BytesMut::new() }, frames).await;
            let _ = serving.await.unwrap();
        }));
    }
}
