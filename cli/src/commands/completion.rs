//! `meshctl completion`.

use clap_complete::Shell;

use crate::io::Out;

/// Arguments of `meshctl completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  source <(meshctl completion bash)\n  \
                        meshctl completion fish > ~/.config/fish/completions/meshctl.fish")]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// Where it cannot be printed.
pub fn run(args: &Args, mut command_line: clap::Command, out: &mut Out) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command_line, "meshctl", &mut script);
    out.raw(&String::from_utf8_lossy(&script))?;
    Ok(())
}
