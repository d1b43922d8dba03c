//! nginx and curl: HTTP/1.1 and HTTP/2.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_e2e::{
    compare::compare,
    process::{Process, must_run},
    programs,
    stage::{Stage, stage},
    transcript::Transcript,
};

use crate::curl::{Curl, describe, fields};

/// How long nginx may take to listen.
const START: Duration = Duration::from_secs(20);
/// How long the raw socket may wait.
const SOCKET: Duration = Duration::from_secs(20);
/// The large body.
const LARGE: usize = 100 << 20;

struct Nginx {
    http1: SocketAddr,
    http2: SocketAddr,
    _process: Process,
}

fn config(dir: &Path, http1: SocketAddr, http2: SocketAddr) -> String {
    let dir = dir.display();
    let server = |listen: String| {
        format!(
            r#"
    server {{
        listen {listen};
        root {dir}/www;
        location / {{ add_header X-Multi one; add_header X-Multi two; add_header Set-Cookie "a=1; Path=/";
                      add_header Set-Cookie "b=2; HttpOnly"; }}
        location /page/ {{ ssi on; ssi_types text/plain; }}
        location /zipped/ {{ gzip on; gzip_types text/plain; gzip_min_length 1; }}
        location /upload/ {{ dav_methods PUT DELETE; create_full_put_path on; etag off; add_header Last-Modified ""; }}
        location /limited/ {{ client_max_body_size 1k; dav_methods PUT; }}
        location = /204 {{ return 204; }}
        location = /moved {{ absolute_redirect off; return 302 /small.txt?from=moved; }}
        location = /broken {{ return 500 "on purpose\n"; }}
        location = /closed {{ return 444; }}
        location = /seen {{ default_type text/plain;
            return 200 "$request_method $request_uri host=$host agent=$http_user_agent one=$http_x_one two=$http_x_two cookie=$http_cookie accept=$http_accept encoding=$http_accept_encoding auth=$http_authorization length=$http_content_length\n"; }}
    }}"#
        )
    };
    format!(
        r#"user root;
daemon off;
worker_processes 2;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {dir}/temp; proxy_temp_path {dir}/temp; fastcgi_temp_path {dir}/temp;
    uwsgi_temp_path {dir}/temp; scgi_temp_path {dir}/temp;
    client_max_body_size 200m;
    types {{ text/plain txt; application/octet-stream bin; }}
    {}
    {}
}}
"#,
        server(http1.to_string()),
        server(format!("{http2} http2")),
    )
}

fn start(stage: &Stage) -> Result<Nginx> {
    let lease = stage.lease();
    let (http1, http2) = (lease.local()?, lease.local()?);
    for dir in ["temp", "www/page", "www/zipped", "www/upload", "www/limited"] {
        stage.subdir(dir)?;
    }
    stage.file("www/small.txt", "a small file\n")?;
    stage.file("www/empty.txt", "")?;
    stage.file("www/digits.txt", "0123456789".repeat(1000))?;
    stage.file("www/zipped/digits.txt", "0123456789".repeat(1000))?;
    stage.file("www/page/index.txt", format!("<!--#echo var=\"arg_who\" -->\n{}", "line\n".repeat(20_000)))?;
    let config = stage.file("nginx.conf", config(stage.dir(), http1, http2))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(stage.dir()).arg("-e").arg("stderr").arg("-c").arg(config);
    let mut process = Process::start("nginx", &command, stage.dir())?;
    process.wait_for_port(http1, START)?;
    process.wait_for_port(http2, START)?;
    Ok(Nginx { http1, http2, _process: process })
}

/// What HTTP/1.1 and HTTP/2 have in common.
fn common(t: &mut Transcript, curl: &Curl<'_>, dir: &Path) -> Result<()> {
    let upload = dir.join("www/digits.txt").display().to_string();
    let etag = |head: &str| {
        let value = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap_or_default();
        format!("If-None-Match: {value}")
    };
    let plain = curl.get("/small.txt", &[])?;
    let condition = etag(&plain);
    t.step("get", plain);
    for (title, path, options) in [
        ("empty", "/empty.txt", &[][..]),
        ("what the server sees", "/seen?a=b%20c&d=%2F&e", &["-H", "X-One: 1", "-H", "X-Two:  spaced  ", "-b", "c=d"]),
        ("credentials", "/seen", &["-u", "me:secret", "-A", "an agent"]),
        ("a path that must not be changed", "/a//b/~user%20x/c;d=1?e=%2e%2e/", &["--path-as-is"]),
        ("head", "/digits.txt", &["--head"]),
        ("head of a generated page", "/page/index.txt", &["--head"]),
        ("range", "/digits.txt", &["-r", "10-19"]),
        ("range from the end", "/digits.txt", &["-r", "-5"]),
        ("range outside", "/digits.txt", &["-r", "99999-"]),
        ("no content", "/204", &[]),
        ("not modified", "/small.txt", &["-H", &condition]),
        ("redirect", "/moved", &["-L"]),
        ("not found", "/nowhere", &[]),
        ("an error of the server", "/broken", &[]),
        ("length not known before", "/page/index.txt?who=me", &[]),
        ("compressed", "/zipped/digits.txt", &["-H", "Accept-Encoding: gzip"]),
        ("options", "/small.txt", &["-X", "OPTIONS"]),
        ("a method of its own", "/seen", &["-X", "PURGE"]),
        ("put", "/upload/a/b.txt", &["-T", &upload]),
        ("what was put", "/upload/a/b.txt", &[]),
        ("delete", "/upload/a/b.txt", &["-X", "DELETE"]),
        ("what was deleted", "/upload/a/b.txt", &[]),
    ] {
        t.step(title, curl.get(path, options)?);
    }
    Ok(())
}

fn http1(address: SocketAddr, dir: &Path) -> Result<Transcript> {
    let mut t = Transcript::new();
    let curl = Curl::new(address, dir).always(&["--http1.1"]);
    common(&mut t, &curl, dir)?;
    let upload = dir.join("www/page/index.txt").display().to_string();
    let expect = ["-H", "Expect: 100-continue", "--expect100-timeout", "10"];
    for (title, path, options) in [
        // An answer before the body is read: over HTTP/2 it is a race whether curl sees the reset first.
        ("a body that nobody reads", "/seen", &["-d", "x=1"][..]),
        ("too large", "/limited/x", &["-T", &upload, "-H", "Expect:"]),
        ("chunked up", "/upload/c", &["-T", &upload, "-H", "Transfer-Encoding: chunked"]),
        ("what went up", "/upload/c", &[]),
        ("expected, and continued", "/upload/e", &[&expect[..], &["-T", &upload]].concat()),
        ("what was expected", "/upload/e", &[]),
        ("expected, and refused", "/limited/x", &[&expect[..], &["-T", &upload]].concat()),
        ("remove", "/upload/c", &["-X", "DELETE"]),
        ("remove", "/upload/e", &["-X", "DELETE"]),
        ("close", "/small.txt", &["-H", "Connection: close"]),
    ] {
        t.step(title, curl.get(path, options)?);
    }
    // The version that a server answers a client of HTTP/1.0 with is its own choice.
    let old = curl.raw(&["--http1.0", "-w", "%{http_code}", "http://app.test/small.txt", "-o", "-"])?;
    t.step("HTTP/1.0", old);
    let same = curl.raw(&[
        "-w",
        "%{http_code} on %{num_connects} new connections\\n",
        "http://app.test/small.txt",
        "http://app.test/204",
        "http://app.test/digits.txt?[1-20]",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
    ])?;
    t.step("keep-alive", same);
    t.step("pipelined", pipelined(address)?);
    Ok(t)
}

fn http2(address: SocketAddr, dir: &Path) -> Result<Transcript> {
    let mut t = Transcript::new();
    let curl = Curl::new(address, dir).always(&["--http2-prior-knowledge"]);
    common(&mut t, &curl, dir)?;
    // Debian's curl cannot use a connection of this kind twice.
    let (target, path) = (address.to_string(), "/digits.txt");
    let many = programs::command("http-client", &["-target", &target, "-path", path, "-n", "100"])?;
    t.step("many streams on one connection", must_run(&many, SOCKET)?.text());
    Ok(t)
}

/// Three requests in one piece, the last of which asks to close; all answers, in order.
fn pipelined(address: SocketAddr) -> Result<String> {
    let mut socket = TcpStream::connect_timeout(&address, SOCKET)?;
    socket.set_read_timeout(Some(SOCKET))?;
    let ask = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: app.test\r\n{more}\r\n");
    let all = ask("/small.txt", "") + &ask("/nowhere", "") + &ask("/seen?third", "Connection: close\r\n");
    socket.write_all(all.as_bytes())?;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).context("the answers to pipelined requests")?;
    let (mut rest, mut text) = (String::from_utf8(bytes)?, String::new());
    while let Some((head, after)) = rest.split_once("\r\n\r\n") {
        let head = fields(head);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
        let body = after.get(..length.parse()?).context("a body that ends early")?;
        text.push_str(&format!("{head}{body:?}\n"));
        rest = after.split_at(body.len()).1.to_owned();
    }
    ensure!(rest.is_empty(), "after the last answer: {rest:?}");
    Ok(text)
}

#[test]
fn nginx_http1() -> Result<()> {
    stage("nginx-http1", |stage| {
        let nginx = start(stage)?;
        compare(stage, nginx.http1, &[None, Some("http"), Some("tcp")], |address| http1(address, stage.dir()))
    })
}

#[test]
fn nginx_http2() -> Result<()> {
    stage("nginx-http2", |stage| {
        let nginx = start(stage)?;
        compare(stage, nginx.http2, &[None, Some("kubernetes.io/h2c"), Some("tcp")], |address| {
            http2(address, stage.dir())
        })
    })
}

/// 100 MiB down and up, over both versions.
#[test]
fn nginx_large_bodies() -> Result<()> {
    stage("nginx-large", |stage| {
        let nginx = start(stage)?;
        write_large(&stage.dir().join("www/large.bin"))?;
        let run = |address: SocketAddr, version: &str| {
            let large = stage.dir().join("www/large.bin").display().to_string();
            let curl = Curl::new(address, stage.dir()).always(&[version]);
            let mut t = Transcript::new();
            t.step("down", curl.get("/large.bin", &[])?);
            t.step("up", curl.get("/upload/large", &["-T", &large, "-H", "Expect:"])?);
            t.step("what went up", describe(&stage.dir().join("www/upload/large"))?);
            t.step("remove", curl.get("/upload/large", &["-X", "DELETE"])?);
            Ok(t)
        };
        compare(stage, nginx.http1, &[None], |address| run(address, "--http1.1"))?;
        compare(stage, nginx.http2, &[None], |address| run(address, "--http2-prior-knowledge"))
    })
}

/// Writes a file in which no two blocks are the same.
fn write_large(path: &Path) -> Result<()> {
    let mut file = std::io::BufWriter::new(fs::File::create(path)?);
    let mut state = 1_u64;
    for _ in 0..LARGE / 8 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        file.write_all(&state.to_le_bytes())?;
    }
    file.flush().context("the large file")
}
