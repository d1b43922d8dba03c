//! Arguments in, exit code out: 0 done, 1 failed, 2 wrong usage. Floor 5: imports `commands`, `io`.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::{
    commands::{
        check, check_inject, completion, dashboard, demo, demo_app, exec, inject, install, part, prune, run, status,
        uninject, uninstall, up, upgrade, version, viz,
    },
    io::{self, Out},
};

/// A service mesh, on one machine or in a cluster: start it, install it, look into it, prove it.
#[derive(Debug, Parser)]
#[command(name = "meshctl", version, propagate_version = false, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Examples:\n  meshctl demo            a mesh with eight services, to look at\n  \
                        meshctl up -f ./mesh    the mesh that a folder of manifests describes\n  \
                        meshctl status          who runs what, and who calls whom")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install the mesh into a cluster.
    Install(Box<install::Args>),
    /// Bring an installed mesh to this version, or to other values, or back.
    Upgrade(Box<upgrade::Args>),
    /// Remove what earlier releases left behind in a cluster.
    Prune(prune::Args),
    /// Take the mesh out of a cluster.
    Uninstall(uninstall::Args),
    /// Put Prometheus and Jaeger into a cluster, to look at the mesh with, or take them out.
    Viz(viz::Args),
    /// Put sidecars into manifests.
    Inject(inject::Args),
    /// Take sidecars out of manifests.
    Uninject(uninject::Args),
    /// Explain whether a pod gets a sidecar.
    CheckInject(Box<check_inject::Args>),
    /// Run a small shop in a mesh, to look at or to prove it.
    Demo(demo::Args),
    /// Run the mesh that a folder of manifests describes.
    Up(up::Args),
    /// Run a program as a member of a running mesh.
    Run(run::Args),
    /// Show who runs what, and who calls whom.
    Status(status::Args),
    /// Find out what is wrong with a mesh on a cluster, or with a cluster before an installation.
    Check(check::Args),
    /// Open Jaeger, Prometheus or the controller's page.
    Dashboard(dashboard::Args),
    /// Print the version.
    Version(version::Args),
    /// Print a completion script for a shell.
    Completion(completion::Args),
    /// Run a program of the demo.
    #[command(hide = true)]
    DemoApp(demo_app::Args),
    /// Run a sidecar.
    #[command(hide = true)]
    Proxy(part::Args),
    /// Run a controller.
    #[command(hide = true)]
    Controller(part::Args),
    /// Run a certificate authority.
    #[command(hide = true)]
    Ca(part::Args),
    /// Become another program that ends with its parent.
    #[command(hide = true)]
    Exec(exec::Args),
}

/// The command line as clap sees it, for the reference page and the completion scripts.
#[must_use]
pub fn command_line() -> clap::Command {
    Cli::command()
}

/// Runs the process's command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(code) => code,
        Err(error) if io::is_broken_pipe(&error) => ExitCode::FAILURE,
        Err(error) => {
            io::complain(&io::printable(&format!("{error:#}")));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    let mut out = Out::stdout();
    match command {
        Command::Version(args) => version::run(&args, &mut out)?,
        Command::Install(args) => return block_on(install::run(*args, out)),
        Command::Upgrade(args) => return block_on(upgrade::run(*args, out)),
        Command::Prune(args) => return block_on(prune::run(args, out)),
        Command::Uninstall(args) => return block_on(uninstall::run(args, out)),
        Command::Viz(args) => return block_on(viz::run(args, out)),
        Command::Inject(args) => return inject::run(&args, &mut out),
        Command::Uninject(args) => return uninject::run(&args, &mut out),
        Command::CheckInject(args) => return block_on(check_inject::run(*args, out)),
        Command::Demo(args) => return block_on(demo::run(args, out)),
        Command::DemoApp(args) => return block_on(demo_app::run(args)),
        Command::Up(args) => return block_on(up::run(args, out)),
        Command::Run(args) => return block_on(run::run(args)),
        Command::Status(args) => return block_on(status::run(args, out)),
        Command::Check(args) => return block_on(check::run(args, out)),
        Command::Dashboard(args) => return block_on(dashboard::run(args, out)),
        Command::Proxy(args) => return part::proxy(args),
        Command::Controller(args) => return part::controller(args),
        Command::Ca(args) => return part::ca(args),
        Command::Exec(args) => return Ok(exec::run(&args)),
        Command::Completion(args) => completion::run(&args, command_line(), &mut out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a command on this thread: children are tied to the thread that starts them, which must not end before us.
fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        command_line().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for command in command_line().get_subcommands().filter(|command| !command.is_hide_set()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("meshctl "), "{} has no example", command.get_name());
        }
    }
}
