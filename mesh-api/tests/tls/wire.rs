//! TLS by hand: hellos that no library would send, and records sealed with the keys of a real session.

use std::time::Duration;

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use mesh_api::names::ALPN_MESH_HTTP;
use rustls::{ClientConnection, ConnectionTrafficSecrets, ContentType, Error};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, server::TlsStream};

use crate::{
    forge::{Leaf, WEB},
    link::{LIMIT, Member, client_showing},
};

/// Versions as they stand on the wire.
pub mod version {
    pub const TLS11: u16 = 0x0302;
    pub const TLS12: u16 = 0x0303;
    pub const TLS13: u16 = 0x0304;
}

/// Numbers of extensions.
pub mod extension {
    pub const SERVER_NAME: u16 = 0;
    pub const ALPN: u16 = 16;
    pub const PRE_SHARED_KEY: u16 = 41;
    pub const EARLY_DATA: u16 = 42;
    pub const SUPPORTED_VERSIONS: u16 = 43;
}

/// A ClientHello with a TLS 1.2 and a TLS 1.3 suite, our ALPN, and `more` extensions; not yet in records.
pub fn client_hello(legacy: u16, more: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let alpn = vector16(&[&[ALPN_MESH_HTTP.len() as u8], ALPN_MESH_HTTP].concat());
    let groups = vector16(&[0, 0x17]);
    let schemes = vector16(&[4, 3, 8, 4]);
    let usual = [(10, groups), (13, schemes), (extension::ALPN, alpn)];
    let extensions: Vec<u8> = usual
        .iter()
        .chain(more)
        .flat_map(|(kind, body)| [&kind.to_be_bytes(), vector16(body).as_slice()].concat())
        .collect();
    let suites = vector16(&[0xc0, 0x2b, 0xc0, 0x2f, 0x13, 0x01]);
    let body = [&legacy.to_be_bytes()[..], &[7; 32], &[0], &suites, &[1, 0], &vector16(&extensions)].concat();
    handshake(1, &body)
}

/// A ServerHello of TLS 1.2, with the mark that a server of TLS 1.3 leaves when it was talked down.
pub fn old_server_hello(sentinel: bool) -> Vec<u8> {
    let mut random = [7; 32];
    if sentinel {
        random[24..].copy_from_slice(b"DOWNGRD\x01");
    }
    let body = [&version::TLS12.to_be_bytes()[..], &random, &[0], &[0xc0, 0x2b], &[0], &vector16(&[])].concat();
    records(&handshake(2, &body))
}

/// A handshake message with its header.
pub fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &u32::try_from(body.len()).unwrap().to_be_bytes()[1..], body].concat()
}

/// A handshake message in plain records.
pub fn records(message: &[u8]) -> Vec<u8> {
    message.chunks(16_000).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

fn vector16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// The numbers and bodies of the extensions of a ClientHello that came in as records.
pub fn extensions_of(records: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut message = Vec::new();
    let mut rest = records;
    while let [22, _, _, high, low, after @ ..] = rest {
        let (part, next) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        message.extend(part);
        rest = next;
    }
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(message[at]);
    at += 2 + usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    at += 1 + usize::from(message[at]);
    let mut rest = &message[at + 2..];
    let mut found = Vec::new();
    while let [k0, k1, l0, l1, after @ ..] = rest {
        let (body, next) = after.split_at(usize::from(u16::from_be_bytes([*l0, *l1])));
        found.push((u16::from_be_bytes([*k0, *k1]), body.to_vec()));
        rest = next;
    }
    found
}

/// The description in the first record, where it is a fatal plain alert.
pub fn plain_alert(answer: &[u8]) -> Option<u8> {
    match answer {
        [21, 3, _, 0, 2, 2, description, ..] => Some(*description),
        _ => None,
    }
}

/// Sends raw bytes to a member's server; the handshake's error there, and everything that came back.
pub async fn shout_at(member: &Member, bytes: &[u8]) -> (String, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let (error, mut tcp) =
            TlsAcceptor::from(member.server()).accept(tcp).into_fallible().await.map(|_| ()).unwrap_err();
        let _ = tcp.shutdown().await;
        let mut sink = Vec::new();
        let _ = tcp.read_to_end(&mut sink).await;
        error.to_string()
    };
    let shouting = async {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        // The server may have hung up before it was all said.
        let _ = tcp.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        answer
    };
    tokio::time::timeout(LIMIT, async { tokio::join!(serving, shouting) }).await.unwrap()
}

/// Answers a member's ClientHello with raw bytes; the handshake's error there, its hello, and what it sent after it.
pub async fn answer_to(member: &Member, bytes: &[u8]) -> (String, Vec<u8>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calling = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let connecting = TlsConnector::from(member.client(WEB)).connect(mesh_api::tls::no_name(), tcp);
        connecting.await.map(|_| ()).unwrap_err().to_string()
    };
    let answering = async {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut header = [0; 5];
        tcp.read_exact(&mut header).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
        tcp.read_exact(&mut hello).await.unwrap();
        let _ = tcp.write_all(bytes).await;
        let _ = tcp.shutdown().await;
        let mut after = Vec::new();
        let _ = tcp.read_to_end(&mut after).await;
        ([header.to_vec(), hello].concat(), after)
    };
    let both = async { tokio::join!(calling, answering) };
    let (error, (hello, after)) = tokio::time::timeout(LIMIT, both).await.unwrap();
    (error, hello, after)
}

/// A finished session: the member's end, and the naked ends of a peer that it let in.
pub async fn session(member: &Member) -> (TlsStream<TcpStream>, TcpStream, ClientConnection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shown = member.root.issue(&Leaf::of(WEB));
    let serving = async {
        let (tcp, _) = listener.accept().await.unwrap();
        TlsAcceptor::from(member.server()).accept(tcp).await.unwrap()
    };
    let calling = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let config = client_showing(&shown, &[ALPN_MESH_HTTP]);
        TlsConnector::from(config).connect(mesh_api::tls::no_name(), tcp).await.unwrap().into_inner()
    };
    let (server, (tcp, connection)) =
        tokio::time::timeout(LIMIT, async { tokio::join!(serving, calling) }).await.unwrap();
    (server, tcp, connection)
}

/// Reads a session to its end: what arrived, and why it ended.
pub async fn listen(mut server: TlsStream<TcpStream>) -> (Vec<u8>, Option<Error>) {
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    let fault = loop {
        match server.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(read) => got.extend(&buffer[..read]),
            Err(error) => break error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).cloned(),
        }
    };
    // What was sent about it must get out before the socket goes.
    let _ = tokio::time::timeout(Duration::from_secs(1), server.shutdown()).await;
    (got, fault)
}

/// Seals records as the client of a session.
pub struct Sealer {
    key: LessSafeKey,
    iv: Vec<u8>,
    next: u64,
}

impl Sealer {
    /// Takes the sending keys out of a session.
    pub fn of(connection: ClientConnection) -> Self {
        let (next, secrets) = connection.dangerous_extract_secrets().unwrap().tx;
        let ConnectionTrafficSecrets::Aes128Gcm { key, iv } = secrets else { panic!("the first suite is not AES-128") };
        let key = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key.as_ref()).unwrap());
        Self { key, iv: iv.as_ref().to_vec(), next }
    }

    /// The next record, with this content of this type inside.
    pub fn seal(&mut self, kind: ContentType, content: &[u8]) -> Vec<u8> {
        let mut nonce: [u8; 12] = self.iv.as_slice().try_into().unwrap();
        for (byte, count) in nonce[4..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= count;
        }
        self.next += 1;
        let mut sealed = [content, &[u8::from(kind)]].concat();
        let length = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, length[0], length[1]];
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
        [&header[..], &sealed].concat()
    }
}
