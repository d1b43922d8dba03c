//! Hands a script to the kernel, through the program `nft`.

use std::{
    io::{self, Read as _, Write as _},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The kernel takes a table over within milliseconds; who waits longer waits for something that will not come.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked whether `nft` has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A script is not in force; what was in force before is still. Trying again is safe.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no `nft` here.
    #[error("there is no program `nft` in PATH: install nftables, or run this where it is installed")]
    Missing,
    /// It could not be started, or not be spoken to.
    #[error("cannot run `nft`: {0}")]
    Start(#[from] io::Error),
    /// The kernel, or `nft` itself, refused the script.
    #[error(
        "`nft` refused the rules ({status}): {said}\n\
         setting rules takes the capability NET_ADMIN in this network namespace, and a kernel with nf_tables, NAT and fib"
    )]
    Refused {
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// It did not end in time, and was ended.
    #[error("`nft` did not end within {DEADLINE:?} and was ended; it is not known whether the rules are in force")]
    Late,
}

/// Runs a script, as a whole or not at all. Blocks for ten seconds at most.
///
/// # Errors
/// [`RunError`].
pub fn run(script: &str) -> Result<(), RunError> {
    run_by("nft", script)
}

pub(super) fn run_by(program: &str, script: &str) -> Result<(), RunError> {
    let mut command = Command::new(program);
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => RunError::Missing,
        _ => RunError::Start(error),
    })?;
    let ended = converse(&mut child, script);
    if ended.is_err() {
        // It may have ended meanwhile, which is as good.
        let _ = child.kill();
        let _ = child.wait();
    }
    ended
}

fn converse(child: &mut Child, script: &str) -> Result<(), RunError> {
    let deadline = Instant::now() + DEADLINE;
    if let Some(mut stdin) = child.stdin.take()
        && let Err(error) = stdin.write_all(script.as_bytes())
        // It ended before it had read all: what it says tells why.
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(error.into());
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            return Err(RunError::Late);
        }
        std::thread::sleep(LOOK);
    };
    if status.success() {
        return Ok(());
    }
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(4096).read_to_end(&mut said)?;
    }
    Err(RunError::Refused { status, said: String::from_utf8_lossy(&said).trim().to_owned() })
}
