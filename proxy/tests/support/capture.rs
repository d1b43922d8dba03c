//! What is on the wire, by `tcpdump`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]

use std::{fs, net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use super::netns::{Netns, Process};

/// The interface of a namespace, listened to.
pub struct Capture {
    process: Process,
    file: PathBuf,
    log: PathBuf,
}

impl Capture {
    /// Begins; what passes from now on is in it.
    pub async fn start(netns: &Netns, interface: &str, folder: &std::path::Path) -> Self {
        let (file, log) = (folder.join(format!("{interface}.pcap")), folder.join(format!("{interface}.log")));
        let mut command = Command::new("setpriv");
        // Ends with this process, whatever becomes of it.
        command.args(["--pdeathsig", "KILL", "tcpdump"]);
        command.args(["-Z", "root", "-n", "-s", "0", "-U", "--immediate-mode", "-B", "65536", "-i", interface, "-w"]);
        command.arg(&file).stdout(std::process::Stdio::null()).stderr(fs::File::create(&log).unwrap());
        let process = netns.spawn(command);
        let capture = Self { process, file, log };
        capture.until("tcpdump listens", || capture.log().contains("listening on")).await;
        capture
    }

    /// Ends; answers everything that passed. A capture that is not complete fails.
    pub async fn stop(mut self, netns: &Netns, neighbour: SocketAddr) -> Vec<u8> {
        // A datagram behind everything else: once it is in the file, so is everything else.
        const WORD: &[u8] = b"the last word of this capture";
        netns.run(move || std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(WORD, neighbour)).unwrap();
        self.until("the capture holds its last word", || holds(&fs::read(&self.file).unwrap(), WORD)).await;
        self.process.interrupt();
        assert!(self.log().lines().any(|line| line.starts_with("0 packets dropped by kernel")), "{}", self.log());
        fs::read(&self.file).unwrap()
    }

    async fn until(&self, what: &str, met: impl Fn() -> bool) {
        for _ in 0..500 {
            if met() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{what}: not in time\n{}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

/// True where `bytes` have `word` in them.
pub fn holds(bytes: &[u8], word: &[u8]) -> bool {
    bytes.windows(word.len()).any(|window| window == word)
}
