//! Unit and property tests of the chunked coding.

use super::*;
use proptest::prelude::*;

type Decoded = (Vec<u8>, Option<HeaderMap>, Vec<u8>);

/// Decodes `wire` given in pieces of `step` bytes; returns data, trailers and what was left over.
fn decode(wire: &[u8], step: usize) -> Result<Decoded, Reason> {
    let mut decoder = ChunkedDecoder::default();
    let mut buf = BytesMut::new();
    let mut pieces = wire.chunks(step);
    let (mut data, mut trailers) = (Vec::new(), None);
    loop {
        match decoder.decode(&mut buf)? {
            Step::Data(bytes) => data.extend_from_slice(&bytes),
            Step::Trailers(map) => trailers = Some(map),
            Step::End => {
                let rest = pieces.flatten().copied();
                return Ok((data, trailers, buf.iter().copied().chain(rest).collect()));
            }
            Step::More => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None => return Err(Reason::Truncated),
            },
        }
    }
}

fn refused(wire: &[u8]) -> Reason {
    let whole = decode(wire, wire.len()).unwrap_err();
    assert_eq!(decode(wire, 1).unwrap_err(), whole, "the same by single bytes");
    whole
}

#[test]
fn data_trailers_and_the_next_message_are_told_apart() {
    let wire = b"3;a=\"b\"\r\nabc\r\n00B\r\n0123456789a\r\n0\r\nX-T: 1\r\nHost: evil\r\nContent-Length: 5\r\n\r\nGET /";
    for step in 1..wire.len() {
        let (data, trailers, rest) = decode(wire, step).unwrap();
        assert_eq!(data, b"abc0123456789a");
        let trailers = trailers.unwrap();
        assert_eq!(trailers.len(), 1);
        assert_eq!(trailers["x-t"], "1");
        assert_eq!(rest, b"GET /");
    }
}

#[test]
fn forbidden_trailers_alone_are_a_plain_end() {
    let (_, trailers, _) = decode(b"0\r\nTransfer-Encoding: x\r\nKeep-Alive: 1\r\n\r\n", 4).unwrap();
    assert!(trailers.is_none());
}

#[test]
fn malformed_sizes_are_refused() {
    for size in [
        "0x1",
        "+1",
        "-1",
        "0_1",
        " 1",
        "",
        "G",
        "1 ",
        "1 ;a",
        "1\t",
        "10000000000000001",
        "00000000000000001",
        "ffffffffffffffff",
    ] {
        assert_eq!(refused(format!("{size}\r\nZ\r\n0\r\n\r\n").as_bytes()), Reason::ChunkSize, "{size:?}");
    }
}

#[test]
fn malformed_line_ends_are_refused() {
    assert_eq!(refused(b"1\nZ\r\n0\r\n\r\n"), Reason::ChunkSize);
    assert_eq!(refused(b"1\r\nZ\n0\r\n\r\n"), Reason::ChunkEnd);
    assert_eq!(refused(b"1\r\nZXX0\r\n\r\n"), Reason::ChunkEnd);
    assert_eq!(refused(b"1\r\nZ\r\n0\n\r\n"), Reason::ChunkSize);
    assert_eq!(refused(b"0\r\n\n"), Reason::Trailer);
    assert_eq!(refused(b"0\r\nA: b\n\r\n"), Reason::Trailer);
    for extension in [";a\nb", ";a\r\rb", "\r\r;ABCD", ";a\0", ";\x7f", ";\r;"] {
        assert_eq!(
            refused(format!("1{extension}\r\nZ\r\n0\r\n\r\n").as_bytes()),
            Reason::ChunkExtension,
            "{extension:?}"
        );
    }
}

#[test]
fn malformed_trailers_are_refused() {
    for trailer in ["X A: b", ": b", "X", "X : b", " X: b", "X: a\0b", "X: a\rb"] {
        assert_eq!(refused(format!("0\r\n{trailer}\r\n\r\n").as_bytes()), Reason::Trailer, "{trailer:?}");
    }
    assert_eq!(refused(b"0\r\nA: b\r\n c\r\n\r\n"), Reason::Trailer);
}

#[test]
fn extensions_and_trailers_are_bounded() {
    let chunk = format!("1;{}\r\nZ\r\n", "e".repeat(1000));
    assert_eq!(refused(chunk.repeat(20).as_bytes()), Reason::ChunkExtension);
    assert_eq!(refused(format!("0\r\n{}", "A: b\r\n".repeat(101) + "\r\n").as_bytes()), Reason::TrailerTooLarge);
    assert_eq!(
        decode(format!("0\r\nA: {}", "b".repeat(1 << 20)).as_bytes(), 4096).unwrap_err(),
        Reason::TrailerTooLarge
    );
    assert_eq!(decode("0\r\n".to_owned().into_bytes().as_slice(), 1).unwrap_err(), Reason::Truncated);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_decoded_at_any_split(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8),
        trailer in proptest::option::of("[a-z]{1,8}"),
        step in 1_usize..64,
    ) {
        let mut wire = Vec::new();
        for chunk in &chunks {
            encode_chunk(chunk, &mut wire);
        }
        let map = trailer.as_ref().map(|value| {
            let mut map = HeaderMap::new();
            map.insert("x-sum", value.parse().unwrap());
            map
        });
        encode_last_chunk(map.clone(), &mut wire);
        wire.extend_from_slice(b"next");
        let (data, trailers, rest) = decode(&wire, step).unwrap();
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(trailers, map);
        prop_assert_eq!(rest, b"next");
    }

    #[test]
    fn random_bytes_never_panic_and_splits_never_matter(
        wire in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'1'), Just(b';'), Just(b':'), any::<u8>()], 0..60),
        step in 1_usize..9,
    ) {
        let whole = decode(&wire, wire.len().max(1));
        let split = decode(&wire, step);
        prop_assert_eq!(format!("{:?}", whole), format!("{:?}", split));
    }
}
