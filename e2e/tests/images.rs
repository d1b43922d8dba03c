//! The images, as they are: each program runs on a root that has nothing else, and finds others by their names there.
//!
//! Run `scripts/images.sh` first. Needs root, `ip`, `tar` and `chroot`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use rcgen::{CertificateParams, KeyPair};
use serde_json::Value;

/// One program may take this long to do what is awaited.
const LIMIT: Duration = Duration::from_secs(30);
/// Where every name leads to.
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);
/// A name that is found with a search domain only, as most in a cluster.
const NAME: &str = "mesh-ca.mesh-system.svc";

/// An image, unpacked, with what a container runtime adds to it.
struct Root {
    folder: tempfile::TempDir,
    config: Value,
}

impl Root {
    fn new(image: &str) -> Self {
        let exe = std::env::current_exe().unwrap();
        let archive = exe.ancestors().nth(3).unwrap().join("images").join(format!("{image}.tar"));
        assert!(archive.is_file(), "{} is missing: run `scripts/images.sh` first", archive.display());
        let folder = tempfile::tempdir().unwrap();
        let unpacked = folder.path().join("archive");
        untar(&archive, &unpacked);
        let blob = |of: &Value| {
            let digest = of["digest"].as_str().unwrap().replace(':', "/");
            unpacked.join("blobs").join(digest)
        };
        let json = |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
        let manifest = json(blob(&json(unpacked.join("index.json"))["manifests"][0]));
        let root = Self { config: json(blob(&manifest["config"])), folder };
        let layers = manifest["layers"].as_array().unwrap();
        layers.iter().for_each(|layer| untar(&blob(layer), &root.path()));
        root
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The image's program, as its user, with nothing but `environment`.
    fn command(&self, environment: &[(&str, &str)]) -> Command {
        let user = self.config["config"]["User"].as_str().unwrap();
        let mut command = Command::new("chroot");
        command.arg(format!("--userspec={user}")).arg(self.path());
        command.arg(self.config["config"]["Entrypoint"][0].as_str().unwrap());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(environment.iter().copied());
        command
    }
}

fn untar(archive: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(to).status().unwrap();
    assert!(done.success(), "{}", archive.display());
}

/// Does something in a network namespace of its own, whose loopback is up, with what every container runtime mounts.
fn alone<T: Send + 'static>(root: &Root, act: impl FnOnce() -> T + Send + 'static) -> T {
    let mounts = ["dev", "proc"].map(|name| (Path::new("/").join(name), root.path().join(name)));
    let within = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("namespaces need root");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        for (from, to) in &mounts {
            fs::create_dir_all(to).unwrap();
            mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
        }
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        act()
    });
    within.join().unwrap()
}

/// A name server that knows one name; ends with the test's process, or when nobody can ask it any more.
fn name_server() {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 53)).unwrap();
    thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut question) {
            let answer = answer(&question[..length]);
            if socket.send_to(&answer, from).is_err() {
                break;
            }
        }
    });
}

/// RFC 1035, as little of it as serves.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut name = String::new();
    let mut at = 12;
    while question[at] != 0 {
        let length = usize::from(question[at]);
        name += &format!("{}.", String::from_utf8_lossy(&question[at + 1..=at + length]));
        at += length + 1;
    }
    let known = name == format!("{NAME}.cluster.local.");
    let (kind, end) = (question[at + 2], at + 5);
    let found = known && kind == 1;
    // An answer; the name is not there unless it is known.
    let mut answer =
        vec![question[0], question[1], 0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, found.into(), 0, 0, 0, 0];
    answer.extend_from_slice(&question[12..end]);
    if found {
        answer.extend_from_slice(&[0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
        answer.extend_from_slice(&SERVER.octets());
    }
    answer
}

/// Ends with its guard.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the program connects; fails with what it said where it does not.
fn connects(mut command: Command, listener: &TcpListener) {
    let log = tempfile::NamedTempFile::new().unwrap();
    command.stdin(Stdio::null()).stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap());
    let mut running = Running(command.spawn().unwrap());
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        match listener.accept() {
            Ok(_) => return,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let ended = running.0.try_wait().unwrap();
        if ended.is_some() || Instant::now() > deadline {
            let mut said = String::new();
            log.reopen().unwrap().read_to_string(&mut said).unwrap();
            panic!("it did not connect to {NAME} ({ended:?}): {said}");
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn runs(root: &Root, argument: &str) -> Output {
    let mut command = root.command(&[]);
    command.arg(argument).output().unwrap()
}

/// The program of `image` looks a name up and connects, configured by `environment`.
fn a_program_finds_others(image: &'static str, arguments: &'static [&str], environment: &'static [(&str, &str)]) {
    let root = Arc::new(Root::new(image));
    let output = runs(&root, "--version");
    assert!(output.status.success() && output.stdout.starts_with(b"mesh-"), "{output:?}");
    root.write("etc/hosts", "127.0.0.1 localhost\n");
    root.write(
        "etc/resolv.conf",
        "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 127.0.0.1\noptions ndots:5\n",
    );
    let key = KeyPair::generate().unwrap();
    let pem = CertificateParams::new(vec![NAME.into()]).unwrap().self_signed(&key).unwrap().pem();
    for (path, content) in [("mesh/token", "token"), ("mesh/roots.pem", pem.as_str())] {
        root.write(&format!("var/run/secrets/{path}"), content);
    }
    for (name, content) in [("token", "token"), ("ca.crt", pem.as_str()), ("namespace", "mesh-system")] {
        root.write(&format!("var/run/secrets/kubernetes.io/serviceaccount/{name}"), content);
    }
    for folder in ["etc/mesh/manifests", "host/opt/cni/bin", "host/etc/cni/net.d"] {
        fs::create_dir_all(root.path().join(folder)).unwrap();
    }
    alone(&root.clone(), move || {
        name_server();
        let listener = TcpListener::bind(SocketAddr::from((SERVER, 6443))).unwrap();
        let mut command = root.command(environment);
        command.args(arguments);
        connects(command, &listener);
    });
}

const CA: (&str, &str) = ("MESH_IDENTITY__CA", "mesh-ca.mesh-system.svc:6443");
const API: [(&str, &str); 2] = [("KUBERNETES_SERVICE_HOST", NAME), ("KUBERNETES_SERVICE_PORT", "6443")];

#[test]
fn the_proxy_finds_others_by_name() {
    a_program_finds_others("proxy", &[], &[CA]);
}

#[test]
fn the_controller_finds_others_by_name() {
    a_program_finds_others("controller", &[], &[CA]);
}

#[test]
fn the_authority_finds_others_by_name() {
    const STORE: &[(&str, &str)] =
        &[("MESH_STORE", "kubernetes"), ("MESH_AUTHENTICATION", "kubernetes"), API[0], API[1]];
    a_program_finds_others("ca", &[], STORE);
}

#[test]
fn the_agent_finds_others_by_name() {
    a_program_finds_others("cni", &["install", "--node-name", "node-1"], &API);
}

#[test]
fn redirection_takes_nothing_but_the_program() {
    let root = Arc::new(Root::new("proxy"));
    alone(&root.clone(), move || {
        for (words, good) in [("apply", true), ("check", true), ("remove", true), ("check", false)] {
            let mut command = Command::new("chroot");
            command.arg(root.path()).args(["/mesh-proxy", "redirect", words]);
            if words != "remove" {
                command.args(["--proxy-uid", "15400", "--skip-subnets", "10.0.0.0/8,fd00::/8"]);
            }
            let output = command.output().unwrap();
            assert_eq!(output.status.success(), good, "{words}: {output:?}");
        }
    });
}
