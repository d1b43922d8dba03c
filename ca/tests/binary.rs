//! The program itself: how it starts, what it says where it cannot, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where its premises fail")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-ca"));
    for value in ["listen=127.0.0.1:0", "admin=127.0.0.1:0"] {
        command.args(["--set", value]);
    }
    command.args(["--set", &format!("state_folder={}", folder.display())]).env_clear().stderr(Stdio::piped());
    command
}

/// Reads its log until it serves; answers the address of its admin server as well.
fn start(folder: &Path) -> (Child, String) {
    let mut child = program(folder).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("the certificate authority serves") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended instead");
    }
    child.stderr = Some(lines.into_inner());
    let admin = line.split("admin=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    (child, admin.to_owned())
}

fn page(admin: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(admin).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn failure(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn it_ends_when_asked_and_finds_its_state_again() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("state");
    for _ in 0..2 {
        let (mut child, admin) = start(&folder);
        let metrics = page(&admin, "/metrics");
        for series in [
            "# TYPE mesh_ca_issuer_expiry_timestamp_seconds gauge",
            "mesh_ca_root_expiry_timestamp_seconds{which=\"earliest\"}",
            "mesh_ca_server_expiry_timestamp_seconds",
            "mesh_ca_rotation_phase{phase=\"steady\"} 1",
            "mesh_ca_rotation_phase{phase=\"retiring\"} 0",
            "mesh_ca_roots 1",
        ] {
            assert!(metrics.contains(series), "{series}: {metrics}");
        }
        // A second one does not get in.
        let told = failure(program(&folder));
        assert!(told.contains("is in use by another process"), "{told}");
        let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
        assert!(kill.success());
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        assert!(status.success());
        let mut rest = String::new();
        child.stderr.unwrap().read_to_string(&mut rest).unwrap();
        assert!(rest.contains("stopping"), "{rest}");
    }
    assert!(folder.join("issuer-1.pem").exists());
}

#[test]
fn it_says_what_is_wrong_and_how_to_mend_it() {
    let top = tempfile::tempdir().unwrap();
    let folder = top.path().join("state");
    let mut repair = program(&folder);
    repair.arg("repair");
    let told = failure(repair);
    assert!(told.contains("there is nothing to repair"), "{told}");

    let key = folder.join("issuer-1.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let told = failure(program(&folder));
    assert!(told.contains(&format!("run: chmod 600 '{}'", key.display())), "{told}");

    let mut mistaken = program(&folder);
    mistaken.args(["--set", "trust_domian=x", "--set", "limits.burst=0"]);
    let told = failure(mistaken);
    assert!(told.contains("trust_domian") && told.contains("did you mean `trust_domain`"), "{told}");
}
