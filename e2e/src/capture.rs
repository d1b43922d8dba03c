//! What is really on the wire: a packet capture, searched for bytes. Floor 2: imports `netns`, `process`, `stage`.
//!
//! Whether a capture is complete is not left to chance. Before it is searched, a datagram with a word of its own is
//! sent over the same interface, and the file is awaited to hold it: whatever passed earlier is then in the file too.
//! A capture that lost packets is an error.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{
    netns::Netns,
    process::{Process, must_run, signal, until},
    stage::Stage,
};

/// How long `tcpdump` may take to begin, and to end.
const DEADLINE: Duration = Duration::from_secs(15);
/// Discard: nobody listens there, and no capture is about it.
const DISCARD: u16 = 9;

/// A capture under way.
#[derive(Debug)]
pub struct Capture<'a> {
    process: Process,
    file: PathBuf,
    netns: Option<&'a Netns>,
}

/// All packets of a capture that has ended.
#[derive(Debug)]
pub struct Packets {
    bytes: Vec<u8>,
}

impl<'a> Capture<'a> {
    /// Begins to note what passes to and from the TCP `ports` on `lo` of this machine.
    ///
    /// # Errors
    /// Where `tcpdump` does not start.
    pub fn loopback(stage: &Stage, name: &str, ports: &[u16]) -> Result<Self> {
        Self::start(stage, name, ports, Command::new("tcpdump"), "lo", None)
    }

    /// Begins to note what passes to and from the TCP `ports` over the link of `netns`, from within.
    ///
    /// # Errors
    /// As [`Capture::loopback`].
    pub fn within(stage: &Stage, name: &str, ports: &[u16], netns: &'a Netns) -> Result<Self> {
        Self::start(stage, name, ports, netns.command("tcpdump"), &netns.far_interface(), Some(netns))
    }

    fn start(
        stage: &Stage,
        name: &str,
        ports: &[u16],
        mut command: Command,
        interface: &str,
        netns: Option<&'a Netns>,
    ) -> Result<Self> {
        ensure!(!ports.is_empty(), "a capture of no ports");
        let file = stage.dir().join(format!("{name}.pcap"));
        let tcp: Vec<String> = ports.iter().map(|port| format!("tcp port {port}")).collect();
        command
            .args(["-Z", "root", "-n", "-s", "0", "-U", "--immediate-mode", "-B", "65536", "-i", interface, "-w"])
            .arg(&file)
            .arg(format!("{} or udp port {DISCARD}", tcp.join(" or ")));
        let mut process = Process::start(&format!("tcpdump-{name}"), &command, stage.dir())?;
        process.wait_for_line("listening on", DEADLINE)?;
        Ok(Self { process, file, netns })
    }

    /// Ends it.
    ///
    /// # Errors
    /// Where it was not complete.
    pub fn stop(mut self) -> Result<Packets> {
        let word = format!("the end of capture {}", self.process.pid());
        let target = match self.netns {
            Some(netns) => netns.near().to_string(),
            None => "127.0.0.1".to_owned(),
        };
        let mut say = match self.netns {
            Some(netns) => netns.command("bash"),
            None => Command::new("bash"),
        };
        say.args(["-c", r#"echo "$0" > "/dev/udp/$1/$2""#, &word, &target, &DISCARD.to_string()]);
        must_run(&say, DEADLINE)?;
        until("the capture holds its last packet", DEADLINE, || {
            Ok(find(&read(&self.file)?, word.as_bytes()).is_some().then_some(()))
        })
        .map_err(|error| self.process.explain(error))?;
        signal(self.process.pid(), Signal::SIGINT)?;
        self.process.wait(DEADLINE)?;
        let log = self.process.log();
        if !log.lines().any(|line| line.starts_with("0 packets dropped by kernel")) {
            bail!("the capture lost packets:\n{log}");
        }
        Ok(Packets { bytes: read(&self.file)? })
    }
}

impl Packets {
    /// True where one packet holds `marker`.
    #[must_use]
    pub fn hold(&self, marker: &[u8]) -> bool {
        find(&self.bytes, marker).is_some()
    }

    /// Bytes captured, headers included.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len().max(1)).position(|window| window == what)
}
