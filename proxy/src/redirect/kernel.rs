//! The kernel's end: sends what `nftables` wrote, reads what comes back, says what went wrong. Floor 3: imports
//! `nftables`.
//!
//! The kernel works on a request while it is sent: answers are there when sending returns, and the deadline is for a
//! kernel that breaks that.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    libc, setsockopt_impl, sockopt_impl,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto, setsockopt,
            socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use super::{
    netlink::{DONE, ERROR, INTERRUPTED, Received, messages},
    nftables::{Batch, Difference, Listing, Question, ask, compare},
    plan::Table,
};

/// Everything together takes milliseconds; who waits longer waits for something that will not come.
const DEADLINE: Duration = Duration::from_secs(10);
/// An answer is not longer than this: the kernel fills 32 KiB at most, and repeats a refused message of half of that.
const ANSWER: usize = 64 * 1024;
/// Answers to one question at most: far more than the table has parts.
const ANSWERS: usize = 4096;
/// How often a list is asked for that changes while it is given.
const TRIES: usize = 5;

sockopt_impl!(
    /// Errors come with a sentence.
    ExtendedAnswers,
    SetOnly,
    libc::SOL_NETLINK,
    libc::NETLINK_EXT_ACK,
    bool
);

/// The rules are not in force, or not known; what was in force before still is. Trying again is safe.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// There is no netfilter to speak to.
    #[error("this kernel has no netfilter for this network namespace (CONFIG_NETFILTER_NETLINK): {0}")]
    NoNetfilter(Errno),
    /// The process may not.
    #[error(
        "reading and setting rules takes the capability NET_ADMIN, in the user namespace that this network namespace \
         belongs to: {0}"
    )]
    NotPermitted(Errno),
    /// The kernel has not got what it takes.
    #[error("the kernel does not know {what}: it lacks {needs} ({error}){said}")]
    Lacking {
        /// What was to be made.
        what: String,
        /// What the kernel needs for it.
        needs: &'static str,
        /// What the kernel answered.
        error: Errno,
        /// The sentence it said about it.
        said: Said,
    },
    /// The kernel refused.
    #[error("the kernel refused {what}: {error}{said}")]
    Refused {
        /// What was to be made, or asked.
        what: String,
        /// What the kernel answered.
        error: Errno,
        /// The sentence it said about it.
        said: Said,
    },
    /// The socket failed.
    #[error("speaking to the kernel failed: {0}")]
    Io(#[from] io::Error),
    /// It did not answer in time.
    #[error("the kernel did not answer within {DEADLINE:?}; it is not known whether the rules are in force")]
    Late,
    /// It does not come to rest.
    #[error("the rules change faster than they can be listed: somebody else keeps writing them")]
    Restless,
}

/// What the kernel says about an error, in its own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(Option<String>);

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |said| write!(f, ": {said}"))
    }
}

impl KernelError {
    /// True where something is missing in the kernel that a kernel without IPv6 lacks too.
    #[must_use]
    pub fn is_lacking(&self) -> bool {
        matches!(self, Self::Lacking { .. })
    }

    /// What an error in the answer to a request means.
    pub(super) fn answered(number: i32, said: Option<String>, (what, needs): (&str, &'static str)) -> Self {
        let (what, error, said) = (what.to_owned(), Errno::from_raw(number), Said(said));
        match error {
            Errno::EPERM | Errno::EACCES => Self::NotPermitted(error),
            Errno::ENOENT
            | Errno::EOPNOTSUPP
            | Errno::EAFNOSUPPORT
            | Errno::EPROTONOSUPPORT
            | Errno::EPROTOTYPE
            | Errno::ENOSYS => Self::Lacking { what, needs, error, said },
            _ => Self::Refused { what, error, said },
        }
    }
}

/// A socket to the netfilter of this thread's network namespace.
#[derive(Debug)]
pub struct Kernel {
    socket: OwnedFd,
    deadline: Instant,
}

impl Kernel {
    /// Opens it. All that is done with it has one deadline.
    ///
    /// # Errors
    /// [`KernelError::NoNetfilter`], [`KernelError::Io`].
    pub fn open() -> Result<Self, KernelError> {
        let netfilter = SockProtocol::NetlinkNetFilter;
        let socket = match socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, netfilter) {
            Ok(socket) => socket,
            Err(error @ (Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT)) => return Err(KernelError::NoNetfilter(error)),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let io = |error: Errno| KernelError::Io(error.into());
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &NetlinkAddr::new(0, 0)).map_err(io)?;
        let wait = TimeVal::milliseconds(DEADLINE.as_millis().try_into().unwrap_or(i64::MAX));
        setsockopt(&socket, sockopt::ReceiveTimeout, &wait).map_err(io)?;
        // Older kernels answer with the number alone.
        let _ = setsockopt(&socket, ExtendedAnswers, &true);
        Ok(Self { socket, deadline: Instant::now() + DEADLINE })
    }

    /// Has a batch done, as a whole or not at all.
    ///
    /// # Errors
    /// [`KernelError`].
    pub fn run(&self, batch: &Batch) -> Result<(), KernelError> {
        self.send(&batch.bytes)?;
        let mut open = batch.steps.len();
        let mut refused = None;
        while open > 0 && refused.is_none() {
            self.receive(|received| {
                let Some((number, said)) = (received.kind == ERROR).then(|| received.error()).flatten() else { return };
                if number == 0 {
                    open = open.saturating_sub(1);
                } else if refused.is_none() {
                    let nth = usize::try_from(received.sequence).unwrap_or(0).checked_sub(1);
                    let step = nth.and_then(|nth| batch.steps.get(nth));
                    let about =
                        step.map_or(("the rules", "nf_tables (CONFIG_NF_TABLES)"), |step| (&step.what, step.needs));
                    refused = Some(KernelError::answered(number, said, about));
                }
            })?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Compares the table that is wanted with the one that is there.
    ///
    /// # Errors
    /// [`KernelError`] where that cannot be known.
    pub fn compare(&self, wanted: &Table) -> Result<Result<(), Difference>, KernelError> {
        for _ in 0..TRIES {
            match self.list(wanted)? {
                Listed::All(listing) => return Ok(compare(wanted, &listing)),
                Listed::Nothing => return Ok(Err(Difference::NoTable)),
                Listed::Changed => (),
            }
        }
        Err(KernelError::Restless)
    }

    fn list(&self, wanted: &Table) -> Result<Listed, KernelError> {
        let mut listing = Listing::default();
        let mut whole = self.ask(wanted, Question::Table, |received| listing.table(received))?;
        if whole == Answered::Nothing {
            return Ok(Listed::Nothing);
        }
        whole = whole.and(self.ask(wanted, Question::Chains, |received| listing.chain(wanted, received))?);
        let mut sets = Vec::new();
        whole = whole.and(self.ask(wanted, Question::Sets, |received| sets.extend(listing.set(wanted, received)))?);
        for set in &sets {
            let elements = Question::Elements(set);
            whole = whole.and(self.ask(wanted, elements, |received| listing.elements(set, received))?);
        }
        whole = whole.and(self.ask(wanted, Question::Rules, |received| listing.rule(wanted, received))?);
        Ok(if whole == Answered::Whole { Listed::All(listing) } else { Listed::Changed })
    }

    /// Asks, and hands on each object that is answered.
    fn ask(
        &self,
        wanted: &Table,
        question: Question<'_>,
        mut each: impl FnMut(Received<'_>),
    ) -> Result<Answered, KernelError> {
        self.send(&ask(wanted.family, question))?;
        let mut answered = Answered::Whole;
        let mut ended = None;
        for _ in 0..ANSWERS {
            self.receive(|received| {
                if received.flags & INTERRUPTED != 0 {
                    answered = Answered::Changed;
                }
                match received.kind {
                    DONE => ended = Some(Ok(())),
                    ERROR => ended = received.error().map(|error| if error.0 == 0 { Ok(()) } else { Err(error) }),
                    _ => each(received),
                }
            })?;
            match ended.take() {
                None => (),
                Some(Ok(())) => return Ok(answered),
                // Asked for itself, the table is not there; asked for later, it has gone.
                Some(Err((number, _))) if Errno::from_raw(number) == Errno::ENOENT => {
                    return Ok(if matches!(question, Question::Table) { Answered::Nothing } else { Answered::Changed });
                }
                Some(Err((number, said))) => {
                    let about = ("the question for the rules", "nf_tables (CONFIG_NF_TABLES)");
                    return Err(KernelError::answered(number, said, about));
                }
            }
        }
        Err(KernelError::Restless)
    }

    fn send(&self, bytes: &[u8]) -> Result<(), KernelError> {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        loop {
            match sendto(fd, bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => (),
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }

    /// Waits for what comes next, and hands on each message of it.
    fn receive(&self, mut each: impl FnMut(Received<'_>)) -> Result<(), KernelError> {
        let fd = std::os::fd::AsRawFd::as_raw_fd(&self.socket);
        let mut buffer = vec![0; ANSWER];
        while Instant::now() < self.deadline {
            match recvfrom::<NetlinkAddr>(fd, &mut buffer) {
                // Only the kernel has the port 0.
                Ok((length, Some(from))) if from.pid() == 0 => {
                    messages(buffer.get(..length).unwrap_or_default()).for_each(&mut each);
                    return Ok(());
                }
                Ok(_) | Err(Errno::EINTR) => (),
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
        Err(KernelError::Late)
    }
}

/// What came of listing the table.
enum Listed {
    /// All of it.
    All(Listing),
    /// There is none.
    Nothing,
    /// It changed meanwhile.
    Changed,
}

/// What came of a question.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answered {
    Whole,
    Nothing,
    Changed,
}

impl Answered {
    fn and(self, other: Self) -> Self {
        if self == Self::Whole && other == Self::Whole { Self::Whole } else { Self::Changed }
    }
}
