//! The benchmark of the control plane: this mesh's controller, certificate authority and the start of its sidecars, on this
//! machine. Needs `scripts/images.sh`, and no rights.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Parser;
use mesh_e2e::{
    bench::{
        control::{self, Wish, growth::Sizes, plan::PER_NAMESPACE, report::Outcome},
        page::replaced,
    },
    stage::stage,
};

/// Measures the control plane as the mesh grows: memory, the way of a change to the last proxy and its price, certificates,
/// and the start of a sidecar.
///
/// Prints tables; writes every change to target/bench/control.json. Fails where a change costs more because of what did not
/// change, or where a member got no certificate.
#[derive(Debug, Parser)]
struct Arguments {
    /// About a minute: smaller sizes, fewer changes.
    #[arg(long)]
    quick: bool,
    /// Numbers of services, the least first.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    services: Vec<usize>,
    /// Numbers of proxies, the least first.
    #[arg(long, value_delimiter = ',', value_name = "NUMBERS")]
    proxies: Vec<usize>,
    /// Services of each namespace.
    #[arg(long, default_value_t = PER_NAMESPACE)]
    per_namespace: usize,
    /// Changes in each case.
    #[arg(long)]
    changes: Option<usize>,
    /// Where the result goes.
    #[arg(long, value_name = "FILE", default_value = "target/bench/control.json")]
    out: PathBuf,
    /// Put the tables into docs/benchmarks.md as well.
    #[arg(long)]
    docs: bool,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(faults) if faults.is_empty() => ExitCode::SUCCESS,
        Ok(faults) => {
            for fault in faults {
                eprintln!("mesh-bench-control: {fault}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("mesh-bench-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is wrong with what was measured.
fn measure(arguments: &Arguments) -> Result<Vec<String>> {
    let quick = arguments.quick;
    let given = |given: &[usize], usual: &[usize]| if given.is_empty() { usual } else { given }.to_vec();
    let mut sizes = Sizes {
        services: given(&arguments.services, if quick { &[100, 1000] } else { &[100, 1000, 10_000] }),
        proxies: given(&arguments.proxies, if quick { &[10, 100] } else { &[10, 100, 1000] }),
        per_namespace: arguments.per_namespace.max(1),
        changes: arguments.changes.unwrap_or(if quick { 24 } else { 60 }),
    };
    sizes.services.sort_unstable();
    sizes.proxies.sort_unstable();
    let wish = Wish {
        sizes,
        certificates: Duration::from_secs(if quick { 2 } else { 5 }),
        members: if quick { 200 } else { 1000 },
        starts: if quick { 5 } else { 20 },
    };
    let mut outcome = None;
    stage("control", |stage| {
        outcome = Some(control::run(stage, &wish, &mut |line| eprintln!("{line}"))?);
        Ok(())
    })?;
    let outcome = outcome.context("nothing was measured")?;
    println!("{}", outcome.markdown());
    let folder = arguments.out.parent().context("no folder for the result")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(&arguments.out, format!("{:#}\n", outcome.json()))?;
    eprintln!("{} is written", arguments.out.display());
    if arguments.docs {
        document(&outcome)?;
    }
    Ok(outcome.faults())
}

/// Replaces what lies between two marks of the page.
fn document(outcome: &Outcome) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- control plane -->\n", "<!-- end of the control plane -->"];
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/benchmarks.md");
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    fs::write(&page, replaced(&text, MARKS, &outcome.markdown())?)?;
    Ok(())
}
