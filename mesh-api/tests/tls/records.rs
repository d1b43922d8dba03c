//! Cases F37 and F38: floods and malformed records, before and after the handshake.

use std::{future::Future, time::Instant};

use rustls::{ContentType, Error, PeerMisbehaved};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    link::{LIMIT, Member},
    wire::{Sealer, client_hello, handshake, listen, records, session, shout_at, version},
};

/// What a member makes of what a peer sends after a good handshake.
async fn after_handshake<F: Future<Output = ()>>(
    send: impl FnOnce(TcpStream, Sealer) -> F,
) -> (Vec<u8>, Option<Error>) {
    let member = Member::new();
    let (server, tcp, connection) = session(&member).await;
    let both = async { tokio::join!(listen(server), send(tcp, Sealer::of(connection))) };
    let (heard, ()) = tokio::time::timeout(LIMIT, both).await.unwrap();
    member.assert_still_good().await;
    heard
}

/// Sends what `next` makes, at most `limit` times, until the other side hangs up; answers how often.
async fn flood(mut tcp: TcpStream, limit: usize, mut next: impl FnMut() -> Vec<u8>) -> usize {
    for sent in 0..limit {
        if tcp.write_all(&next()).await.is_err() {
            return sent;
        }
    }
    let _ = tcp.shutdown().await;
    let mut sink = Vec::new();
    let _ = tcp.read_to_end(&mut sink).await;
    limit
}

#[tokio::test]
async fn f37_flood_of_key_updates_ends_the_connection() {
    const LIMIT_OF_FLOOD: usize = 100_000;
    let member = Member::new();
    let (server, tcp, mut connection) = session(&member).await;
    let begin = Instant::now();
    let update = move || {
        let mut out = Vec::new();
        connection.refresh_traffic_keys().unwrap();
        while connection.wants_write() {
            connection.write_tls(&mut out).unwrap();
        }
        out
    };
    let both = async { tokio::join!(listen(server), flood(tcp, LIMIT_OF_FLOOD, update)) };
    let ((got, fault), sent) = tokio::time::timeout(LIMIT, both).await.unwrap();
    assert_eq!(fault, Some(PeerMisbehaved::TooManyKeyUpdateRequests.into()));
    assert!(got.is_empty() && sent < LIMIT_OF_FLOOD, "{sent} sent in {:?}", begin.elapsed());
    member.assert_still_good().await;
}

#[tokio::test]
async fn f37_key_updates_between_data_do_no_harm() {
    let member = Member::new();
    let (server, tcp, mut connection) = session(&member).await;
    let data = move || {
        use std::io::Write as _;
        let mut out = Vec::new();
        connection.writer().write_all(b"x").unwrap();
        connection.refresh_traffic_keys().unwrap();
        while connection.wants_write() {
            connection.write_tls(&mut out).unwrap();
        }
        out
    };
    let both = async { tokio::join!(listen(server), flood(tcp, 100, data)) };
    let ((got, _), sent) = tokio::time::timeout(LIMIT, both).await.unwrap();
    assert_eq!((got, sent), (vec![b'x'; 100], 100));
}

#[tokio::test]
async fn f38_flood_of_empty_records_ends_the_connection() {
    const LIMIT_OF_FLOOD: usize = 1_000_000;
    let (got, fault) = after_handshake(|tcp, mut sealer| async move {
        let sent = flood(tcp, LIMIT_OF_FLOOD, move || sealer.seal(ContentType::ApplicationData, b"")).await;
        assert!(sent < LIMIT_OF_FLOOD);
    })
    .await;
    assert_eq!((got, fault), (vec![], Some(PeerMisbehaved::TooManyEmptyFragments.into())));
}

#[tokio::test]
async fn f38_record_of_one_byte_too_many_ends_the_connection() {
    let (got, fault) = after_handshake(|tcp, mut sealer| async move {
        let record = sealer.seal(ContentType::ApplicationData, &vec![b'x'; 16_385]);
        flood(tcp, 1, move || record.clone()).await;
    })
    .await;
    assert_eq!((got, fault), (vec![], Some(Error::PeerSentOversizedRecord)));
    let (got, _) = after_handshake(|tcp, mut sealer| async move {
        let record = sealer.seal(ContentType::ApplicationData, &vec![b'x'; 16_384]);
        flood(tcp, 1, move || record.clone()).await;
    })
    .await;
    assert_eq!(got.len(), 16_384);
}

#[tokio::test]
async fn f38_data_inside_a_handshake_message_ends_the_connection() {
    let (got, fault) = after_handshake(|tcp, mut sealer| async move {
        let update = handshake(24, &[0]);
        let both = [sealer.seal(ContentType::Handshake, &update[..2]), sealer.seal(ContentType::ApplicationData, b"x")]
            .concat();
        flood(tcp, 1, move || both.clone()).await;
    })
    .await;
    assert_eq!((got, fault), (vec![], Some(PeerMisbehaved::MessageInterleavedWithHandshakeMessage.into())));
}

#[tokio::test]
async fn f38_damaged_and_replayed_records_end_the_connection() {
    for damaged in [true, false] {
        let (got, fault) = after_handshake(|tcp, mut sealer| async move {
            let mut record = sealer.seal(ContentType::ApplicationData, b"once");
            if damaged {
                *record.last_mut().unwrap() ^= 1;
            } else {
                record = record.repeat(2);
            }
            flood(tcp, 1, move || record.clone()).await;
        })
        .await;
        assert_eq!(fault, Some(Error::DecryptError));
        // The good one may go down with the bad one.
        assert!(got.is_empty() || (got == b"once" && !damaged), "{got:?}");
    }
}

#[tokio::test]
async fn f38_malformed_records_before_the_handshake_end_the_connection() {
    let member = Member::new();
    let hello = records(&client_hello(version::TLS12, &[]));
    let oversized = [&[22, 3, 1, 0xff, 0xff][..], &[1; 20_000]].concat();
    let data_inside = [&hello[..5 + 20], &[23, 3, 3, 0, 1, b'x'], &hello[25..]].concat();
    for (case, bytes) in [
        ("empty handshake records", [22, 3, 1, 0, 0].repeat(1000)),
        ("a record longer than any", oversized),
        ("a record type that is none", vec![99, 3, 1, 0, 1, 0]),
        ("data first", vec![23, 3, 3, 0, 1, b'x']),
        ("data inside the hello", data_inside),
        ("an alert first", vec![21, 3, 3, 0, 2, 2, 40]),
        ("a version that is none", vec![22, 9, 9, 0, 1, 1]),
    ] {
        let (error, answer) = shout_at(&member, &bytes).await;
        assert!(answer.is_empty() || answer[0] == 21, "{case}: {error}: {answer:?}");
    }
    member.assert_still_good().await;
}
