//! The comparison with other proxies, on this machine: chains side by side, interleaved. Floor 4: imports `bin`, `http`,
//! `netns`, `ports`, `process`, `stage`.
//!
//! ```text
//!   client's namespace                      link              server's namespace
//!   load ─> 10.212.9.9 ─(redirected)─> outbound ══ mutual TLS 1.3 ══> inbound ─> application
//!   processor 0                        processor 1            processor 1         processor 0
//! ```
//! Floors within: `report` and `chart` on `page` and `figures`; `trial` and `memory` on `arena`, which stands on `member`, `chain`,
//! `certs` and `cost`.

pub mod arena;
pub mod certs;
pub mod chain;
pub mod chart;
pub mod control;
pub mod cost;
pub mod figures;
pub mod member;
pub mod memory;
pub mod page;
pub mod report;
pub mod trial;

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    arena::{Arena, Processors},
    certs::Certs,
    chain::{Chain, Port},
    cost::Calls,
    memory::Memory,
    report::{Machine, Outcome, SystemCalls},
    trial::{Sample, Trial},
};
use crate::stage::Stage;

/// How much is measured, and of what.
#[derive(Clone, Debug)]
pub struct Wish {
    /// File of the pairs.
    pub chains: PathBuf,
    /// Names of chains; none: all.
    pub only_chains: Vec<String>,
    /// Names of kinds of load; none: all.
    pub only_trials: Vec<String>,
    /// How often each is run.
    pub repetitions: usize,
    /// How long a run takes.
    pub seconds: f64,
    /// Numbers of idle connections; none: memory is not measured.
    pub idle: Vec<usize>,
    /// True: system calls are counted.
    pub calls: bool,
}

/// The file of the pairs, in this repository.
#[must_use]
pub fn chains_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/chains.yaml")
}

/// Measures. `say` gets a line for each step.
///
/// # Errors
/// Where a chain cannot be started, or a request fails.
pub fn run(stage: &Stage, wish: &Wish, say: &mut dyn FnMut(&str)) -> Result<Outcome> {
    let mut chains = Chain::all(&wish.chains)?;
    for name in &wish.only_chains {
        ensure!(chains.iter().any(|chain| chain.name == *name), "there is no chain {name}");
    }
    chains.retain(|chain| wish.only_chains.is_empty() || wish.only_chains.contains(&chain.name));
    let mut trials = Trial::all();
    for name in &wish.only_trials {
        ensure!(trials.iter().any(|trial| trial.name == name), "there is no kind of load {name}");
    }
    trials.retain(|trial| wish.only_trials.is_empty() || wish.only_trials.iter().any(|name| name == trial.name));
    let mut versions = Vec::new();
    for chain in &chains {
        versions.push((chain.name.clone(), chain.title.clone(), chain.version()?));
    }
    let www = pages()?;
    let certs = Certs::make(&stage.subdir("certs")?)?;
    let processors = Processors::of_this_machine();
    let mut machine = Machine::look(processors)?;
    let start = |chain: &Chain| Arena::start(stage, chain.clone(), &certs, www.path(), processors);
    let memory = memories(&chains, start, &wish.idle, say)?;
    let mut arenas = Vec::new();
    for chain in &chains {
        say(&format!("start    {}", chain.name));
        arenas.push(start(chain)?);
    }
    let mut samples = Vec::new();
    for repetition in 0..wish.repetitions {
        for trial in &trials {
            // Whoever comes first is not always the same.
            let order = (0..arenas.len()).map(|nth| (nth + repetition) % arenas.len());
            for arena in order.filter_map(|nth| arenas.get(nth)).filter(|arena| trial.fits(arena)) {
                let sample = Sample { repetition, ..trial.run(stage, arena, &certs, wish.seconds)? };
                say(&format!("{:>2}/{}     {:<17} {}", repetition + 1, wish.repetitions, trial.name, line(&sample)));
                samples.push(sample);
            }
        }
    }
    let calls = if wish.calls { calls(stage, &arenas, &certs, wish.seconds, say)? } else { Vec::new() };
    machine.done()?;
    Ok(Outcome { machine, versions, samples, memory, calls })
}

fn line(sample: &Sample) -> String {
    let rate = figures::value(sample, figures::Measure::Rate);
    let cost = figures::value(sample, figures::Measure::Cost);
    format!("{:<11} {rate:>9.1}/s  {cost:>10.1} us", sample.chain)
}

/// Each in a chain that has done nothing else.
fn memories(
    chains: &[Chain],
    start: impl Fn(&Chain) -> Result<Arena>,
    numbers: &[usize],
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Memory>> {
    let mut all = Vec::new();
    for chain in chains.iter().filter(|chain| !numbers.is_empty() && !matches!(chain.kind, chain::Kind::Direct)) {
        for port in [Port::H1, Port::Tcp].into_iter().filter(|port| chain.carries.contains(port)) {
            say(&format!("memory   {} {port:?}", chain.name));
            all.extend(memory::measure(&start(chain)?, port, numbers)?);
        }
    }
    Ok(all)
}

fn calls(
    stage: &Stage,
    arenas: &[Arena],
    certs: &Certs,
    seconds: f64,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<SystemCalls>> {
    let trials = Trial::all();
    let trial = trials.iter().find(|trial| trial.name == "h1_100b").context("the first kind of load")?;
    let mut all = Vec::new();
    for arena in arenas {
        let Some(proxies) = &arena.proxies else { continue };
        say(&format!("calls    {}", arena.chain.name));
        for (side, process) in [("outbound", &proxies.outbound), ("inbound", &proxies.inbound)] {
            let counting = Calls::of(side, process.pid(), &arena.ground.dir)?;
            let sample = trial.run(stage, arena, certs, seconds.min(2.0))?;
            let (total, kinds) = counting.stop()?;
            let requests = sample.load.requests;
            all.push(SystemCalls { chain: arena.chain.name.clone(), side, requests, total, kinds });
        }
    }
    Ok(all)
}

/// What the applications serve: in memory, gone with the guard.
fn pages() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        bail!("there is no /dev/shm to keep files in");
    }
    let dir = tempfile::Builder::new()
        .prefix("mesh-bench-")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir_in(memory)?;
    for (name, size) in [("100", 100), ("10240", 10_240), ("bulk", 1 << 30)] {
        // Not holes: a hole is read in another way than a file.
        let mut file = fs::File::create(dir.path().join(name))?;
        std::io::copy(&mut std::io::repeat(b'x').take(size), &mut file)?;
    }
    Ok(dir)
}
