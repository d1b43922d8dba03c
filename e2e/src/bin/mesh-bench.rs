//! The benchmark: this mesh beside other proxies, on this machine. Needs root, `scripts/images.sh` and what
//! `scripts/setup.sh --bench` installs.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use mesh_e2e::{
    bench::{self, Wish, arena, chart, page::replaced, report::Outcome},
    stage::stage,
};

/// Compares this mesh's pair of sidecars with other proxies: side by side, interleaved, ratios within each repetition.
///
/// Prints tables; writes every run to target/bench/result.json.
#[derive(Debug, Parser)]
struct Arguments {
    /// About two minutes: one repetition, short runs, 1,000 idle connections.
    #[arg(long)]
    quick: bool,
    /// Only these chains (names of the file, `direct`, `mesh`); may be repeated.
    #[arg(long = "chain", value_name = "NAME")]
    chains: Vec<String>,
    /// Only these kinds of load; may be repeated.
    #[arg(long = "trial", value_name = "NAME")]
    trials: Vec<String>,
    /// How often each is run.
    #[arg(long)]
    repetitions: Option<usize>,
    /// How long a run takes.
    #[arg(long)]
    seconds: Option<f64>,
    /// Memory and system calls are left out.
    #[arg(long)]
    runs_only: bool,
    /// File of the pairs that are compared.
    #[arg(long, value_name = "FILE", default_value_os_t = bench::chains_file())]
    file: PathBuf,
    /// Where the result goes.
    #[arg(long, value_name = "FILE", default_value = "target/bench/result.json")]
    out: PathBuf,
    /// Put tables and chart into docs/benchmarks.md as well.
    #[arg(long)]
    docs: bool,
}

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mesh-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<()> {
    let quick = arguments.quick;
    // A connection takes two files of a proxy, and each proxy has a few of its own.
    let most = usize::try_from(arena::files() / 2)?.saturating_sub(200).min(10_000);
    let idle = match (arguments.runs_only, quick) {
        (true, _) => Vec::new(),
        (false, true) => vec![1_000.min(most)],
        (false, false) => vec![32, 1_000.min(most / 2), most],
    };
    let wish = Wish {
        chains: arguments.file.clone(),
        only_chains: arguments.chains.clone(),
        only_trials: arguments.trials.clone(),
        repetitions: arguments.repetitions.unwrap_or(if quick { 1 } else { 3 }),
        seconds: arguments.seconds.unwrap_or(if quick { 1.0 } else { 4.0 }),
        idle,
        calls: !arguments.runs_only,
    };
    let mut outcome = None;
    stage("bench", |stage| {
        outcome = Some(bench::run(stage, &wish, &mut |line| eprintln!("{line}"))?);
        Ok(())
    })?;
    let outcome = outcome.context("nothing was measured")?;
    let text = outcome.markdown();
    println!("{text}");
    let folder = arguments.out.parent().context("no folder for the result")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(&arguments.out, format!("{:#}\n", outcome.json()))?;
    fs::write(folder.join("chart.svg"), chart::svg(&outcome))?;
    eprintln!("{} and {}/chart.svg are written", arguments.out.display(), folder.display());
    if arguments.docs {
        document(&outcome)?;
    }
    Ok(())
}

/// Replaces what lies between two marks of the page.
fn document(outcome: &Outcome) -> Result<()> {
    const MARKS: [&str; 2] = ["<!-- measured -->\n", "<!-- end of what was measured -->"];
    let docs = bench::chains_file().ancestors().nth(3).context("no repository")?.join("docs");
    let page = docs.join("benchmarks.md");
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let versions = outcome.versions.iter().map(|(_, title, version)| format!("- {title}: {version}\n"));
    let between = format!("{}\n{}", outcome.markdown(), versions.collect::<String>());
    fs::write(&page, replaced(&text, MARKS, &between)?)?;
    fs::write(docs.join("benchmarks.svg"), chart::svg(outcome))?;
    Ok(())
}
