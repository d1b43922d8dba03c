//! The program itself: how it starts, what it says where it cannot, how it ends.

use std::{
    io::{BufRead, BufReader, Read},
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

/// Reads its log until it serves.
fn start(folder: &Path) -> Child {
    let mut child = program(folder).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("the certificate authority serves") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended instead");
    }
    child.stderr = Some(lines.into_inner());
    child
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
        let mut child = start(&folder);
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
