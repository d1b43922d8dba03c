//! Redis: long pipelines, large values, and answers that nobody asked for just now.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_e2e::{
    compare::compare,
    process::{Process, must_run, run_with},
    stage::{Stage, stage},
    transcript::Transcript,
};

use crate::curl::describe;

const START: Duration = Duration::from_secs(10);
const CLIENT: Duration = Duration::from_secs(60);
const SOCKET: Duration = Duration::from_secs(20);

fn start(stage: &Stage) -> Result<(Process, SocketAddr)> {
    let address = stage.lease().local()?;
    let mut server = Command::new("redis-server");
    server.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
    server.arg("--port").arg(address.port().to_string()).arg("--dir").arg(stage.dir());
    let mut process = Process::start("redis-server", &server, stage.dir())?;
    process.wait_for_port(address, START)?;
    Ok((process, address))
}

fn command(program: &str, address: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command
}

fn client(address: SocketAddr, dir: &Path) -> Result<Transcript> {
    let mut t = Transcript::new();
    let cli =
        |args: &[&str]| -> Result<String> { Ok(must_run(command("redis-cli", address).args(args), CLIENT)?.text()) };
    t.step("empty", cli(&["flushall"])?);
    for args in [
        &["set", "greeting", "hällo"][..],
        &["get", "greeting"],
        &["get", "nothing"],
        &["nonsense", "x"],
        &["rpush", "list", "a", "b", "c"],
        &["lrange", "list", "0", "-1"],
        &["eval", "return {1, {2, 'three'}, redis.status_reply('fine')}", "0"],
    ] {
        t.step(&args.join(" "), cli(&[&["--no-raw"], args].concat())?);
    }
    let mut commands = String::new();
    for number in 0..100_000 {
        write!(commands, "*3\r\n$3\r\nSET\r\n$9\r\nkey{number:06}\r\n$12\r\nvalue-{number:06}\r\n")?;
    }
    std::fs::write(dir.join("pipe.resp"), commands)?;
    let mut pipe = command("redis-cli", address);
    pipe.arg("--pipe");
    let output = run_with(&pipe, None, Some(&dir.join("pipe.resp")), CLIENT)?;
    t.step("pipe", format_args!("{:?}\n{}{}", output.status.code(), output.text(), output.error_text()));
    t.step("keys", cli(&["dbsize"])?);
    t.step("digest", cli(&["debug", "digest"]).or_else(|_| cli(&["get", "key099999"]))?);
    t.step("pipelined", pipelined(address)?);
    t.step("a large value", large(address, dir)?);
    t.step("published", published(address)?);
    let mut bench = command("redis-benchmark", address);
    bench.args(["-P", "16", "-c", "20", "-n", "40000", "-q", "-t", "get,set,lpush"]);
    must_run(&bench, CLIENT)?;
    t.step("after many clients", cli(&["llen", "mylist"])?);
    Ok(t)
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpStream::connect_timeout(&address, SOCKET)?;
    socket.set_read_timeout(Some(SOCKET))?;
    socket.set_write_timeout(Some(SOCKET))?;
    Ok(socket)
}

/// 50 000 commands are on their way before the first answer is read.
fn pipelined(address: SocketAddr) -> Result<String> {
    const COMMANDS: usize = 50_000;
    let socket = connect(address)?;
    let mut writer = socket.try_clone()?;
    let writing = thread::spawn(move || writer.write_all("INCR counter\r\n".repeat(COMMANDS).as_bytes()));
    let mut answers = BufReader::new(socket).lines();
    for number in 1..=COMMANDS {
        let line = answers.next().context("the connection ended")??;
        ensure!(line == format!(":{number}"), "answer {number} is {line:?}");
    }
    writing.join().map_err(|_| anyhow!("the writer panicked"))??;
    Ok(format!("{COMMANDS} answers in order"))
}

/// 32 MiB in one value, there and back.
fn large(address: SocketAddr, dir: &Path) -> Result<String> {
    let file = dir.join("value.bin");
    std::fs::write(&file, (0..32_u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<u8>>())?;
    let mut set = command("redis-cli", address);
    set.args(["-x", "set", "large"]);
    let output = run_with(&set, None, Some(&file), CLIENT)?;
    let mut get = command("redis-cli", address);
    get.args(["get", "large"]);
    std::fs::write(dir.join("back.bin"), must_run(&get, CLIENT)?.stdout)?;
    Ok(format!("{}{}\n{}", output.text(), output.error_text(), describe(&dir.join("back.bin"))?))
}

/// One connection waits, another publishes.
fn published(address: SocketAddr) -> Result<String> {
    let mut waiting = connect(address)?;
    waiting.write_all(b"SUBSCRIBE news\r\n")?;
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n";
    let mut seen = vec![0; confirmed.len()];
    waiting.read_exact(&mut seen).context("the confirmation")?;
    ensure!(seen == confirmed.as_bytes(), "{:?}", String::from_utf8_lossy(&seen));
    must_run(command("redis-cli", address).args(["publish", "news", "extra"]), CLIENT)?;
    let message = "*3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n$5\r\nextra\r\n";
    let mut seen = vec![0; message.len()];
    waiting.read_exact(&mut seen).context("the message")?;
    Ok(String::from_utf8_lossy(&seen).into_owned())
}

#[test]
fn redis() -> Result<()> {
    stage("redis", |stage| {
        let (_process, address) = start(stage)?;
        compare(stage, address, &[None, Some("redis")], |address| client(address, stage.dir()))
    })
}
