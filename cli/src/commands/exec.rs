//! `meshctl exec` (hidden): ties the process's life to its parent's, then becomes another program.

use std::{convert::Infallible, ffi::OsString, os::unix::process::CommandExt, process::ExitCode};

use nix::{
    sys::{prctl, signal::Signal},
    unistd::getppid,
};

use crate::io;

/// Arguments of `meshctl exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The process that must be the parent.
    #[arg(long)]
    parent: i32,
    /// Program and arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Becomes the program; comes back only where that failed, with the code that shells use for it.
#[must_use]
pub fn run(args: &Args) -> ExitCode {
    match become_program(args) {
        Ok(never) => match never {},
        Err(reason) => {
            io::complain(&io::printable(&reason));
            ExitCode::from(127)
        }
    }
}

fn become_program(args: &Args) -> Result<Infallible, String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|error| format!("cannot be tied to the parent: {error}"))?;
    // The parent may have died before the tie was made.
    if getppid().as_raw() != args.parent {
        return Err("the process that started this is gone".to_owned());
    }
    let (program, arguments) = args.command.split_first().ok_or("no program was named")?;
    let error = std::process::Command::new(program).args(arguments).exec();
    Err(format!("cannot start `{}`: {error}; check the command of the workload", program.display()))
}
