//! Network namespaces without names: they live as long as their guard, or at most as long as this process. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helpers fail the test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command},
    sync::mpsc,
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};

type Job = Box<dyn FnOnce() + Send>;

/// A namespace with a thread in it, which does there whatever it is asked to. What that thread starts is in the
/// namespace as well. Without the guard the thread ends, and the namespace goes with the last process in it.
pub struct Netns {
    jobs: mpsc::Sender<Job>,
    tid: String,
}

impl Netns {
    /// A new namespace, whose loopback is up.
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (made, answer) = mpsc::channel();
        thread::spawn(move || {
            let _ = made.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid().to_string()));
            for job in queue {
                job();
            }
        });
        let tid = answer.recv().unwrap().expect("network namespaces need root");
        let netns = Self { jobs, tid };
        netns.ip("link set lo up");
        netns
    }

    /// Where it can be entered, while the guard is there.
    pub fn path(&self) -> String {
        format!("/proc/{}/task/{}/ns/net", std::process::id(), self.tid)
    }

    /// Does something within.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = mpsc::channel();
        let job = move || {
            let _ = answer.send(job());
        };
        self.jobs.send(Box::new(job)).expect("an earlier job panicked");
        answered.recv().expect("the job panicked")
    }

    /// Runs a command of `ip` within, which must succeed.
    pub fn ip(&self, arguments: &str) {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        self.must_run(command);
    }

    /// Runs a program within, which must succeed; answers what it says.
    pub fn must_run(&self, mut command: Command) -> String {
        let told = format!("{command:?}");
        let output = self.run(move || command.output()).unwrap_or_else(|error| panic!("{told}: {error}"));
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{told}: {}\n{}", output.status, said(&output.stderr));
        said(&output.stdout)
    }

    /// Starts a program within.
    pub fn spawn(&self, mut command: Command) -> Process {
        let told = format!("{command:?}");
        Process(self.run(move || command.spawn()).unwrap_or_else(|error| panic!("{told}: {error}")))
    }

    /// Packets for others are passed on.
    pub fn forward(&self) {
        self.run(|| {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        });
    }

    /// Links `eth0` of this namespace to `name` of another, with an address of each family at both ends; the other one
    /// is the way to everywhere else.
    pub fn link(&self, hub: &Self, name: &str, near: [&str; 2], far: [&str; 2]) {
        hub.ip(&format!("link add {name} type veth peer name eth0 netns {}", self.tid));
        for (netns, interface, addresses) in [(hub, name, far), (self, "eth0", near)] {
            netns.ip(&format!("addr add {}/24 dev {interface}", addresses[0]));
            netns.ip(&format!("addr add {}/64 dev {interface} nodad", addresses[1]));
            netns.ip(&format!("link set {interface} up"));
        }
        self.ip(&format!("route add default via {}", far[0]));
        self.ip(&format!("-6 route add default via {}", far[1]));
    }

    /// Listens on a port of every address within.
    pub fn listen(&self, port: u16) -> tokio::net::TcpListener {
        let listener = self.run(move || TcpListener::bind(SocketAddr::from(([0_u16; 8], port)))).unwrap();
        listener.set_nonblocking(true).unwrap();
        tokio::net::TcpListener::from_std(listener).unwrap()
    }

    /// Connects from within.
    pub fn connect(&self, to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
        let stream = self.run(move || TcpStream::connect_timeout(&to, Duration::from_secs(5)))?;
        stream.set_nonblocking(true)?;
        tokio::net::TcpStream::from_std(stream)
    }
}

/// A running program; dropped, it is killed.
pub struct Process(Child);

impl Process {
    /// Its id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// True once it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    /// Asks it to end as a terminal would, and waits until it has.
    pub fn interrupt(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        self.0.wait().unwrap();
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// Processor time used so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        // Ticks of a hundredth of a second: user and system time are fields 14 and 15, the first after `)` is 3.
        Duration::from_millis(fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
